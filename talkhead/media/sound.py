"""Decode a file's sound and mix it down to one channel, on the clock of its picture.

The sound is read twice: first to know its channels (whether they cancel each other, stand off zero, leave full scale or
hold numbers that are none), then to be mixed. Memory is that of one block either way.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from talkhead.data.clip import SAMPLE_RATE
from talkhead.media.clock import Restarts
from talkhead.media.container import audio_stream, clock_zero, decoded, named, need, opened, video_stream
from talkhead.media.write import MediaWarning

FULL_SCALE = 1.5
"""Peak above which samples are said to be beyond full scale; resampling and lossy codecs leave a little over 1."""
MAX_HOLE = 600
"""Seconds of silence that a gap in the timestamps, or a late start of the sound, may stand for."""
MAX_SILENCE = 20
"""Seconds of such silence for each second of sound, beyond ``MAX_HOLE``: more, and the timestamps are damaged."""
_JITTER = 0.1
"""Seconds by which a block may lie apart from the sound handed out before it and still follow it directly."""
_ROUNDING = 0.02
"""Seconds by which a block may lie apart from the end of those before it and still be joined to them."""

_FRONT, _BACK = 0.5, 0.5 * math.sqrt(0.5)
# The sum of ITU-R BS.775's stereo down-mix: the centre at -3 dB in both channels, the surrounds at -3 dB in one.
_WEIGHTS = {"FL": _FRONT, "FR": _FRONT, "DL": _FRONT, "DR": _FRONT, "FLC": _FRONT, "FRC": _FRONT,
            "FC": math.sqrt(0.5), "LFE": 0.0, "LFE2": 0.0}  # fmt: skip


class Block(NamedTuple):
    """A stretch of decoded sound: when it starts (None where the file does not say), and (S, C) samples."""

    moment: tuple[int, Fraction] | None  # a number, and the seconds that it counts
    rate: int
    layout: str
    channels: tuple[str, ...]
    samples: np.ndarray
    seconds: Fraction = Fraction(0)  # that it lasts by the file's clock, once it is joined

    @property
    def time(self) -> Fraction | None:
        """When it starts, in s."""
        return None if self.moment is None else self.moment[0] * self.moment[1]


@dataclass
class _Survey:
    """What is learnt of one layout of channels while its blocks pass by."""

    channels: tuple[str, ...]
    count: int = 0
    total: Any = 0.0
    products: Any = 0.0
    peak: float = 0.0
    means: list[np.ndarray] = field(default_factory=list)
    filled: int = 0  # samples in the last of the means

    def add(self, block: Block) -> None:
        samples = block.samples.astype(np.float64)
        self.count += len(samples)
        self.total = self.total + samples.sum(0)
        self.products = self.products + samples.T @ samples
        self.peak = max(self.peak, float(np.abs(block.samples).max(initial=0)))
        # A mean over a quarter of a second holds no voice.
        quarter = max(block.rate // 4, 1)
        for piece in np.array_split(samples, math.ceil(len(samples) / quarter)):
            if not self.means or self.filled >= quarter:
                self.means.append(np.zeros(len(self.channels)))
                self.filled = 0
            self.filled += len(piece)
            self.means[-1] += (piece.mean(0) - self.means[-1]) * (len(piece) / self.filled)

    def offset(self) -> np.ndarray:
        """Return the channels' constant offset; 0 where there is none to speak of, or nothing else."""
        means = np.stack(self.means)
        low, middle, high = np.quantile(means, [0.25, 0.5, 0.75], axis=0)
        constant = (np.abs(middle) > 0.02) & (high - low < np.abs(middle) / 2)
        sounding = np.diag(self.covariance()) > 1e-6
        return np.where(constant & sounding & (len(means) > 1) & (self.peak <= FULL_SCALE), middle, 0.0)

    def covariance(self) -> np.ndarray:
        """Return how the channels go together, without their means."""
        mean = self.total / self.count
        return self.products / self.count - np.outer(mean, mean)

    def weights(self) -> tuple[np.ndarray, int | None]:
        """Return the channels' weights, and the one channel that is taken alone, if one is."""
        known = [c for c in self.channels if c != "NONE"]
        if len(self.channels) == 1 or not known:
            weights = np.full(len(self.channels), 1 / len(self.channels))
        else:
            weights = np.array([_WEIGHTS.get(c, _BACK / 2 if c.startswith("T") else _BACK) for c in self.channels])
        covariance = self.covariance()
        power = np.diag(covariance)
        loudest = int(power.argmax())
        # Two equal channels lose nothing, two independent ones 3 dB, one beside silence 6 dB.
        if power[loudest] > 1e-10 and weights @ covariance @ weights < power[loudest] / 10:
            return np.eye(len(weights))[loudest], loudest
        return weights, None


class _Mix(NamedTuple):
    weights: np.ndarray
    offset: np.ndarray


def sound_blocks(path: str | Path, strict: bool = False) -> Iterator[Tensor]:
    """Yield a file's sound at 16 kHz mono, in blocks of any length; sample 0 is the moment of frame 0.

    Args:
        path: a sound or video file.
        strict: refuse samples that are not finite, instead of taking them as 0 with a warning.

    Yields:
        (s,) float32 in [-1, 1].

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it holds no sound, or with ``strict`` samples that are not finite.
    """
    mixes = _surveyed(path, strict)
    any_left = False
    with opened(path, "audio") as container:
        stream = need(audio_stream(container), path, "audio", "sound")
        blocks = _joined(_blocks(container, stream, str(path), check=True))
        first = next(blocks, None)
        if first is None:
            raise ValueError(f"audio: {named(path)} has no sound; give a file with at least one sample")
        zero = clock_zero(container)
        offset = round(((first.time or 0) - zero) * SAMPLE_RATE)
        if abs(offset) > MAX_HOLE * SAMPLE_RATE:
            apart = f"{offset / SAMPLE_RATE:.0f} s from its picture's start"
            raise ValueError(f"audio: {named(path)} has its sound {apart}; its clock is damaged, give another file")
        if offset > 0:
            yield torch.zeros(offset)
        # MP4 states the sound's length to the sample; what the decoder gives beyond it is the codec's padding.
        exact = "mp4" in container.format.name and stream.duration
        left = math.ceil(stream.duration * stream.time_base * SAMPLE_RATE) if exact else None
        restarts = Restarts(path if video_stream(container) is not None else None)
        for block in _resampled(itertools.chain([first], blocks), lambda b: _mono(b, mixes), restarts, path):
            block = block[:left]
            left = left if left is None else left - len(block)
            skip, offset = min(max(-offset, 0), len(block)), min(offset + len(block), 0)
            if skip < len(block):
                any_left = True
                yield block[skip:].clamp(-1, 1)
    if not any_left:
        raise ValueError(f"audio: {named(path)} has no sound beside its picture; give a file with at least one sample")


def _surveyed(path: str | Path, strict: bool) -> dict[str, _Mix]:
    """Read the sound once and return how each layout of channels in it is mixed down; say what is wrong with it."""
    surveys: dict[str, _Survey] = {}
    broken, at = 0, 0.0
    with opened(path, "audio") as container:
        stream = need(audio_stream(container), path, "audio", "sound")
        zero, passed = clock_zero(container), 0.0
        for block in _joined(_blocks(container, stream, str(path), check=False)):
            finite = np.isfinite(block.samples)
            if not finite.all():
                time = float(block.time - zero) if block.time is not None else passed
                at = at if broken else time + int((~finite).any(1).argmax()) / block.rate
                broken += int((~finite).sum())
            passed += len(block.samples) / block.rate
            known = block._replace(samples=np.where(finite, block.samples, 0))
            surveys.setdefault(block.layout, _Survey(block.channels)).add(known)
    if broken and strict:
        what = f"{broken} samples that are not finite (NaN or infinity), the first at {at:.3f} s"
        raise ValueError(f"audio: {named(path)} holds {what}; export the recording anew")
    if broken:
        _warn(path, f"{broken} samples are not finite (NaN or infinity), the first at {at:.3f} s; they are taken as 0")
    return {layout: _mix(path, survey) for layout, survey in surveys.items() if survey.count}


def _mix(path: str | Path, survey: _Survey) -> _Mix:
    """Decide on a layout's mix, and say where it is no plain one."""
    if survey.peak > FULL_SCALE:
        scale = ", which looks like integers in a file of floats: divide them by 32768" if survey.peak > 100 else ""
        _warn(path, f"samples of up to {survey.peak:g} lie beyond full scale (1) and are clipped{scale}")
    offset = survey.offset()
    if offset.any():
        _warn(path, f"a constant offset of {offset[np.abs(offset).argmax()]:.3f} is removed from its sound")
    weights, alone = survey.weights()
    if alone is not None:
        lost = "its channels nearly cancel each other, or all but one are nearly silent"
        _warn(path, f"{lost}; channel {alone + 1} of {len(weights)} is taken alone")
    return _Mix(weights.astype(np.float32), offset.astype(np.float32))


def _warn(path: str | Path, what: str) -> None:
    warnings.warn(f"{path}: {what}", MediaWarning, stacklevel=2)


def _mono(block: Block, mixes: dict[str, _Mix]) -> np.ndarray:
    mix = mixes[block.layout]
    return (np.nan_to_num(block.samples, nan=0.0, posinf=0.0, neginf=0.0) - mix.offset) @ mix.weights


def _joined(blocks: Iterator[Block]) -> Iterator[Block]:
    """Join blocks that follow each other into some of a second: a block has its price, however short it is."""
    held, count = list[Block](), 0
    for block in itertools.chain(blocks, [None]):
        if held and (block is None or count >= block.rate or not _goes_on(held[0], count, block)):
            first, last = held[0], held[-1]
            seconds = Fraction(count if last.time is None else len(last.samples), first.rate)
            seconds += (last.time or 0) - (first.time or 0)
            yield first._replace(samples=np.concatenate([piece.samples for piece in held]), seconds=seconds)
            held, count = [], 0
        if block is not None:
            held.append(block)
            count += len(block.samples)


def _goes_on(first: Block, count: int, block: Block) -> bool:
    """Tell whether a block starts, to within its clock's rounding, ``count`` samples after the first one did."""
    alike = (first.rate, first.layout) == (block.rate, block.layout)
    if first.moment is None or block.moment is None:
        return alike and first.moment is block.moment
    apart = float(block.moment[1]) * block.moment[0] - float(first.moment[1]) * first.moment[0]
    return alike and abs(apart - count / first.rate) < _ROUNDING


def _blocks(container: Any, stream: Any, path: str, check: bool) -> Iterator[Block]:
    """Decode the sound as interleaved floats: PyAV's arrays of more than eight planes read beyond their end."""
    import av

    converter, key, layout, names = None, None, "", ()
    for frame in decoded(container, stream, path, check):
        if not frame.samples or not frame.sample_rate:
            continue
        now = (frame.format.name, frame.layout.name, frame.sample_rate)
        if converter is None or now != key:
            converter, key, layout = av.AudioResampler(format="flt"), now, frame.layout.name
            names = tuple(channel.name for channel in frame.layout.channels)
        moment = (frame.pts, frame.time_base) if frame.pts is not None else None
        frame.pts = None
        arrays = [piece.to_ndarray().reshape(-1, len(names)) for piece in converter.resample(frame) if piece.samples]
        if arrays:
            yield Block(moment, frame.sample_rate, layout, names, np.concatenate(arrays))


def _resampled(
    blocks: Iterator[Block], mono: Callable[[Block], np.ndarray], restarts: Restarts, path: str | Path
) -> Iterator[Tensor]:
    """Mix down and resample to 16 kHz; holes in the timestamps become zeros, a clock that starts again goes on."""
    resampler: _Resampler | None = None
    expected: Fraction | None = None  # where the last block ends by its own clock: restarts are told by it
    reached: Fraction | None = None  # where what was handed out ends: small holes add up
    silence = Fraction(MAX_HOLE)  # that may still be put in
    for block in blocks:
        samples, start = mono(block), expected
        silence += MAX_SILENCE * Fraction(len(samples), block.rate)
        time, joined = restarts.follow(block.time, expected)
        gap = Fraction(0) if time is None or reached is None else time - reached
        apart = joined or abs(gap) > _JITTER
        if resampler is not None and (resampler.rate != block.rate or apart):
            yield from resampler.out()
            resampler = None
        hole = max(gap, Fraction(0)) if apart else Fraction(0)
        if apart:
            silence -= hole
            if silence < 0:
                raise ValueError(
                    f"audio: {named(path)} has minutes or hours between its pieces of sound; its clock is damaged"
                )
            # At a join the sound is put where its pictures are put, to the sample.
            yield torch.zeros(round(hole * SAMPLE_RATE))
            samples = samples[max(round(-gap * block.rate), 0) :]
        resampler = resampler or _Resampler(block.rate)
        start = time if time is not None else (start or Fraction(0))
        expected = start + block.seconds
        reached = (start if reached is None else reached) + hole + Fraction(len(samples), block.rate)
        yield from resampler.add(samples)
    if resampler is not None:
        yield from resampler.out()


class _Resampler:
    """FFmpeg's resampler of one channel to 16 kHz."""

    def __init__(self, rate: int) -> None:
        import av

        self.rate = rate
        self._resampler = av.AudioResampler(format="fltp", layout="mono", rate=SAMPLE_RATE)

    def add(self, samples: np.ndarray) -> Iterator[Tensor]:
        import av

        if len(samples):
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples[None]), format="fltp", layout="mono")
            frame.sample_rate = self.rate
            yield from self.out(frame)

    def out(self, frame: Any = None) -> Iterator[Tensor]:
        """Take a frame, or none at the end, and yield what is then complete."""
        pieces = self._resampler.resample(frame)
        yield from (torch.from_numpy(piece.to_ndarray()[0].copy()) for piece in pieces if piece.samples)
