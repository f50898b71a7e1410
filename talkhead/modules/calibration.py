"""Are a classifier's probabilities to be believed? Its calibration error, and the temperature that lowers it."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def expected_calibration_error(probabilities: Tensor, target: Tensor, bins: int = 15) -> Tensor:
    """Return how far confidence and accuracy lie apart, on average.

    Predictions are put in ``bins`` equal intervals of their confidence (the highest probability). In each, the mean
    confidence is compared to the share of right answers; the gaps are averaged with the number of predictions as weight
    (Naeini et al. 2015; Guo et al. 2017, Eq. 3).

    Args:
        probabilities: (N, E) probabilities.
        target: (N,) int64 true classes.
        bins: number of intervals of [0, 1].

    Returns:
        () float32 in [0, 1]; 0 is perfect.

    Raises:
        ValueError: if there are no predictions, or not one target for each.

    Example:
        Sure twice, right once:

        >>> expected_calibration_error(torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([0, 1])).item()
        0.5
    """
    if probabilities.ndim != 2 or target.shape != probabilities.shape[:1] or not len(target):
        raise ValueError(
            f"target must hold one class for each of N >= 1 rows of probabilities; got shapes {tuple(target.shape)} "
            f"and {tuple(probabilities.shape)}"
        )
    confidence, choice = probabilities.float().max(-1)
    gap = confidence - (choice == target).float()
    place = (confidence * bins).ceil().long().clamp(1, bins) - 1
    return torch.zeros(bins, device=gap.device).index_add(0, place, gap).abs().sum() / len(target)


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
