"""Put a painted mouth into the frame it belongs to, at the frame's own resolution."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from talkhead.face.crop import Crop, crop_frames
from talkhead.face.mouth_region import mouth_region
from talkhead.face.warp import sample, spline_displacement
from talkhead.finishing.detail import STIFFNESS


@torch.inference_mode()
def repaint(frame: Tensor, crop: Crop, face: Tensor, old: Tensor, new: Tensor, painted: Tensor) -> Tensor:
    """Return the (H, W, 3) uint8 frame with the mouth moved from ``old`` to ``new``; the rest is the frame's own.

    With r the region, V the spline's displacement and w the small face bent by it, the square becomes the frame read
    at p + r V, plus r (painted - w): the frame's own grain, bent, and what the renderer has changed. Where r is 0 no
    pixel is touched.

    Args:
        frame: (3, H, W) uint8.
        crop: the square of the frame that was painted.
        face: (3, s, s) uint8, the square at the renderer's size.
        old: (68, 2) px of ``face``.
        new: (68, 2) px of ``face``.
        painted: (3, s, s) uint8.
    """
    size, side = face.shape[-1], round(crop.side)
    shift = spline_displacement(old[None], new[None], (size, size), STIFFNESS)
    change = painted[None].float() - sample(face[None].float(), shift[None])[:, :, 0]
    region = F.interpolate(mouth_region(old[None], new[None], size)[:, None], (side, side), mode="bilinear")
    x, y = round(crop.x), round(crop.y)
    rows, columns = (region[0, 0] > 0).any(1).nonzero().flatten(), (region[0, 0] > 0).any(0).nonzero().flatten()
    result = frame.permute(1, 2, 0).clone()
    if not len(rows):
        return result
    height, width = frame.shape[1:]
    top, bottom = max(int(rows[0]), -y), min(int(rows[-1]) + 1, height - y)
    left, right = max(int(columns[0]), -x), min(int(columns[-1]) + 1, width - x)
    if top >= bottom or left >= right:
        return result
    box = (..., slice(top, bottom), slice(left, right))
    weight = region[box]
    moved = F.interpolate(shift.permute(0, 3, 1, 2), (side, side), mode="bilinear")[box] * weight
    grown = F.interpolate(change, (side, side), mode="bicubic", antialias=True)[box] * weight  # it may shrink, too
    ys, xs = torch.arange(top, bottom), torch.arange(left, right)
    still = torch.stack(torch.meshgrid(xs.float(), ys.float(), indexing="xy"), -1)
    places = still + moved[0].permute(1, 2, 0) * (side / size)
    square = crop_frames(frame, crop, side)[None].float()
    grid = ((places + 0.5) / side * 2 - 1)[None]
    bent = F.grid_sample(square, grid, mode="bicubic", padding_mode="border", align_corners=False)
    new_pixels = (bent + grown)[0].round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0)
    target = result[y + top : y + bottom, x + left : x + right]
    touched = weight[0, 0, ..., None] > 0
    target.copy_(torch.where(touched, new_pixels, target))
    return result
