"""Are a classifier's probabilities to be believed? The temperature that lowers its calibration error."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def fit_temperature(logits: Tensor, target: Tensor) -> Tensor:
    """Return the temperature T that minimises the cross-entropy of softmax(logits / T) (Guo et al. 2017, Sec. 4.2).

    The cross-entropy is convex in 1 / T, so a golden-section search over ln T finds its minimum. It
    stays within 0.2 <= T <= 20: a few faultless answers are no reason to be infinitely sure.

    Args:
        logits: (N, E) logits; -inf for a class that is never predicted.
        target: (N,) int64 true classes; rows whose own logit is -inf say nothing about T and are left out.

    Returns:
        () float32 temperature; 1 where no row is left.

    Example:
        >>> over_confident = torch.tensor([[8.0, 0.0]] * 4)
        >>> round(fit_temperature(over_confident, torch.tensor([0, 0, 0, 1])).item(), 2)  # 8 / ln 3
        7.28
    """
    own = logits.gather(1, target[:, None]).squeeze(1)
    logits, target = logits[own.isfinite()].double(), target[own.isfinite()]
    if not len(target):
        return torch.ones((), device=logits.device)

    def loss(log_temperature: float) -> float:
        return torch.nn.functional.cross_entropy(logits / math.exp(log_temperature), target).item()

    ratio = (math.sqrt(5) - 1) / 2
    low, high = math.log(0.2), math.log(20.0)
    left, right = high - ratio * (high - low), low + ratio * (high - low)
    for _ in range(50):
        if loss(left) < loss(right):
            right, high = left, right
            left = high - ratio * (high - low)
        else:
            left, low = right, left
            right = low + ratio * (high - low)
    return torch.tensor(math.exp((low + high) / 2), dtype=torch.float32, device=logits.device)
