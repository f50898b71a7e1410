"""Mask noise (paper, Eqs. 1-2): uniform noise where a Gaussian around a landmark exceeds a threshold.

For a landmark at (u, v) and a pixel at (x, y), inside the k x k window of pixels around round(u), round(v):

    G(x, y) = 1 / (2 pi sigma) exp(-((x - u)^2 + (y - v)^2) / (2 sigma^2))                                        (1)
    M = 1 where X > threshold, else 0,    X = max or sum of G over the frame's landmarks                            (2)
    n = U(0, 1) where M = 1, the picture elsewhere

The same numbers come out on every device. Landmarks are rounded to 1/256 px once, so every squared distance is an
integer; with ``overlap="max"`` Eq. 2 is the integer test d^2 <= limit, with ``"sum"`` the Gaussians are integers of
fixed point from a table. The noise is Philox4x32-10 of (frame, y, x, channel). ``docs/kernel.md`` has the proofs.
This file holds the public function and the PyTorch path; the mask itself is in ``landmark_mask.py``, the fused GPU
kernel in ``mask_noise_triton.py``.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor

from talkhead.ops.landmark_mask import (
    MAX_KERNEL_SIZE,
    MAX_SIDE,
    SATURATION,
    landmark_maps,
    landmark_mask,
    warn_missing,
    weight_limit,
)
from talkhead.ops.philox import philox4x32, split_seed, uniform

__all__ = ["landmark_maps", "mask_noise"]

DTYPES = (torch.uint8, torch.bfloat16, torch.float16, torch.float32)
Blend = tuple[Tensor, Tensor, Tensor]
_CHUNK = 30_000
"""Noisy pixels drawn at a time (see ``landmark_mask``)."""


def mask_noise(
    video: Tensor,
    landmarks: Tensor,
    *,
    sigma: float = 2.0,
    kernel_size: int = 11,
    threshold: float = 0.01,
    overlap: str = "max",
    seed: int | Tensor = 0,
    frame_offset: int | Tensor = 0,
    out_range: tuple[float, float] = (-1.0, 1.0),
    dtype: torch.dtype = torch.float32,
    blend: Blend | None = None,
    return_mask: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Put uniform noise around the landmarks and bring the frames to the network's range and layout (Eqs. 1-2).

    The noise is a function of (the sample's seed, the absolute frame ``frame_offset + t``, y, x, channel) alone: a
    video cut into windows, another batch size or another device give the same numbers. Samples of a batch that share a
    seed share the noise. A frame with a landmark that is not finite (a missed face) stays clean, with a warning. No
    gradient flows through this function.

    Args:
        video: (B, T, C, H, W) frames, or (B, C, H, W) one reference frame per sample, repeated over T. uint8 in 0..255,
            or bfloat16, float16, float32 taken to be in [0, 1]. Any strides. Without the leading B where ``landmarks``
            has none.
        landmarks: (B, T, K, 2) float px as (x, y), origin at the centre of the top-left pixel, K >= 0; they may lie
            outside the frame. (T, K, 2) for unbatched input.
        sigma: standard deviation of Eq. 1 in px.
        kernel_size: odd width k of the window of Eq. 1 in px, at most 255.
        threshold: threshold of Eq. 2, >= 0; a pixel at exactly the threshold is not masked.
        overlap: how landmarks that overlap combine: "max" (the mask is a union of discs) or "sum" (a blurred impulse
            image).
        seed: 64-bit seed, one for all samples or an int64 tensor (B,).
        frame_offset: absolute index of the first frame, one for all samples or an int64 tensor (B,).
        out_range: what 0 and 1 become.
        dtype: floating point type of the result.
        blend: (clean (B, T, C, H, W), a (B,), b (B,)): return a * clean + b * n instead of n, the forward step of a
            diffusion process; ``clean`` is scaled like ``video``.
        return_mask: whether to return the mask too.

    Returns:
        (B, C, T, H, W) frames of type ``dtype``; with ``return_mask`` also the mask of Eq. 2, (B, T, H, W) bool.

    Raises:
        ValueError: if a shape, a type or a parameter is not as above.

    Example:
        >>> portrait = torch.zeros(3, 32, 32, dtype=torch.uint8)
        >>> noised, mask = mask_noise(portrait, torch.full((4, 1, 2), 16.0), seed=1, return_mask=True)
        >>> noised.shape, int(mask[0].sum())
        (torch.Size([3, 4, 32, 32]), 49)
    """
    _check_parameters(sigma, kernel_size, threshold, overlap, dtype)
    unbatched = landmarks.ndim == 3
    if unbatched:
        video, landmarks = video[None], landmarks[None]
        blend = blend and (blend[0][None], blend[1].reshape(1), blend[2].reshape(1))
    _check_frames(video, landmarks)
    batch, num_frames = landmarks.shape[:2]
    if video.ndim == 4:
        video = video[:, None].expand(-1, num_frames, -1, -1, -1)
    clean, a, b = _check_blend(blend, video)
    noised, mask = torch.ops.talkhead.mask_noise(
        video,
        landmarks,
        _per_sample("seed", seed, batch, video.device),
        _per_sample("frame_offset", frame_offset, batch, video.device),
        clean,
        a,
        b,
        float(sigma),
        kernel_size,
        float(threshold),
        overlap,
        float(out_range[0]),
        float(out_range[1]),
        dtype,
        return_mask,
    )
    if unbatched:
        noised, mask = noised[0], mask[0] if return_mask else mask
    return (noised, mask) if return_mask else noised


def _check_parameters(sigma: float, kernel_size: int, threshold: float, overlap: str, dtype: torch.dtype) -> None:
    """Raise ValueError for a parameter of `mask_noise` that means nothing."""
    if not 0 < sigma < math.inf:
        raise ValueError(f"sigma must be positive and finite (px); got {sigma}")
    if kernel_size % 2 == 0 or not 1 <= kernel_size <= MAX_KERNEL_SIZE:
        raise ValueError(f"kernel_size must be odd and in 1..{MAX_KERNEL_SIZE}; got {kernel_size}")
    if not 0 <= threshold < math.inf:
        raise ValueError(f"threshold must be >= 0 and finite, or every pixel would be noise; got {threshold}")
    if overlap not in ("max", "sum"):
        raise ValueError(f"overlap must be 'max' or 'sum'; got {overlap!r}")
    if overlap == "sum" and weight_limit(sigma, threshold) >= SATURATION:
        raise ValueError(f"threshold must be below 256 times Eq. 1's peak for overlap='sum'; got {threshold}")
    if dtype not in DTYPES[1:]:
        raise ValueError(f"dtype must be one of {', '.join(map(str, DTYPES[1:]))}; got {dtype}")


def _check_frames(video: Tensor, landmarks: Tensor) -> None:
    """Raise ValueError where the (batched) frames and landmarks do not fit together."""
    if landmarks.ndim != 4 or landmarks.shape[-1] != 2 or not landmarks.is_floating_point():
        raise ValueError(
            "landmarks must be floating point px of shape (B, T, K, 2), or (T, K, 2) unbatched; "
            f"got {landmarks.dtype} {tuple(landmarks.shape)}"
        )
    leading = landmarks.shape[: video.ndim - 3]
    if video.ndim not in (4, 5) or video.shape[: video.ndim - 3] != leading:
        raise ValueError(
            f"video must be (B, T, C, H, W) frames or (B, C, H, W) reference frames for landmarks of shape "
            f"{tuple(landmarks.shape)} (no B where they have none); got {tuple(video.shape)}"
        )
    if video.dtype not in DTYPES:
        raise ValueError(f"video must be one of {', '.join(map(str, DTYPES))}; got {video.dtype}")
    if max(video.shape[-2:]) > MAX_SIDE:
        raise ValueError(f"video must have sides of at most {MAX_SIDE} px; got {tuple(video.shape)}")
    if video.device != landmarks.device:
        raise ValueError(f"video and landmarks must be on one device; got {video.device} and {landmarks.device}")


def _check_blend(blend: Blend | None, video: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Return the parts of ``blend`` with float32 coefficients, or raise ValueError where they do not fit ``video``."""
    if blend is None:
        return None, None, None
    clean, a, b = blend
    if clean.shape != video.shape or clean.dtype not in DTYPES or clean.device != video.device:
        raise ValueError(
            f"blend's clean frames must be {tuple(video.shape)} on {video.device}, of type uint8 or float; "
            f"got {clean.dtype} {tuple(clean.shape)} on {clean.device}"
        )
    if a.shape != video.shape[:1] or b.shape != video.shape[:1]:
        raise ValueError(
            f"blend's a and b must have shape ({video.shape[0]},); got {tuple(a.shape)} and {tuple(b.shape)}"
        )
    a, b = (weight.to(video.device, torch.float32, non_blocking=True) for weight in (a, b))
    return clean, a, b


def _per_sample(name: str, value: int | Tensor, batch: int, device: torch.device) -> Tensor:
    """Return a (B,) int64 tensor of ``value``, an integer's lowest 64 bits taken as two's complement."""
    if isinstance(value, Tensor):
        if value.is_floating_point() or value.numel() != 1 and value.shape != (batch,):
            raise ValueError(f"{name} must be an int or an integer tensor of shape ({batch},); got {value}")
        return value.to(device, torch.int64, non_blocking=True).reshape(-1).expand(batch)
    if name == "frame_offset" and value < 0:
        raise ValueError(f"frame_offset must be >= 0; got {value}")
    return torch.full((batch,), (value + 2**63) % 2**64 - 2**63, dtype=torch.int64, device=device)


@torch.library.custom_op("talkhead::mask_noise", mutates_args=())
def _mask_noise_op(
    video: Tensor,
    landmarks: Tensor,
    seed: Tensor,
    frame_offset: Tensor,
    clean: Tensor | None,
    a: Tensor | None,
    b: Tensor | None,
    sigma: float,
    kernel_size: int,
    threshold: float,
    overlap: str,
    low: float,
    high: float,
    dtype: torch.dtype,
    return_mask: bool,
) -> tuple[Tensor, Tensor]:
    """Run the fused kernel on CUDA, the PyTorch path elsewhere; an opaque node for torch.compile and torch.export."""
    run = (_fused_kernel() if video.is_cuda else None) or mask_noise_reference
    region = (sigma, kernel_size, threshold, overlap)
    return run(video, landmarks, seed, frame_offset, clean, a, b, *region, low, high, dtype, return_mask)


@functools.cache
def _fused_kernel() -> Callable[..., tuple[Tensor, Tensor]] | None:
    """Return the Triton kernel's launcher, or None where Triton is not installed."""
    try:
        from talkhead.ops.mask_noise_triton import mask_noise_fused
    except ImportError:
        return None
    return mask_noise_fused


def mask_noise_reference(
    video: Tensor,
    landmarks: Tensor,
    seed: Tensor,
    frame_offset: Tensor,
    clean: Tensor | None,
    a: Tensor | None,
    b: Tensor | None,
    sigma: float,
    kernel_size: int,
    threshold: float,
    overlap: str,
    low: float,
    high: float,
    dtype: torch.dtype,
    return_mask: bool,
) -> tuple[Tensor, Tensor]:
    """Compute `mask_noise` in PyTorch, on any device: what the fused kernel is measured against.

    Args:
        video: (B, T, C, H, W) uint8 or float, any strides; a repeated reference has stride 0 over T.
        landmarks: (B, T, K, 2) float px.
        seed: (B,) int64.
        frame_offset: (B,) int64.
        clean: (B, T, C, H, W) frames to blend with, or None.
        a: (B,) float32 weight of ``clean``, or None.
        b: (B,) float32 weight of the noised frames, or None.
        sigma: standard deviation of Eq. 1 in px.
        kernel_size: width of the window in px.
        threshold: threshold of Eq. 2.
        overlap: "max" or "sum".
        low: what 0 becomes.
        high: what 1 becomes.
        dtype: type of the result.
        return_mask: whether the mask is returned.

    Returns:
        (B, C, T, H, W) frames and the (B, T, H, W) bool mask (empty where it was not asked for).
    """
    mask = landmark_mask(landmarks, (video.shape[-2], video.shape[-1]), sigma, kernel_size, threshold, overlap)
    if not bool(landmarks.isfinite().all()):
        warn_missing()
    noised = to_network(video, low, high)
    _replace(noised, mask, seed, frame_offset, low, high)
    if clean is not None and a is not None and b is not None:
        shape = (-1, 1, 1, 1, 1)
        noised.mul_(b.view(shape)).add_(to_network(clean, low, high).mul_(a.view(shape)))
    return noised.to(dtype), mask if return_mask else mask.new_empty(0)


@_mask_noise_op.register_fake
def _(
    video,
    landmarks,
    seed,
    frame_offset,
    clean,
    a,
    b,
    sigma,
    kernel_size,
    threshold,
    overlap,
    low,
    high,
    dtype,
    return_mask,
):  # noqa: E501
    batch, num_frames, channels, height, width = video.shape
    noised = video.new_empty((batch, channels, num_frames, height, width), dtype=dtype)
    mask = video.new_empty((batch, num_frames, height, width) if return_mask else (0,), dtype=torch.bool)
    return noised, mask


def to_network(video: Tensor, low: float = -1.0, high: float = 1.0) -> Tensor:
    """Bring frames into a network's layout and range.

    uint8 is multiplied by the float32 nearest 1/255. Multiplication and addition are rounded separately, as in the
    kernel.

    Args:
        video: (B, T, C, H, W) uint8, or float in [0, 1].
        low: what 0 becomes.
        high: what 1 (or 255) becomes.

    Returns:
        (B, C, T, H, W) float32, contiguous.
    """
    source = video.transpose(1, 2)
    repeated = source.shape[2] > 1 and source.stride(2) == 0
    picture = source[:, :, :1] if repeated else source
    scaled = torch.empty(picture.shape, dtype=torch.float32, device=video.device).copy_(picture)
    if video.dtype == torch.uint8:
        scaled.mul_(1 / 255)
    scaled.mul_(high - low).add_(low)
    return scaled.expand(source.shape).contiguous() if repeated else scaled


def _replace(noised: Tensor, mask: Tensor, seed: Tensor, frame_offset: Tensor, low: float, high: float) -> None:
    """Write noise into (B, C, T, H, W) ``noised`` wherever the (B, T, H, W) mask is set, drawing only there."""
    channels, num_frames, height, width = noised.shape[1:]
    planes = noised.view(len(noised), channels, -1)
    low_word, high_word = split_seed(seed)
    for sample, plane in enumerate(planes):
        key = (low_word[sample], high_word[sample])
        for places in mask[sample].nonzero().split(_CHUNK):
            frame, y, x = places.unbind(1)
            place = (frame * height + y) * width + x
            absolute = (frame_offset[sample] + frame) & 0xFFFFFFFF
            for block in range((channels + 3) // 4):
                words = philox4x32((absolute, y, x, torch.full_like(x, block)), key)
                for channel, word in zip(plane[4 * block : 4 * block + 4], words, strict=False):
                    channel.scatter_(0, place, uniform(word).mul_(high - low).add_(low))
