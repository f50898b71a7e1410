"""How fast a pipeline makes video: from the sound to the finished mp4, frames per second and memory.

    python examples/benchmark_generate.py
    python examples/benchmark_generate.py --seconds 10 60 --steps 1 4 20
    python examples/benchmark_generate.py --device cuda --steps 4 300

The pipeline's own portrait and speech are used (the speech repeated to the length wanted), so nothing else is needed.
Loading is timed by itself; a first short run warms everything up and is not counted. Memory is the process's peak so
far, so lengths and steps should be given in rising order.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from pathlib import Path

import torch

from talkhead.data.clip import SAMPLE_RATE
from talkhead.data.media import probe, read_audio
from talkhead.evaluate.report import Table, environment
from talkhead.pipeline import TalkingHeadPipeline

COLUMNS = {
    "seconds": ("speech (s)", 0),
    "frames": ("frames", 0),
    "steps": ("network calls", 0),
    "took": ("took (s)", 2),
    "fps": ("frames/s", 1),
    "speed": ("x real time", 2),
    "memory": ("peak memory (MiB)", 0),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="bundled", help="pipeline folder (%(default)s)")
    parser.add_argument("--device", default="cpu", help="(%(default)s)")
    parser.add_argument("--seconds", type=float, nargs="+", default=[10.0], help="lengths of speech (10)")
    parser.add_argument("--steps", type=int, nargs="+", default=[4], help="network evaluations per frame (4)")
    parser.add_argument("--threads", type=int, help="CPU threads; default: torch's own choice")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each; the median is shown (%(default)s)")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    start = time.perf_counter()
    pipeline = TalkingHeadPipeline.from_pretrained(arguments.model, arguments.device)
    loaded = time.perf_counter() - start
    assert pipeline.folder is not None
    speech = read_audio(pipeline.folder / "speech.flac")
    measure(pipeline, pipeline.folder, speech, 1.0, arguments.steps[0])
    rows = {}
    for seconds in arguments.seconds:
        for steps in arguments.steps:
            runs = [measure(pipeline, pipeline.folder, speech, seconds, steps) for _ in range(arguments.repeat)]
            rows[f"{seconds:g} s, {steps} steps"] = sorted(runs, key=lambda run: run["took"])[len(runs) // 2]
    size = pipeline.renderer.config.size
    print(Table(f"Sound to mp4 at {size} px", COLUMNS, rows).markdown())
    print(f"\n- loading: {loaded:.2f} s")
    for key, value in environment(pipeline.renderer.device).items():
        print(f"- {key}: {value}")


def measure(
    pipeline: TalkingHeadPipeline, folder: Path, speech: torch.Tensor, seconds: float, steps: int
) -> dict[str, float]:
    """Make one video and return the values of ``COLUMNS``."""
    samples = round(seconds * SAMPLE_RATE)
    audio = speech.repeat(-(-samples // len(speech)))[:samples]
    face = torch.tensor(pipeline.info["portrait_landmarks"])
    with tempfile.TemporaryDirectory() as temporary:
        path, start = Path(temporary) / "out.mp4", time.perf_counter()
        pipeline.generate_file(
            folder / "portrait.png",
            audio,
            path,
            portrait_landmarks=face,
            num_inference_steps=steps,
            progress=False,
        )
        took = time.perf_counter() - start
        frames = probe(path).num_frames or 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    speed = {"took": took, "fps": frames / took, "speed": seconds / took}
    return {"seconds": seconds, "frames": frames, "steps": steps, **speed, "memory": peak}


if __name__ == "__main__":
    main()
