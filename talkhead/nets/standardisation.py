"""Numbers of many kinds brought to one scale, by the training data's own mean and spread."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class Standardisation(nn.BatchNorm1d):
    """Subtract the training data's mean and divide by its standard deviation, in training as in use.

    Unlike batch normalisation it normalises by the running statistics alone, so that a batch's other recordings do not
    matter; they are averages over the whole training.

    Args:
        size: number of features.
        limit: standard deviations to which the result is clamped.
        eps: added to the variance: small beside that of the smallest feature.
    """

    def __init__(self, size: int, limit: float = 5.0, eps: float = 1e-5) -> None:
        super().__init__(size, eps=eps, affine=False, momentum=None)
        self.limit = limit

    def forward(self, input: Tensor) -> Tensor:
        """(B, N) -> (B, N), within the limit."""
        if self.training and len(input) > 1:
            super().forward(input.detach())
        assert self.running_mean is not None and self.running_var is not None  # they are tracked
        scale = (self.running_var + self.eps).rsqrt()
        return ((input - self.running_mean) * scale).clamp(-self.limit, self.limit)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
        rename_sums(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *others)


def rename_sums(state_dict: dict[str, Any], prefix: str) -> None:
    """Turn the statistics as landmark nets kept them before 0.1.0 into a ``Standardisation``'s, in place.

    They were sums, of the features and of their squares, over the last twenty batches or so, and the sums' weight.
    """
    if prefix + "weight" not in state_dict or prefix + "square" not in state_dict:
        return
    mean, square, weight = (state_dict.pop(prefix + name) for name in ("mean", "square", "weight"))
    weight = weight.clamp_min(1e-6)
    state_dict[prefix + "running_mean"] = mean / weight
    state_dict[prefix + "running_var"] = (square / weight - (mean / weight).square()).clamp_min(0)
    state_dict[prefix + "num_batches_tracked"] = torch.tensor(20)
