"""How far a pixel lies inside or outside a closed outline, such as the lips'."""

from __future__ import annotations

import torch
from torch import Tensor


def signed_distance(outline: Tensor, size: tuple[int, int], stride: int = 1) -> Tensor:
    """Return the distance of pixels to a closed polygon, negative inside (even-odd rule).

    Args:
        outline: (..., K, 2) px, the corners in order; the last is joined to the first.
        size: (height, width) in px.
        stride: measure at the centres of blocks of this many pixels a side.

    Returns:
        (..., height / stride, width / stride) px, float32.

    Example:
        >>> square = torch.tensor([[2.0, 2.0], [6.0, 2.0], [6.0, 6.0], [2.0, 6.0]])
        >>> signed_distance(square, (9, 9))[4, [0, 4, 7]].tolist()
        [2.0, -2.0, 1.0]
    """
    start = outline.detach().float()[..., None, None, :, :]
    end = start.roll(-1, -2)
    shift = (stride - 1) / 2
    ys = torch.arange(0, size[0], stride, device=outline.device) + shift
    xs = torch.arange(0, size[1], stride, device=outline.device) + shift
    place = torch.stack(torch.meshgrid(xs, ys, indexing="xy"), -1)[..., None, :]  # (h, w, 1, 2)
    edge, offset = end - start, place - start
    along = ((offset * edge).sum(-1) / edge.square().sum(-1).clamp_min(1e-12)).clamp(0, 1)
    distance = (offset - along[..., None] * edge).square().sum(-1).amin(-1).sqrt()
    y = place[..., 1]
    spans = (start[..., 1] > y) != (end[..., 1] > y)
    slope = edge[..., 0] / torch.where(edge[..., 1] == 0, torch.ones_like(edge[..., 1]), edge[..., 1])
    crossed = spans & (offset[..., 0] < slope * offset[..., 1])
    inside = crossed.sum(-1) % 2 == 1
    return torch.where(inside, -distance, distance)
