"""Whether a face is alive: how lips, brows, lids and head move, judged from 68 points with or without a truth.

A measure m of a generated video is compared with that of a true one by its closeness, 1 - |m - truth| / |truth|: 1 is
as lively as life, and both too little and too much cost. A still face has measure 0, so closeness 0, in all of them.

All lengths are taken over the distance between the eyes' centres, e, averaged over the clip, unless a frame width is
given, so that they do not depend on the picture's size.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from talkhead.face.frame import eye_line
from talkhead.face.points import LEFT_BROW, LEFT_EYE, MOUTH, NOSE_TIP, RIGHT_BROW, RIGHT_EYE
from talkhead.metrics.landmarks import checked_points
from talkhead.metrics.mouths import audio_envelope, mouth_opening

NOSE_FORWARD, NOSE_DOWN = 0.59, 0.47
"""How far the nose's tip stands before and below the eyes' middle, in eye distances (ICT FaceKit's neutral face)."""


class HeadPose(NamedTuple):
    """A head's pose in each frame.

    Attributes:
        roll: (T,) degrees, positive clockwise in the picture.
        yaw: (T,) degrees, positive towards the picture's right.
        pitch: (T,) degrees, positive downwards.
        shift: (T, 2) eye distances, the eyes' middle from its mean over the clip.
    """

    roll: Tensor
    yaw: Tensor
    pitch: Tensor
    shift: Tensor


def closeness(value: float | Tensor, truth: float | Tensor) -> float:
    """Return 1 - |value - truth| / |truth|: 1 where they agree, 0 for a value of 0, negative beyond twice the truth.

    Example:
        >>> closeness(0.8, 1.0), closeness(1.2, 1.0), closeness(0.0, 1.0)
        (0.8, 0.8, 0.0)
    """
    value, truth = float(value), float(truth)
    return 1 - abs(value - truth) / abs(truth) if truth else math.nan


def lip_dynamics(landmarks: Tensor, size: int) -> Tensor:
    """Return how much the lips change shape: the standard deviation over time of the distance between two lip points.

    Averaged over all 190 pairs of the 20 lip points, so the head's shift and roll do not count.

    Args:
        landmarks: (..., T, 68, 2) px; frames with NaN are left out.
        size: width of the frame in px; the result is for a frame 256 px wide.

    Returns:
        (...) px256.

    Raises:
        ValueError: if the shape is wrong.

    Example:
        >>> landmarks = torch.rand(68, 2).repeat(2, 1, 1)
        >>> landmarks[:, 48:68] = torch.tensor([1.0, 3.0]).view(2, 1, 1) * torch.rand(20, 2)
        >>> torch.allclose(lip_dynamics(landmarks, 128), lip_dynamics(2 * landmarks, 256))
        True
    """
    lips = checked_points(landmarks)[..., MOUTH, :] * (256 / size)
    first, second = torch.triu_indices(20, 20, 1)
    return _spread((lips[..., first, :] - lips[..., second, :]).norm(dim=-1)).mean(-1)


def silences(audio: Tensor, num_frames: int, fps: float, below: float = -20.0, shortest: float = 0.3) -> Tensor:
    """Find the frames in which nobody speaks.

    Args:
        audio: (S,) waveform that spans the frames.
        num_frames: T.
        fps: frames per second.
        below: dB relative to the 95th percentile of the frames' loudness; quieter frames are silent.
        shortest: a silence lasts at least so many seconds; shorter ones are closures within speech.

    Returns:
        (T,) bool.

    Example:
        >>> sound = torch.cat([torch.zeros(8000), torch.rand(8000) - 0.5])
        >>> silences(sound, 10, fps=10.0).tolist() == [True] * 5 + [False] * 5
        True
    """
    envelope = audio_envelope(audio, num_frames)
    quiet = envelope <= envelope.quantile(0.95) * 10 ** (below / 20)  # no sound at all is below none
    return _runs_at_least(quiet, max(1, math.ceil(shortest * fps - 1e-6)))


def silent_lips(landmarks: Tensor, silent: Tensor) -> Tensor:
    """Return how much the mouth fidgets while nobody speaks: the deviation over time of its opening, in eye distances.

    Args:
        landmarks: (T, 68, 2) px; frames with NaN are left out.
        silent: (T,) bool from :func:`silences`; each silence has a mean of its own.

    Returns:
        () root mean square deviation from the silence's mean, eye distances; NaN without a silence.

    Example:
        >>> landmarks = torch.rand(68, 2).repeat(4, 1, 1)
        >>> silent_lips(landmarks, torch.tensor([True, True, True, False])).item() < 1e-6
        True
    """
    opening = mouth_opening(checked_points(landmarks)) / _eye_distance(landmarks)
    starts = silent & ~F.pad(silent, (1, 0))[:-1]
    which = starts.cumsum(0)
    parts = [opening[silent & (which == n)] for n in range(1, int(starts.sum()) + 1)]
    away = [part[part.isfinite()] - part[part.isfinite()].mean() for part in parts if part.isfinite().any()]
    return torch.cat(away).square().mean().sqrt() if away else landmarks.new_tensor(math.nan)


def brow_heights(landmarks: Tensor) -> Tensor:
    """Return how high the brows stand above the eyes: (..., 2) eye distances, the person's right side first.

    The distance between the mean of a brow's five points and the mean of the eye's six below it.
    """
    points = checked_points(landmarks)
    sides = [(points[..., b, :].mean(-2) - points[..., e, :].mean(-2)).norm(dim=-1) for b, e in _SIDES]
    return torch.stack(sides, dim=-1) / _eye_distance(points)[..., None]


def brow_dynamics(landmarks: Tensor) -> Tensor:
    """Return how restless the brows are: the mean absolute change of their height per frame, over both sides.

    Args:
        landmarks: (..., T, 68, 2) px at 25 frames per second or so (the measure is per frame); NaN is left out.

    Returns:
        (...) eye distances per frame.

    Raises:
        ValueError: if there are fewer than two frames.
    """
    if landmarks.ndim < 3 or landmarks.shape[-3] < 2:
        raise ValueError(f"landmarks must be (..., T, 68, 2) with T >= 2 for a change; got {tuple(landmarks.shape)}")
    return brow_heights(landmarks).diff(dim=-2).abs().mean(-1).nanmean(-1)


def head_pose(landmarks: Tensor) -> HeadPose:
    """Estimate a head's pose from its 68 points, without a camera.

    Roll is the slope of the line of the eyes. Yaw and pitch follow from where the nose's tip stands against the eyes'
    middle when an average head turns, sin(yaw) = x / f and sin(pitch) = (y - d) / f with f and d ``NOSE_FORWARD`` and
    ``NOSE_DOWN``: a face's own nose adds a constant, so their changes mean more than their values.

    Args:
        landmarks: (T, 68, 2) px.
    """
    points = checked_points(landmarks)
    right, left = points[..., RIGHT_EYE, :].mean(-2), points[..., LEFT_EYE, :].mean(-2)
    across, middle = left - right, (left + right) / 2
    distance = across.norm(dim=-1, keepdim=True)
    across = across / distance
    down = torch.stack([-across[..., 1], across[..., 0]], dim=-1)
    nose = (points[..., NOSE_TIP, :] - middle) / distance
    aside, below = (nose * across).sum(-1), (nose * down).sum(-1) - NOSE_DOWN
    return HeadPose(
        torch.atan2(across[..., 1], across[..., 0]).rad2deg(),
        (aside / NOSE_FORWARD).clamp(-1, 1).asin().rad2deg(),
        (below / NOSE_FORWARD).clamp(-1, 1).asin().rad2deg(),
        (middle - middle.nanmean(-2, keepdim=True)) / distance.nanmean(-2, keepdim=True),
    )


def head_motion(landmarks: Tensor) -> dict[str, Tensor]:
    """Return the standard deviations over time of a head's pose.

    Args:
        landmarks: (T, 68, 2) px; frames with NaN are left out.

    Returns:
        ``roll``, ``yaw``, ``pitch``, () degrees, and ``shift``, () eye distances: the root mean square distance of the
        eyes' middle from its mean.
    """
    pose = head_pose(landmarks)
    angles = {name: _spread(getattr(pose, name).unsqueeze(-1))[..., 0] for name in ("roll", "yaw", "pitch")}
    return angles | {"shift": pose.shift.square().sum(-1).nanmean(-1).sqrt()}


def head_diversity(landmarks: Tensor) -> Tensor:
    """Return how differently the head moves from one seed to another: 0 where every seed gives the same video.

    The standard deviation over the seeds of the position of the eyes' middle, both axes, averaged over time.

    Args:
        landmarks: (N, T, 68, 2) px, N >= 2 videos of one portrait and one recording; a frame with NaN in one of them is
            left out of all.

    Returns:
        () eye distances.

    Raises:
        ValueError: if there are fewer than two.
    """
    if landmarks.ndim != 4 or len(landmarks) < 2:
        raise ValueError(f"landmarks must be (N, T, 68, 2) of N >= 2 seeds; got {tuple(landmarks.shape)}")
    points = checked_points(landmarks)
    middle = (points[..., RIGHT_EYE, :].mean(-2) + points[..., LEFT_EYE, :].mean(-2)) / 2
    away = middle - middle.mean(0)
    return (away.square().sum(-1).mean(0).sqrt() / _eye_distance(points).nanmean(0)).nanmean()


_SIDES = ((RIGHT_BROW, RIGHT_EYE), (LEFT_BROW, LEFT_EYE))


def _eye_distance(landmarks: Tensor) -> Tensor:
    """Return (..., 1) px from (..., T, 68, 2): the distance of the eyes' centres, averaged over time."""
    return eye_line(landmarks).norm(dim=-1).nanmean(-1, keepdim=True)


def _spread(values: Tensor) -> Tensor:
    """Return the (..., N) standard deviation over time of (..., T, N), without what is NaN."""
    return (values - values.nanmean(-2, keepdim=True)).square().nanmean(-2).sqrt()


def _runs_at_least(flags: Tensor, length: int) -> Tensor:
    """Keep the runs of True that are at least ``length`` long (a morphological opening)."""
    if len(flags) < length:
        return torch.zeros_like(flags)
    full = flags.float().unfold(0, length, 1).amin(1)
    return F.max_pool1d(F.pad(full, (length - 1, length - 1))[None, None], length, 1)[0, 0] > 0
