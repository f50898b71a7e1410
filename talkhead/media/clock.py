"""Put what FFmpeg decodes onto the library's clock: pictures at a constant rate, sound at 16 kHz mono."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from talkhead.data.clip import SAMPLE_RATE
from talkhead.media.write import MediaWarning


def at_constant_rate(
    frames: Iterator[Any], convert: Callable[..., Tensor], fps: Fraction, zero: Fraction, path: str
) -> Iterator[Tensor]:
    """Yield for each tick of the frame rate the picture shown then, to within one tick.

    A frame one tick off is taken as it comes: some writers put a wrong timestamp into an evenly spaced file.

    Args:
        frames: decoded frames of FFmpeg.
        convert: (frame, (width, height)) -> picture; called for the frames that are shown.
        fps: ticks per second.
        zero: seconds of the first tick, on the frames' clock.
        path: the file, for warnings.

    Yields:
        (3, H, W) uint8 RGB.
    """
    held, size = None, None
    slot, shift = -1, 0  # the tick at which the held picture starts, and the timestamps' correction in ticks
    for frame in frames:
        due = slot + 1
        now = due if frame.pts is None else round((frame.pts * frame.time_base - zero) * fps) + shift
        if abs(now - due) > 10 * fps:
            message = f"{path}: timestamps jump by {float((now - due) / fps):.0f} s; the jump is ignored"
            warnings.warn(message, MediaWarning, stacklevel=2)
            shift, now = shift + due - now, due
        if abs(now - due) <= 1 or held is None:
            now = due
        yield from [] if held is None else [held] * (now - slot)
        slot = max(now, slot)
        size = size or (frame.width, frame.height)
        held = convert(frame, size)
    if held is not None:
        yield held


def resampled(frames: Iterable[Any], new_resampler: Callable[[], Any]) -> Iterator[Tensor]:
    """Average the channels and resample to 16 kHz; holes in the timestamps become zeros.

    The channels are averaged here because FFmpeg's own down-mix is 3 dB louder for float than for integer samples.

    Args:
        frames: decoded frames of FFmpeg.
        new_resampler: makes an FFmpeg resampler to 16 kHz planar float that keeps the channels.

    Yields:
        (s,) float32.
    """
    resampler, layout, expected = None, None, None
    for frame in frames:
        key = (frame.format.name, frame.layout.name, frame.sample_rate)
        if resampler is not None and key != layout:
            yield from _mono(resampler.resample(None))
            resampler = None
        if resampler is None:
            resampler, layout = new_resampler(), key
        time = frame.pts * frame.time_base if frame.pts is not None else expected
        if expected is not None and time is not None and 0.1 < time - expected < 600:
            yield from _mono(resampler.resample(None))
            yield torch.zeros(round((time - expected) * SAMPLE_RATE))
            resampler = new_resampler()
        expected = (time or Fraction(0)) + Fraction(frame.samples, frame.sample_rate)
        frame.pts = None
        yield from _mono(resampler.resample(frame))
    if resampler is not None:
        yield from _mono(resampler.resample(None))


def _mono(frames: Iterable[Any]) -> Iterator[Tensor]:
    yield from (torch.from_numpy(frame.to_ndarray()).mean(0) for frame in frames if frame.samples)
