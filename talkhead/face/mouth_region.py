"""Where a new mouth shows in a frame that keeps everything else."""

from __future__ import annotations

import torch
from torch import Tensor

from talkhead.face.points import MOUTH
from talkhead.face.polygon import signed_distance

OUTLINE = (*range(4, 13), 35, 33, 31)
"""Around the lower face: along the jaw below the cheeks, and back under the nose."""
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
    face = (old - old.mean(1, keepdim=True)).square().sum(-1).mean(1).sqrt()[:, None, None]
    corners = []
    for points in (old[:, OUTLINE], new[:, OUTLINE]):
        away = points - centre
        reach = away.norm(dim=-1, keepdim=True)
        push = torch.ones(len(OUTLINE), 1)
        push[-3:] = 0  # the nose stays
        corners.append((away / reach.clamp_min(1e-6), reach + beyond * face * push))
    further = corners[0][1] >= corners[1][1]
    polygon = centre + torch.where(further, corners[0][0] * corners[0][1], corners[1][0] * corners[1][1])
    depth = -signed_distance(polygon, (size, size), stride=STRIDE)
    ramp = (depth / (fade * face)).clamp(0, 1)
    return ramp * ramp * (3 - 2 * ramp)
