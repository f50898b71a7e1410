"""How near the painted frames are to the true ones, how sharp they are, and whether windows show."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from talkhead.face.points import MOUTH
from talkhead.metrics.reduced import reduced
from talkhead.ops.precision import full_precision

Box = tuple[int, int, int, int]


def psnr(
    pred: Tensor,
    target: Tensor,
    box: Box | None = None,
    reduce: Literal["mean", "none"] = "mean",
) -> Tensor:
    """Return the peak signal-to-noise ratio, 10 log10(255^2 / MSE), of every frame, or its mean over frames.

    The MSE of a frame is over its pixels and its three channels. Frames are averaged in dB; an exact frame counts as
    infinity, and so does then the mean.

    Args:
        pred: (..., 3, H, W) uint8 RGB.
        target: (..., 3, H, W) uint8 RGB.
        box: (x0, y0, x1, y1) px, the part to compare, x1 and y1 excluded; None for the whole frame.
        reduce: ``"mean"`` or ``"none"``.

    Returns:
        () or (...) dB.

    Raises:
        ValueError: if the pictures are not uint8 of one shape.

    Example:
        >>> target = torch.zeros(4, 3, 16, 16, dtype=torch.uint8)
        >>> round(psnr(target + 1, target).item(), 2)  # 20 log10(255)
        48.13
    """
    pred, target = _pictures(pred, target, box)
    error = (pred.float() - target.float()).square().mean((-3, -2, -1))
    return reduced(10 * torch.log10(255.0**2 / error), reduce)


def ssim(
    pred: Tensor,
    target: Tensor,
    box: Box | None = None,
    reduce: Literal["mean", "none"] = "mean",
) -> Tensor:
    """Return the structural similarity (Wang et al. 2004) of every frame, or its mean over frames.

    Gaussian window 11x11 with sigma 1.5, K1 = 0.01, K2 = 0.03, data range 255, each channel by itself. Only windows
    that lie wholly inside the picture count, as in the original and in scikit-image, so no padding is involved.

    Args:
        pred: (..., 3, H, W) uint8 RGB, H and W at least 11.
        target: (..., 3, H, W) uint8 RGB.
        box: as in :func:`psnr`; at least 11 px wide and high.
        reduce: ``"mean"`` or ``"none"``.

    Returns:
        () or (...) in [-1, 1].

    Raises:
        ValueError: if the pictures are not uint8 of one shape, or smaller than the window.

    Example:
        >>> picture = torch.randint(256, (2, 3, 16, 16), dtype=torch.uint8)
        >>> round(ssim(picture, picture).item(), 6)
        1.0
    """
    pred, target = _pictures(pred, target, box)
    if min(pred.shape[-2:]) < 11:
        raise ValueError(f"SSIM needs pictures of at least 11x11 px; got {pred.shape[-1]}x{pred.shape[-2]}")
    *lead, channels, height, width = pred.shape
    if not pred.numel():
        return reduced(pred.new_zeros(lead, dtype=torch.float32), reduce)
    pairs = zip(pred.reshape(-1, channels, height, width), target.reshape(-1, channels, height, width), strict=True)
    # On GPUs float32 products may be rounded to TF32, and variances are small differences of large squares.
    dtype = torch.float64 if pred.is_cuda else torch.float32
    rows, columns = _window_matrix(height, pred.device).to(dtype), _window_matrix(width, pred.device).to(dtype).T
    with full_precision(pred):
        values = torch.stack([_ssim_frame(p.to(dtype), q.to(dtype), rows, columns).float() for p, q in pairs])
    return reduced(values.reshape(lead), reduce)


def _window_matrix(length: int, device: torch.device) -> Tensor:
    """Return (length - 10, length): row i holds the 11 weights of the Gaussian window that starts at sample i."""
    weights = torch.exp(-0.5 * (torch.arange(-5, 6, device=device) / 1.5) ** 2)
    matrix = torch.zeros(length - 10, length, device=device)
    starts = torch.arange(length - 10, device=device)
    for offset, weight in enumerate(weights / weights.sum()):
        matrix[starts, starts + offset] = weight
    return matrix


def _ssim_frame(p: Tensor, q: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Return () SSIM of two (C, H, W) float pictures; the separable window is two matrix products (fast on CPU)."""
    mean_p, mean_q, square_p, square_q, product = rows @ torch.stack((p, q, p * p, q * q, p * q)) @ columns
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    covariance = product - mean_p * mean_q
    variances = square_p - mean_p**2 + square_q - mean_q**2
    similarity = (2 * mean_p * mean_q + c1) * (2 * covariance + c2)
    return (similarity / ((mean_p**2 + mean_q**2 + c1) * (variances + c2))).mean()


def _pictures(pred: Tensor, target: Tensor, box: Box | None) -> tuple[Tensor, Tensor]:
    """Check two stacks of pictures and cut the box out of both."""
    if pred.dtype != torch.uint8 or target.dtype != torch.uint8:
        raise ValueError(f"pictures must be uint8 RGB in 0..255; got {pred.dtype} and {target.dtype}")
    if pred.shape != target.shape or pred.ndim < 3 or pred.shape[-3] != 3:
        raise ValueError(
            f"pred and target must both be (..., 3, H, W); got {tuple(pred.shape)} and {tuple(target.shape)}"
        )
    if box is None:
        return pred, target
    x0, y0, x1, y1 = box
    if not (0 <= x0 < x1 <= pred.shape[-1] and 0 <= y0 < y1 <= pred.shape[-2]):
        raise ValueError(f"box must lie inside the {pred.shape[-1]}x{pred.shape[-2]} picture; got {box}")
    return pred[..., y0:y1, x0:x1], target[..., y0:y1, x0:x1]


def mouth_box(landmarks: Tensor, size: int | tuple[int, int], margin: float = 0.25) -> Box:
    """Return the box of the mouth, fixed over the clip: all mouth points of all frames plus a margin.

    Args:
        landmarks: (..., 68, 2) px, the true landmarks of one clip; frames with NaN are left out.
        size: width (and height) of the picture in px, or (H, W).
        margin: added on every side, as a share of the mouth's width; the box also grows to the 11 px that SSIM needs.

    Returns:
        (x0, y0, x1, y1) px inside the picture, x1 and y1 excluded.

    Raises:
        ValueError: if no frame has a face, or the picture is smaller than 11 px.

    Example:
        >>> landmarks = torch.full((2, 68, 2), 40.0)
        >>> landmarks[:, 54] = torch.tensor([60.0, 44.0])
        >>> mouth_box(landmarks, size=128)
        (35, 35, 66, 50)
    """
    height, width = (size, size) if isinstance(size, int) else size
    points = landmarks[..., MOUTH, :].reshape(-1, 2)
    points = points[points.isfinite().all(-1)]
    if not len(points) or min(height, width) < 11:
        raise ValueError(f"a mouth box needs landmarks with a face and a picture of 11 px; got size {(height, width)}")
    (left, top), (right, bottom) = points.amin(0).tolist(), points.amax(0).tolist()
    pad = margin * (right - left)
    x0, x1 = _span(left - pad, right + pad, width)
    y0, y1 = _span(top - pad, bottom + pad, height)
    return x0, y0, x1, y1


def _span(first: float, last: float, length: int, least: int = 11) -> tuple[int, int]:
    """Return the pixels start..stop that cover first..last, at least ``least`` of them, inside 0..length."""
    start, stop = round(first), round(last) + 1
    lack = max(least - (stop - start), 0)
    start, stop = start - (lack + 1) // 2, stop + lack // 2
    start = min(max(start, 0), length - least)
    return start, min(max(stop, start + least), length)


def seam_ratio(frames: Tensor, borders: Sequence[int]) -> float:
    """Return the mean frame-to-frame difference across window borders over that everywhere else; 1 is seamless.

    Args:
        frames: (T, 3, H, W) uint8.
        borders: frames in 1..T-1 at which another window begins (or ends): the step from b - 1 to b is a seam.

    Returns:
        A ratio >= 0.

    Raises:
        ValueError: if there is no border, no other step, or a border outside 1..T-1.

    Example:
        >>> frames = torch.tensor([0, 1, 2, 5, 6], dtype=torch.uint8).view(5, 1, 1, 1).expand(5, 3, 4, 4)
        >>> seam_ratio(frames, [3])  # a step of 3 among steps of 1
        3.0
    """
    steps = [(b.float() - a.float()).abs().mean().item() for a, b in zip(frames[:-1], frames[1:], strict=True)]
    return step_ratio(torch.tensor(steps, dtype=torch.float64), borders)


def step_ratio(steps: Tensor, borders: Sequence[int]) -> float:
    """Return ``seam_ratio`` from the frame-to-frame differences, for videos too long to hold.

    Args:
        steps: (T - 1,) mean absolute differences of neighbouring frames.
        borders: see ``seam_ratio``; so are the value and the error.
    """
    seam = torch.zeros(len(steps), dtype=torch.bool)
    if not borders or min(borders) < 1 or max(borders) > len(steps) or len(set(borders)) == len(steps):
        raise ValueError(
            f"borders must be some, not all, of the frames 1..{len(steps)}; got {list(borders)}: "
            "a clip of one window has no seam to measure"
        )
    seam[[border - 1 for border in borders]] = True
    return (steps[seam].mean() / steps[~seam].mean()).item()


def sharpness(frames: Tensor, reduce: Literal["mean", "none"] = "mean") -> Tensor:
    """Return the variance of the Laplacian of every frame's luma; compare it with the true frames'.

    Args:
        frames: (..., 3, H, W) uint8 RGB.
        reduce: ``"mean"`` or ``"none"``.

    Returns:
        () or (...) in squared grey levels.

    Example:
        >>> sharpness(torch.full((2, 3, 8, 8), 9, dtype=torch.uint8)).item()
        0.0
    """
    weights = torch.tensor([0.299, 0.587, 0.114], device=frames.device).view(3, 1, 1)
    luma = (frames.float() * weights).sum(-3)
    across = luma[..., 1:-1, :-2] + luma[..., 1:-1, 2:] + luma[..., :-2, 1:-1] + luma[..., 2:, 1:-1]
    return reduced((across - 4 * luma[..., 1:-1, 1:-1]).var((-2, -1), correction=0), reduce)
