"""The one way a metric's values become one: their mean without those that are NaN."""

from __future__ import annotations

from torch import Tensor


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
        >>> import torch
        >>> reduced(torch.tensor([1.0, float("nan"), 3.0]), "mean").item()
        2.0
    """
    if reduce not in ("mean", "none"):
        raise ValueError(f"reduce must be 'mean', 'none' or, for landmarks, 'frobenius'; got {reduce!r}")
    return values if reduce == "none" else values.nanmean()
