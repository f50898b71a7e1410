"""Write video, sound and pictures (PyAV, that is FFmpeg); the public names are those of ``talkhead.media.read``.

Every file is written under a temporary name beside its target and renamed when it is complete.
"""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from fractions import Fraction
from numbers import Real
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from talkhead.data.clip import SAMPLE_RATE
from talkhead.media.files import check_writable, replacing

PRESETS = ("ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow")
"""x264's speeds."""
ENCODING_THREADS = 2
"""Of the encoder, on every machine: their number decides on the bytes."""
WAITING_FRAMES, WAITING_BYTES = 32, 2**28
"""What waits to be encoded at most, though always two frames; who appends another waits, too."""
AAC_RATES = (7350, 8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000)
"""Sample rates that AAC can carry (ISO/IEC 14496-3, table 1.18)."""


class MediaWarning(UserWarning):
    """A remark on a file: read only in part (cut off, damaged, times that cannot be followed), or of little use."""


def write_image(path: str | Path, image: Tensor) -> None:
    """Write a picture as PNG or JPEG (quality near the best), by the suffix of ``path``; atomic.

    Args:
        path: target, ``.png``, ``.jpg`` or ``.jpeg``.
        image: (3, H, W) or (H, W, 3) uint8 RGB.

    Raises:
        ValueError: if the suffix or the picture's shape or type is another.
        OSError: if the target cannot be written.
    """
    import av

    codecs = {".png": ("png", "rgb24"), ".jpg": ("mjpeg", "yuvj444p"), ".jpeg": ("mjpeg", "yuvj444p")}
    path = Path(path)
    if path.suffix.lower() not in codecs:
        raise ValueError(f"path must end in .png, .jpg or .jpeg; got {str(path)!r}")
    check_writable(path)
    name, pix_fmt = codecs[path.suffix.lower()]
    frame = av.VideoFrame.from_ndarray(_interleaved(image), format="rgb24").reformat(format=pix_fmt)
    encoder: Any = av.CodecContext.create(name, "w")
    encoder.width, encoder.height, encoder.pix_fmt = frame.width, frame.height, pix_fmt
    encoder.time_base = Fraction(1, 25)
    if name == "mjpeg":
        encoder.qmin = encoder.qmax = 2
    with replacing(path) as temporary, _telling_of_refusals(path):
        temporary.write_bytes(b"".join(bytes(p) for p in [*encoder.encode(frame), *encoder.encode(None)]))


def write_audio(path: str | Path, audio: Tensor, sample_rate: int = SAMPLE_RATE) -> None:
    """Write mono sound as 16-bit WAV or FLAC, by the suffix of ``path``; atomic.

    Args:
        path: target, ``.wav`` or ``.flac``.
        audio: (S,) float in [-1, 1]; values beyond are clipped.
        sample_rate: samples per second.

    Raises:
        ValueError: if the suffix is another, or the sound is not a 1-D float tensor or has no sample.
        OSError: if the target cannot be written.
    """
    import av

    path = Path(path)
    codecs = {".wav": "pcm_s16le", ".flac": "flac"}
    if path.suffix.lower() not in codecs:
        raise ValueError(f"path must end in .wav or .flac; got {str(path)!r}")
    _check_sound(audio)
    if not len(audio):
        raise ValueError("audio must have at least one sample; got none: give a sound that lasts")
    check_writable(path)
    with replacing(path) as temporary, _telling_of_refusals(path), av.open(str(temporary), "w") as container:
        stream: Any = container.add_stream(codecs[path.suffix.lower()], rate=sample_rate, layout="mono", format="s16")
        for frame in [_sound_frame(audio, 0, sample_rate), None]:
            container.mux(stream.encode(frame))


class VideoWriter:
    """Write an MP4 that browsers play: H.264 (yuv420p, BT.709) and AAC, the index in front of the data.

    Frames are appended one by one and encoded, with the sound, in a thread beside the work that makes them; few wait,
    so memory stays constant. The file appears under its name only on a clean exit; on any error, Ctrl-C included,
    nothing is left behind. H.264 in yuv420p has even sizes only: an odd width or height is made even by repeating the
    last column or row. All frames and all sound given are written; where their lengths differ by more than one frame a
    ``MediaWarning`` says so.

    Other containers are written by classes that differ in the attributes below.

    Attributes:
        suffixes: endings that the target may have.
        container: FFmpeg's name of the format.
        codec, pix_fmt, source: of the picture: the encoder, what it is given, and the layout of the frames appended.
        sound: the sound's encoder, and the rate it insists on (None: any that AAC carries).
        longest: px of a picture's longer side at most, as the encoder takes it.

    Example:
        >>> import tempfile, torch
        >>> from pathlib import Path
        >>> path = Path(tempfile.mkdtemp()) / "grey.mp4"
        >>> with VideoWriter(path, fps=25, size=(48, 64)) as video:
        ...     for _ in range(5):
        ...         video.append(torch.full((3, 48, 64), 128, dtype=torch.uint8))
        >>> video.frames_written, path.exists()
        (5, True)
    """

    suffixes: tuple[str, ...] = (".mp4", ".m4v", ".mov")
    container = "mp4"
    codec, pix_fmt, source = "libx264", "yuv420p", "rgb24"
    sound: tuple[str, int | None] = ("aac", None)
    longest = 2**14

    def __init__(
        self,
        path: str | Path,
        fps: Fraction | float,
        size: tuple[int, int],
        audio: Tensor | Iterable[Tensor] | None = None,
        sample_rate: int = SAMPLE_RATE,
        crf: int = 17,
        preset: str = "medium",
    ) -> None:
        """Check everything that can be checked before any work is done.

        Args:
            path: target, ``.mp4``, ``.m4v`` or ``.mov``.
            fps: frames per second; floats such as 29.97 are read as the broadcast rate 30000/1001.
            size: (H, W) px of the frames that will come.
            audio: (S,) float in [-1, 1], or an iterable of such pieces, drawn on as frames come; None: no sound.
            sample_rate: samples per second of ``audio``.
            crf: x264's constant quality, 0 (lossless) to 51; 17 is visually lossless.
            preset: x264's speed, one of ``PRESETS``: a slower one makes a smaller file of the same quality.

        Raises:
            ValueError: if an argument is out of range.
            OSError: if the target cannot be written.
        """
        self.path = Path(path)
        if self.path.suffix.lower() not in self.suffixes:
            raise ValueError(f"path must end in {' or '.join(self.suffixes)}; got {str(path)!r}")
        self.fps, self.size = exact_fps(fps), (int(size[0]), int(size[1]))
        if min(self.size) < 1:
            raise ValueError(f"size must be (height, width) in px, both at least 1; got {tuple(size)}")
        if max(self.size) > self.longest:
            taken = f"takes at most {self.longest} px a side; got {self.size[1]}x{self.size[0]} px"
            raise ValueError(f"output: {str(path)!r} {taken}: make the picture smaller, or choose another format")
        if audio is not None and sample_rate not in AAC_RATES:
            raise ValueError(f"sample_rate must be one that AAC carries, {AAC_RATES}; got {sample_rate}")
        if isinstance(audio, Tensor):
            _check_sound(audio)
            audio = (audio,)
        if preset not in PRESETS:
            raise ValueError(f"preset must be one of x264's, {', '.join(PRESETS)}; got {preset!r}")
        check_writable(self.path)
        self._sound = iter(audio) if audio is not None else None
        self._sample_rate, self._options = sample_rate, {"crf": str(crf), "preset": preset}
        if self.codec == "libx264" and torch.backends.cpu.get_cpu_capability() == "AVX512":
            # x264 165's AVX-512 code makes another file of the same frames each time (its macroblock tree does).
            self._options["x264-params"] = "asm=avx2"
        if self.codec == "libx264" and self.size[0] * self.size[1] > 4096 * 2304:  # beyond 4K: 18 MB a frame held
            self._options["rc-lookahead"] = "10"
        self._samples = self.frames_written = 0
        self._waiting: deque[Future[None]] = deque()

    def __enter__(self) -> Self:
        """Open the temporary file."""
        import av
        from av.video.reformatter import VideoReformatter

        options = {"mp4": {"movflags": "+faststart"}, "webm": {"fflags": "+bitexact"}}.get(self.container, {})
        with ExitStack() as stack:
            temporary = stack.enter_context(replacing(self.path))
            self._container = av.open(str(temporary), "w", format=self.container, options=options)
            stack.callback(self._close_quietly)
            self._whole = stack.pop_all()
        stream = self._container.add_stream(self.codec, rate=self.fps, options=self._options)
        assert isinstance(stream, av.VideoStream)
        self._video = stream
        height, width = (side + side % 2 for side in self.size)
        self._video.width, self._video.height, self._video.pix_fmt = width, height, self.pix_fmt
        context = self._video.codec_context
        # Whole frames in two threads: painting goes on meanwhile. PyAV's choice, a slice of each frame for every core,
        # makes painting wait, costs bits, and writes other bytes on every machine.
        context.thread_type, context.thread_count = "FRAME", ENCODING_THREADS
        # 1 is BT.709 in all three tables of ITU-T H.273; untagged video is shown with another matrix on each player.
        context.colorspace = context.color_primaries = context.color_trc = 1
        context.color_range = 1
        self._audio: Any = None
        if self._sound is not None:
            encoder, rate = self.sound
            self._audio = self._container.add_stream(encoder, rate=rate or self._sample_rate, layout="mono")
        self._converter = VideoReformatter()
        self._thread = ThreadPoolExecutor(1, "encoder")
        return self

    def append(self, frame: Tensor) -> None:
        """Add one frame, and the sound that goes with it.

        Args:
            frame: (3, H, W) or (H, W, 3) uint8 RGB.

        Raises:
            ValueError: if its shape or type is another.
        """
        most = max(2, min(WAITING_FRAMES, WAITING_BYTES // max(frame.nbytes, 1)))
        while self._waiting and (self._waiting[0].done() or len(self._waiting) >= most):
            self._waiting.popleft().result()
        picture = _interleaved(frame) if self.source == "rgb24" else frame.cpu().numpy()
        if picture.shape[:2] != self.size:
            raise ValueError(
                f"frame must be {self.size} px (height, width) as the writer's size; got {picture.shape[:2]}"
            )
        odd = [(0, side % 2) for side in self.size]
        own = np.pad(picture, [*odd, (0, 0)], mode="edge")  # a copy, whatever becomes of the frame
        self._waiting.append(self._thread.submit(self._encode, own, self.frames_written))
        self.frames_written += 1

    def _encode(self, picture: np.ndarray, number: int) -> None:
        """Encode frame ``number`` and the sound up to its end."""
        with _telling_of_refusals(self.path):
            shown = self._for_encoder(picture, number)
            shown.pts, shown.time_base = number, 1 / self.fps
            self._container.mux(self._video.encode(shown))
        self._encode_sound(until=round((number + 1) / self.fps * self._sample_rate))

    def _for_encoder(self, picture: np.ndarray, number: int) -> Any:
        """Return an (H, W, C) picture, frame ``number``, as the encoder takes it."""
        import av
        from av.video.reformatter import Colorspace
        from av.video.reformatter import Interpolation as Flags

        shown = av.VideoFrame.from_ndarray(picture, format=self.source)
        # One converter for all frames: to set one up takes longer than a small frame.
        return self._converter.reformat(
            shown,
            format=self.pix_fmt,
            dst_colorspace=Colorspace.ITU709,
            dst_color_range="MPEG",
            interpolation=Flags.BICUBIC | Flags.ACCURATE_RND,
        )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish the file and give it its name, or delete it after an error."""
        self._thread.shutdown(cancel_futures=error is not None)
        if error is not None:
            self._whole.__exit__(kind, error, trace)
            return
        with self._whole, _telling_of_refusals(self.path):
            self._finish()
            self._container.close()

    def _close_quietly(self) -> None:
        """Close after an error: the container may be unable to write its end, and the error is the one to show."""
        with suppress(Exception):
            self._container.close()

    def _finish(self) -> None:
        for frame in self._waiting:
            frame.result()
        if not self.frames_written:
            raise ValueError(f"video: no frame was appended to {str(self.path)!r}; append at least one")
        self._encode_sound(until=None)
        self._container.mux(self._video.encode(None))
        if self._audio is not None:
            self._container.mux(self._audio.encode(None))
            seconds = self._samples / self._sample_rate
            if abs(seconds - self.frames_written / self.fps) > 1 / self.fps:
                shown = float(self.frames_written / self.fps)
                message = f"{self.path}: {shown:.3f} s of picture beside {seconds:.3f} s of sound"
                warnings.warn(message, MediaWarning, stacklevel=3)

    def _encode_sound(self, until: int | None) -> None:
        """Encode whole pieces until sample ``until`` is covered (None: all that is left)."""
        while self._sound is not None and (until is None or self._samples < until):
            piece = next(self._sound, None)
            if piece is None:
                self._sound = None
                return
            _check_sound(piece)
            for part in piece.split(self._sample_rate) if len(piece) else ():  # FFmpeg knows no empty frame
                self._container.mux(self._audio.encode(_sound_frame(part, self._samples, self._sample_rate)))
                self._samples += len(part)


@contextmanager
def _telling_of_refusals(path: Path) -> Iterator[None]:
    """Raise what an encoder refuses as a ValueError that names ``path``; what the system refuses stays an OSError."""
    import av

    try:
        yield
    except av.FFmpegError as error:
        if isinstance(error, OSError):
            raise
        reason = f"{error.strerror}; give pictures of another size or choose another format"
        raise ValueError(f"output: {str(path)!r} cannot be encoded ({reason})") from error


def exact_fps(fps: Fraction | float) -> Fraction:
    """Return a frame rate as a fraction; floats near a broadcast rate (23.976, 29.97, 59.94) become n*1000/1001.

    Raises:
        ValueError: if the rate is not within (0, 1000), or finer than FFmpeg can say.

    Example:
        >>> exact_fps(29.97), exact_fps(25.0), exact_fps(12.5)
        (Fraction(30000, 1001), Fraction(25, 1), Fraction(25, 2))
    """
    if not isinstance(fps, Real) or not 0 < fps < 1000:
        raise ValueError(f"fps must lie in (0, 1000) frames per second; got {fps!r}")
    rate = Fraction(fps) if isinstance(fps, Fraction | int) else _rounded(float(fps))
    if max(rate.numerator, rate.denominator) >= 2**31:  # FFmpeg's fractions end there
        raise ValueError(f"fps must be a fraction of whole numbers below 2**31; got {fps}: give a rounder rate")
    return rate


def _rounded(fps: float) -> Fraction:
    if fps < 1:  # the seconds of a frame are the rounder number, and no rate becomes 0
        return 1 / (1 / Fraction(fps)).limit_denominator(1001)
    broadcast = Fraction(round(fps * 1.001) * 1000, 1001)
    return broadcast if abs(fps - broadcast) < 1e-3 else Fraction(fps).limit_denominator(1001)


def _interleaved(image: Tensor) -> np.ndarray:
    """Return (H, W, 3) uint8 from either layout."""
    if image.dtype != torch.uint8 or image.ndim != 3 or 3 not in (image.shape[0], image.shape[2]):
        shape = tuple(image.shape)
        raise ValueError(f"image must be (3, H, W) or (H, W, 3) uint8 RGB; got shape {shape}, {image.dtype}")
    planar = image if image.shape[0] == 3 else image.permute(2, 0, 1)
    return np.ascontiguousarray(planar.permute(1, 2, 0).cpu().numpy())


def _check_sound(audio: Tensor) -> None:
    if audio.ndim != 1 or not audio.is_floating_point():
        raise ValueError(f"audio must be (S,) float in [-1, 1], mono; got shape {tuple(audio.shape)}, {audio.dtype}")


def _sound_frame(audio: Tensor, start: int, sample_rate: int) -> Any:
    """Make a 16-bit frame of FFmpeg that begins at sample ``start``."""
    import av

    samples = (audio.detach().cpu().float().clamp(-1, 1) * 32767).round().to(torch.int16).numpy()
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples[None]), format="s16", layout="mono")
    frame.sample_rate, frame.pts, frame.time_base = sample_rate, start, Fraction(1, sample_rate)
    return frame
