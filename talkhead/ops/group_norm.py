"""Group normalisation of bf16 features with their channels last, also where PyTorch's kernel for CPUs is slow."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn

_WIDE, _LARGE = 16, 1024
"""Channels in a group, and pixels, from which PyTorch's kernel works with vectors (its ``feature_map_threshold``)."""


def group_normed(norm: nn.GroupNorm, x: Tensor) -> Tensor:
    """Return ``norm(x)``, on a CPU and without gradients by sums where its own kernel goes number by number.

    With 8 channels in a group and 16 x 16 px that takes five times as long.

    Args:
        norm: with weights.
        x: (N, C, H, W).
    """
    groups, pixels = norm.num_groups, x.shape[2] * x.shape[3]
    channels = x.shape[1] // groups
    fast = channels >= _WIDE or pixels >= _LARGE
    if fast or x.device.type != "cpu" or x.dtype != torch.bfloat16 or torch.is_grad_enabled():
        return norm(x)
    values = rearrange(x, "n c h w -> n (h w) c").float()
    sums = torch.stack([values.sum(1), values.square().sum(1)]).unflatten(-1, (groups, channels)).sum(-1)
    mean, square = sums.repeat_interleave(channels, -1) / (pixels * channels)
    gain = norm.weight * torch.rsqrt((square - mean.square()).clamp_min(0) + norm.eps)
    normed = torch.addcmul((norm.bias - mean * gain)[:, None], values, gain[:, None]).to(x.dtype)
    return rearrange(normed, "n (h w) c -> n c h w", h=x.shape[2])
