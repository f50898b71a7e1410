"""Kills, full disks, many threads and long recordings: what is there afterwards is whole, and the same.

``pytest -m storm`` runs the long versions: real processes of the command line, killed at random moments (seeds fixed).
"""

import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
import wave
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import POINTS, speech, tiny_portrait
from test_fit import SMALL, fit
from test_preprocess import render
from test_preprocess import run as preprocess_folder

from talkhead.cli import main
from talkhead.media.read import probe, read_video, write_audio, write_image
from talkhead.modules.checkpoint import read_checkpoint, write_checkpoint
from talkhead.pipeline import TalkingHeadPipeline
from talkhead.pipeline.feeling import EmotionKeys

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def speaker(pipe: TalkingHeadPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny speaker's folder, beside a portrait and a motion to paint it by, in the working folder."""
    from talkhead.pipeline.motion import LandmarkSequence

    monkeypatch.chdir(tmp_path)
    pipe.save_pretrained("speaker")
    write_image("face.png", tiny_portrait())
    write_audio("talk.wav", speech(1.0))
    LandmarkSequence(POINTS.expand(25, 68, 2), 25, (61, 72)).save("motion.npz")
    monkeypatch.setattr(TalkingHeadPipeline, "_detector", lambda self, name: lambda picture, face: Face())
    return tmp_path / "speaker"


class Face:
    """What a detector finds."""

    landmarks = POINTS


def generate(output: str, *more: str) -> list[str]:
    inputs = ["--image", "face.png", "--audio", "talk.wav", "--speaker", "speaker", "--emotion", "sad"]
    return ["generate", *inputs, "--output", output, *more]


def kill_writers(path: Path, kills: int, seed: int) -> None:
    """Kill a process that writes checkpoints without end, and look each time at what it has left."""
    moments, weights = random.Random(seed), torch.zeros(50_000)
    begun = time.perf_counter()
    for _ in range(3):
        write_checkpoint(path, {"state_dict": {"w": weights}, "global_step": 0})
    longest, newest = max(0.06, time.perf_counter() - begun), 0
    for _ in range(kills):
        child = os.fork()
        if child == 0:  # writes until it is killed
            step = newest
            while True:
                step += 1
                write_checkpoint(path, {"state_dict": {"w": weights + step}, "global_step": step})
        time.sleep(moments.uniform(0.0, longest))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        found = read_checkpoint(path)
        assert found["global_step"] >= newest and (found["state_dict"]["w"] == found["global_step"]).all()
        newest = found["global_step"]
        longest *= 1 if newest else 1.3  # a new process on a busy machine may be slower than this one was
    assert newest > 0


def test_a_killed_process_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    kill_writers(tmp_path / "last.ckpt", kills=25, seed=3)


@pytest.mark.storm
def test_hundreds_of_killed_processes_leave_a_whole_checkpoint(tmp_path: Path) -> None:
    kill_writers(tmp_path / "last.ckpt", kills=500, seed=4)


def whole_cache(cache: Path) -> dict[str, bytes]:
    """Return the content of a cache's files."""
    return {str(path.relative_to(cache)): path.read_bytes() for path in cache.rglob("*") if path.is_file()}


def kill_preprocess(folder: Path, kills: int, seed: int) -> None:
    """Kill a process that preprocesses, again and again, and look each time at what it has left."""
    moments, recordings, cache = random.Random(seed), folder / "in", folder / "cache"
    recordings.mkdir()
    for index in range(4):
        render(recordings / f"{index}.mp4", 12)
    begun = time.perf_counter()
    preprocess_folder(recordings, cache)
    seconds, expected = time.perf_counter() - begun, whole_cache(cache)
    begins = 0
    for _ in range(kills):
        if whole_cache(cache) == expected:
            shutil.rmtree(cache)
            begins += 1
        child = os.fork()
        if child == 0:
            preprocess_folder(recordings, cache)
            os._exit(0)
        time.sleep(moments.uniform(0.0, 2 * seconds))  # some end in time, on a machine that gets busier, too
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        for clip in cache.glob("clips/[!.]*.safetensors"):  # under its name, so it is whole
            assert clip.read_bytes() == expected[str(clip.relative_to(cache))]
    preprocess_folder(recordings, cache)
    assert whole_cache(cache) == expected and begins > 1


def test_preprocess_killed_again_and_again_makes_the_same_cache(tmp_path: Path) -> None:
    kill_preprocess(tmp_path, kills=12, seed=8)


@pytest.mark.storm
def test_preprocess_killed_hundreds_of_times_makes_the_same_cache(tmp_path: Path) -> None:
    kill_preprocess(tmp_path, kills=300, seed=9)


def test_threads_give_the_serial_results(pipe: TalkingHeadPipeline) -> None:
    portrait = tiny_portrait()

    def made(number: int) -> tuple[torch.Tensor, dict[str, float]]:
        sound = speech(0.5 + 0.3 * number)  # of different lengths, so that a shared mask would not fit
        result = pipe(portrait, sound, reference_landmarks=POINTS, seed=number, size=32)
        return result.frames, result.emotion

    serial = [made(number) for number in range(4)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(made, [0, 1, 2, 3, 3, 2, 1, 0]))
    for (frames, emotion), number in zip(together, [0, 1, 2, 3, 3, 2, 1, 0], strict=True):
        assert torch.equal(frames, serial[number][0]) and emotion == serial[number][1]


def test_two_writers_of_one_name_leave_one_whole_video(pipe: TalkingHeadPipeline, tmp_path: Path) -> None:
    def made(number: int) -> Path:
        sound, options = speech(0.4 + 0.4 * number), {"reference_landmarks": POINTS, "emotion": "sad", "size": 32}
        return pipe.generate_file(tiny_portrait(), sound, tmp_path / "one.mp4", progress=False, **options)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(made, [0, 1, 0, 1]))
    assert len(read_video(tmp_path / "one.mp4")[0]) in (10, 20)
    assert [path.name for path in tmp_path.iterdir()] == ["one.mp4"]


def test_sigterm_leaves_nothing_half_written(speaker: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from talkhead.media.write import VideoWriter

    append = VideoWriter.append

    def ended(self: VideoWriter, frame: torch.Tensor) -> None:
        append(self, frame)
        if self.frames_written == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    before = sorted(path.name for path in Path.cwd().iterdir())
    with monkeypatch.context() as patch:
        patch.setattr(VideoWriter, "append", ended)
        assert main(generate("out.mp4")) == 143
    assert sorted(path.name for path in Path.cwd().iterdir()) == before
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    Path(f".out.{os.getpid()}.tmp.mp4").touch()  # a killed process of the same number left it
    assert main(generate("out.mp4")) == 0 and probe("out.mp4").num_frames == 25


def peak_megabytes(work: Callable[[], Any]) -> float:
    """Return the highest memory of a process of its own that does ``work()``.

    Of its own: what was freed before would otherwise serve again, and hide what is taken.
    """
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    _, status, used = os.wait4(child, 0)
    assert status == 0
    return used.ru_maxrss / 1024


def long_talk(pipe: TalkingHeadPipeline, folder: Path, minutes: int, fps: float, **options: Any) -> float:
    """Return the peak memory of a video of so many minutes."""
    sound, output = folder / f"{minutes}.wav", folder / "out.mp4"
    with wave.open(str(sound), "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        for _ in range(10 * minutes):
            file.writeframes((speech(6.0) * 32767).to(torch.int16).numpy().tobytes())
    options |= {"num_inference_steps": 1, "size": 32, "progress": False, "reference_landmarks": POINTS, "fps": fps}
    return peak_megabytes(lambda: pipe.generate_file(tiny_portrait(), sound, output, **options))


def test_three_minutes_need_no_more_memory_than_one(pipe: TalkingHeadPipeline, tmp_path: Path) -> None:
    one, three = (long_talk(pipe, tmp_path, minutes, 1, emotion="sad") for minutes in (1, 3))
    assert three < 1.05 * one, f"{one:.0f} MB for a minute, {three:.0f} MB for three"


def test_what_is_shown_in_an_hour_is_computed_in_little_memory() -> None:
    heard = torch.eye(8).repeat(225, 1)
    keys = EmotionKeys(2.0 * torch.arange(1800, dtype=torch.float64), heard, heard, 2.0)
    times = torch.arange(18_000, dtype=torch.float64) / 5
    minute, hour = (peak_megabytes(lambda n=n: keys.shown_at(times[:n])) for n in (300, 18_000))
    assert hour < minute + 20  # frames times keys are 260 MB


@pytest.mark.storm
def test_an_hour_needs_no_more_memory_than_a_minute(pipe: TalkingHeadPipeline, tmp_path: Path) -> None:
    """With the emotion heard all along."""
    one, hour = (long_talk(pipe, tmp_path, minutes, 5) for minutes in (1, 60))
    print(f"{one:.0f} MB for a minute, {hour:.0f} MB for an hour")
    assert hour < 1.05 * one, f"{one:.0f} MB for a minute, {hour:.0f} MB for an hour"


def process(*arguments: str, **options: Any) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "talkhead", *arguments]
    return subprocess.Popen(
        command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options
    )


@pytest.mark.storm
def test_a_training_killed_again_and_again_ends_as_an_unbroken_one(tiny_cache: Path, tmp_path: Path) -> None:
    assert fit("landmark", tiny_cache, tmp_path / "whole", "--trainer.max_epochs=30") == 0
    moments, run = random.Random(5), tmp_path / "run"
    options = ["--data.batch_size=4", "--data.val_fraction=0.2", "--data.test_fraction=0.1", *SMALL["landmark"]]
    command = ["fit", "--config=landmark", f"--data.root={tiny_cache}", f"--trainer.default_root_dir={run}"]
    command += ["--trainer.accelerator=cpu", "--trainer.log_every_n_steps=1", "--trainer.max_epochs=30", *options]
    for kill in (signal.SIGKILL, signal.SIGKILL, signal.SIGKILL, signal.SIGKILL, None):
        started = process(*command, "--ckpt_path=last")
        if kill is not None:
            while not list(run.glob("checkpoints/last.ckpt")) and started.poll() is None:
                time.sleep(0.05)
            time.sleep(moments.uniform(0, 8))
            started.send_signal(kill)
        said, _ = started.communicate()
        assert kill is not None or started.returncode == 0, said[-2000:]
        read_checkpoint(run / "checkpoints" / "last.ckpt")
    ends = [read_checkpoint(folder / "checkpoints" / "last.ckpt") for folder in (tmp_path / "whole", run)]
    assert ends[0]["global_step"] == ends[1]["global_step"]
    assert all(torch.equal(ends[0]["state_dict"][name], weight) for name, weight in ends[1]["state_dict"].items())
    assert not list((run / "checkpoints").glob(".*"))


@pytest.mark.storm
@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_generate_leaves_a_whole_video_or_none(kill: signal.Signals, tmp_path: Path) -> None:
    moments = random.Random(6)
    for _ in range(8):
        left = set(tmp_path.glob(".*"))  # by those that were killed before
        started = process("demo", "--output=demo.mp4", cwd=tmp_path)
        while not set(tmp_path.glob(".*")) - left and started.poll() is None:
            time.sleep(0.02)
        time.sleep(moments.uniform(0, 3))
        started.send_signal(kill)
        started.communicate()
        if (tmp_path / "demo.mp4").exists():
            assert probe(tmp_path / "demo.mp4").num_frames
            (tmp_path / "demo.mp4").unlink()
        elif kill == signal.SIGTERM:
            assert started.returncode == 143 and not list(tmp_path.iterdir())


@pytest.mark.storm
def test_a_fit_on_a_small_disk_leaves_the_last_good_checkpoint(tiny_cache: Path, tmp_path: Path) -> None:
    assert fit("landmark", tiny_cache, tmp_path / "run", "--trainer.max_epochs=1") == 0
    size = (tmp_path / "run" / "checkpoints" / "last.ckpt").stat().st_size
    for part in range(1, 10):
        run = shutil.copytree(tmp_path / "run", tmp_path / str(part))
        before, limit = (run / "checkpoints" / "last.ckpt").read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
        ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size * part // 10, limit[1]))
        try:
            assert fit("landmark", tiny_cache, run, "--trainer.max_epochs=2", "--ckpt_path=last") == 2
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)
            signal.signal(signal.SIGXFSZ, ignored)
        assert (run / "checkpoints" / "last.ckpt").read_bytes() == before
        assert not list((run / "checkpoints").glob(".*"))
