"""How far apart two pictures are to a network that was made for looking at pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from talkhead.metrics.reduced import reduced

Features = Callable[[Tensor], Tensor | Sequence[Tensor]]
"""(N, 3, H, W) float32 RGB in [0, 1] to one or several layers of (N, C, h, w)."""


def feature_distance(pred: Tensor, target: Tensor, features: Features) -> Tensor:
    """Return how differently a network sees pairs of pictures, with a gradient for ``pred``.

    Each layer's answer is scaled to length one at each place; the squared differences are summed over channels,
    averaged over places, and summed over layers: LPIPS (Zhang et al. 2018, Eq. 1) without its learnt channel weights.

    Args:
        pred: (N, 3, H, W) float in [0, 1].
        target: (N, 3, H, W) float in [0, 1].
        features: the network.

    Returns:
        (N,), 0 where the pictures are seen alike, at most 4 per layer.
    """
    with torch.no_grad():
        there = [_unit(layer) for layer in _layers(features(target))]
    pairs = zip(_layers(features(pred)), there, strict=True)
    return torch.stack([(_unit(layer) - aim).square().sum(1).mean((-2, -1)) for layer, aim in pairs]).sum(0)


def perceptual_distance(
    pred: Tensor, target: Tensor, features: Features, reduce: Literal["mean", "none"] = "mean"
) -> Tensor:
    """Return the distance of every pair of frames in a network's features, or its mean over frames.

    Values of different networks cannot be compared: say beside a number which network it is of. For LPIPS itself, with
    the weights of its authors, use ``torchmetrics.image.LearnedPerceptualImagePatchSimilarity`` (needs torchvision).

    Args:
        pred: (..., 3, H, W) uint8 RGB.
        target: (..., 3, H, W) uint8 RGB.
        features: takes (N, 3, H, W) float32 RGB in [0, 1] and returns one or several layers (N, C, h, w).
        reduce: ``"mean"`` or ``"none"``.

    Returns:
        () or (...), 0 for equal pictures.

    Raises:
        ValueError: if the pictures are not uint8 RGB of one shape.

    Example:
        >>> picture = torch.randint(256, (2, 3, 16, 16), dtype=torch.uint8)
        >>> perceptual_distance(picture, picture, lambda x: [x, torch.nn.functional.avg_pool2d(x, 2)]).item()
        0.0
    """
    if {pred.dtype, target.dtype} != {torch.uint8} or pred.shape != target.shape or pred.shape[-3:-2] != (3,):
        raise ValueError(
            "pred and target must both be uint8 RGB (..., 3, H, W); "
            f"got {tuple(pred.shape)} {pred.dtype} and {tuple(target.shape)} {target.dtype}"
        )
    pairs = zip(*(side.reshape(-1, *side.shape[-3:]).split(16) for side in (pred, target)), strict=True)
    with torch.no_grad():
        values = [feature_distance(p.float() / 255, q.float() / 255, features) for p, q in pairs]
    return reduced(torch.cat(values).reshape(pred.shape[:-3]), reduce)


def _layers(answer: Tensor | Sequence[Tensor]) -> list[Tensor]:
    return [answer] if isinstance(answer, Tensor) else list(answer)


def _unit(features: Tensor) -> Tensor:
    """Scale each place's channels to length one."""
    features = features.float()
    return features / features.square().sum(1, keepdim=True).add(1e-10).sqrt()
