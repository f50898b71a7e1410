"""Landmarks as they come in from outside."""

from __future__ import annotations

import torch
from torch import Tensor


def check_landmarks(landmarks: Tensor, name: str = "landmarks") -> Tensor:
    """Return ``landmarks`` as (T, 68, 2) float32, or say what is wrong with them."""
    landmarks = torch.as_tensor(landmarks)
    if landmarks.ndim != 3 or landmarks.shape[1:] != (68, 2) or len(landmarks) == 0:
        raise ValueError(
            f"{name} must have shape (T, 68, 2), the (x, y) in px of 68 points in T >= 1 frames; "
            f"got {tuple(landmarks.shape)}"
        )
    landmarks = landmarks.float()
    if not torch.isfinite(landmarks).all():
        missing = int((~torch.isfinite(landmarks)).flatten(1).any(1).sum())
        raise ValueError(
            f"{name} must be finite; got NaN or infinity in {missing} of {len(landmarks)} frames, "
            "interpolate them first"
        )
    return landmarks
