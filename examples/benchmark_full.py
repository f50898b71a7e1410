"""How fast a face is painted into its whole picture: `--frame full`, from the sound to the finished mp4.

    python examples/benchmark_full.py --seconds 10
    python examples/benchmark_full.py --preset veryfast --threads 1

The bundled speaker's face is put into a picture of 1280 x 720 px, its square 203 px wide. Processor time is that of all
threads, which other work on the machine hardly changes; frames per second are the clock's, which it does.
"""

import argparse
import resource
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F

from talkhead.data.clip import SAMPLE_RATE
from talkhead.media.read import read_audio, read_image
from talkhead.media.write import VideoWriter
from talkhead.pipeline import TalkingHeadPipeline
from talkhead.speaker.folder import own_portrait

SIDE, HEIGHT, WIDTH = 203, 720, 1280
LEFT, TOP = 538, 200


def main() -> None:
    """Print one line per run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--preset", nargs="+", default=["medium", "veryfast"], help="of H.264")
    parser.add_argument("--threads", type=int, help="of torch; default: its own choice")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    pipe = TalkingHeadPipeline.from_pretrained("bundled")
    file, points = own_portrait(pipe.folder, pipe.info)
    picture, points = in_a_room(read_image(file), points)
    sound = read_audio(file.with_name("speech.flac"))
    sound = sound.repeat(1 + int(args.seconds * SAMPLE_RATE / len(sound)))[: round(args.seconds * SAMPLE_RATE)]
    options = {"reference_landmarks": points, "emotion": "neutral", "frame": "full", "num_inference_steps": 1}
    pipe(picture, sound[:SAMPLE_RATE], **options)  # warm
    frames, fps = torch.cat([piece.frames for piece in pipe.stream(picture, sound[: 2 * SAMPLE_RATE], **options)]), 25
    with tempfile.TemporaryDirectory() as folder:
        for preset in args.preset:
            path = Path(folder) / "full.mp4"
            report(f"whole chain, {preset}", round(args.seconds * fps), lambda path=path, preset=preset: (
                pipe.generate_file(picture, sound, path, progress=False, preset=preset, **options)
            ))  # fmt: skip
            print(f"  {path.stat().st_size / 1e3:.0f} kB")
            report(
                f"  H.264 alone, {preset}", len(frames), lambda path=path, preset=preset: encode(path, frames, preset)
            )
    report(
        "without the file", round(args.seconds * fps), lambda: [None for _ in pipe.stream(picture, sound, **options)]
    )


def in_a_room(face: torch.Tensor, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Put a square portrait into a large picture whose edges its own continue."""
    scale = SIDE / face.shape[-1]
    square = F.interpolate(face[None].float(), (SIDE, SIDE), mode="bicubic", antialias=True)
    border = (LEFT, WIDTH - LEFT - SIDE, TOP, HEIGHT - TOP - SIDE)
    room = F.pad(square, border, mode="replicate")[0].round().clamp(0, 255).to(torch.uint8)
    return room, (points + 0.5) * scale - 0.5 + torch.tensor([float(LEFT), float(TOP)])


def encode(path: Path, frames: torch.Tensor, preset: str) -> None:
    """Write frames."""
    with VideoWriter(path, 25, (HEIGHT, WIDTH), preset=preset) as video:
        for frame in frames:
            video.append(frame)


def report(name: str, count: int, work) -> None:
    """Print processor milliseconds and frames per second."""
    used, clock = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    work()
    clock, now = time.perf_counter() - clock, resource.getrusage(resource.RUSAGE_SELF)
    spent = now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime
    print(
        f"{name:28} {1e3 * spent / count:6.1f} ms of processor time a frame, {count / clock:5.1f} frames/s", flush=True
    )


if __name__ == "__main__":
    main()
