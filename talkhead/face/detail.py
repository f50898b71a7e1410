"""Detail from the portrait for what was painted smaller than the portrait is."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from talkhead.face.warp import spline_displacement

STIFFNESS = 1e-3
"""That of ``thin_plate_spline_warp``."""


def restore_detail(painted: Tensor, landmarks: Tensor, square: Tensor, square_landmarks: Tensor) -> Tensor:
    """Enlarge painted frames to the portrait's resolution with the portrait's own fine detail.

    With W the portrait bent to a frame's landmarks at full resolution, D shrinking to the painted size and U enlarging,
    the result is W + U(painted - D(W)): what the renderer has changed, on skin and hair as sharp as they were.

    Args:
        painted: (T, 3, s, s) uint8.
        landmarks: (T, 68, 2) px of ``painted``.
        square: (3, S, S) uint8 the portrait, S > s.
        square_landmarks: (68, 2) the portrait's landmarks, in px of ``painted``.

    Returns:
        (T, 3, S, S) uint8.
    """
    large = square[None].float()
    sharp = [
        _add_change(frame[None].float(), _bend(large, square_landmarks[None], points[None], painted.shape[-1]))
        for frame, points in zip(painted, landmarks, strict=True)  # one by one: full-size floats are large
    ]
    return torch.cat(sharp).round().clamp(0, 255).to(torch.uint8)


def _bend(square: Tensor, source: Tensor, target: Tensor, size: int) -> Tensor:
    """Warp (1, 3, S, S) to landmarks in px of a smaller ``size``; the spline is smooth enough to be computed there."""
    side = square.shape[-1]
    shift = spline_displacement(source, target, (size, size), STIFFNESS).permute(0, 3, 1, 2)
    shift = F.interpolate(shift, (side, side), mode="bilinear", align_corners=False).permute(0, 2, 3, 1)
    centres = (torch.arange(side) + 0.5) / side * 2 - 1
    still = torch.stack(torch.meshgrid(centres, centres, indexing="xy"), -1)
    return F.grid_sample(square, still + shift * (2 / size), padding_mode="border", align_corners=False)


def _add_change(painted: Tensor, warped: Tensor) -> Tensor:
    """Return W + U(painted - D(W))."""
    size, side = painted.shape[-1], warped.shape[-1]
    change = painted - F.interpolate(warped, (size, size), mode="bilinear", antialias=True)
    return warped + F.interpolate(change, (side, side), mode="bicubic", align_corners=False)
