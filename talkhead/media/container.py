"""Open video and sound files (PyAV, that is FFmpeg), choose their streams and decode them.

What a file *says* must not decide what is opened or how much memory is taken. So only formats that hold their own data
are opened (a playlist, a session description or a drawing that names other files is refused by its content, whatever
its name), and what the header announces is held to the bounds below before anything is decoded.
"""

from __future__ import annotations

import io
import itertools
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

from talkhead.media.write import MediaWarning

MAX_FRAME_PIXELS = 2**26
"""Pixels of a video's frame: twice those of 8K."""
SAMPLE_RATES = (1_000, 768_000)
"""Least and greatest sample rate of a sound, Hz: below, there is no speech; above, no recorder."""
MAX_CHANNELS = 128
"""Channels of a sound."""
MAX_SECONDS = 24 * 3600
"""Length that a header may announce, s."""

# FFmpeg's names of the formats that hold their own pictures and sound. Not among them, on purpose: concat, hls, dash,
# sdp, rtsp, imf, image2 (names become patterns), lavfi, svg and all else that opens or draws what it is told to.
FORMATS = (
    "aac,ac3,aiff,alac,amr,amrnb,amrwb,ape,apng,asf,au,avi,caf,dsf,dts,dv,eac3,flac,flv,gif,gsm,gxf,h261,h263,h264,"
    "hevc,iff,ivf,loas,m4v,mov,mp3,mpc,mpc8,mpeg,mpegts,mpegvideo,matroska,mxf,nut,obu,ogg,rm,shn,sox,spdif,swf,tak,"
    "truehd,tta,vc1,voc,w64,wav,webm,wtv,wv,y4m,yuv4mpegpipe"
)


@contextmanager
def opened(source: str | Path | bytes, argument: str) -> Iterator[Any]:
    """Open a video or sound file for reading.

    Args:
        source: a path, or the file's bytes.
        argument: what to call it in messages.

    Yields:
        PyAV's container.

    Raises:
        FileNotFoundError: if there is no such file.
        PermissionError: if it may not be read.
        ValueError: if it is no file, of a format that is not in ``FORMATS``, damaged, or beyond the bounds.
    """
    import av

    name = named(source)
    opening = io.BytesIO(source) if isinstance(source, bytes) else str(checked_path(source, argument))
    options = {"format_whitelist": FORMATS, "protocol_whitelist": "file"}
    try:
        container = av.open(opening, metadata_errors="ignore", options=options)
    except PermissionError:
        raise
    except MemoryError:
        raise ValueError(
            f"{argument}: {name} announces more than fits in memory; its header is damaged, give another file"
        ) from None
    except (av.FFmpegError, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        if reason == "Invalid argument":  # what FFmpeg says of a format that is not among those allowed
            reason = "damaged, or no video or sound that holds its own data"
        raise ValueError(f"{argument}: {name} cannot be read by FFmpeg ({reason}); give another file") from None
    with container:
        _check_bounds(container, argument, name)
        yield container


def named(source: str | Path | bytes) -> str:
    """Return what to call a file in messages."""
    return "the picture given as bytes" if isinstance(source, bytes) else repr(str(Path(source).absolute()))


def checked_path(path: str | Path, argument: str) -> Path:
    """Return a file's absolute path.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is a folder, or a pipe or device, which would be waited on for ever.
    """
    path = Path(path).absolute()
    if not path.exists():
        raise FileNotFoundError(f"{argument}: no such file: {str(path)!r}")
    if not path.is_file():
        kind = "a folder" if path.is_dir() else "a pipe or device"
        raise ValueError(f"{argument}: {str(path)!r} is {kind}; give a file")
    return path


def _check_bounds(container: Any, argument: str, name: str) -> None:
    """Hold what the header announces to the bounds; they cost nothing to check and much to find out."""
    least, most = SAMPLE_RATES
    for stream in (video_stream(container), audio_stream(container)):
        context = None if stream is None else stream.codec_context
        if context is None:
            continue
        if stream.type == "video" and context.width * context.height > MAX_FRAME_PIXELS:
            got = f"frames of {context.width}x{context.height} px; at most {MAX_FRAME_PIXELS} px are read"
            raise ValueError(f"{argument}: {name} announces {got}, make it smaller first")
        if stream.type == "audio" and context.sample_rate and not least <= context.sample_rate <= most:
            got = f"{context.sample_rate} samples per second; {least} to {most} are read"
            raise ValueError(f"{argument}: {name} announces {got}, give a recording of speech")
        if stream.type == "audio" and context.layout.nb_channels > MAX_CHANNELS:
            got = f"{context.layout.nb_channels} channels; at most {MAX_CHANNELS} are read"
            raise ValueError(f"{argument}: {name} announces {got}, mix it down first")
        if (seconds := announced_seconds(container, stream)) > MAX_SECONDS:
            got = f"{seconds:.0f} s; at most {MAX_SECONDS} s are read"
            raise ValueError(f"{argument}: {name} announces {got}, its header is damaged or it must be cut first")


def video_stream(container: Any) -> Any:
    """Return the moving picture that the file flags as default, else the first; None where there is none.

    A cover picture in a sound file and a row of thumbnails are no moving pictures.
    """
    from av.stream import Disposition

    still = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image
    return _default([s for s in container.streams.video if not s.disposition & still])


def audio_stream(container: Any) -> Any:
    """Return the sound track that the file flags as default, else the first; None where there is none."""
    return _default(list(container.streams.audio))


def _default(streams: list[Any]) -> Any:
    from av.stream import Disposition

    flagged = [s for s in streams if s.disposition & Disposition.default]
    return next(iter(flagged or streams), None)


def need(stream: Any, source: str | Path | bytes, argument: str, what: str) -> Any:
    """Return the stream, or say that the file has none of its kind.

    Raises:
        ValueError: if it is None or of a codec that FFmpeg does not know.
    """
    if stream is None or stream.codec_context is None:
        raise ValueError(f"{argument}: {named(source)} has no {what} that FFmpeg can decode; give a file with {what}")
    return stream


def pixel_aspect(stream: Any) -> Fraction | None:
    """Return the width of a video's pixels over their height: the container's word, else the codec's."""
    return stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio


def clock_zero(container: Any) -> Fraction:
    """Seconds at which frame 0 and sample 0 lie: the start of the picture, or of the sound where there is none."""
    stream = video_stream(container) or audio_stream(container)
    return Fraction((stream.start_time or 0) * stream.time_base)


def announced_seconds(container: Any, stream: Any = None) -> float:
    """Return how long a file says that it is, or one of its streams; 0 where it says nothing.

    Of a bare ADTS, AC-3 or MP3 stream FFmpeg guesses a length from the bitrate of its first frames: 125 s for 10, where
    it begins with a pause.
    """
    if _guessed(container):
        return 0.0
    if stream is None:
        return (container.duration or 0) / 1e6
    return float((stream.duration or 0) * (stream.time_base or 0))


def _guessed(container: Any) -> bool:
    if container.format.name != "mp3":
        return container.format.name in ("aac", "ac3", "eac3")
    if not Path(container.name).is_file():
        return False
    with Path(container.name).open("rb") as file:
        head = file.read(10)
        if head[:3] == b"ID3":  # 7 bits a byte
            file.seek(10 + sum((byte & 127) << 7 * (3 - i) for i, byte in enumerate(head[6:10])))
        else:
            file.seek(0)
        first = file.read(4096)
    return not any(tag in first for tag in (b"Xing", b"Info", b"VBRI"))


def decoded(container: Any, stream: Any, path: str, check: bool = True) -> Iterator[Any]:
    """Decode a stream frame by frame, past damaged packets, and warn at the end about what is missing."""
    import av

    whole = packets(container, stream, path if check else None)
    if stream.type == "video":
        whole = _revived(whole)
        stream.codec_context.options = {"max_pixels": str(MAX_FRAME_PIXELS)}  # for frames that grow on the way
    damaged, end = 0, (0, Fraction(0), 0.0)  # of the last frame: where it lies, and its length
    video = float(1 / (stream.guessed_rate or stream.average_rate or 25)) if stream.type == "video" else 0.0
    # The None at the end makes the decoder hand out the frames it still holds.
    for packet in itertools.chain(whole, [None]):
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
                heard = 0.0 if video or not frame.sample_rate else frame.samples / frame.sample_rate
                # A last picture that stands is as long as it says.
                shown = max(video, float((frame.duration or 0) * frame.time_base)) if video else heard
                end = frame.pts, frame.time_base, shown
            yield frame
    if check:
        _warn_if_short(container, stream, float(end[0] * end[1]) + end[2], damaged, path)


def packets(container: Any, stream: Any, path: str | None = None) -> Iterator[Any]:
    """Yield a stream's packets; a damaged end ends the file (and is said where a path is given)."""
    import av

    try:
        yield from (packet for packet in container.demux(stream) if packet.size)
    except av.FFmpegError as error:
        if path is not None:
            warnings.warn(f"{path}: reading stopped: {error.strerror}", MediaWarning, stacklevel=2)


def _revived(whole: Iterator[Any]) -> Iterator[Any]:
    """Keep a video's very last packet from being discarded.

    MP4 edit lists are in milliseconds; rounded down they end before the last frame, and FFmpeg discards it. One that
    does not follow directly on what is shown was trimmed away.
    """
    import av

    held, end = next(whole, None), None
    while held is not None:
        following = next(whole, None)
        if not held.is_discard and held.pts is not None:
            end = max(held.pts + (held.duration or 0), held.pts if end is None else end)
        if following is None and held.is_discard and (end is None or held.pts is None or held.pts <= end):
            copy = av.Packet(bytes(held))
            copy.pts, copy.dts, copy.time_base, copy.duration = held.pts, held.dts, held.time_base, held.duration
            copy.stream = held.stream
            held = copy
        yield held
        held = following


def _warn_if_short(container: Any, stream: Any, end: float, damaged: int, path: str) -> None:
    """Warn when data were damaged, or end more than 0.1 s before the length that the header announces."""
    announced = announced_seconds(container, stream)
    announced += float((stream.start_time or 0) * stream.time_base) if announced else 0.0
    what = "sound" if stream.type == "audio" else "picture"
    if end < announced - 0.1:
        message = f"{path} is cut off: {end:.2f} s of {what} can be read of the {announced:.2f} s announced"
    elif (missing := _missing_bytes(container, path)) > 0:
        message = f"{path} is cut off: {missing} bytes of what it announces are missing"
    elif damaged:
        message = f"{path} is damaged or cut off: {damaged} pieces of its {what} are incomplete"
    else:
        return
    warnings.warn(message, MediaWarning, stacklevel=2)


def _missing_bytes(container: Any, path: str) -> int:
    """Return how many bytes a Matroska or WebM file lacks of the size of its one segment, 0 where it says none.

    Its streams do not state their lengths, and FFmpeg reads one that is cut off without a word.
    """
    if "matroska" not in container.format.name or not Path(path).is_file():
        return 0
    with Path(path).open("rb") as file:
        head = file.read(4096)
    at = head.find(b"\x18\x53\x80\x67")
    if at < 0 or at + 12 > len(head) or not head[at + 4]:
        return 0
    length = 9 - head[at + 4].bit_length()  # EBML: as many bytes as the first has leading zeros, and one
    size = int.from_bytes(head[at + 4 : at + 4 + length], "big") & (1 << 7 * length) - 1
    unknown = size == (1 << 7 * length) - 1
    return 0 if unknown else max(at + 4 + length + size - Path(path).stat().st_size, 0)
