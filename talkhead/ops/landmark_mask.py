"""Where the landmarks lie in the picture: the mask of Eq. 2, in integers, and soft maps of the face's parts.

Landmarks are rounded to 1/256 px once, so every distance between a pixel and a landmark is an integer and every device
finds the same mask (``docs/kernel.md``). The work is proportional to the landmarks' windows, not to K x H x W.
"""

from __future__ import annotations

import math
import warnings

import torch
from torch import Tensor

from talkhead.face.points import PARTS

UNIT = 256
"""Landmarks are multiples of 1/256 px."""

FAR = 2.0**20
"""Landmarks are clamped to +-FAR px: further than any frame reaches, near enough for int32."""

MAX_KERNEL_SIZE = 255
"""The largest window for which d^2 in (1/256 px)^2 fits int32: 2 (127.5 * 256)^2 < 2^31."""

MAX_SIDE = 65_536
"""The largest frame side in px: far below FAR."""

TABLE_BITS = 30
"""Bits after the point of one axis' factor of a Gaussian."""

WEIGHT_BITS = 22
"""Bits after the point of a landmark's Gaussian; its peak is 2^22."""

SATURATION = 2**30
"""Sums of Gaussians stop here in the kernel, so that no number of landmarks overflows int32."""

_CHUNK = 30_000
"""Pixels worked on at a time: they stay in the cache, and are too few (32768) for PyTorch to share every small step
among threads, which would wait for each other on a busy machine."""


def warn_missing() -> None:
    """Warn that a frame has no face."""
    warnings.warn(
        "landmarks: a frame holds a landmark that is not finite (no face found); it stays clean", stacklevel=2
    )


def quantise(landmarks: Tensor) -> Tensor:
    """Return the landmarks in whole 1/256 px, those of a frame without a face far outside.

    x * 256 is exact in float32, so a fused multiply-add rounds as the two steps do: every device gets the same integer.

    Args:
        landmarks: (..., K, 2) float px.

    Returns:
        (..., K, 2) int32.
    """
    px = landmarks.detach().float()
    found = px.isfinite().flatten(-2).all(-1)[..., None, None]
    px = torch.where(found, px, -FAR).clamp(-FAR, FAR)
    return torch.floor(px * UNIT + 0.5).to(torch.int32)


def disc_limit(sigma: float, threshold: float) -> int:
    """Return the largest d^2, in (1/256 px)^2, at which one landmark's Gaussian exceeds the threshold; -1 if none.

    G > threshold is d^2 < r^2 = -2 sigma^2 ln(2 pi sigma threshold) (Eqs. 1-2), for an integer D = 65536 d^2 the same
    as D <= ceil(65536 r^2) - 1.

    Args:
        sigma: standard deviation in px.
        threshold: threshold of Eq. 2, >= 0.

    Returns:
        The limit, at most the largest d^2 inside the largest window.
    """
    largest = 2 * (MAX_KERNEL_SIZE * UNIT // 2) ** 2
    if threshold == 0:
        return largest
    radius_squared = -2 * sigma**2 * math.log(2 * math.pi * sigma * threshold)
    return max(-1, min(math.ceil(radius_squared * UNIT**2) - 1, largest))


def disc_half(kernel_size: int, limit: int) -> int:
    """Return how many pixels from its centre pixel a disc reaches inside its window.

    Args:
        kernel_size: width of the window in px.
        limit: largest d^2 of the disc in (1/256 px)^2.

    Returns:
        Half the width of the square to be tested in px; -1 where the disc is empty.
    """
    return min(kernel_size // 2, (math.isqrt(limit) + UNIT // 2) // UNIT) if limit >= 0 else -1


def weight_limit(sigma: float, threshold: float) -> int:
    """Return the largest sum of fixed-point weights that is not masked (overlap "sum").

    Args:
        sigma: standard deviation in px.
        threshold: threshold of Eq. 2, >= 0.

    Returns:
        floor(2 pi sigma threshold 2^22): the peak of Eq. 1 weighs 2^22.
    """
    return math.floor(2 * math.pi * sigma * threshold * 2**WEIGHT_BITS)


def weight_table(sigma: float, kernel_size: int, device: torch.device) -> Tensor:
    """Return exp(-d^2 / (2 sigma^2)) at all distances d = 0, 1/256, 2/256 ... px that occur in a window.

    Args:
        sigma: standard deviation in px.
        kernel_size: width of the window in px.
        device: where the table is to live; it is always computed on the CPU, in float64.

    Returns:
        (128 k + 1,) int32 fixed-point numbers with 30 bits after the point.
    """
    distance = torch.arange(kernel_size * UNIT // 2 + 1, dtype=torch.float64) / UNIT
    table = torch.exp(-distance.square() / (2 * sigma**2)) * 2**TABLE_BITS
    return table.round().to(torch.int32).to(device)


def landmark_mask(
    landmarks: Tensor, size: tuple[int, int], sigma: float, kernel_size: int, threshold: float, overlap: str
) -> Tensor:
    """Return the mask of Eq. 2.

    Args:
        landmarks: (B, T, K, 2) float px.
        size: (H, W) px.
        sigma: standard deviation of Eq. 1 in px.
        kernel_size: width of the window in px.
        threshold: threshold of Eq. 2.
        overlap: "max" or "sum".

    Returns:
        (B, T, H, W) bool.
    """
    points = quantise(landmarks)
    mask = torch.zeros(*points.shape[:2], *size, dtype=torch.bool, device=points.device)
    count = points.shape[2]
    if count == 0 or mask.numel() == 0 or (overlap == "max" and disc_limit(sigma, threshold) < 0):
        return mask
    half = kernel_size // 2
    if overlap == "max":
        limit = disc_limit(sigma, threshold)
        half = disc_half(kernel_size, limit)
    chunk = max(1, _CHUNK // (count * max(1, 2 * half + 1) ** 2))
    parts = zip(points.flatten(0, 1).split(chunk), mask.flatten(0, 1).split(chunk), strict=True)
    if overlap == "max":
        for part, plane in parts:
            _draw_discs(plane, part, limit, half)
    else:
        table = weight_table(sigma, kernel_size, points.device)
        for part, plane in parts:
            _draw_sums(plane, part, table, weight_limit(sigma, threshold), half)
    return mask


def _windows(points: Tensor, size: tuple[int, int], half: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the windows' pixels along both axes: distances to the landmark, whether in the frame, flat row and column.

    points is (N, K, 2) int32 in 1/256 px; distance and inside are (N, K, 2, w), row * W and column (N, K, w).
    """
    centre = (points + UNIT // 2) >> 8
    pixels = centre[..., None] + torch.arange(-half, half + 1, device=points.device, dtype=torch.int32)
    distance = pixels * UNIT - points[..., None]
    bounds = torch.stack([torch.full((), side, device=points.device, dtype=torch.int32) for side in size[::-1]])[
        :, None
    ]
    inside = (pixels >= 0) & (pixels < bounds)
    columns, rows = pixels.long().unbind(-2)
    frame = torch.arange(len(points), device=points.device)[:, None, None] * size[0]
    return distance, inside, (frame + rows) * size[1], columns


def _draw_discs(mask: Tensor, points: Tensor, limit: int, half: int) -> None:
    """Set the (N, H, W) mask inside the union of the discs around (N, K, 2) points (overlap "max")."""
    distance, inside, row, column = _windows(points, (mask.shape[1], mask.shape[2]), half)
    squared_x, squared_y = distance.square().unbind(-2)
    # dx^2 <= limit - dy^2 needs no sum that could overflow; what lies outside the frame fails on either side.
    squared_x = torch.where(inside[..., 0, :], squared_x, 2**31 - 1)
    rest = torch.where(inside[..., 1, :], limit - squared_y, -1)
    hit = squared_x[..., None, :] <= rest[..., :, None]
    # masked_select, index_fill_ and scatter_ run on one thread where boolean indexing would wait for all of them.
    mask.view(-1).index_fill_(0, (row[..., :, None] + column[..., None, :]).masked_select(hit), True)


def _draw_sums(mask: Tensor, points: Tensor, table: Tensor, limit: int, half: int) -> None:
    """Set the (N, H, W) mask where the summed weights exceed the limit (overlap "sum")."""
    distance, inside, row, column = _windows(points, (mask.shape[1], mask.shape[2]), half)
    factor_x, factor_y = (table[distance.abs().long()] * inside).long().unbind(-2)
    weight = (factor_y[..., :, None] * factor_x[..., None, :]) >> (2 * TABLE_BITS - WEIGHT_BITS)
    hit = weight > 0
    total = torch.zeros(mask.numel(), dtype=torch.int64, device=points.device)
    index = (row[..., :, None] + column[..., None, :]).masked_select(hit)
    total.index_add_(0, index, weight.masked_select(hit))
    torch.gt(total.view(mask.shape), limit, out=mask)


def landmark_maps(
    landmarks: Tensor, size: tuple[int, int], sigma: float = 1.0, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Draw the landmarks as soft maps, one per part of the face: the renderer's extra condition channels.

    The Gaussian of Eq. 1 with its peak at 1, exp(-d^2 / (2 sigma^2)), largest over a part's landmarks; beyond five
    sigma it is 0.

    Args:
        landmarks: (B, T, 68, 2) float px as (x, y); points that are not finite draw nothing.
        size: (H, W) px.
        sigma: standard deviation in px.
        dtype: type of the result.

    Returns:
        (B, 6, T, H, W) in [0, 1]: jaw, brows, nose, eyes, outer lip, inner lip.

    Raises:
        ValueError: if the landmarks' shape or sigma is not as above.
    """
    if landmarks.ndim != 4 or landmarks.shape[2:] != (68, 2):
        raise ValueError(f"landmarks must have shape (B, T, 68, 2); got {tuple(landmarks.shape)}")
    if not sigma > 0:
        raise ValueError(f"sigma must be positive (px); got {sigma}")
    (batch, num_frames), (height, width) = landmarks.shape[:2], size
    points = torch.nan_to_num(landmarks.detach().float(), nan=-FAR).clamp(-FAR, FAR)
    reach = math.ceil(5 * sigma)
    pixels = points.round()[..., None] + torch.arange(-reach, reach + 1, device=points.device)  # (B, T, 68, 2, w)
    # One number at a time: a tensor made of a list would have to be fetched from the host, and the card would wait.
    limit = torch.stack([torch.full((), side, device=points.device) for side in (width, height)])[:, None]
    inside = (pixels >= 0) & (pixels < limit)
    # A pixel outside the frame is moved onto the border with the value 0, which changes no maximum.
    value = torch.exp((pixels - points[..., None]).square() / (-2 * sigma**2)) * inside
    columns, rows = pixels.long().clamp(min=0).minimum(limit - 1).unbind(-2)
    place = torch.arange(68, device=points.device)
    region = torch.stack([place >= part.start for part in PARTS[1:]]).sum(0)  # how many parts begin before the point
    sample = torch.arange(batch, device=points.device)[:, None, None]
    frame = torch.arange(num_frames, device=points.device)[:, None]
    plane = (sample * len(PARTS) + region) * num_frames + frame  # (B, T, 68)
    index = ((plane[..., None] * height + rows) * width)[..., None] + columns[..., None, :]
    values = value[..., 1, :, None] * value[..., 0, None, :]
    maps = torch.zeros(batch * len(PARTS) * num_frames * height * width, device=points.device)
    maps.scatter_reduce_(0, index.flatten(), values.flatten(), "amax")
    return maps.view(batch, len(PARTS), num_frames, height, width).to(dtype)
