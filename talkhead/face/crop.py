"""The square cut around a face: where it lies, what is in it, and how points and pictures get in and out.

A crop covers the pixel columns ``x .. x + side - 1`` and rows ``y .. y + side - 1`` of the picture; it may reach beyond
the picture, where the picture's edge is repeated. Points are (x, y) with the origin at the centre of the top-left
pixel, so the crop's own left edge lies at ``x - 0.5`` (the half-pixel convention).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from talkhead.face.smooth_step import smooth_step

HAIR = 0.1
"""How far the crop sits above the landmarks' box, in box sides: the 68 points end at the brows, the head does not."""


@dataclass(frozen=True)
class Crop:
    """A square of a picture.

    Attributes:
        x: px, leftmost column.
        y: px, topmost row.
        side: px, width and height.
    """

    x: float
    y: float
    side: float


def face_crop(landmarks: Tensor, scale: float = 1.5) -> Crop:
    """Choose the one square that holds a face over a whole clip.

    The square is ``scale`` times as large as the longer side of the box around all points of all frames, and is moved
    up by a tenth of that box so that hair is in. It is aligned to whole pixels.

    Args:
        landmarks: (68, 2) or (T, 68, 2) px; frames with NaN are left out.
        scale: side of the square in sides of the landmarks' box, at least 1.

    Returns:
        The crop, with whole numbers.

    Raises:
        ValueError: if no frame has a face, or ``scale`` is below 1.

    Example:
        >>> face_crop(torch.tensor([[10.0, 20.0], [110.0, 120.0]]), scale=1.5)
        Crop(x=-15.0, y=-15.0, side=150.0)
    """
    if scale < 1:
        raise ValueError(f"scale must be at least 1 (the landmarks' own box); got {scale}")
    points = landmarks.reshape(-1, 2).float()
    points = points[points.isfinite().all(-1)]
    if not len(points):
        raise ValueError("landmarks must hold at least one face; all of them are NaN")
    low, high = points.amin(0), points.amax(0)
    box = (high - low).max().item()
    centre_x, centre_y = ((low + high) / 2).tolist()
    side = max(round(scale * box), 1)
    return Crop(float(round(centre_x - side / 2)), float(round(centre_y - HAIR * box - side / 2)), float(side))


def crop_frames(frames: Tensor, crop: Crop, size: int) -> Tensor:
    """Cut a square out of pictures and resize it.

    Args:
        frames: (..., 3, H, W) uint8 RGB.
        crop: the square, in whole px; beyond the pictures their edge is repeated.
        size: px, side of the result; smaller than ``crop.side`` is antialiased.

    Returns:
        (..., 3, size, size) uint8.

    Raises:
        ValueError: if the frames are no uint8 pictures or the crop is not in whole px.
    """
    _check_pictures("frames", frames)
    x, y, side = _whole(crop)
    height, width = frames.shape[-2:]
    rows = torch.arange(y, y + side, device=frames.device).clamp(0, height - 1)
    columns = torch.arange(x, x + side, device=frames.device).clamp(0, width - 1)
    return _resize(frames[..., rows[:, None], columns], size)


def to_crop(landmarks: Tensor, crop: Crop, size: int) -> Tensor:
    """Turn px of the picture into px of the resized crop.

    Args:
        landmarks: (..., 2) px of the picture.
        crop: the square.
        size: px, side of the resized crop.

    Returns:
        (..., 2) px of the resized crop.

    Example:
        >>> to_crop(torch.tensor([[10.0, 10.0]]), Crop(10.0, 10.0, 100.0), size=50)
        tensor([[-0.2500, -0.2500]])
    """
    corner = landmarks.new_tensor([crop.x, crop.y])
    return (landmarks - corner + 0.5) * (size / crop.side) - 0.5


def from_crop(landmarks: Tensor, crop: Crop, size: int) -> Tensor:
    """Turn px of the resized crop into px of the picture: the inverse of ``to_crop``.

    Args:
        landmarks: (..., 2) px of the resized crop.
        crop: the square.
        size: px, side of the resized crop.

    Returns:
        (..., 2) px of the picture.
    """
    corner = landmarks.new_tensor([crop.x, crop.y])
    return (landmarks + 0.5) * (crop.side / size) - 0.5 + corner


def paste_crop(picture: Tensor, painted: Tensor, crop: Crop, feather: float = 0.1) -> Tensor:
    """Put a painted crop back into its picture.

    Args:
        picture: (3, H, W) uint8 RGB; or (..., 3, H, W), one per painted crop.
        painted: (..., 3, s, s) uint8 RGB, any s.
        crop: the square of the picture that was painted, in whole px; what lies beyond the picture is dropped.
        feather: width of the soft border as a share of the crop's side, 0 (hard edge) to 0.5.

    Returns:
        (..., 3, H, W) uint8, a new tensor.

    Raises:
        ValueError: if shapes or types do not fit, or ``feather`` is out of range.
    """
    _check_pictures("picture", picture)
    _check_pictures("painted", painted)
    if not 0 <= feather <= 0.5:
        raise ValueError(f"feather must lie in 0..0.5 of the crop's side; got {feather}")
    x, y, side = _whole(crop)
    height, width = picture.shape[-2:]
    left, right, top, bottom = max(x, 0), min(x + side, width), max(y, 0), min(y + side, height)
    result = picture.expand(*painted.shape[:-3], 3, height, width).clone()
    if left >= right or top >= bottom:
        return result
    inside = (..., slice(top - y, bottom - y), slice(left - x, right - x))
    weight = _feathering(side, feather, picture.device)[inside]
    new, old = _resize(painted, side)[inside].float(), result[..., top:bottom, left:right].float()
    result[..., top:bottom, left:right] = (old + weight * (new - old)).round().to(torch.uint8)
    return result


def _feathering(side: int, feather: float, device: torch.device) -> Tensor:
    """Return (side, side) weights in (0, 1]: 1 inside, falling along a smooth step to 0 just outside the border."""
    position = torch.arange(side, device=device) + 0.5
    distance = torch.minimum(position, side - position)
    ramp = smooth_step(distance / max(feather * side, 1e-6))
    return ramp[:, None] * ramp


def _resize(pictures: Tensor, size: int) -> Tensor:
    if pictures.shape[-1] == size:
        return pictures.clone()
    flat = pictures.reshape(-1, *pictures.shape[-3:])
    # One picture at a time: a whole clip in float would take four times its memory.
    resized = [F.interpolate(p[None].float(), (size, size), mode="bilinear", antialias=True)[0] for p in flat]
    return torch.stack(resized).round().to(torch.uint8).reshape(*pictures.shape[:-2], size, size)


def _whole(crop: Crop) -> tuple[int, int, int]:
    values = (crop.x, crop.y, crop.side)
    if any(v != round(v) for v in values) or crop.side < 1:
        raise ValueError(f"crop must be in whole px with side at least 1, as face_crop makes it; got {crop}")
    return round(crop.x), round(crop.y), round(crop.side)


def _check_pictures(name: str, pictures: Tensor) -> None:
    if pictures.dtype != torch.uint8 or pictures.ndim < 3 or pictures.shape[-3] != 3:
        raise ValueError(f"{name} must be (..., 3, H, W) uint8 RGB; got {tuple(pictures.shape)}, {pictures.dtype}")
