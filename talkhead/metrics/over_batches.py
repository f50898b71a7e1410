"""The metrics as torchmetrics classes: each adds its function's values up over batches and processes.

What only computes, as the pipeline does, imports the functions alone and need not wait for torchmetrics.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from talkhead.metrics.blinks import Blinks, find_blinks
from talkhead.metrics.identity import drift_per_minute, identity_similarity
from talkhead.metrics.landmarks import Center, Region, Unit, landmark_distance, landmark_velocity
from talkhead.metrics.liveliness import brow_dynamics, head_diversity, head_motion, lip_dynamics, silences, silent_lips
from talkhead.metrics.mouths import opening_correlation, opening_course
from talkhead.metrics.perceptual import Features, perceptual_distance
from talkhead.metrics.pictures import Box, psnr, ssim


class MeanMetric(Metric):
    """Mean of a function's values over all batches; a subclass says which function in ``values``."""

    full_state_update = False
    is_differentiable = False
    total: Tensor
    count: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("total", torch.zeros(()), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    @abstractmethod
    def values(self, *args: Any, **kwargs: Any) -> Tensor:
        """Return the values to average, of any shape; NaN is left out."""

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Add one batch; the arguments are those of the metric's function."""
        values = self.values(*args, **kwargs).detach()
        seen = ~values.isnan()
        self.total = self.total + values[seen].sum(dtype=self.total.dtype).to(self.total)
        self.count = self.count + seen.sum().to(self.count)

    def compute(self) -> Tensor:
        """Return the mean so far; NaN before the first value."""
        return self.total / self.count


class _AtRate(MeanMetric):
    """A mean of what depends on the frame rate."""

    higher_is_better = None

    def __init__(self, fps: float = 25.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.fps = fps


class FramePSNR(MeanMetric):
    """:func:`psnr` averaged over frames and batches.

    Args:
        most: dB that a frame counts at most: one that is exact, infinite by definition, hides all others in the mean.
        **kwargs: as in ``torchmetrics.Metric``.

    Example:
        >>> metric = FramePSNR()
        >>> target = torch.zeros(4, 3, 16, 16, dtype=torch.uint8)
        >>> metric.update(target + 1, target)
        >>> round(metric.compute().item(), 2)
        48.13
    """

    higher_is_better = True

    def __init__(self, most: float = math.inf, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.most = most

    def values(self, pred: Tensor, target: Tensor, box: Box | None = None) -> Tensor:
        """Return every frame's value; the arguments are those of :func:`psnr`."""
        return psnr(pred, target, box, reduce="none").clamp_max(self.most)


class FrameSSIM(MeanMetric):
    """:func:`ssim` averaged over frames and batches.

    Example:
        >>> metric = FrameSSIM()
        >>> target = torch.randint(256, (4, 3, 16, 16), dtype=torch.uint8)
        >>> metric.update(target, target)
        >>> round(metric.compute().item(), 6)
        1.0
    """

    higher_is_better = True

    def values(self, pred: Tensor, target: Tensor, box: Box | None = None) -> Tensor:
        """Return every frame's value; the arguments are those of :func:`ssim`."""
        return ssim(pred, target, box, reduce="none")


class LandmarkDistance(MeanMetric):
    """:func:`landmark_distance` averaged over points, frames and batches.

    Args:
        region: as in :func:`landmark_distance`.
        center: as in :func:`landmark_distance`.
        unit: as in :func:`landmark_distance`.
        size: as in :func:`landmark_distance`.
        **kwargs: as in ``torchmetrics.Metric``.

    Example:
        >>> metric = LandmarkDistance(region="mouth", unit="px256", size=128)
        >>> metric.update(torch.ones(2, 68, 2), torch.ones(2, 68, 2))
        >>> metric.update(torch.ones(1, 68, 2), torch.tensor([1.0, 4.0]).expand(1, 68, 2))
        >>> metric.compute().item()  # two frames at 0 and one at 6
        2.0
    """

    higher_is_better = False

    def __init__(
        self,
        region: Region = "face",
        center: Center = "none",
        unit: Unit = "px",
        size: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.region, self.center, self.unit, self.size = region, center, unit, size

    def values(self, pred: Tensor, target: Tensor) -> Tensor:
        """Return every point's distance; the arguments are (..., K, 2) px."""
        return landmark_distance(pred, target, self.region, self.center, self.unit, self.size, reduce="none")


class LandmarkVelocity(LandmarkDistance):
    """:func:`landmark_velocity` averaged over points, frames and batches.

    Example:
        >>> metric = LandmarkVelocity()
        >>> metric.update(torch.zeros(3, 1, 2), torch.arange(3.0).view(3, 1, 1) * torch.tensor([3.0, 4.0]))
        >>> metric.compute().item()
        5.0
    """

    def values(self, pred: Tensor, target: Tensor) -> Tensor:
        """Return every point's distance of velocities; the arguments are (..., T, K, 2) px."""
        return landmark_velocity(pred, target, self.region, self.center, self.unit, self.size, reduce="none")


class OpeningCorrelation(MeanMetric):
    """:func:`opening_correlation` at lag 0, averaged over clips; clips in which a mouth never moves are left out.

    Example:
        >>> target = torch.zeros(2, 20, 68, 2)
        >>> target[:, :, 65:68, 1] = torch.sin(torch.arange(20.0))[:, None] + 2
        >>> pred = target.clone()
        >>> pred[1, :, 65:68, 1] = 4 - target[1, :, 65:68, 1]
        >>> metric = OpeningCorrelation()
        >>> metric.update(pred, target)
        >>> abs(metric.compute().item()) < 1e-4  # 1 and -1
        True
    """

    higher_is_better = True

    def values(self, pred: Tensor, target: Tensor) -> Tensor:
        """Return every clip's correlation; the arguments are (B, T, 68, 2) or (T, 68, 2) px."""
        pairs = zip(pred.reshape(-1, *pred.shape[-3:]), target.reshape(-1, *target.shape[-3:]), strict=True)
        return torch.tensor([opening_correlation(p, q, max_lag=0).value for p, q in pairs])


class OpeningVarianceRatio(Metric):
    """:func:`opening_variance_ratio` of many clips: the sum of the predicted variances over that of the true ones.

    So a clip counts as much as its true mouth moves, and one that rests costs nothing.

    Example:
        >>> target = torch.zeros(2, 20, 68, 2)
        >>> target[:, :, 65:68, 1] = torch.sin(torch.arange(20.0))[:, None] + 2
        >>> metric = OpeningVarianceRatio()
        >>> metric.update(target * torch.tensor([0.5, 1.0]).view(2, 1, 1, 1), target)
        >>> round(metric.compute().item(), 4)  # the mean of a quarter and one
        0.625
    """

    full_state_update = False
    is_differentiable = False
    variances: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("variances", torch.zeros(2, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, pred: Tensor, target: Tensor) -> None:
        """Add clips of (..., T, 68, 2) px; frames without a face are left out."""
        pair = torch.stack([opening_course(pred), opening_course(target)]).double()
        seen = pair.isfinite().all(0)
        known = pair.where(seen, 0.0)
        count = seen.sum(-1).clamp_min(1)
        mean = known.sum(-1, keepdim=True) / count.unsqueeze(-1)
        variance = ((known - mean) * seen).square().sum(-1) / count
        self.variances = self.variances + variance.reshape(2, -1).sum(-1)

    def compute(self) -> Tensor:
        """Return the ratio so far; NaN where no true mouth has moved."""
        predicted, true = self.variances.unbind()
        return torch.where(true > 1e-10, predicted / true, torch.nan)


class LipDynamics(MeanMetric):
    """:func:`lip_dynamics` averaged over clips.

    Args:
        size: width of the frame in px.
        **kwargs: as in ``torchmetrics.Metric``.
    """

    higher_is_better = None

    def __init__(self, size: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.size = size

    def values(self, landmarks: Tensor) -> Tensor:
        """Return each clip's value; landmarks are (..., T, 68, 2) px."""
        return lip_dynamics(landmarks, self.size)


class BrowDynamics(MeanMetric):
    """:func:`brow_dynamics` averaged over clips."""

    higher_is_better = None

    def values(self, landmarks: Tensor) -> Tensor:
        """Return each clip's value; landmarks are (..., T, 68, 2) px."""
        return brow_dynamics(landmarks)


class HeadMotion(MeanMetric):
    """One entry of :func:`head_motion` averaged over clips.

    Args:
        part: ``roll``, ``yaw``, ``pitch`` or ``shift``.
        **kwargs: as in ``torchmetrics.Metric``.

    Raises:
        ValueError: if the part is unknown.
    """

    higher_is_better = None

    def __init__(self, part: str = "roll", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if part not in ("roll", "yaw", "pitch", "shift"):
            raise ValueError(f"part must be roll, yaw, pitch or shift; got {part!r}")
        self.part = part

    def values(self, landmarks: Tensor) -> Tensor:
        """Return each clip's value; landmarks are (..., T, 68, 2) px."""
        return head_motion(landmarks)[self.part]


class SilentLips(_AtRate):
    """:func:`silent_lips` averaged over clips that have a silence.

    Args:
        fps: frames per second.
        **kwargs: as in ``torchmetrics.Metric``.
    """

    def values(self, landmarks: Tensor, audio: Tensor) -> Tensor:
        """Return each clip's value; landmarks are (B, T, 68, 2) px and audio (B, S) of the same time."""
        return torch.stack(
            [
                silent_lips(clip, silences(sound, len(clip), self.fps))
                for clip, sound in zip(landmarks, audio, strict=True)
            ]
        )


class HeadDiversity(MeanMetric):
    """:func:`head_diversity` averaged over portraits and recordings."""

    higher_is_better = None

    def values(self, landmarks: Tensor) -> Tensor:
        """Return the value of one portrait and recording; landmarks are (N, T, 68, 2) px, N >= 2 seeds."""
        return head_diversity(landmarks)


class BlinkRate(_AtRate):
    """:func:`find_blinks`' rate averaged over clips of equal length.

    Args:
        fps: frames per second.
        **kwargs: as in ``torchmetrics.Metric``.
    """

    def values(self, landmarks: Tensor) -> Tensor:
        """Return each clip's blinks per minute; landmarks are (B, T, 68, 2) px, or one clip's (T, 68, 2)."""
        return torch.tensor([blinks.per_minute for blinks in self._found(landmarks)])

    def _found(self, landmarks: Tensor) -> list[Blinks]:
        clips = landmarks if landmarks.ndim == 4 else landmarks[None]
        return [find_blinks(clip, self.fps) for clip in clips]


class BlinkDuration(BlinkRate):
    """:func:`find_blinks`' duration in seconds averaged over the clips that blink."""

    def values(self, landmarks: Tensor) -> Tensor:
        """Return each clip's mean duration, NaN without a blink; landmarks as in `BlinkRate`."""
        return torch.tensor([blinks.duration for blinks in self._found(landmarks)])


class IdentitySimilarity(MeanMetric):
    """:func:`identity_similarity` averaged over frames and batches."""

    higher_is_better = True

    def values(self, descriptors: Tensor, portrait: Tensor) -> Tensor:
        """Return each frame's value."""
        return identity_similarity(descriptors, portrait, "none")


class DriftPerMinute(_AtRate):
    """:func:`drift_per_minute` averaged over videos.

    Args:
        fps: frames (values) per second.
        **kwargs: as in ``torchmetrics.Metric``.
    """

    def values(self, values: Tensor) -> Tensor:
        """Return each video's drift; values are (..., T)."""
        return drift_per_minute(values, self.fps)


class PerceptualDistance(MeanMetric):
    """`perceptual_distance` over all frames of all batches.

    Args:
        features: the network; a module moves with the metric, is frozen, and judges alike while its owner trains.
        **kwargs: torchmetrics' own.
    """

    higher_is_better = False

    def __init__(self, features: Features, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.features = features.eval().requires_grad_(False) if isinstance(features, nn.Module) else features

    def train(self, mode: bool = True) -> PerceptualDistance:
        """Set the metric's mode; the network stays in evaluation mode: a judge drops nothing out."""
        super().train(mode)
        if isinstance(self.features, nn.Module):
            self.features.eval()
        return self

    def values(self, pred: Tensor, target: Tensor) -> Tensor:
        """Return the distance of each frame."""
        return perceptual_distance(pred, target, self.features, reduce="none")
