"""Thin-plate-spline warp: a picture bent so that its landmarks come to lie where they should."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor

_ANCHORS_PER_SIDE = 4
_GRID_STRIDE = 4
"""px between exact evaluations; the spline is smooth, so bilinear interpolation between them is < 0.1 px off."""


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
    field = thin_plate_spline_field(source, target, (reference.shape[-2], reference.shape[-1]), stiffness)
    return rearrange(sample(reference, field), "b c t h w -> b t c h w")


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


def sample(
    pictures: Tensor, field: Tensor, mode: Literal["sharp", "bilinear"] = "sharp", index: Tensor | None = None
) -> Tensor:
    """Sample one picture per sample at every pixel's place plus a displacement, frame by frame; edges are repeated.

    By default the picture is first made twice as fine by a windowed sinc, and that is sampled bicubically: half way
    between two pixels a bilinear sample is their mean. A portrait bent so has 0.84 of the truth's sharpness, sampled
    bicubically alone 0.79, bilinearly 0.59 (docs/renderer.md). On a pixel it is the pixel; it may overshoot the
    picture's range by a little.

    Args:
        pictures: (B, C, H, W) float; with ``index`` any number of them.
        field: (B, T, H, W, 2) px, (x, y): where each pixel comes from, less where it is.
        mode: interpolation between the pixels.
        index: (B,) which picture each sample takes; None: its own.

    Returns:
        (B, C, T, H, W) float32, whatever the autocast.
    """
    (height, width), frames = pictures.shape[-2:], field.shape[1]
    with torch.autocast(pictures.device.type, enabled=False):
        # grid_sample's coordinates, the outermost pixels at -1 and 1; by numbers: a tensor would wait for the device.
        sides = (width, height)
        unit = torch.stack([torch.full((), 2 / (side - 1), device=pictures.device) for side in sides]).view(2, 1, 1, 1)
        pixels = rearrange(pixel_grid(height, width, pictures.device), "h w d -> d 1 h w")
        grid = torch.addcmul(pixels * unit - 1, rearrange(field.float(), "b t h w d -> b d t h w"), unit)
        # All x lie before all y: what it reads fastest, without a copy where the field lies so, too.
        grid = rearrange(rearrange(grid, "b d t h w -> b d (t h) w"), "b d h w -> b h w d")
        source, kernel = (pictures.float(), "bilinear") if mode == "bilinear" else (finer(pictures.float()), "bicubic")
        source = source if index is None else source[index]
        moved = F.grid_sample(source, grid, mode=kernel, padding_mode="border", align_corners=True)
    return rearrange(moved, "b c (t h) w -> b c t h w", t=frames)


def finer(pictures: Tensor) -> Tensor:
    """Put a pixel between every two: (B, C, H, W) to (B, C, 2 H - 1, 2 W - 1), the old ones unchanged."""
    for axis in (-1, -2):  # what comes back lies row by row: by columns it is nearly twice as slow to sample
        places, ends = pictures.shape[axis] - 1, [_LOBES - 1] * 2
        padded = F.pad(pictures, [*ends, 0, 0] if axis == -1 else [0, 0, *ends], mode="replicate")
        between = _HALFWAY[0] * padded.narrow(axis, 0, places)
        for tap, weight in enumerate(_HALFWAY[1:], 1):
            between.add_(padded.narrow(axis, tap, places), alpha=weight)
        pairs = torch.stack((pictures.narrow(axis, 0, places), between), axis).flatten(axis - 1, axis)
        pictures = torch.cat((pairs, pictures.narrow(axis, places, 1)), axis)
    return pictures


def _halfway(lobes: int) -> list[float]:
    """Return Lanczos' kernel at half a pixel: the weights of ``2 lobes`` neighbours."""
    away = torch.arange(-lobes, lobes, dtype=torch.float64) + 0.5
    weights = torch.sinc(away) * torch.sinc(away / lobes)
    return (weights / weights.sum()).tolist()


_LOBES = 4  # of the sinc, on either side
_HALFWAY = _halfway(_LOBES)


def compose(field: Tensor, flow: Tensor) -> Tensor:
    """Return the displacement of ``flow`` followed by ``field``: flow(x) + field(x + flow(x)).

    Sampling a picture once by the composition is what sampling it by ``field`` and the result by ``flow`` would be
    without the second interpolation.

    Args:
        field: (B, T, H, W, 2) px.
        flow: (B, 2, T, H, W) px.

    Returns:
        (B, T, H, W, 2) px, float32.
    """
    flow = flow.float()
    fields = rearrange(field, "b t h w d -> (b t) d h w")
    moved = sample(fields, rearrange(flow, "b d t h w -> (b t) 1 h w d"), mode="bilinear")  # the field is smooth
    # The flow first: the sum lies in memory as it does, all x before all y.
    return rearrange(flow + rearrange(moved, "(b t) d 1 h w -> b d t h w", b=len(flow)), "b d t h w -> b t h w d")


def spline_displacement(source: Tensor, target: Tensor, size: tuple[int, int], stiffness: float) -> Tensor:
    """Return the backward displacement (N, H, W, 2) in px that takes ``target`` (N, K, 2) to ``source`` (N, K, 2).

    The border stays where it is. In float32 whatever the autocast: in bfloat16 the spline would be a quarter of a
    pixel off, and in places a whole.
    """
    with torch.autocast(target.device.type, enabled=False):
        return _spline_displacement(source.float(), target.float(), size, stiffness)


def _spline_displacement(source: Tensor, target: Tensor, size: tuple[int, int], stiffness: float) -> Tensor:
    height, width = size
    unit = float(max(height, width))
    anchors = _border_points(height, width, target.device)
    anchors = repeat(anchors, "a d -> n a d", n=target.shape[0])
    centres = torch.cat([target, anchors], 1) / unit
    values = torch.cat([(source - target) / unit, torch.zeros_like(anchors)], 1)
    weights = _solve(centres, values, stiffness)
    points = pixel_grid(height, width, target.device, _GRID_STRIDE, _GRID_STRIDE) / unit
    # On a lattice the squared distances (N, h, w, K) are sums of those along either axis.
    across, down = points[0, :, :1] - centres[:, None, :, 0], points[:, 0, 1:] - centres[:, None, :, 1]
    radial = _radial(down.square()[:, :, None] + across.square()[:, None])
    affine = torch.cat([torch.ones_like(points[..., :1]), points], -1).flatten(0, 1)
    # In float64, which no setting of the matrix precision (TensorFloat-32) touches. The weights from the left give
    # planes in one piece: of channels last the interpolation takes four times as long.
    weights, count = weights.double().mT, centres.shape[1]
    field = weights[..., :count] @ radial.flatten(1, 2).double().mT + weights[..., count:] @ affine.double().mT
    field = (field.float() * unit).unflatten(-1, points.shape[:2])
    fine = F.interpolate(field, scale_factor=_GRID_STRIDE, mode="bilinear", align_corners=False)
    inside = fine[..., _GRID_STRIDE : _GRID_STRIDE + height, _GRID_STRIDE : _GRID_STRIDE + width]
    return rearrange(inside, "n d h w -> n h w d")


def _solve(centres: Tensor, values: Tensor, stiffness: float) -> Tensor:
    """Return the spline's radial and affine weights (N, K + 3, 2)."""
    count, points = centres.shape[:2]
    # Without the matrix product that would round them.
    apart = torch.cdist(centres, centres, compute_mode="donot_use_mm_for_euclid_dist")
    radial = _radial(apart.square()) + stiffness * torch.eye(points, device=centres.device)
    affine = torch.cat([torch.ones_like(centres[..., :1]), centres], -1)
    system = centres.new_zeros(count, points + 3, points + 3)
    system[:, :points, :points] = radial
    system[:, :points, points:] = affine
    system[:, points:, :points] = affine.mT
    right = F.pad(values, (0, 0, 0, 3))
    # Not solve: it would wait for the device to learn whether the system was singular, which the stiffness rules out.
    return torch.linalg.solve_ex(system, right).result


def _radial(squared: Tensor) -> Tensor:
    """U(r) = r^2 log r^2 of r^2, 0 at r = 0."""
    return squared * torch.log(squared.clamp_min(1e-12))


def pixel_grid(height: int, width: int, device: torch.device, stride: int = 1, margin: int = 0) -> Tensor:
    """Return the (rows, columns, 2) px coordinates of the centres of stride x stride blocks, a margin on every side."""
    shift = (stride - 1) / 2
    ys = torch.arange(-margin, height + margin, stride, device=device) + shift
    xs = torch.arange(-margin, width + margin, stride, device=device) + shift
    return torch.stack(torch.meshgrid(xs, ys, indexing="xy"), -1)


def _border_points(height: int, width: int, device: torch.device) -> Tensor:
    """Evenly spaced points around the picture's border, (4 * _ANCHORS_PER_SIDE, 2) px."""
    step = torch.arange(_ANCHORS_PER_SIDE, device=device) / _ANCHORS_PER_SIDE
    zero, one = torch.zeros_like(step), torch.ones_like(step)
    sides = [(step, zero), (one, step), (1 - step, one), (zero, 1 - step)]
    return torch.cat([torch.stack([x * (width - 1), y * (height - 1)], -1) for x, y in sides])
