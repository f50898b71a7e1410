"""How many windows a second one worker reads from the cache, and how much room a frame takes: raw, JPEG, H.264-intra.

    python examples/measure_loader.py --output results/loader.md [--pictures FOLDER] [--sizes 128 256]

Clips of 75 frames are made of the folder's pictures (the bundled portrait), each frame a little further; a picture is
cut to its face where dlib finds one. Windows of 16 frames and a portrait are drawn as training draws them, through the
data loader with that many workers, after one warm round: the files are in the system's memory, so what is measured is
decoding and handing over, not the disk. H.264 (all frames I-frames, yuv444p) is not in the cache; its row decodes
such windows in this process. Room and PSNR are those of these pictures: a camera's noise takes more.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import tempfile
import time
from fractions import Fraction
from pathlib import Path

import av
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import DataLoader

from talkhead import metrics
from talkhead.data.dataset import ClipDataset, collate
from talkhead.data.frame_store import pack_frames
from talkhead.evaluate.report import environment
from talkhead.face.crop import crop_frames, face_crop
from talkhead.media.files import write_whole
from talkhead.media.jpeg import decode_jpeg, encode_jpeg
from talkhead.media.read import read_image
from talkhead.speaker.folder import find_folder
from talkhead.tracking.track import load_detector

FRAMES, WINDOW = 75, 16
HOURS = 40  # of MEAD
STORES = {"raw": ("raw", 0), "jpeg 95": ("jpeg", 95), "jpeg 90": ("jpeg", 90), "jpeg 85": ("jpeg", 85)}


def faces(folder: Path | None, size: int, most: int) -> list[Tensor]:
    """Return (3, size + 16, size + 16) uint8 faces, a little larger than a frame so that they can move."""
    paths = [find_folder("bundled") / "portrait.png"] if folder is None else sorted(folder.glob("*.jpg"))[:most]
    detector, found = load_detector("dlib"), []
    for path in paths:
        picture = read_image(path)
        detection = detector(picture)
        if detection is not None:
            found.append(crop_frames(picture, face_crop(detection.landmarks, 1.5), size + 16))
    return found


def moved(face: Tensor, size: int) -> Tensor:
    """Return (75, 3, size, size): windows of the face that wander by a pixel or so a frame."""
    places = [
        (8 + round(7 * torch.tensor(t / 9).sin().item()), 8 + round(5 * torch.tensor(t / 7).cos().item()))
        for t in range(FRAMES)
    ]
    return torch.stack([face[:, y : y + size, x : x + size] for x, y in places])


def write_cache(root: Path, clips: list[Tensor], store: tuple[str, int]) -> float:
    """Write a cache of the clips and return the bytes of a frame."""
    (root / "clips").mkdir(parents=True)
    lines = []
    for number, frames in enumerate(clips):
        tensors = pack_frames(frames, *store) | {  # type: ignore[arg-type]
            "landmarks": torch.zeros(FRAMES, 68, 2), "audio": torch.zeros(FRAMES * 640),
        }  # fmt: skip
        save_file(tensors, root / "clips" / f"clip{number}.safetensors")
        lines.append(
            {"name": f"clip{number}", "status": "ok", "identity": "a", "emotion": "neutral", "sentence": "s",
             "fps": "25", "frames": FRAMES, "samples": FRAMES * 640, "size": frames.shape[-1]}
        )  # fmt: skip
    (root / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    spare = len(clips) * (FRAMES * 68 * 8 + FRAMES * 640 * 4)
    return (sum(f.stat().st_size for f in (root / "clips").iterdir()) - spare) / (len(clips) * FRAMES)


def windows_per_second(root: Path, count: int, workers: int, seconds: float) -> float:
    """Return how many windows a second come out of the loader, of all workers together."""
    dataset = ClipDataset(root, [f"clip{n}" for n in range(count)], WINDOW, random=True, samples_per_clip=4000)
    loader = DataLoader(dataset, 8, shuffle=True, num_workers=workers, collate_fn=collate, prefetch_factor=2)
    batches = iter(loader)
    for _ in range(4 * workers):  # start them, read the files once
        next(batches)
    start, done = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        done += len(next(batches).names)
    rate = done / (time.perf_counter() - start)
    del batches
    return rate


def encode_intra(frames: Tensor, crf: int = 15) -> bytes:
    """Return (T, 3, H, W) as H.264 whose frames are all independent."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=25, options={"g": "1", "crf": str(crf), "preset": "medium"})
        stream.width = stream.height = frames.shape[-1]
        stream.pix_fmt = "yuv444p"
        for frame in frames.permute(0, 2, 3, 1).contiguous().numpy():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return file.getvalue()


def decode_window(content: bytes, start: int, count: int) -> Tensor:
    """Return ``count`` frames from ``start`` on."""
    with av.open(io.BytesIO(content)) as container:
        stream = container.streams.video[0]
        container.seek(int(Fraction(start, 25) / stream.time_base), stream=stream)
        frames = []
        for frame in container.decode(stream):
            if round(frame.pts * stream.time_base * 25) >= start:
                frames.append(torch.from_numpy(frame.to_ndarray(format="rgb24")))
            if len(frames) == count:
                break
    return torch.stack(frames).permute(0, 3, 1, 2)


def intra_row(clips: list[Tensor], seconds: float) -> tuple[float, float, float]:
    """Return bytes a frame, PSNR, and windows a second of H.264-intra, decoded in this process."""
    files = [encode_intra(frames) for frames in clips]
    quality = metrics.psnr(decode_window(files[0], 0, FRAMES), clips[0], reduce="none").mean().item()
    rng, start, done = random.Random(0), time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        decode_window(rng.choice(files), rng.randint(0, FRAMES - WINDOW), WINDOW)
        done += 1
    return sum(map(len, files)) / (len(files) * FRAMES), quality, done / (time.perf_counter() - start)


def row(size: int, name: str, room: float, quality: float, rates: list[float]) -> str:
    """Return one line of the table, with what MEAD would take and what 8 workers would give."""
    mead = room * HOURS * 3600 * 25 / 1e9
    shown = " | ".join(f"{rate:.0f}" if rate else "-" for rate in rates)
    return f"| {size} | {name} | {room / 1e3:.1f} | {quality:.1f} | {mead:.0f} | {shown} | {8 * rates[0]:.0f} |"


def main() -> None:
    """Measure, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="a markdown file")
    parser.add_argument("--pictures", type=Path, help="folder of .jpg with a face each (the bundled portrait)")
    parser.add_argument("--sizes", type=int, nargs="+", default=[128, 256])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seconds", type=float, default=5, help="of each measurement (%(default)s)")
    parser.add_argument("--clips", type=int, default=12)
    args = parser.parse_args()
    torch.set_num_threads(1)
    heading = " | ".join(f"windows/s, {n} worker{'s' * (n > 1)}" for n in args.workers)
    lines = [
        f"| px | store | kB/frame | PSNR | {HOURS} h at 25 fps, GB | {heading} | 8 times one worker |",
        "|---" * (6 + len(args.workers)) + "|",
    ]
    for size in args.sizes:
        found = faces(args.pictures, size, args.clips)
        clips = [moved(found[n % len(found)], size) for n in range(args.clips)]
        for name, store in STORES.items():
            with tempfile.TemporaryDirectory() as folder:
                room = write_cache(Path(folder) / "cache", clips, store)
                rates = [windows_per_second(Path(folder) / "cache", args.clips, n, args.seconds) for n in args.workers]
            read = (
                clips[0]
                if store[0] == "raw"
                else torch.stack([decode_jpeg(encode_jpeg(f, store[1])) for f in clips[0]])
            )
            quality = metrics.psnr(read, clips[0], reduce="none").clamp_max(100).mean().item()
            lines.append(row(size, name, room, quality, rates))
            print(lines[-1], flush=True)
        room, quality, rate = intra_row(clips, args.seconds)
        lines.append(row(size, "H.264-intra, crf 15", room, quality, [rate] + [0.0] * (len(args.workers) - 1)))
        print(lines[-1], flush=True)
    facts = environment(torch.device("cpu"))
    told = [
        f"\n{args.clips} clips of {FRAMES} frames, windows of {WINDOW} and a portrait, {args.seconds:g} s each.",
        *facts.values(),
    ]
    write_whole(args.output, ("\n".join(lines + told) + "\n").encode())


if __name__ == "__main__":
    main()
