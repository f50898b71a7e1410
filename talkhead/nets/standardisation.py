"""Numbers of many kinds brought to one scale, by the training data's own mean and spread."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class Standardisation(nn.Module):
    """Subtract the training data's mean and divide by its standard deviation, in training as in use.

    Unlike batch normalisation it normalises by the running statistics alone, so that a batch's other recordings do not
    matter; they are averages over the whole training, of the batches of all processes together.

    Args:
        size: number of features.
        limit: standard deviations to which the result is clamped.
        eps: added to the variance: small beside that of the smallest feature.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, size: int, limit: float = 5.0, eps: float = 1e-5) -> None:
        super().__init__()
        self.limit, self.eps = limit, eps
        self.register_buffer("running_mean", torch.zeros(size))
        self.register_buffer("running_var", torch.ones(size))
        self.register_buffer("num_batches_tracked", torch.zeros((), dtype=torch.int64))

    def forward(self, input: Tensor) -> Tensor:
        """(B, N) -> (B, N), within the limit."""
        if self.training:
            self._follow(input)
        scale = (self.running_var + self.eps).rsqrt()
        return ((input - self.running_mean) * scale).clamp(-self.limit, self.limit)

    @torch.no_grad()
    def _follow(self, input: Tensor) -> None:
        """Let the running statistics take in one more batch; a single recording has no variance."""
        x = input.float()
        count = _over_processes(x.new_tensor(len(x)))
        if count < 2:
            return
        mean = _over_processes(x.sum(0)) / count
        variance = _over_processes((x - mean).square().sum(0)) / (count - 1)
        self.num_batches_tracked += 1
        self.running_mean += (mean - self.running_mean) / self.num_batches_tracked
        self.running_var += (variance - self.running_var) / self.num_batches_tracked

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
        rename_sums(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *others)


def _over_processes(value: Tensor) -> Tensor:
    """Return the sum of a value over all processes that train together."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(value)
    return value


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
