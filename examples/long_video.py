"""Does a long video stay whole? Seams between windows, peak memory against the length, and speed from sound to mp4.

    python examples/long_video.py
    python examples/long_video.py --model speakers/anna --seconds 10 60 --steps 1 --keep outputs/long
    python examples/long_video.py --audio lecture.wav
    python examples/long_video.py --clip CACHE NAME      # a preprocessed clip's own motion, forth and back

Without further arguments the pipeline's own portrait says its own speech, repeated to the length wanted. A process of
its own makes each length: it reads and repeats the sound, moves the landmarks, paints, and writes the mp4; the frames
are looked at as they pass and not kept. The time is from the sound's file to the finished mp4, without loading.

Seam: the mean difference between neighbouring frames where a painted window begins or ends, over that everywhere else,
measured before compression. Beside it stands what to compare with: the same metric, at the same frames, of something
that knows no windows (with --clip the true frames, else the portrait bent to each frame's landmarks by a thin-plate
spline), and of the same painted frames with the borders moved to where there are none.

Identity and sharpness: the mean over the last second over that over the first; identity is the similarity of dlib's
face descriptor to that of the first frame (nothing without the extra ``dlib``).

Memory: the process's largest resident set. What Python and its packages take is shown beside it, so that the growth can
be judged with and without them.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from talkhead.data.clip import SAMPLE_RATE
from talkhead.data.dataset import ClipDataset
from talkhead.evaluate.report import Table, environment
from talkhead.evaluate.rows import window_borders
from talkhead.face.portrait import crop_portrait
from talkhead.face.warp import thin_plate_spline_warp
from talkhead.media.read import VideoWriter, read_audio, write_audio
from talkhead.metrics import identity_similarity, sharpness
from talkhead.metrics.pictures import step_ratio
from talkhead.pipeline import TalkingHeadPipeline, progress_bar
from talkhead.tracking.identity import can_describe_faces, describe_faces
from talkhead.tracking.portrait import read_portrait

SEAM_TARGET, MEMORY_TARGET = 1.1, 1.1

COLUMNS = {
    "frames": ("frames", 0),
    "seam": ("seam", 3),
    "control": ("seam, no windows", 3),
    "moved": ("seam, borders moved", 3),
    "imported": ("imports (MiB)", 0),
    "loaded": ("loaded (MiB)", 0),
    "peak": ("peak (MiB)", 0),
    "sharp": ("sharpness, last over first second", 3),
    "identity": ("identity, last over first second", 4),
    "took": ("took (s)", 1),
    "fps": ("frames/s, to mp4", 1),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="bundled", help="pipeline folder (%(default)s)")
    parser.add_argument("--seconds", type=float, nargs="+", default=[10.0, 60.0], help="lengths, rising (10 60)")
    parser.add_argument("--steps", type=int, help="network calls per frame; default: the pipeline's own")
    parser.add_argument("--audio", help="recording to speak; default: the pipeline's own")
    parser.add_argument("--clip", nargs=2, metavar=("CACHE", "NAME"), help="move as this clip, without sound")
    parser.add_argument("--threads", type=int, help="CPU threads; default: torch's own choice")
    parser.add_argument("--device", default="auto", help="(%(default)s)")
    parser.add_argument("--keep", help="folder for the videos; default: they are deleted")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)  # measure one length here, write the result there
    arguments = parser.parse_args()
    if arguments.one:
        arguments.one.write_text(json.dumps(measure(arguments)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(arguments.keep or temporary)
        folder.mkdir(parents=True, exist_ok=True)
        runs = {seconds: run_alone(seconds, folder) for seconds in arguments.seconds}
    print(report(runs, arguments))


def run_alone(seconds: float, folder: Path) -> dict[str, Any]:
    """Measure one length in a process of its own, so that its peak memory is its own."""
    print(f"{seconds:g} s of video ...", file=sys.stderr, flush=True)
    result = folder / f"{seconds:g}s.json"
    given = [*sys.argv[1:], "--seconds", str(seconds), "--keep", str(folder), "--one", str(result)]
    subprocess.run([sys.executable, __file__, *given], check=True)
    return json.loads(result.read_text())


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Make one video in this process and return the values of ``COLUMNS`` and the settings."""
    imported, seconds = peak_memory(), arguments.seconds[0]
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    pipeline = TalkingHeadPipeline.from_pretrained(arguments.model, arguments.device)
    loaded = peak_memory()
    start = time.perf_counter()
    path = Path(arguments.keep) / f"{seconds:g}s.mp4"
    sound = path.with_suffix(".wav")
    work = (
        clip_work(*arguments.clip, seconds)
        if arguments.clip
        else speech_work(pipeline, arguments.audio, seconds, sound)
    )
    steps, landmarks, first, last = make_video(pipeline, work, arguments.steps, path)
    took, peak = time.perf_counter() - start, peak_memory()
    used = arguments.steps or pipeline.info["num_inference_steps"]
    window, overlap = pipeline.info["window"], pipeline.info["overlap"]
    borders = window_borders(len(landmarks), window, overlap)
    control = differences(control_frames(pipeline, work, arguments.clip, landmarks))
    moved = [step_ratio(steps, others) for others in moved_borders(borders, window - overlap, len(landmarks))]
    moved = moved or [math.nan]
    return {
        "frames": len(landmarks),
        "seam": step_ratio(steps, borders),
        "control": step_ratio(control, borders),
        "moved": sum(moved) / len(moved),
        "moved_range": [min(moved), max(moved)],
        "imported": imported,
        "loaded": loaded,
        "peak": peak,
        **life(first, last, landmarks),
        "took": took,
        "fps": len(landmarks) / took,
        "process": f"{type(pipeline.scheduler).__name__}, {used} network calls per frame, windows of {window} frames, "
        f"{overlap} shared; {pipeline.renderer.config.size} px",
        "environment": environment(pipeline.renderer.device),
    }


def speech_work(pipeline: TalkingHeadPipeline, audio: str | None, seconds: float, path: Path) -> dict[str, Any]:
    """Return the arguments of ``stream``: the pipeline's own portrait, and a file of speech of the length wanted."""
    folder = pipeline.folder
    assert folder is not None
    speech = read_audio(audio or folder / "speech.flac")
    samples = round(seconds * SAMPLE_RATE)
    # A file, as a user has it: the pipeline keeps no long sound in memory.
    write_audio(path, speech.repeat(-(-samples // len(speech)))[:samples])
    return {
        "image": folder / "portrait.png",
        "audio": path,
        "reference_landmarks": torch.tensor(pipeline.info["reference_landmarks"]),
    }


def clip_work(cache: str, name: str, seconds: float) -> dict[str, Any]:
    """Return the arguments of ``stream``: a clip's first frame, moved by all of its landmarks forth and back."""
    clip = ClipDataset(cache, [name], reference="first")[0]
    assert clip.frames is not None and clip.landmarks is not None
    order = forth_and_back(len(clip.landmarks), round(seconds * float(clip.fps)))
    return {
        "image": clip.frames[0],
        "landmarks": clip.landmarks[order],
        "reference_landmarks": clip.landmarks[0],
        "emotion": "neutral",
        "fps": float(clip.fps),
    }


def forth_and_back(length: int, total: int) -> Tensor:
    """Return (total,) indices 0, 1, ..., length - 1, ..., 1, 0, 1, ...: a loop without a jump.

    Example:
        >>> forth_and_back(3, 7).tolist()
        [0, 1, 2, 1, 0, 1, 2]
    """
    place = torch.arange(total) % max(2 * length - 2, 1)
    return torch.minimum(place, 2 * length - 2 - place)


def make_video(
    pipeline: TalkingHeadPipeline, work: dict[str, Any], num_steps: int | None, path: Path
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Write the video as ``generate_file`` does.

    Returns:
        (T - 1,) mean absolute difference of neighbouring frames in grey levels, (T, 68, 2) px of the frames, and the
        frames of the first and of the last second.
    """
    pieces = pipeline.stream(**work, num_inference_steps=num_steps)
    landmarks, first = [], []
    last: deque[Tensor] = deque(maxlen=math.ceil(pieces.fps))

    def passing() -> Iterator[Tensor]:
        for piece in pieces:
            landmarks.append(piece.landmarks)
            for frame in piece.frames:
                video.append(frame)
                advance()
                if len(first) < math.ceil(pieces.fps):
                    first.append(frame.clone())
                last.append(frame.clone())
                yield frame

    with (
        VideoWriter(path, pieces.fps, pieces.size, pieces.audio) as video,
        progress_bar(pieces.num_frames, True) as advance,
    ):
        steps = differences(passing())
    return steps, torch.cat(landmarks), torch.stack(first), torch.stack(list(last))


def life(first: Tensor, last: Tensor, landmarks: Tensor) -> dict[str, float]:
    """Return sharpness and identity of the last second over those of the first; frames are (T, H, W, 3) uint8."""
    first, last = first.permute(0, 3, 1, 2), last.permute(0, 3, 1, 2)
    found = {"sharp": (sharpness(last) / sharpness(first)).item(), "identity": math.nan}
    if can_describe_faces():
        begin, end = describe_faces(first, landmarks[: len(first)]), describe_faces(last, landmarks[-len(last) :])
        found["identity"] = (identity_similarity(end, begin[0]) / identity_similarity(begin, begin[0])).item()
    return found


def differences(frames: Iterable[Tensor]) -> Tensor:
    """Return the (T - 1,) mean absolute differences of neighbouring frames; only two frames are held."""
    before, found = None, []
    for frame in frames:
        if before is not None:
            found.append((frame.float() - before.float()).abs().mean().item())
        before = frame
    return torch.tensor(found, dtype=torch.float64)


def moved_borders(borders: list[int], stride: int, frames: int) -> Iterator[list[int]]:
    """Yield the borders moved by 1, 2, ... frames, where none falls on a border."""
    for shift in range(1, stride):
        moved = [border + shift for border in borders if border + shift < frames]
        if moved and not set(moved) & set(borders):
            yield moved


def control_frames(
    pipeline: TalkingHeadPipeline, work: dict[str, Any], clip: list[str] | None, landmarks: Tensor
) -> Iterator[Tensor]:
    """Yield frames that know no windows: the clip's true ones, or the portrait bent to each frame's landmarks."""
    if clip:
        truth = ClipDataset(clip[0], [clip[1]], reference="first")[0].frames
        assert truth is not None
        yield from (truth[index] for index in forth_and_back(len(truth), len(landmarks)).tolist())
        return
    size, scale = pipeline.renderer.config.size, pipeline.info["crop_scale"]
    portrait = crop_portrait(read_portrait(work["image"]), work["reference_landmarks"], scale, size)
    face, source = portrait.face[None].float(), portrait.reference_landmarks[None]
    for part in landmarks.split(32):
        yield from thin_plate_spline_warp(face, source, part[None])[0].round().clamp(0, 255)


def peak_memory() -> float:
    """Return this process's largest resident set so far, in MiB.

    Linux's own record of the address space is preferred: ``ru_maxrss`` survives ``exec`` and may be the parent's.
    """
    status = Path("/proc/self/status")
    for line in status.read_text().splitlines() if status.is_file() else []:
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 2**10
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def report(runs: dict[float, dict[str, Any]], arguments: argparse.Namespace) -> str:
    """Return the table, the judgement and the protocol as markdown."""
    lines = [Table("Length", COLUMNS, {f"{seconds:g} s": run for seconds, run in runs.items()}).markdown(), ""]
    short, long = runs[arguments.seconds[0]], runs[arguments.seconds[-1]]
    lines.append(f"- seam of the longest: {long['seam']:.3f} ({verdict(long['seam'], SEAM_TARGET)})")
    low, high = long["moved_range"]
    lines.append(f"- with the borders moved to where there are none: {low:.3f} to {high:.3f}")
    if len(runs) > 1:
        ratio, beyond = long["peak"] / short["peak"], long["peak"] - short["peak"]
        grown = f"{beyond:+.0f} MiB for {long['frames'] - short['frames']} frames more"
        lines.append(f"- peak memory, longest over shortest: {ratio:.3f} ({verdict(ratio, MEMORY_TARGET)}); {grown}")
    source = " ".join(arguments.clip) if arguments.clip else arguments.audio or "the pipeline's own speech, repeated"
    settings = {"model": arguments.model, "moved by": source, "process": long["process"], **long["environment"]}
    return "\n".join([*lines, *(f"- {key}: {value}" for key, value in settings.items())])


def verdict(value: float, target: float) -> str:
    """Say whether a value holds its target."""
    return f"at most {target:g} wanted: {'held' if value <= target else 'NOT held'}"


if __name__ == "__main__":
    main()
