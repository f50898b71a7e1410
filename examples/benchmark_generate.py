"""How fast a pipeline makes video: from the sound to the finished mp4, in frames per second.

    python examples/benchmark_generate.py                                # 10 s of speech, one and four network calls
    python examples/benchmark_generate.py --seconds 10 60 --steps 1 4 20
    python examples/benchmark_generate.py --device cuda --size 256 --steps 4 --paper 300

The pipeline's own portrait and speech are used (the speech repeated to the length wanted), so nothing else is needed. A
run is everything between a sound in memory and an mp4 on disk: emotion, landmarks, painting, H.264, AAC. Loading is
timed by itself; a first short run warms everything up and is not counted; of several runs the median is shown. Memory
is measured by `examples/long_video.py`.

--size paints at another size with the same weights, which the network's shape allows: its speed, not its looks; --shown
is `talkhead generate --size`, which takes what is finer than the renderer paints from the portrait.
--paper adds the paper's process to the same run: the network of `--config paper/video` (untrained: its speed does not
depend on what it has learnt) with that many calls per frame. 300 calls are slow without a GPU; --paper-seconds 0.64 is
one window of 16 frames, the least that is fair.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from importlib.resources import files
from pathlib import Path

import torch
import yaml
from diffusers import DDPMScheduler
from torch import Tensor

from talkhead.data.clip import SAMPLE_RATE
from talkhead.evaluate.report import Table, environment
from talkhead.media.read import probe, read_audio
from talkhead.nets.renderer import Renderer
from talkhead.pipeline import TalkingHeadPipeline

COLUMNS = {
    "seconds": ("speech (s)", 2),
    "frames": ("frames", 0),
    "steps": ("network calls", 0),
    "took": ("took (s)", 2),
    "fps": ("frames/s", 1),
    "processor": ("processor, ms a frame", 1),
    "speed": ("x real time", 2),
    "gain": ("x the paper's process", 1),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="bundled", help="pipeline folder (%(default)s)")
    parser.add_argument("--device", default="auto", help="(%(default)s)")
    parser.add_argument("--seconds", type=float, nargs="+", default=[10.0], help="lengths of speech (10)")
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 4], help="network calls per frame (1 4)")
    parser.add_argument("--size", type=int, help="side of the frames in px; default: the renderer's own")
    parser.add_argument("--shown", type=int, help="side of the video in px, painted as large as the renderer paints")
    parser.add_argument("--compile", action="store_true", help="compile the renderer first")
    parser.add_argument("--threads", type=int, help="CPU threads; default: torch's own choice")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each; the median is shown (%(default)s)")
    parser.add_argument("--paper", type=int, metavar="CALLS", help="time the paper's process, too, with so many calls")
    parser.add_argument("--paper-seconds", type=float, help="length of speech for it; default: the first of --seconds")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    start = time.perf_counter()
    pipeline = TalkingHeadPipeline.from_pretrained(arguments.model, arguments.device)
    loaded = time.perf_counter() - start
    if arguments.size:
        pipeline.renderer = at_size(pipeline.renderer, arguments.size)
    if arguments.compile:
        pipeline.renderer.unet.compile()
    options = {"size": arguments.shown}
    rows = {}
    if arguments.paper:
        paper, seconds = paper_pipeline(pipeline), arguments.paper_seconds or arguments.seconds[0]
        rows["the paper's process"] = timed(paper, seconds, arguments.paper, 1, options)
    for seconds in arguments.seconds:
        for steps in arguments.steps:
            row = timed(pipeline, seconds, steps, arguments.repeat, options)
            if arguments.paper:
                row["gain"] = row["fps"] / rows["the paper's process"]["fps"]
            rows[f"{Path(arguments.model).name}, {seconds:g} s, {steps} calls"] = row
    size = arguments.shown or pipeline.renderer.config.size
    print(Table(f"Sound to mp4 at {size} px", COLUMNS, rows).markdown())
    print(f"\n- loading: {loaded:.2f} s")
    print(f"- windows: {pipeline.info['window']} frames, {pipeline.info['overlap']} shared with the next")
    for key, value in environment(pipeline.renderer.device).items():
        print(f"- {key}: {value}")
    if hasattr(os, "getloadavg"):
        print(f"- load of the machine at the end: {os.getloadavg()[0]:.1f}")


def at_size(renderer: Renderer, size: int) -> Renderer:
    """Return the renderer with the same weights for frames of another size."""
    other = Renderer(**{**renderer_arguments(renderer), "size": size})
    other.load_state_dict(renderer.state_dict())
    return other.to(renderer.device).eval()


def renderer_arguments(renderer: Renderer) -> dict:
    """Return what the renderer was built with, without diffusers' own entries."""
    return {key: value for key, value in renderer.config.items() if not key.startswith("_")}


def paper_pipeline(pipeline: TalkingHeadPipeline) -> TalkingHeadPipeline:
    """Return a pipeline with the paper's renderer, untrained, and its process in the place of the pipeline's own."""
    config = yaml.safe_load((files("talkhead") / "configs" / "paper" / "video.yaml").read_text())
    parts = config["model"]["init_args"]
    size = pipeline.renderer.config.size
    renderer = Renderer(**{**parts["renderer"]["init_args"], "size": size}).to(pipeline.renderer.device)
    scheduler = DDPMScheduler(**parts["scheduler"]["init_args"])
    paper = TalkingHeadPipeline(pipeline.landmark_net, pipeline.emotion_net, renderer, scheduler, pipeline.info)
    paper.folder = pipeline.folder
    return paper


def timed(pipeline: TalkingHeadPipeline, seconds: float, steps: int, repeat: int, options: dict) -> dict[str, float]:
    """Warm up, make the video several times, and return the run of median time."""
    print(f"{seconds:g} s of speech, {steps} network calls per frame ...", file=sys.stderr, flush=True)
    assert pipeline.folder is not None
    speech = read_audio(pipeline.folder / "speech.flac")
    samples = round(seconds * SAMPLE_RATE)
    audio = speech.repeat(-(-samples // len(speech)))[:samples]
    measure(pipeline, audio[: 4 * SAMPLE_RATE], 1, options)
    runs = [measure(pipeline, audio, steps, options) for _ in range(repeat)]
    return sorted(runs, key=lambda run: run["took"])[len(runs) // 2]


def measure(pipeline: TalkingHeadPipeline, audio: Tensor, steps: int, options: dict) -> dict[str, float]:
    """Make one video and return the values of ``COLUMNS``."""
    assert pipeline.folder is not None
    face = torch.tensor(pipeline.info["reference_landmarks"])
    with tempfile.TemporaryDirectory() as temporary:
        path, start, worked = Path(temporary) / "out.mp4", time.perf_counter(), time.process_time()
        pipeline.generate_file(
            pipeline.folder / "portrait.png",
            audio,
            path,
            reference_landmarks=face,
            num_inference_steps=steps,
            progress=False,
            **options,
        )
        took, worked = time.perf_counter() - start, time.process_time() - worked
        frames = probe(path).num_frames or 0
    seconds = len(audio) / SAMPLE_RATE
    return {
        "seconds": seconds,
        "frames": frames,
        "steps": steps,
        "took": took,
        "fps": frames / took,
        "processor": 1000 * worked / frames,
        "speed": seconds / took,
    }


if __name__ == "__main__":
    main()
