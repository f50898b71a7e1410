"""The sections `generation` and `paper` of `gpu_report.py`: from sound to frames, and to a file."""

from __future__ import annotations

import importlib.util
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from benchmark_generate import at_size, paper_pipeline
from PIL import Image
from torch import Tensor

from talkhead.data.clip import SAMPLE_RATE
from talkhead.pipeline import TalkingHeadPipeline


def generation(log: Any, device: str) -> None:
    """Time the bundled speaker at 128 and 256 px with one and four network calls."""
    pipeline = TalkingHeadPipeline.from_pretrained("bundled", device)
    seconds, own = (10.0, pipeline.renderer) if device == "cuda" else (0.8, pipeline.renderer)
    for size in (128, 256) if device == "cuda" else (128,):
        pipeline.renderer = own if size == own.config.size else at_size(own, size)
        for steps in (1, 4) if device == "cuda" else (1,):
            name = f"{size} px, {steps} calls"
            log.attempt("Sound to frames", name, lambda steps=steps: timed(pipeline, seconds, steps, device))
            if importlib.util.find_spec("av") is None:
                log.say(f"{name}: no mp4, PyAV is absent")
                continue
            log.attempt("Sound to mp4", name, lambda steps=steps: to_file(pipeline, seconds, steps))
    pipeline.renderer = own
    log.attempt("Parts of a second of video, 128 px, 4 calls", "all", lambda: parts(pipeline, device))
    log.say(f"{seconds:g} s of made-up sound, median of 3; latency: until the first piece of the stream is there")


def paper(log: Any, device: str) -> None:
    """Time the paper's network, untrained, under DDPM with 300 calls."""
    bundled = TalkingHeadPipeline.from_pretrained("bundled", device)
    calls, own = 300 if device == "cuda" else 2, bundled.renderer
    for size in (128, 256) if device == "cuda" else (128,):
        bundled.renderer = own if size == own.config.size else at_size(own, size)
        process = paper_pipeline(bundled)
        log.attempt(
            "The paper's process, sound to frames",
            f"{size} px, {calls} calls",
            lambda process=process: timed(process, 0.64, calls, device, repeat=1),
            needs=8,
        )
    log.say("0.64 s of sound, one window of 16 frames; DDPM's Gaussian noise is drawn on the host, one draw a call")


def timed(pipeline: TalkingHeadPipeline, seconds: float, steps: int, device: str, repeat: int = 3) -> dict[str, float]:
    """Return a row: frames per second, latency, memory."""
    make(pipeline, min(seconds, 1.5), min(steps, 2))  # warms up
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    runs = sorted(make(pipeline, seconds, steps) for _ in range(repeat if device == "cuda" else 1))
    took, latency, frames = runs[len(runs) // 2]
    row = {"frames": frames, "took (s)": took, "frames/s": frames / took, "x real time": seconds / took}
    row["latency (ms)"] = 1e3 * latency
    if device == "cuda":
        row["peak memory (MiB)"] = torch.cuda.max_memory_allocated() / 2**20
    return row


def make(pipeline: TalkingHeadPipeline, seconds: float, steps: int) -> tuple[float, float, int]:
    """Make a video in memory; return what it took, the first piece's delay (both s) and the number of frames."""
    image, landmarks = portrait(pipeline)
    start, first, frames = time.perf_counter(), 0.0, 0
    pieces = pipeline.stream(image, sound(seconds), reference_landmarks=landmarks, num_inference_steps=steps)
    for piece in pieces:
        first = first or time.perf_counter() - start
        frames += len(piece.frames)
    return time.perf_counter() - start, first, frames


def to_file(pipeline: TalkingHeadPipeline, seconds: float, steps: int) -> dict[str, float]:
    """Return a row: from sound in memory to an mp4 on disk."""
    image, landmarks = portrait(pipeline)
    options: dict[str, Any] = {"reference_landmarks": landmarks, "num_inference_steps": steps, "progress": False}
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        pipeline.generate_file(image, sound(seconds), Path(folder) / "out.mp4", **options)
        took = time.perf_counter() - start
    return {"took (s)": took, "frames/s": seconds * 25 / took, "x real time": seconds / took}


def parts(pipeline: TalkingHeadPipeline, device: str) -> dict[str, float]:
    """Return where the time goes: ms for each part of one window of 16 frames, and of one second of sound."""
    renderer, scheduler = pipeline.renderer, pipeline.scheduler
    face = torch.tensor(pipeline.info["reference_landmarks"], device=device)
    side, feeling = renderer.config.size, torch.full((1, 8), 1 / 8, device=device)
    picture = torch.randint(0, 256, (1, 3, side, side), dtype=torch.uint8, device=device)
    moved = face + torch.randn(1, 16, 1, 2, device=device)
    scheduler.set_timesteps(4)
    with torch.inference_mode():
        condition = renderer.prepare(picture, face[None], moved)
        output = renderer.predict(condition.noise, 999, condition, feeling)
        audio = sound(1.0).to(device)
        jobs: dict[str, Callable[[], Any]] = {
            "prepare (ms)": lambda: renderer.prepare(picture, face[None], moved),
            "one network call (ms)": lambda: renderer.predict(condition.noise, 999, condition, feeling),
            "one step (ms)": lambda: scheduler.step(output, 999, condition.noise),
            "decode and fetch (ms)": lambda: renderer.decode(output).cpu(),
            "emotion (ms)": lambda: pipeline.emotion_net.probabilities(audio[None]),  # type: ignore[union-attr]
            "landmarks (ms)": lambda: pipeline.landmark_net.generate(audio, face, feeling[0]).cpu(),
        }
        return {name: 1e3 * call_time(job, device) for name, job in jobs.items()}


def call_time(job: Callable[[], Any], device: str) -> float:
    """Return the seconds of a call, the host's part and the card's, averaged over several after a warm-up."""
    repeat = 20 if device == "cuda" else 1
    for turn in range(repeat + 3):
        if turn == 3:
            if device == "cuda":
                torch.cuda.synchronize()
            start = time.perf_counter()
        job()
    if device == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / repeat


def portrait(pipeline: TalkingHeadPipeline) -> tuple[Any, Tensor]:
    """Return the bundled portrait, read without PyAV, and its landmarks."""
    assert pipeline.folder is not None
    return Image.open(pipeline.folder / "portrait.png"), torch.tensor(pipeline.info["reference_landmarks"])


def sound(seconds: float) -> Tensor:
    """Return speech-like sound: a buzz whose loudness rises and falls four times a second."""
    place = torch.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    buzz = sum(torch.sin(2 * torch.pi * 120 * k * place) / k for k in range(1, 20))
    return 0.2 * buzz * (0.5 - 0.5 * torch.cos(2 * torch.pi * 4 * place)) + 0.005 * torch.randn(len(place))
