"""Mask noise in one pass on the GPU: mask, noise, replacement, range, type and layout (paper, Eqs. 1-2).

One program paints one tile of one frame in all its channels. It tests the frame's landmarks 128 at a time against the
tile, draws those that reach it, and calls Philox only where one does; every output byte is written once. Bit equality
with the PyTorch path rests on three things: masks are integers, noise is 24 bits of a Philox word, and the launch
forbids the compiler to fuse multiplications with additions (``enable_fp_fusion=False``).

With ``TRITON_INTERPRET=1`` set before this module is imported the kernel runs on the CPU.
"""

from __future__ import annotations

import threading
from collections import deque

import torch
import triton
import triton.language as tl
from torch import Tensor

from talkhead.ops import landmark_mask

UNIT = tl.constexpr(landmark_mask.UNIT)
FAR = tl.constexpr(landmark_mask.FAR)
SATURATION = tl.constexpr(landmark_mask.SATURATION)
WEIGHT_SHIFT = tl.constexpr(2 * landmark_mask.TABLE_BITS - landmark_mask.WEIGHT_BITS - 32)
GROUP = tl.constexpr(64)
LARGEST_FLOAT = tl.constexpr(3.4028234663852886e38)
PER_255 = tl.constexpr(1 / 255)

Tile = tuple[int, int, int]
LARGE, SMALL = (16, 32, 2), (4, 64, 1)
"""Rows and columns of a tile and the warps that share it: the fastest of 22 on an H200 (docs/measurements)."""

FEW = 1056
"""Fewer large tiles than this leave some of a large card's multiprocessors without eight of them: take small ones."""

_arriving: deque[tuple[torch.cuda.Event, Tensor]] = deque()
_one_at_a_time = threading.Lock()  # asks what has arrived, and takes it


@triton.jit
def _quantise(px):
    """Return px in whole 1/256 px (see ``landmark_mask.quantise``)."""
    return tl.floor(tl.minimum(tl.maximum(px, -FAR), FAR) * UNIT + 0.5).to(tl.int32)


@triton.jit
def _reaching(landmarks, first, count, x0, y0, half, BLOCK_Y: tl.constexpr, BLOCK_X: tl.constexpr):
    """Look at landmarks first..first+63, one a lane: its bit if its window reaches the tile, and 1 if it is lost."""
    lane = tl.arange(0, GROUP)
    valid = first + lane < count
    x = tl.load(landmarks + 2 * (first + lane), mask=valid, other=0.0)
    y = tl.load(landmarks + 2 * (first + lane) + 1, mask=valid, other=0.0)
    finite = (tl.abs(x) <= LARGEST_FLOAT) & (tl.abs(y) <= LARGEST_FLOAT)
    column = (_quantise(tl.where(finite, x, -FAR)) + UNIT // 2) >> 8
    row = (_quantise(tl.where(finite, y, -FAR)) + UNIT // 2) >> 8
    reach_x = (column + half >= x0) & (column - half < x0 + BLOCK_X)
    reach_y = (row + half >= y0) & (row - half < y0 + BLOCK_Y)
    bit = tl.full([GROUP], 1, tl.int64) << lane
    return tl.where(reach_x & reach_y & valid, bit, 0), (valid & (finite == 0)).to(tl.int32)


@triton.jit
def _join(low, high, lost, low_too, high_too, lost_too):
    """Join the bits and the losses of two lanes."""
    return low | low_too, high | high_too, lost | lost_too


@triton.jit
def _draw(score, landmark, x, y, half, limit, table, SUM: tl.constexpr):
    """Add one landmark to the tile's score: 1 inside its disc ("max"), or its fixed-point weight ("sum").

    x is (1, columns) and y (rows, 1) from the start: a line turned on its side would go through shared memory.
    """
    u = _quantise(tl.load(landmark))
    v = _quantise(tl.load(landmark + 1))
    inside_x = tl.abs(x - ((u + UNIT // 2) >> 8)) <= half
    inside_y = tl.abs(y - ((v + UNIT // 2) >> 8)) <= half
    dx = x * UNIT - u
    dy = y * UNIT - v
    if SUM:
        factor_x = tl.load(table + tl.abs(dx), mask=inside_x, other=0).to(tl.uint32)
        factor_y = tl.load(table + tl.abs(dy), mask=inside_y, other=0).to(tl.uint32)
        factor_x = tl.broadcast_to(factor_x, score.shape)
        factor_y = tl.broadcast_to(factor_y, score.shape)
        weight = tl.umulhi(factor_x, factor_y) >> WEIGHT_SHIFT
        return tl.minimum(score + weight.to(tl.int32), SATURATION)
    else:
        squared_x = tl.where(inside_x, dx * dx, 2147483647)
        rest = tl.where(inside_y, limit - dy * dy, -1)
        return score | (squared_x <= rest).to(tl.int32)


@triton.jit
def _masked(
    score, landmarks, count, x, y, x0, y0, half, limit, table,
    SUM: tl.constexpr, BLOCK_Y: tl.constexpr, BLOCK_X: tl.constexpr,
):  # fmt: skip
    """Return the tile's score (masked where above the threshold), how many landmarks reach it, and if one is lost."""
    drawn = tl.zeros([], tl.int32)
    missing = tl.zeros([], tl.int32)
    first = tl.zeros([], tl.int32)
    while first < count:
        # Two groups at once: both are on their way before the first is waited for, and one reduction joins all.
        low, lost = _reaching(landmarks, first, count, x0, y0, half, BLOCK_Y, BLOCK_X)
        high, lost_too = _reaching(landmarks, first + GROUP, count, x0, y0, half, BLOCK_Y, BLOCK_X)
        low, high, lost = tl.reduce((low, high, lost | lost_too), 0, _join)
        missing = missing | lost
        while (low | high) != 0:
            start = tl.where(low != 0, 0, GROUP)
            bits = tl.where(low != 0, low, high)
            # The lowest set bit is a power of two (the highest of all a negative one): its place is the exponent.
            lowest = (bits & (-bits)).to(tl.float32).to(tl.int32, bitcast=True)
            place = first + start + ((lowest >> 23) & 255) - 127
            score = _draw(score, landmarks + 2 * place, x, y, half, limit, table, SUM)
            drawn += 1
            high = tl.where(low != 0, high, high & (high - 1))
            low = low & (low - 1)
        first += 2 * GROUP
    return tl.where(missing == 0, score, 0), drawn, missing


@triton.jit
def _picture(pointer, inside):
    """Load picture units 0..1 as float32."""
    value = tl.load(pointer, mask=inside, other=0)
    if pointer.dtype.element_ty == tl.uint8:
        return value.to(tl.float32) * PER_255
    else:
        return value.to(tl.float32)


@triton.jit
def _uniform(word):
    """Return U(0, 1) from a 32-bit word: its upper 24 bits times 2^-24."""
    return (word >> 8).to(tl.float32) * 5.9604644775390625e-08


@triton.jit
def _narrow(value, dtype: tl.constexpr, INTERPRETED: tl.constexpr):
    """Round float32 to nearest even; Triton's interpreter would cut bfloat16 off instead."""
    if INTERPRETED and dtype == tl.bfloat16:
        bits = value.to(tl.int32, bitcast=True)
        value = (bits + 32767 + ((bits >> 16) & 1) & -65536).to(tl.float32, bitcast=True)
    return value.to(dtype)


@triton.jit
def _loaded(CHANNEL: tl.constexpr, picture, channel, row, column, inside, y, x):
    """Load one channel of the tile from a picture with any strides, 0..1."""
    plane = picture + tl.full([], CHANNEL, tl.int64) * channel
    return _picture(plane + (y.to(tl.int64) * row + x.to(tl.int64) * column), inside)


@triton.jit
def _hidden_zero(value):
    """Return zeros that the compiler takes for something made of the picture until layouts are settled.

    So score and noise lie in the threads that load and write, four pixels in a row each; left to itself it gives them
    one pixel each, and every channel goes through shared memory on its way out.
    """
    return (value.to(tl.uint32, bitcast=True) & 0x7FFFFFFF) >> 31


@triton.jit
def _paint(value, CHANNEL: tl.constexpr, target, values, BLEND: tl.constexpr, INTERPRETED: tl.constexpr):
    """Write one channel of the tile, 0..1, scaled and blended."""
    clean, place, steps, stride, offset, inside, y, x = target
    clean_c, clean_h, clean_w = steps
    scale, low, weight_a, weight_b = values
    value = value * scale + low
    if BLEND:
        other = _loaded(CHANNEL, clean, clean_c, clean_h, clean_w, inside, y, x) * scale + low
        value = value * weight_b + other * weight_a
    pointer = place + CHANNEL * stride + offset
    tl.store(pointer, _narrow(value, place.dtype.element_ty, INTERPRETED), mask=inside)


@triton.jit
def _paint_noisy(
    word, first, CHANNEL: tl.constexpr, CHANNELS: tl.constexpr, noisy, picture, target, values,
    BLEND: tl.constexpr, INTERPRETED: tl.constexpr,
):  # fmt: skip
    """Write one channel of a tile that landmarks reach, if there is such a channel; the first has been loaded."""
    if CHANNEL < CHANNELS:
        value = first
        if CHANNEL > 0:
            value = _loaded(CHANNEL, *picture)
        _paint(tl.where(noisy, _uniform(word), value), CHANNEL, target, values, BLEND, INTERPRETED)


# Counts need no special code of their own: a height of 1 would even become a constant without a type. Strides and the
# width do: with a stride of 1 and whole lines of 16 a thread moves 16 bytes at once.
@triton.jit(do_not_specialize=["frames", "height", "count", "half", "limit"])
def mask_noise_kernel(
    video, video_b, video_t, video_c, video_h, video_w,
    clean, clean_b, clean_t, clean_c, clean_h, clean_w,
    landmarks, seed, frame_offset, a, b, table, out, mask_out, missing_out,
    frames, height, width, count, half, limit, scale, low,
    CHANNELS: tl.constexpr, SUM: tl.constexpr, BLEND: tl.constexpr, MASK: tl.constexpr,
    INTERPRETED: tl.constexpr, BLOCK_Y: tl.constexpr, BLOCK_X: tl.constexpr,
):  # fmt: skip
    """Paint one tile of one frame; the grid has one axis, for the others end at 65535: tiles of B * T frames."""
    tiles = tl.cdiv(width, BLOCK_X)
    all_tiles = tiles * tl.cdiv(height, BLOCK_Y)
    tile = tl.program_id(0) % all_tiles
    plane = (tl.program_id(0) // all_tiles).to(tl.int64)
    sample = plane // frames
    frame = plane % frames
    y0 = tile // tiles * BLOCK_Y
    x0 = tile % tiles * BLOCK_X
    down = tl.arange(0, BLOCK_Y)[:, None]
    # Four pixels in a row to a thread, also of bytes, of which it would take more: what it reads is what it writes.
    right = tl.max_contiguous(tl.arange(0, BLOCK_X)[None, :], [1, min(4, BLOCK_X)])
    y, x = y0 + down, x0 + right
    inside = (y < height) & (x < width)
    picture = (video + sample * video_b + frame * video_t, video_c, video_h, video_w, inside, y, x)
    first = _loaded(0, *picture)
    zero = _hidden_zero(first)
    score, drawn, missing = _masked(
        zero.to(tl.int32), landmarks + plane * count * 2, count, x, y, x0, y0, half, limit, table, SUM, BLOCK_Y, BLOCK_X
    )
    noisy = score > (limit if SUM else 0)
    tl.store(missing_out, 1, mask=(missing > 0) & (tile == 0))
    size = height.to(tl.int64) * width
    corner = y0.to(tl.int64) * width + x0
    offset = down * width + right  # from the tile's corner every pixel is near: 32 bits do
    if MASK:
        tl.store(mask_out + plane * size + corner + offset, noisy.to(tl.int8), mask=inside)
    stride = frames * size
    place = out + sample * CHANNELS * stride + frame * size + corner
    weight_a, weight_b = 0.0, 0.0
    if BLEND:
        weight_a, weight_b = tl.load(a + sample), tl.load(b + sample)
    steps = (clean_c, clean_h, clean_w)
    target = (clean + sample * clean_b + frame * clean_t, place, steps, stride, offset, inside, y, x)
    values = (scale, low, weight_a, weight_b)
    if drawn > 0:
        absolute = (tl.load(frame_offset + sample) + frame).to(tl.uint32)
        key = tl.load(seed + sample)
        counter_y, counter_x = zero + y.to(tl.uint32), zero + x.to(tl.uint32)
        for block in tl.static_range((CHANNELS + 3) // 4):
            w0, w1, w2, w3 = tl.philox(key, zero + absolute, counter_y, counter_x, zero + block)
            _paint_noisy(w0, first, 4 * block, CHANNELS, noisy, picture, target, values, BLEND, INTERPRETED)
            _paint_noisy(w1, first, 4 * block + 1, CHANNELS, noisy, picture, target, values, BLEND, INTERPRETED)
            _paint_noisy(w2, first, 4 * block + 2, CHANNELS, noisy, picture, target, values, BLEND, INTERPRETED)
            _paint_noisy(w3, first, 4 * block + 3, CHANNELS, noisy, picture, target, values, BLEND, INTERPRETED)
    else:
        _paint(first, 0, target, values, BLEND, INTERPRETED)
        for channel in tl.static_range(1, CHANNELS):
            _paint(_loaded(channel, *picture), channel, target, values, BLEND, INTERPRETED)


def mask_noise_fused(
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
    tile: Tile | None = None,
) -> tuple[Tensor, Tensor]:
    """Launch the kernel; arguments as the custom operator's, checked there.

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
        return_mask: whether the mask is written.
        tile: rows and columns of a tile, powers of two, and the warps that share it; None: by the size of the frames.
            The result does not depend on it.

    Returns:
        (B, C, T, H, W) frames and the (B, T, H, W) bool mask (empty where it was not asked for).
    """
    batch, num_frames, channels, height, width = video.shape
    out = video.new_empty((batch, channels, num_frames, height, width), dtype=dtype)
    mask = video.new_empty((batch, num_frames, height, width) if return_mask else (0,), dtype=torch.bool)
    if out.numel() == 0:
        return out, mask
    summed = overlap == "sum"
    half, limit, table = _thresholds(sigma, kernel_size, threshold, summed, landmarks)
    missing = torch.zeros(1, dtype=torch.int32, device=video.device)
    blended = video if clean is None else clean
    points = landmarks.detach().to(torch.float32).contiguous()
    rows, columns, warps = tile or fitting_tile(batch * num_frames, height, width)
    grid = (triton.cdiv(height, rows) * triton.cdiv(width, columns) * batch * num_frames,)
    with torch.cuda.device_of(video):
        mask_noise_kernel[grid](
            video, *video.stride(),
            blended, *blended.stride(),
            points, seed.contiguous(), frame_offset.contiguous(),
            out if a is None else a.contiguous(), out if b is None else b.contiguous(),
            table, out, mask.view(torch.int8), missing,
            num_frames, height, width, landmarks.shape[2], half, limit, high - low, low,
            CHANNELS=channels, SUM=summed, BLEND=clean is not None, MASK=return_mask,
            INTERPRETED=not video.is_cuda, BLOCK_Y=rows, BLOCK_X=columns, enable_fp_fusion=False,
            num_warps=warps,
        )  # fmt: skip
        _warn(missing)
    return out, mask


def fitting_tile(frames: int, height: int, width: int) -> Tile:
    """Return the tile for so many frames of a size: large, unless there would be too few of them to fill a card.

    On an H200, 16 frames of 128 px take 8.7 us in large tiles and 7.7 in small ones, 256 frames of 512 px 251 and 272.
    """
    tiles = frames * triton.cdiv(height, LARGE[0]) * triton.cdiv(width, LARGE[1])
    return SMALL if tiles < FEW else LARGE


def _thresholds(
    sigma: float, kernel_size: int, threshold: float, summed: bool, like: Tensor
) -> tuple[int, int, Tensor]:
    """Return the windows' half width in px, the limit, and the table of weights (unused for "max")."""
    if summed:
        table = landmark_mask.weight_table(sigma, kernel_size, like.device)
        return kernel_size // 2, landmark_mask.weight_limit(sigma, threshold), table
    limit = landmark_mask.disc_limit(sigma, threshold)
    half = landmark_mask.disc_half(kernel_size, limit)
    return half, limit, torch.empty(1, dtype=torch.int32, device=like.device)


def _warn(missing: Tensor) -> None:
    """Warn where a frame had no face: on the CPU at once, on a GPU when the flag has arrived, at a later call.

    Waiting for the flag would stop the GPU after every call.
    """
    if not missing.is_cuda:
        if missing.item():
            landmark_mask.warn_missing()
        return
    if torch.cuda.is_current_stream_capturing():
        return
    flag = torch.empty(1, dtype=torch.int32, pin_memory=True).copy_(missing, non_blocking=True)
    event = torch.cuda.Event()
    event.record()
    with _one_at_a_time:
        _arriving.append((event, flag))
        arrived = []
        while _arriving and _arriving[0][0].query():
            arrived.append(_arriving.popleft()[1].item())
    for missed in arrived:
        if missed:
            landmark_mask.warn_missing()
