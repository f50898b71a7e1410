"""The one way metrics are averaged: over all values that are not NaN, within a call and over a whole run."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric


def reduced(values: Tensor, reduce: str) -> Tensor:
    """Return the values, or their mean without those that are NaN (frames without a face).

    Args:
        values: (...) one value per point or frame.
        reduce: ``"mean"`` or ``"none"``.

    Returns:
        () or (...).

    Raises:
        ValueError: if ``reduce`` is neither.

    Example:
        >>> reduced(torch.tensor([1.0, float("nan"), 3.0]), "mean").item()
        2.0
    """
    if reduce not in ("mean", "none"):
        raise ValueError(f"reduce must be 'mean', 'none' or, for landmarks, 'frobenius'; got {reduce!r}")
    return values if reduce == "none" else values.nanmean()


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
