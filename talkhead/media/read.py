"""Read and write video, sound and pictures: the door to codecs (PyAV, that is FFmpeg; pictures by Pillow).

Pictures are (3, H, W) uint8 RGB, video is (T, 3, H, W) uint8 RGB at a constant rate, sound is (S,) float32 mono in
[-1, 1] at 16 kHz. Picture and sound of a file share one clock: frame 0 and sample 0 are the same moment.

Readers never repair in silence. Where a file holds less than it announces, or its data are damaged, they return what
is there and emit a ``MediaWarning``; where nothing can be read they raise a one-sentence ``ValueError``.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from talkhead.data.clip import SAMPLE_RATE
from talkhead.media.clock import at_constant_rate, at_rate, frame_rate
from talkhead.media.colours import rgb_picture, say_hdr, square_size
from talkhead.media.container import (
    announced_seconds,
    audio_stream,
    checked_path,
    clock_zero,
    decoded,
    named,
    need,
    opened,
    pixel_aspect,
    video_stream,
)
from talkhead.media.files import check_writable
from talkhead.media.pictures import decode_picture
from talkhead.media.sound import sound_blocks
from talkhead.media.write import MediaWarning, VideoWriter, exact_fps, write_audio, write_image

__all__ = [
    "MediaInfo",
    "MediaWarning",
    "VideoWriter",
    "check_writable",
    "exact_fps",
    "iter_audio",
    "iter_frames",
    "probe",
    "read_audio",
    "read_image",
    "read_video",
    "write_audio",
    "write_image",
]


@dataclass(frozen=True)
class MediaInfo:
    """What a file's header says.

    Attributes:
        fps: frames per second, exact; None without picture.
        width: px as shown (after the file's own rotation); None without picture.
        height: px as shown; None without picture.
        num_frames: frames that the header announces, or None where it does not say.
        duration: seconds; 0 where the header does not say.
        sample_rate: samples per second of the sound as stored; None without sound.
    """

    fps: Fraction | None
    width: int | None
    height: int | None
    num_frames: int | None
    duration: float
    sample_rate: int | None


def probe(path: str | Path) -> MediaInfo:
    """Read a file's header, its frames' times for the rate, and its first frame for the rotation.

    Args:
        path: a video or sound file.

    Returns:
        The header's facts.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it holds neither picture nor sound, or cannot be read.
    """
    with opened(path, "file") as container:
        video, audio = video_stream(container), audio_stream(container)
        video, audio = (s if s is not None and s.codec_context is not None else None for s in (video, audio))
        if video is None and audio is None:
            raise ValueError(f"file: {named(path)} holds neither picture nor sound; give a video or sound file")
        streams = (s for s in (video, audio) if s is not None)
        seconds = max(announced_seconds(container, s) for s in (None, *streams))
        rate = audio.codec_context.sample_rate if audio is not None else None
        if video is None:
            return MediaInfo(None, None, None, None, seconds, rate)
        fps, context = frame_rate(container, video, path, "file"), video.codec_context
        width, height = square_size(context.width, context.height, pixel_aspect(video))
        first = next(decoded(container, video, str(path), check=False), None)
        if first is not None and first.rotation % 180:
            width, height = height, width
        return MediaInfo(fps, width, height, video.frames or None, seconds, rate)


def read_video(path: str | Path, fps: Fraction | float | None = None) -> tuple[Tensor, Fraction]:
    """Read all frames of a video.

    Args:
        path: any video that FFmpeg reads.
        fps: frames per second to bring it to; None: the stream's own nominal rate.

    Returns:
        (T, 3, H, W) uint8 RGB frames, and the exact frame rate per second. See ``iter_frames`` for the clock.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it holds no readable picture, or ``fps`` is out of range.
    """
    if fps is None:
        with opened(path, "video") as container:
            rate = frame_rate(container, need(video_stream(container), path, "video", "picture"), path)
    else:
        rate = exact_fps(fps)
    return torch.stack(list(iter_frames(path, fps))), rate


def iter_frames(path: str | Path, fps: Fraction | float | None = None) -> Iterator[Tensor]:
    """Read the frames of a video one by one, in constant memory.

    Frame t is what a player shows at ``t / fps``, to within half a frame. At the stream's own nominal rate no stored
    frame is lost: where a file's frames are unevenly spaced (phones, screen recorders) they are repeated to keep time
    with the sound. An evenly spaced file is passed through frame by frame. The rotation that phones write in the
    header is applied, anamorphic pixels are made square by their width, HDR (HLG, PQ) is turned into standard range
    with a ``MediaWarning``.

    Args:
        path: any video that FFmpeg reads.
        fps: frames per second to bring it to, by taking the nearest frame of its own rate; None: its own.

    Yields:
        (3, H, W) uint8 RGB frames.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it holds no readable picture, or ``fps`` is out of range.
    """
    wanted = None if fps is None else exact_fps(fps)
    with opened(path, "video") as container:
        stream = need(video_stream(container), path, "video", "picture")
        rate, context = frame_rate(container, stream, path), stream.codec_context
        say_hdr(str(path), context.color_trc)
        convert = functools.partial(rgb_picture, aspect=pixel_aspect(stream))
        stored, zero = decoded(container, stream, str(path)), clock_zero(container)
        slack = int(context.name in ("mpeg1video", "mpeg2video"))
        frames = at_constant_rate(stored, convert, rate, zero, str(path), slack)
        empty = True
        for frame in frames if wanted in (None, rate) else at_rate(frames, rate, wanted):
            empty = False
            yield frame
        if empty:
            raise ValueError(f"video: no frame of {named(path)} can be decoded; give an undamaged file")


def read_audio(path: str | Path, strict: bool = False) -> Tensor:
    """Read the sound of a file as 16 kHz mono.

    Of several tracks the one flagged as default is read. Channels are mixed down: stereo by its mean, surround sound
    with the weights of ITU-R BS.775; where they cancel each other the loudest is taken alone. A constant offset is
    removed. Sample 0 is the moment of frame 0 where the file has a picture: sound that starts later is preceded by
    zeros, sound that starts earlier is cut. Values beyond full scale are clipped. A ``MediaWarning`` says where the
    sound had to be changed.

    Args:
        path: any sound or video file that FFmpeg reads.
        strict: refuse samples that are not finite; else they are taken as 0, with a warning.

    Returns:
        (S,) float32 in [-1, 1].

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it holds no readable sound, or with ``strict`` samples that are not finite.
    """
    return torch.cat(list(sound_blocks(path, strict)))


def iter_audio(path: str | Path, chunk_seconds: float = 10.0) -> Iterator[Tensor]:
    """Read the sound of a file piece by piece, in constant memory; the pieces joined equal ``read_audio``.

    Args:
        path: any sound or video file that FFmpeg reads.
        chunk_seconds: length of each piece; the last one is shorter.

    Yields:
        (s,) float32 in [-1, 1], 16 kHz mono.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it holds no readable sound, or ``chunk_seconds`` is not positive.
    """
    size = round(chunk_seconds * SAMPLE_RATE)
    if size < 1:
        raise ValueError(f"chunk_seconds must be at least one sample long; got {chunk_seconds}")
    held: list[Tensor] = []
    count = 0
    for block in sound_blocks(path):
        held.append(block)
        count += len(block)
        if count >= size:
            joined, whole = torch.cat(held), count // size * size
            yield from joined[:whole].split(size)
            held, count = [joined[whole:]], count - whole
    if count:
        yield torch.cat(held)


def read_image(source: str | Path | bytes | Any, opacity: bool = False) -> Tensor:
    """Read a picture (PNG, JPEG, WebP, HEIC, AVIF, GIF, TIFF, ...); of a video, the first frame.

    What a viewer shows: upright, in sRGB, HDR turned into standard range with a ``MediaWarning``, transparency laid
    over white, of an animation the first frame; see ``talkhead.media.pictures``.

    Args:
        source: the picture's file, its bytes, or a PIL image.
        opacity: return the opacity as a fourth channel, and the colours as they are under it.

    Returns:
        (3 or 4, H, W) uint8 RGB.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no readable picture, is cut off or damaged, or has too many pixels.
    """
    if isinstance(source, str | Path):
        source = checked_path(source, "image")
    elif isinstance(source, bytearray | memoryview):
        source = bytes(source)
    elif not isinstance(source, bytes) and not hasattr(source, "convert"):
        raise ValueError(f"image: read_image takes a file, its bytes or a PIL image; got {type(source).__name__}")
    name = named(source) if isinstance(source, Path | bytes) else f"the {type(source).__name__}"
    picture = decode_picture(source, name, opacity)
    if picture is not None:
        return picture
    with opened(source, "image") as container:
        stream = need(video_stream(container), source, "image", "picture")
        frame = next(decoded(container, stream, name, check=False), None)
        if frame is None:
            raise ValueError(f"image: {name} cannot be decoded; give an undamaged PNG or JPEG file")
        say_hdr(name, frame.color_trc)
        picture = rgb_picture(frame, aspect=pixel_aspect(stream))
    return torch.cat([picture, torch.full_like(picture[:1], 255)]) if opacity else picture


def read_alpha(image: Any) -> Tensor:
    """Return the (H, W) uint8 opacity of a picture, upright as `read_image` returns its colours.

    Args:
        image: a file or a PIL image.

    Raises:
        ValueError: if the picture has no opacity, or there is none to ask for.
    """
    if not isinstance(image, str | Path | bytes) and not hasattr(image, "convert"):
        raise ValueError("transparent needs a file or a PIL image with an alpha channel; an array's opacity is unknown")
    alpha = read_image(image, opacity=True)[3]
    if alpha.min() == 255:
        raise ValueError("transparent needs a picture with an alpha channel, such as a PNG or WebP; this one has none")
    return alpha
