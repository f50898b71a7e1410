"""Write clips of two rendered people in MEAD's exact layout, with its quirks: what is tried on it runs on the real one.

    python examples/rendered_mead.py MEAD            # 42 clips from the front and 8 from the left, about half a minute

The bundled speaker's portrait, and a second one made of it (wider, darker), are bent into eight emotions at three
levels by `examples/synthetic_mead.py`. Nobody speaks here, and no number measured on it says anything about MEAD.

What MEAD has, and this has too: 30 frames per second; the face in the middle of a green frame wider than high; several
cameras; the sound in a tree of its own beside the video's (.m4a), with other counts than the videos: numbers that no
video has, and videos without; neutral at level 1 alone; levels that a person lacks; a video that is an empty file, and
what systems leave in folders.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import av
import torch
from synthetic_mead import LEVELS, make_clip
from torch import Tensor

from talkhead.data.clip import EMOTIONS, SAMPLE_RATE
from talkhead.face.crop import crop_frames, face_crop, to_crop
from talkhead.face.warp import thin_plate_spline_warp
from talkhead.media.read import read_audio, read_image
from talkhead.media.write import VideoWriter
from talkhead.speaker.folder import find_folder, load_parts, own_portrait

FPS = 30
GREEN = torch.tensor([0, 177, 64], dtype=torch.uint8)
SIZE, WIDTH = 256, 448
LACKING = {("W011", "contempt", 3), ("W011", "sad", 2)}
"""Person, emotion and level that were not recorded."""


def people() -> dict[str, tuple[Tensor, Tensor]]:
    """Return each person's (3, 256, 256) uint8 portrait and its (68, 2) px landmarks."""
    folder = find_folder("bundled")
    path, points = own_portrait(folder, load_parts(folder)[-1])
    crop = face_crop(points, 1.6)
    first, face = crop_frames(read_image(path), crop, SIZE), to_crop(points, crop, SIZE)
    centre = face.mean(0)
    wide = centre + (face - centre) * torch.tensor([1.12, 0.96])
    bent = thin_plate_spline_warp(first[None].float() / 255, face[None], wide[None, None])[0, 0]
    dark = (bent * torch.tensor([0.72, 0.66, 0.62])[:, None, None]).clamp(0, 1)
    return {"M003": (first, face), "W011": ((dark * 255).round().to(torch.uint8), wide)}


def takes(person: str, numbers: range, sides: bool = True) -> Iterator[tuple[str, str, int, int]]:
    """Yield camera, emotion, level and number of what a person recorded; the left camera saw two emotions."""
    for emotion in EMOTIONS:
        for level in (1,) if emotion == "neutral" else LEVELS:
            if (person, emotion, level) not in LACKING:
                for number in numbers:
                    yield "front", emotion, level, number
                    if sides and emotion in ("happy", "neutral"):
                        yield "left_30", emotion, level, number


def framed(frames: Tensor, camera: str) -> Tensor:
    """Return (T, H, W, 3): the (T, 3, H, W) frames before a green wall; from the left the face is narrower."""
    height, width = frames.shape[-2:]
    if camera != "front":
        width = round(width * 0.86)
        frames = torch.nn.functional.interpolate(frames.float(), (height, width), mode="area").round().to(torch.uint8)
    wall = GREEN[None, :, None, None].repeat(len(frames), 1, height, WIDTH)
    left = (WIDTH - width) // 2
    wall[..., left : left + width] = frames
    return wall.permute(0, 2, 3, 1).contiguous()


def write_m4a(path: Path, audio: Tensor) -> None:
    """Write (S,) at 16 kHz as AAC."""
    with av.open(str(path), "w", format="ipod") as container:
        stream = container.add_stream("aac", rate=SAMPLE_RATE, layout="mono")
        for start in range(0, len(audio), 1024):
            frame = av.AudioFrame.from_ndarray(audio[None, start : start + 1024].numpy(), "fltp", "mono")
            frame.sample_rate, frame.pts = SAMPLE_RATE, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def write_person(
    home: Path,
    person: str,
    portrait: tuple[Tensor, Tensor],
    speech: Tensor,
    numbers: range,
    frames: int,
    onset: int = 0,
    sides: bool = True,
) -> int:
    """Write one person's takes and return how many were new; what is there already stays."""
    new = 0
    for camera, emotion, level, number in takes(person, numbers, sides):
        place = Path(emotion) / f"level_{level}"
        video = home / "video" / camera / place / f"{number:03d}.mp4"
        if video.exists():
            continue
        seed = number * 101 + level * 11 + EMOTIONS.index(emotion) * 7
        clip = make_clip(*portrait, speech, emotion, level, frames, seed, FPS, onset)
        for folder in (video.parent, home / "audio" / place):
            folder.mkdir(parents=True, exist_ok=True)
        # The last angry video has no sound of its own beside it; its own track is all there is.
        if (emotion, level, number) != ("angry", 1, numbers[-1]):
            write_m4a(home / "audio" / place / f"{number:03d}.m4a", clip.audio)
        with VideoWriter(video, FPS, (SIZE, WIDTH), clip.audio, preset="veryfast") as writer:
            for frame in framed(clip.frames, camera):  # type: ignore[arg-type]
                writer.append(frame)
        new += 1
    return new


def write_quirks(home: Path, numbers: range) -> None:
    """Leave what is found beside the takes: sound without video, an empty file, and what systems hide."""
    spare = home / "audio/happy/level_1"
    (spare / f"{numbers.stop:03d}.m4a").write_bytes((spare / f"{numbers[0]:03d}.m4a").read_bytes())
    (home / f"video/front/fear/level_2/{numbers.stop:03d}.mp4").touch()
    (home / "video/front/fear/level_2/._001.mp4").write_bytes(b"\0\5\26\7")
    (home / "video/front/.DS_Store").touch()


def main() -> None:
    """Write the tree."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, metavar="MEAD")
    parser.add_argument("--each", type=int, default=1, help="takes of each emotion and level (%(default)s)")
    parser.add_argument("--frames", type=int, default=36, help="of a take, 30 a second (%(default)s)")
    parser.add_argument("--first", type=int, default=1, help="number of the first take: other words (%(default)s)")
    parser.add_argument("--onset", type=int, default=0, help="frames from a neutral face to the emotion (%(default)s)")
    parser.add_argument("--people", nargs="+", default=["M003", "W011"], help="who (%(default)s)")
    parser.add_argument("--front", action="store_true", help="no camera but the front one")
    args = parser.parse_args()
    numbers = range(args.first, args.first + args.each)
    speech = read_audio(find_folder("bundled") / "speech.flac")
    for person, portrait in people().items():
        if person not in args.people:
            continue
        new = write_person(
            args.output / person, person, portrait, speech, numbers, args.frames, args.onset, not args.front
        )
        write_quirks(args.output / person, numbers)
        print(f"{args.output / person}: {new} new clips")


if __name__ == "__main__":
    main()
