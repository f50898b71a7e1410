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
    start_x, start_y = outline.detach().float()[..., None, None, :, :].unbind(-1)  # each (..., 1, 1, K)
    end_x, end_y = start_x.roll(-1, -1), start_y.roll(-1, -1)
    shift = (stride - 1) / 2
    y = torch.arange(0, size[0], stride, device=outline.device)[:, None, None] + shift
    x = torch.arange(0, size[1], stride, device=outline.device)[:, None] + shift
    edge_x, edge_y = end_x - start_x, end_y - start_y
    right, down = x - start_x, y - start_y  # (..., 1, w, K) and (..., h, 1, K)
    along = (right * edge_x + down * edge_y) / (edge_x.square() + edge_y.square()).clamp_min(1e-12)
    along = along.clamp(0, 1)
    distance = ((right - along * edge_x).square() + (down - along * edge_y).square()).amin(-1).sqrt()
    spans = (start_y > y) != (end_y > y)
    slope = edge_x / torch.where(edge_y == 0, torch.ones_like(edge_y), edge_y)
    crossed = spans & (right < slope * down)
    inside = crossed.sum(-1) % 2 == 1
    return torch.where(inside, -distance, distance)
