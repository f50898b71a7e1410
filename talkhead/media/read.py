"""Read and write video, sound and pictures: the only door to codecs (PyAV, that is FFmpeg).

Pictures are (3, H, W) uint8 RGB, video is (T, 3, H, W) uint8 RGB at a constant rate, sound is (S,) float32 mono in
[-1, 1] at 16 kHz. Picture and sound of a file share one clock: frame 0 and sample 0 are the same moment.

Readers never repair in silence. Where a file holds less than it announces, or its data are damaged, they return what
is there and emit a ``MediaWarning``; where nothing can be read they raise a one-sentence ``ValueError``.
"""

from __future__ import annotations

import functools
import io
import itertools
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from talkhead.data.clip import SAMPLE_RATE
from talkhead.media.clock import at_constant_rate, resampled
from talkhead.media.files import check_writable
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
    """Read a file's header, and its first frame for the rotation.

    Args:
        path: a video or sound file.

    Returns:
        The header's facts.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it holds neither picture nor sound.
    """
    with _opened(path, "file") as container:
        video, audio = _video_stream(container), _audio_stream(container)
        if video is None and audio is None:
            raise ValueError(f"file: {str(path)!r} holds neither picture nor sound; give a video or sound file")
        seconds = [float(s.duration * s.time_base) for s in (video, audio) if s is not None and s.duration]
        if container.duration:
            seconds.append(container.duration / 1e6)
        rate = audio.codec_context.sample_rate if audio is not None else None
        if video is None:
            return MediaInfo(None, None, None, None, max(seconds, default=0.0), rate)
        fps, width, height = _rate(video), video.codec_context.width, video.codec_context.height
        first = next(_decoded(container, video, str(path), check=False), None)
        if first is not None and first.rotation % 180:
            width, height = height, width
        return MediaInfo(fps, width, height, video.frames or None, max(seconds, default=0.0), rate)


def read_video(path: str | Path) -> tuple[Tensor, Fraction]:
    """Read all frames of a video.

    Args:
        path: any video that FFmpeg reads.

    Returns:
        (T, 3, H, W) uint8 RGB frames, and the exact frame rate per second. See ``iter_frames`` for the clock.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it holds no readable picture.
    """
    with _opened(path, "video") as container:
        fps = _rate(_need(_video_stream(container), path, "video", "picture"))
    return torch.stack(list(iter_frames(path))), fps


def iter_frames(path: str | Path) -> Iterator[Tensor]:
    """Read the frames of a video one by one, in constant memory.

    Frame t is what a player shows at ``t / fps``, to within one frame: where a file's own frames are unevenly spaced
    (phones, screen recorders) they are repeated or left out to keep time with the sound. An evenly spaced file is
    passed through frame by frame. The rotation that phones write in the header is applied.

    Args:
        path: any video that FFmpeg reads.

    Yields:
        (3, H, W) uint8 RGB frames.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it holds no readable picture.
    """
    with _opened(path, "video") as container:
        stream = _need(_video_stream(container), path, "video", "picture")
        decoded, empty = _decoded(container, stream, str(path)), True
        for frame in at_constant_rate(decoded, _picture, _rate(stream), _clock_zero(container), str(path)):
            empty = False
            yield frame
        if empty:
            raise ValueError(f"video: no frame of {str(path)!r} can be decoded; give an undamaged file")


def read_audio(path: str | Path) -> Tensor:
    """Read the sound of a file as 16 kHz mono.

    Channels are averaged and resampled. Sample 0 is the moment of frame 0 where the file has a picture: sound that
    starts later is preceded by zeros, sound that starts earlier is cut. Values beyond full scale are clipped.

    Args:
        path: any sound or video file that FFmpeg reads.

    Returns:
        (S,) float32 in [-1, 1].

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it holds no readable sound.
    """
    return torch.cat(list(_audio_blocks(path)))


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
    for block in _audio_blocks(path):
        held.append(block)
        count += len(block)
        if count >= size:
            *full, rest = torch.cat(held).split(size)
            if len(rest) == size:
                full, rest = [*full, rest], rest[:0]
            yield from full
            held, count = [rest], len(rest)
    if count:
        yield torch.cat(held)


def read_image(path: str | Path) -> Tensor:
    """Read a picture (PNG, JPEG, WebP, ...); of a video, the first frame.

    The rotation in a photograph's header is applied; transparency is dropped.

    Args:
        path: the picture's file.

    Returns:
        (3, H, W) uint8 RGB.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no readable picture.
    """
    with _opened(path, "image") as container:
        stream = _need(_video_stream(container), path, "image", "picture")
        frame = next(_decoded(container, stream, str(path), check=False), None)
        if frame is None:
            raise ValueError(f"image: {str(path)!r} cannot be decoded; give an undamaged PNG or JPEG file")
        return _picture(frame)


@contextmanager
def _opened(path: str | Path, argument: str) -> Iterator[Any]:
    import av

    path = Path(path).absolute()
    if not path.exists():
        raise FileNotFoundError(f"{argument}: no such file: {str(path)!r}")
    if path.is_dir():
        raise ValueError(f"{argument}: {str(path)!r} is a folder; give a file")
    # A name like 'frame%03d.png' is a pattern to FFmpeg; pictures are opened by their bytes instead.
    source = io.BytesIO(path.read_bytes()) if argument == "image" else str(path)
    try:
        container = av.open(source, metadata_errors="ignore")
    except (PermissionError, MemoryError):
        raise
    except (av.FFmpegError, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"{argument}: {str(path)!r} cannot be read by FFmpeg ({reason}); give another file") from None
    with container:
        yield container


def _video_stream(container: Any) -> Any:
    """Return the first stream of moving pictures (a cover picture in a sound file is none)."""
    from av.stream import Disposition

    return next((s for s in container.streams.video if not s.disposition & Disposition.attached_pic), None)


def _audio_stream(container: Any) -> Any:
    return next(iter(container.streams.audio), None)


def _need(stream: Any, path: str | Path, argument: str, what: str) -> Any:
    if stream is None or stream.codec_context is None:
        raise ValueError(f"{argument}: {str(path)!r} has no {what} that FFmpeg can decode; give a file with {what}")
    return stream


def _rate(stream: Any) -> Fraction:
    """Frames per second: the header's nominal rate where the average agrees with it, else the average."""
    average, nominal = stream.average_rate, stream.guessed_rate
    rate = nominal if not average or (nominal and abs(nominal / average - 1) < 0.01) else average
    if not rate:
        raise ValueError("video: the file does not say its frame rate; convert it to MP4 first")
    return Fraction(rate)


def _packets(container: Any, stream: Any, path: str) -> Iterator[Any]:
    """Yield packets; a damaged end ends the file."""
    import av

    try:
        yield from (packet for packet in container.demux(stream) if packet.size)
    except av.FFmpegError as error:
        warnings.warn(f"{path}: reading stopped: {error.strerror}", MediaWarning, stacklevel=2)


def _revived(packets: Iterator[Any]) -> Iterator[Any]:
    """Keep a video's very last packet from being discarded.

    MP4 edit lists are in milliseconds; rounded down they end before the last frame, and FFmpeg discards it.
    """
    import av

    held = next(packets, None)
    while held is not None:
        following = next(packets, None)
        if following is None and held.is_discard:
            copy = av.Packet(bytes(held))
            copy.pts, copy.dts, copy.time_base, copy.duration = held.pts, held.dts, held.time_base, held.duration
            copy.stream = held.stream
            held = copy
        yield held
        held = following


def _decoded(container: Any, stream: Any, path: str, check: bool = True) -> Iterator[Any]:
    """Decode a stream frame by frame, past damaged packets, and warn at the end about what is missing."""
    import av

    packets = _packets(container, stream, path)
    if stream.type == "video":
        packets = _revived(packets)
    damaged, end = 0, 0.0
    # The None at the end makes the decoder hand out the frames it still holds.
    for packet in itertools.chain(packets, [None]):
        damaged += packet is not None and packet.is_corrupt
        try:
            frames = stream.decode(packet)
        except av.FFmpegError:
            damaged += 1
            continue
        for frame in frames:
            damaged += frame.is_corrupt
            # Frames that the decoder hands out at the very end come without their unit of time.
            frame.time_base = frame.time_base or stream.time_base
            if frame.pts is not None:
                length = frame.samples / frame.sample_rate if stream.type == "audio" else float(1 / _rate(stream))
                end = float(frame.pts * frame.time_base) + length
            yield frame
    if check:
        _warn_if_short(stream, end, damaged, path)


def _warn_if_short(stream: Any, end: float, damaged: int, path: str) -> None:
    """Warn when data were damaged, or end more than 0.1 s before the length that the header announces."""
    announced = float(((stream.start_time or 0) + (stream.duration or 0)) * stream.time_base)
    what = "sound" if stream.type == "audio" else "picture"
    if end < announced - 0.1:
        message = f"{path} is cut off: {end:.2f} s of {what} can be read of the {announced:.2f} s announced"
        warnings.warn(message, MediaWarning, stacklevel=2)
    elif damaged:
        message = f"{path} is damaged or cut off: {damaged} pieces of its {what} are incomplete"
        warnings.warn(message, MediaWarning, stacklevel=2)


def _clock_zero(container: Any) -> Fraction:
    """Seconds at which frame 0 and sample 0 lie: the start of the picture, or of the sound where there is none."""
    stream = _video_stream(container) or _audio_stream(container)
    return Fraction((stream.start_time or 0) * stream.time_base)


def _picture(frame: Any, size: tuple[int, int] | None = None) -> Tensor:
    """Turn a decoded frame into (3, H, W) uint8 RGB, upright."""
    from av.video.reformatter import Interpolation as Flags

    width, height = size or (frame.width, frame.height)
    # FFmpeg's fast default darkens every picture by one grey level and halves the chroma resolution.
    exact = Flags.BICUBIC | Flags.ACCURATE_RND | Flags.FULL_CHR_H_INT
    array = frame.to_ndarray(format="rgb24", width=width, height=height, interpolation=exact)
    array = np.rot90(array, k=round(frame.rotation / 90))
    return torch.from_numpy(np.ascontiguousarray(array.transpose(2, 0, 1)))


def _audio_blocks(path: str | Path) -> Iterator[Tensor]:
    """Yield the sound in blocks of any length, on the picture's clock."""
    import av

    new_resampler = functools.partial(av.AudioResampler, format="fltp", rate=SAMPLE_RATE)
    with _opened(path, "audio") as container:
        stream = _need(_audio_stream(container), path, "audio", "sound")
        frames = _decoded(container, stream, str(path))
        first = next(frames, None)
        if first is None:
            raise ValueError(f"audio: {str(path)!r} has no sound; give a file with at least one sample")
        start = (first.pts or 0) * first.time_base
        offset = round((start - _clock_zero(container)) * SAMPLE_RATE)
        if offset > 0:
            yield torch.zeros(offset)
        # MP4 states the sound's length to the sample; what the decoder gives beyond it is the codec's padding.
        exact = "mp4" in container.format.name and stream.duration
        left = math.ceil(stream.duration * stream.time_base * SAMPLE_RATE) if exact else None
        for block in resampled(itertools.chain([first], frames), new_resampler):
            block = block[:left]
            left = left if left is None else left - len(block)
            skip, offset = min(max(-offset, 0), len(block)), min(offset + len(block), 0)
            if skip < len(block):
                yield block[skip:].clamp(-1, 1)
