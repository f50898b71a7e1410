"""Thin-plate-spline warp: a picture bent so that its landmarks come to lie where they should."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor

_ANCHORS_PER_SIDE = 4
_GRID_STRIDE = (
    4  # px between exact evaluations; the spline is smooth, so bilinear interpolation between them is < 0.1 px off
)


def thin_plate_spline_warp(reference: Tensor, source: Tensor, target: Tensor, stiffness: float = 1e-3) -> Tensor:
    r"""Warp one picture to every frame's landmarks with a thin-plate spline (Bookstein, 1989).

    For each frame the backward displacement :math:`f(p) = A p + b + \sum_i w_i U(|p - q_i|)`,
    :math:`U(r) = r^2 \log r^2`, takes the frame's landmarks :math:`q_i` to the picture's, and the border to itself.
    Differentiable in the picture and in both sets of landmarks.

    Args:
        reference: (B, C, H, W) float pictures.
        source: (B, K, 2) landmarks of the pictures, px.
        target: (B, T, K, 2) landmarks to be reached, px; a frame with NaN landmarks is not warped.
        stiffness: regularisation; 0 interpolates exactly, but folds where two landmarks meet (closed lips).

    Returns:
        (B, T, C, H, W) warped pictures, edge pixels repeated outside the picture.

    Raises:
        ValueError: if the shapes do not belong together.

    Example:
        >>> picture, points = torch.rand(1, 3, 16, 16), torch.rand(1, 5, 2) * 15
        >>> torch.allclose(thin_plate_spline_warp(picture, points, points[:, None])[:, 0], picture, atol=1e-5)
        True
    """
    if source.ndim != 3 or target.ndim != 4 or source.shape[1:] != target.shape[2:] or reference.ndim != 4:
        raise ValueError(
            "thin_plate_spline_warp expects reference (B, C, H, W), source (B, K, 2) and target (B, T, K, 2); got "
            f"{tuple(reference.shape)}, {tuple(source.shape)} and {tuple(target.shape)}"
        )
    frames = target.shape[1]
    field = thin_plate_spline_field(source, target, (reference.shape[-2], reference.shape[-1]), stiffness)
    pictures = repeat(reference, "b c h w -> (b t) c h w", t=frames)
    return rearrange(displace(pictures, field.flatten(0, 1)), "(b t) c h w -> b t c h w", t=frames)


def thin_plate_spline_field(source: Tensor, target: Tensor, size: tuple[int, int], stiffness: float = 1e-3) -> Tensor:
    """Return the backward displacement of `thin_plate_spline_warp`: where each pixel comes from, less where it is.

    Args:
        source: (B, K, 2) landmarks of the pictures, px.
        target: (B, T, K, 2) landmarks to be reached, px; where one is NaN, the frame's displacement is 0.
        size: (height, width) in px.
        stiffness: see `thin_plate_spline_warp`.

    Returns:
        (B, T, H, W, 2) px, (x, y).
    """
    batch, frames = target.shape[:2]
    source = repeat(source, "b k d -> (b t) k d", t=frames).float()
    target = rearrange(target, "b t k d -> (b t) k d").float()
    missing = target.isnan().flatten(1).any(1)
    target = torch.where(missing[:, None, None], source, target)
    return rearrange(spline_displacement(source, target, size, stiffness), "(b t) h w d -> b t h w d", b=batch)


def displace(pictures: Tensor, field: Tensor) -> Tensor:
    """Sample (N, C, H, W) pictures at every pixel's place plus ``field`` (N, H, W, 2) px; bilinear, edges repeated."""
    height, width = pictures.shape[-2:]
    places = _pixel_grid(height, width, 1, 0, pictures.device) + field
    grid = (places + 0.5) / places.new_tensor([width, height]) * 2 - 1  # grid_sample's [-1, 1], align_corners=False
    return F.grid_sample(pictures, grid.to(pictures.dtype), padding_mode="border", align_corners=False)


def spline_displacement(source: Tensor, target: Tensor, size: tuple[int, int], stiffness: float) -> Tensor:
    """Return the backward displacement (N, H, W, 2) in px that takes ``target`` (N, K, 2) to ``source`` (N, K, 2)."""
    height, width = size
    unit = float(max(height, width))
    anchors = _border_points(height, width, target.device)
    anchors = repeat(anchors, "a d -> n a d", n=target.shape[0])
    centres = torch.cat([target, anchors], 1) / unit
    values = torch.cat([(source - target) / unit, torch.zeros_like(anchors)], 1)
    weights = _solve(centres, values, stiffness)
    coarse = _pixel_grid(height, width, _GRID_STRIDE, _GRID_STRIDE, target.device)
    points = rearrange(coarse, "h w d -> 1 (h w) d") / unit
    radial = _radial(torch.cdist(points.expand(len(centres), -1, -1), centres))
    affine = torch.cat([torch.ones_like(points[..., :1]), points], -1).expand(len(centres), -1, -1)
    field = torch.cat([radial, affine], -1) @ weights * unit
    field = rearrange(field, "n (h w) d -> n d h w", h=coarse.shape[0])
    fine = F.interpolate(field, scale_factor=_GRID_STRIDE, mode="bilinear", align_corners=False)
    inside = fine[..., _GRID_STRIDE : _GRID_STRIDE + height, _GRID_STRIDE : _GRID_STRIDE + width]
    return rearrange(inside, "n d h w -> n h w d")


def _solve(centres: Tensor, values: Tensor, stiffness: float) -> Tensor:
    """Return the spline's radial and affine weights (N, K + 3, 2)."""
    count, points = centres.shape[:2]
    radial = _radial(torch.cdist(centres, centres)) + stiffness * torch.eye(points, device=centres.device)
    affine = torch.cat([torch.ones_like(centres[..., :1]), centres], -1)
    system = centres.new_zeros(count, points + 3, points + 3)
    system[:, :points, :points] = radial
    system[:, :points, points:] = affine
    system[:, points:, :points] = affine.mT
    right = F.pad(values, (0, 0, 0, 3))
    return torch.linalg.solve(system, right)


def _radial(distance: Tensor) -> Tensor:
    """U(r) = r^2 log r^2, 0 at r = 0."""
    squared = distance.square()
    return squared * torch.log(squared.clamp_min(1e-12))


def _pixel_grid(height: int, width: int, stride: int, margin: int, device: torch.device) -> Tensor:
    """(rows, columns, 2) px coordinates of the centres of stride x stride blocks, a margin on every side."""
    shift = (stride - 1) / 2
    ys = torch.arange(-margin, height + margin, stride, device=device) + shift
    xs = torch.arange(-margin, width + margin, stride, device=device) + shift
    return torch.stack(torch.meshgrid(xs, ys, indexing="xy"), -1)


def _border_points(height: int, width: int, device: torch.device) -> Tensor:
    """Evenly spaced points around the picture's border, (4 * _ANCHORS_PER_SIDE, 2) px."""
    step = torch.arange(_ANCHORS_PER_SIDE, device=device) / _ANCHORS_PER_SIDE
    zero, one = torch.zeros_like(step), torch.ones_like(step)
    sides = [(step, zero), (one, step), (1 - step, one), (zero, 1 - step)]
    unit = torch.cat([torch.stack(side, -1) for side in sides])
    return unit * unit.new_tensor([width - 1, height - 1])
