"""Errors that the squared error is nearly blind to, fine detail and flicker, and how much whose errors count."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

_USUAL_ERROR, _LEAST_ERROR = 0.05, 0.01  # root mean squares in [-1, 1], see ``relative_scale``


def detail_loss(predicted: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Return the weighted mean absolute error of what a picture has beyond a blurred copy of itself, at two scales.

    Two levels of a Laplacian pyramid (Burt and Adelson, 1983): the picture less its enlarged half, and the half less
    its enlarged quarter. The squared error prefers a smooth guess to a sharp one a pixel off; this does so less.

    Args:
        predicted: (B, 3, T, H, W).
        target: (B, 3, T, H, W).
        weight: (B, 1, T, H, W) or ().
    """
    error = (predicted - target).transpose(1, 2).flatten(0, 1)
    scale = weight.expand(len(predicted), 1, *predicted.shape[2:]).transpose(1, 2).flatten(0, 1)
    total = error.new_zeros(())
    for _ in range(2):  # linear, so the pyramid of the difference is the difference of the pyramids
        half = F.avg_pool2d(error, 2)
        total = total + (scale * (error - F.interpolate(half, scale_factor=2.0, mode="bilinear")).abs()).mean()
        error, scale = half, F.avg_pool2d(scale, 2)
    return total


def change_loss(predicted: Tensor, target: Tensor, where: Tensor) -> Tensor:
    """Return the mean squared error of what changes from frame to frame, in a region: it flickers where that is large.

    The mean is taken over each sample's own region, then over the samples.

    Args:
        predicted: (B, 3, T, H, W).
        target: (B, 3, T, H, W).
        where: (B, 1, T, H, W) in [0, 1].
    """
    error, region = (predicted - target).diff(dim=2), where[:, :, 1:]
    return ((region * error.square()).flatten(1).sum(1) / (3 * region.flatten(1).sum(1)).clamp_min(1)).mean()


def relative_scale(carrier: Tensor, target: Tensor) -> Tensor:
    """Return by what to multiply each sample's errors so that all carriers are about equally far from the truth.

    It is e / sqrt(mean((c - x_0)^2) + e_0^2) with e = 0.05, which is what GRID's carriers are off, so the loss stays
    what it is for those; e_0 = 0.01 keeps a picture that hardly moves from counting for much.

    Args:
        carrier: (B, 3, T, H, W) in [-1, 1].
        target: (B, 3, T, H, W), x_0.

    Returns:
        (B, 1, 1, 1, 1).
    """
    error = (carrier.float() - target).square().mean((1, 2, 3, 4), keepdim=True)
    return _USUAL_ERROR / (error + _LEAST_ERROR**2).sqrt()
