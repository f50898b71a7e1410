"""Gaussian noise of several time scales whose frames are functions of (seed, frame): the source of a head's motion."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from talkhead.ops.philox import philox4x32, split_seed, uniform

SCALES = (0.6, 1.5, 3.0, 6.0, 12.0, 24.0)
"""Standard deviations, in frames, of the Gaussian kernels of the source's six processes."""
SOURCE_REACH = 72
"""Frames of white noise to each side that the slowest of them needs."""
_BLOCK = 64


def gaussian(seed: int, first: int, count: int, channels: int) -> Tensor:
    """Return (channels, count) standard normal numbers that are functions of (seed, frame, channel) alone."""
    low, high = first // _BLOCK, -(-(first + count) // _BLOCK)
    blocks = torch.cat([_block(seed, number, channels) for number in range(low, max(high, low + 1))], 1)
    return blocks[:, first - low * _BLOCK :][:, :count]


@lru_cache(64)  # a live face asks for the same few hundred frames eight times a second
def _block(seed: int, number: int, channels: int) -> Tensor:
    with torch.inference_mode(False):  # whoever asks first, others may train with it
        frames = torch.arange(number * _BLOCK, (number + 1) * _BLOCK)
        low, high = split_seed(frames)
        counter = (low, high, torch.arange(channels)[:, None], torch.zeros_like(low))
        words = philox4x32(counter, split_seed(torch.tensor(seed)))
        radius = (-2 * (1 - uniform(words[0])).log()).sqrt()  # Box and Muller
        return radius * (2 * math.pi * uniform(words[1])).cos()


@lru_cache(1)
def kernels() -> Tensor:
    """Return (6, 1, 2 reach + 1): Gaussian kernels of unit energy, so that white noise keeps its variance."""
    with torch.inference_mode(False):
        time = torch.arange(-SOURCE_REACH, SOURCE_REACH + 1, dtype=torch.float64)
        values = torch.exp(-0.5 * (time / torch.tensor(SCALES, dtype=torch.float64)[:, None]) ** 2)
        return (values / values.norm(dim=1, keepdim=True)).float().unsqueeze(1)


def structure_function(lags: Tensor) -> Tensor:
    """Return (L, 6): E|g_{t+l} - g_t|^2 of each unit process at each lag, 2 (1 - exp(-l^2 / 4 sigma^2))."""
    sigma = torch.tensor(SCALES, dtype=torch.float64)
    return 2 * (1 - torch.exp(-(lags.double()[:, None] ** 2) / (4 * sigma**2)))
