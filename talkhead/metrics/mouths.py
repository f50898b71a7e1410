"""How the mouth opens, and whether it opens with the sound."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from talkhead.face.mouth_gate import gaps_between_lips
from talkhead.metrics.landmarks import checked_points


class Correlation(NamedTuple):
    """A correlation and where it is best.

    Attributes:
        value: Pearson's correlation at lag 0, in [-1, 1]; NaN where one side does not move.
        lag: the lag in frames at which the correlation is greatest; positive when the prediction comes late.
    """

    value: float
    lag: int


def mouth_opening(landmarks: Tensor) -> Tensor:
    """Return how far the mouth is open: the mean distance of the inner lip's three facing pairs of points.

    Args:
        landmarks: (..., 68, 2) px.

    Returns:
        (...) px, >= 0.

    Example:
        >>> landmarks = torch.zeros(68, 2)
        >>> landmarks[[65, 66, 67], 1] = torch.tensor([2.0, 6.0, 1.0])
        >>> mouth_opening(landmarks).item()
        3.0
    """
    return gaps_between_lips(checked_points(landmarks)).norm(dim=-1).mean(-1)


def opening_course(landmarks: Tensor) -> Tensor:
    """Return the (..., T) opening over time of (..., T, 68, 2) px, constant where it moves by rounding alone.

    A mouth that is frozen in a moving head opens by the last digits of its coordinates, which say nothing.
    """
    landmarks = checked_points(landmarks.detach())
    landmarks = landmarks.where(landmarks.isfinite(), torch.nan)
    opening = mouth_opening(landmarks)
    mean = opening.nanmean(-1, keepdim=True)
    spread = (opening - mean).square().nanmean(-1, keepdim=True).sqrt()
    digit = torch.finfo(torch.float32).eps * landmarks.abs().flatten(-3).nanmean(-1, keepdim=True)
    return torch.where(spread > 8 * digit, opening, mean + 0 * opening)


def opening_correlation(pred: Tensor, target: Tensor, max_lag: int = 5) -> Correlation:
    """Return the correlation over time of the predicted mouth opening with the true one, and its best lag.

    Args:
        pred: (T, 68, 2) px, predicted landmarks.
        target: (T, 68, 2) px, true landmarks.
        max_lag: lags from -max_lag to max_lag frames are tried, as far as half of the frames still overlap.

    Returns:
        The correlation at lag 0, and the lag at which it is greatest.

    Raises:
        ValueError: if the shapes differ.

    Example:
        >>> target = torch.zeros(20, 68, 2)
        >>> target[:, 65:68, 1] = torch.sin(torch.arange(20.0))[:, None] + 2
        >>> opening_correlation(target.roll(1, 0), target).lag
        1
        >>> round(opening_correlation(3 * target, target).value, 4)
        1.0
    """
    return _lagged(opening_course(pred), opening_course(target), max_lag)


def audio_envelope(audio: Tensor, num_frames: int) -> Tensor:
    """Return the loudness of every frame: the root mean square of the samples that frame t's time covers.

    Args:
        audio: (S,) waveform in [-1, 1], S >= num_frames; it spans the frames uniformly.
        num_frames: T.

    Returns:
        (T,) float32 in [0, 1].

    Example:
        >>> audio_envelope(torch.tensor([1.0, -1.0, 0.5, 0.5]), num_frames=2)
        tensor([1.0000, 0.5000])
    """
    if audio.ndim != 1 or not 1 <= num_frames <= len(audio):
        raise ValueError(f"audio must be (S,) with S >= num_frames; got {tuple(audio.shape)} for {num_frames} frames")
    edges = torch.linspace(0, len(audio), num_frames + 1, dtype=torch.float64).round().long()
    energy = torch.cat((torch.zeros(1, dtype=torch.float64), audio.detach().cpu().double().square().cumsum(0)))
    return (energy[edges].diff() / edges.diff()).clamp_min(0).sqrt().float()


def audio_mouth_sync(landmarks: Tensor, audio: Tensor, max_lag: int = 5) -> Correlation:
    """Return the correlation over time of the mouth's opening with the sound's envelope, and its best lag.

    Needs no true landmarks, so it also judges speech of which there is no video. Real speech reaches moderate values
    only (closed vowels are loud, open mouths can be silent): compare with the true video's, not with 1.

    Args:
        landmarks: (T, 68, 2) px.
        audio: (S,) waveform that spans the T frames.
        max_lag: as in :func:`opening_correlation`.

    Returns:
        The correlation at lag 0, and the lag at which it is greatest (positive: the mouth is late).

    Example:
        >>> loudness = torch.tensor([0.1, 0.9, 0.2, 0.8, 0.1, 0.1])
        >>> landmarks = torch.zeros(6, 68, 2)
        >>> landmarks[:, 65:68, 1] = loudness[:, None] * 5
        >>> sync = audio_mouth_sync(landmarks, loudness.repeat_interleave(640))
        >>> round(sync.value, 4), sync.lag
        (1.0, 0)
    """
    opening = opening_course(landmarks).cpu()
    return _lagged(opening, audio_envelope(audio, len(opening)), max_lag)


def _lagged(pred: Tensor, target: Tensor, max_lag: int) -> Correlation:
    """Correlate two (T,) curves at lag 0 and find the lag of the greatest correlation."""
    if pred.shape != target.shape or pred.ndim != 1:
        raise ValueError(f"one clip of (T,) values is expected on both sides; got {pred.shape} and {target.shape}")
    reach = min(max_lag, len(pred) // 2)
    values = {lag: _pearson(pred[max(lag, 0) :], target[max(-lag, 0) :]) for lag in range(-reach, reach + 1)}
    best = max(values, key=lambda lag: (values[lag] if values[lag] == values[lag] else -2.0, -abs(lag)))
    return Correlation(values[0], best)


def _pearson(a: Tensor, b: Tensor) -> float:
    """Return Pearson's correlation of two curves over their common length, without the frames that are NaN."""
    length = min(len(a), len(b))
    pair = torch.stack((a[:length], b[:length])).double()
    pair = pair[:, pair.isfinite().all(0)]
    if pair.shape[1] < 2:
        return float("nan")
    pair = pair - pair.mean(1, keepdim=True)
    spread = pair.norm(dim=1)
    # Rounding leaves a constant curve a spread near 1e-6 of its float32 values: that is no movement.
    return (pair[0] @ pair[1] / spread.prod()).item() if spread.min() > 1e-5 else float("nan")


def opening_variance_ratio(pred: Tensor, target: Tensor) -> float:
    """Return the variance over time of the predicted mouth opening over that of the true one; 1 is alive as life.

    Args:
        pred: (T, 68, 2) px.
        target: (T, 68, 2) px.

    Returns:
        A ratio >= 0: below 1 the mouth moves too little. NaN where the true mouth does not move.

    Raises:
        ValueError: if the shapes differ.

    Example:
        >>> target = torch.zeros(20, 68, 2)
        >>> target[:, 65:68, 1] = torch.sin(torch.arange(20.0))[:, None] + 2
        >>> round(opening_variance_ratio(0.5 * target, target), 4)
        0.25
    """
    a, b = opening_course(pred).double(), opening_course(target).double()
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(f"one clip of (T,) values is expected on both sides; got {a.shape} and {b.shape}")
    seen = a.isfinite() & b.isfinite()
    true = b[seen].var(correction=0).item() if seen.any() else 0.0
    return a[seen].var(correction=0).item() / true if true > 1e-10 else float("nan")
