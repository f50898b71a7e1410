"""Feed damaged files to every reader: `python tests/fuzz.py FIRST COUNT` runs the mutations FIRST, FIRST + 1, ...

Each mutation is decided by its number alone. One line for each reader says what came of it; one
without a result ended the process.
"""

import io
import random
import resource
import sys
import tempfile
import time
import warnings
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pillow_heif
import torch
from PIL import Image

from talkhead.media.read import iter_audio, iter_frames, probe, read_audio, read_image

RATE = 16000
PICTURES = ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "JPEG2000", "ICO", "PPM", "AVIF", "HEIF", "TGA"]
SOUNDS = {
    "wav": "pcm_s16le", "flac": "flac", "mp3": "libmp3lame", "ogg": "libopus", "m4a": "aac", "aiff": "pcm_s16be",
    "caf": "pcm_s16le", "au": "pcm_s16be", "ac3": "ac3", "wma": "libmp3lame", "w64": "pcm_s16le",
}  # fmt: skip
VIDEOS = {
    "mp4": ("libx264", "aac"), "mov": ("mpeg4", "pcm_s16le"), "mkv": ("mpeg4", "flac"), "webm": ("libvpx", "libopus"),
    "avi": ("mpeg4", "pcm_s16le"), "mpg": ("mpeg1video", "mp2"), "ts": ("libx264", "aac"), "3gp": ("mpeg4", "aac"),
    "flv": ("flv", "libmp3lame"), "wmv": ("wmv2", "libmp3lame"),
}  # fmt: skip
SECONDS, MEMORY = 20, 4 << 30
"""What a reader may take for one small file."""


def seeds() -> list[tuple[str, bytes]]:
    """Return (suffix, content) of one small whole file of each format."""
    pillow_heif.register_heif_opener()
    y, x = np.mgrid[:48, :64]
    scene = np.stack([4 * x, 5 * y, 2 * (x + y)], -1).astype(np.uint8)
    files = []
    for kind in PICTURES:
        buffer = io.BytesIO()
        Image.fromarray(scene).save(buffer, kind)
        files.append((kind.lower(), buffer.getvalue()))
    with tempfile.TemporaryDirectory() as folder:
        for suffix, codec in SOUNDS.items():
            files.append((suffix, written(Path(folder) / f"a.{suffix}", None, codec, scene)))
        for suffix, (picture, sound) in VIDEOS.items():
            files.append((suffix, written(Path(folder) / f"b.{suffix}", picture, sound, scene)))
    return files


def written(path: Path, picture: str | None, sound: str, scene: np.ndarray) -> bytes:
    rate = 48000 if sound == "libopus" else 44100 if sound in ("libmp3lame", "ac3") else RATE
    with av.open(str(path), "w", format="asf" if path.suffix in (".wma", ".wmv") else None) as container:
        if picture:
            video = container.add_stream(picture, rate=25)
            video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        voice = container.add_stream(sound, rate=rate, layout="mono")
        if picture:
            for index in range(10):
                frame = av.VideoFrame.from_ndarray(np.roll(scene, index, 1), format="rgb24")
                frame.pts, frame.time_base = index, Fraction(1, 25)
                container.mux(video.encode(frame))
            container.mux(video.encode(None))
        tone = (8000 * np.sin(np.arange(rate * 2 // 5) * 0.1)).astype(np.int16)[None]
        frame = av.AudioFrame.from_ndarray(tone, format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
        container.mux(voice.encode(frame))
        container.mux(voice.encode(None))
    return path.read_bytes()


def mutated(number: int, files: list[tuple[str, bytes]]) -> tuple[str, bytes]:
    """Return (suffix, content) of the mutation of that number."""
    rng = random.Random(number)
    suffix, content = files[number % len(files)]
    data = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 4])):
        kind = rng.choice(["flip", "flip", "head", "cut", "swap", "fill", "double", "number"])
        at = rng.randrange(len(data)) if data else 0
        length = min(rng.choice([1, 4, 16, 64, 256]), max(len(data) - at, 0))
        if kind == "flip":
            for _ in range(rng.choice([1, 8, 64])):
                data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        elif kind == "head":
            for _ in range(rng.choice([1, 4])):
                data[rng.randrange(min(len(data), 256))] = rng.randrange(256)
        elif kind == "cut":
            del data[max(at, 1) :]
        elif kind == "swap":
            other = rng.choice(files)[1]
            size = rng.choice([4, 16, 64, 512])
            data[:size] = other[:size]
        elif kind == "fill":
            data[at : at + length] = bytes([rng.choice([0, 255])]) * length
        elif kind == "double":
            data[at:at] = data[at : at + length]
        elif len(data) >= 4:
            at = rng.randrange(min(len(data), 512) - 3)
            value = rng.choice([0, 1, 2**31 - 1, 2**32 - 1, 2**31, 2**16])
            data[at : at + 4] = value.to_bytes(4, rng.choice(["big", "little"]))
        data = data or bytearray(b"\0")
    return rng.choice([suffix, suffix, "png", "wav", "mp4"]), bytes(data)


def check_picture(path: Path) -> None:
    picture = read_image(path)
    assert picture.dtype == torch.uint8 and picture.ndim == 3 and picture.shape[0] == 3, "a picture of another shape"


def check_sound(path: Path) -> None:
    for audio in (read_audio(path), torch.cat(list(iter_audio(path)))):
        assert audio.ndim == 1 and len(audio) and audio.isfinite().all(), "no sound"
        assert audio.abs().max() <= 1, "a sound out of range"


def check_video(path: Path) -> None:
    info = probe(path)
    assert info.fps is None or 0 < info.fps < 1000, "a rate out of range"
    shape = None
    for index, frame in enumerate(iter_frames(path)):
        shape = shape or frame.shape
        assert frame.shape == shape and frame.dtype == torch.uint8, "frames of two shapes"
        if index > 5000:
            break


def outcome(check, path: Path) -> str:
    """Return "good", "refused", or what is wrong with how the reader took the file."""
    start = time.perf_counter()
    try:
        check(path)
        result = "good"
    except (ValueError, OSError) as error:
        message = str(error)
        result = "refused" if message and "\n" not in message and len(message) < 500 else f"said {message!r:.200}"
    except BaseException as error:  # noqa: B902 the point of it all
        result = f"raised {type(error).__name__}: {error}"[:200]
    seconds = time.perf_counter() - start
    return result if seconds < SECONDS else f"took {seconds:.0f} s"


def main(first: int, count: int) -> None:
    """Run mutations, and print "number reader outcome" of each."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    files = seeds()
    with tempfile.TemporaryDirectory() as folder:
        for number in range(first, first + count):
            suffix, content = mutated(number, files)
            path = Path(folder) / f"mutation{number}.{suffix}"
            path.write_bytes(content)
            for check in (check_picture, check_sound, check_video):
                print(number, check.__name__, end=" ", flush=True)
                result = outcome(check, path)
                if resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 > MEMORY:
                    result = "took too much memory"
                print(result, flush=True)
            path.unlink()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
