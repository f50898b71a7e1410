"""Does a face stay the same person, and as sharp? Similarity to the portrait, and the drift of anything over time."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from talkhead.metrics.reduced import reduced


def identity_similarity(descriptors: Tensor, portrait: Tensor, reduce: str = "mean") -> Tensor:
    """Return the cosine of the angle between a frame's face descriptor and the portrait's.

    Args:
        descriptors: (..., T, D), such as ``tracking.identity.describe_faces`` gives; NaN where no face was found.
        portrait: (..., D).
        reduce: ``"mean"`` or ``"none"``.

    Returns:
        () or (..., T) in [-1, 1]; 1 is the portrait itself.

    Example:
        >>> identity_similarity(torch.tensor([[1.0, 0.0], [0.6, 0.8]]), torch.tensor([1.0, 0.0]), "none")
        tensor([1.0000, 0.6000])
    """
    return reduced(F.cosine_similarity(descriptors, portrait.unsqueeze(-2), dim=-1), reduce)


def drift_per_minute(values: Tensor, fps: float) -> Tensor:
    """Return how fast something changes over a video: the slope of the least-squares line through its frames.

    Args:
        values: (..., T), such as each frame's similarity or sharpness; NaN is left out.
        fps: frames (values) per second.

    Returns:
        (...) change per minute, in the values' own unit; NaN with fewer than two values.

    Example:
        >>> round(drift_per_minute(torch.arange(100) * 0.001, fps=25.0).item(), 6)
        1.5
    """
    time = (torch.arange(values.shape[-1], device=values.device) / (60 * fps)).to(values).expand_as(values)
    time = torch.where(values.isnan(), torch.nan, time)
    away, rise = time - time.nanmean(-1, keepdim=True), values - values.nanmean(-1, keepdim=True)
    return (away * rise).nansum(-1) / away.square().nansum(-1)
