"""Where a new mouth shows in a frame that keeps everything else."""

from __future__ import annotations

import torch
from torch import Tensor

from talkhead.face.frame import face_size
from talkhead.face.points import LOWER_FACE, MOUTH, points_at
from talkhead.face.polygon import signed_distance
from talkhead.face.smooth_step import smooth_step

STRIDE = 2
"""px between the places where the weight is computed; it is smooth."""


def mouth_region(old: Tensor, new: Tensor, size: int, fade: float = 0.12, beyond: float = 0.12) -> Tensor:
    """Return how much of each pixel is repainted when a mouth moves from ``old`` to ``new``.

    The region is the polygon through the outermost of the old and the new jaw, pushed a little beyond it (the throat
    moves with the chin), closed under the nose; the weights rise from 0 at its edge along a smooth step.

    Args:
        old: (N, 68, 2) px.
        new: (N, 68, 2) px.
        size: px, side of the frames.
        fade: width of the edge in face sizes (root mean square distance of the points from their mean).
        beyond: how far the polygon reaches beyond the jaw, in face sizes.

    Returns:
        (N, size / 2, size / 2) in [0, 1], exactly 0 outside.
    """
    centre = old[:, MOUTH].mean(1, keepdim=True)
    face = face_size(old)[:, None, None]
    corners = []
    for points in (points_at(old, LOWER_FACE), points_at(new, LOWER_FACE)):
        away = points - centre
        reach = away.norm(dim=-1, keepdim=True)
        push = torch.ones(len(LOWER_FACE), 1, device=points.device)
        push[-3:] = 0  # the nose stays
        corners.append((away / reach.clamp_min(1e-6), reach + beyond * face * push))
    further = corners[0][1] >= corners[1][1]
    polygon = centre + torch.where(further, corners[0][0] * corners[0][1], corners[1][0] * corners[1][1])
    depth = -signed_distance(polygon, (size, size), stride=STRIDE)
    return smooth_step(depth / (fade * face))
