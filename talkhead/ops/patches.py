"""Blocks of patch x patch px folded into channels, and back: what stands before and after a U-Net's convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import torch
from einops import rearrange, repeat
from torch import Tensor

_WORDS = {4: torch.int32, 8: torch.int64, 16: torch.complex128}
"""Types that hold so many bytes: a block's row is moved as one of them, not as its numbers one by one."""


def fold(videos: Sequence[Tensor], patch: int) -> Tensor:
    """Fold blocks of patch x patch px of (B, C, T, H, W) videos into channels, as ``pixel_unshuffle`` does.

    Args:
        videos: several whose channels are put one behind the other.
        patch: px.

    Returns:
        (B T, C patch^2, H / patch, W / patch), C the sum of all, channels last, in autocast's type.
    """
    kind = videos[0].device.type
    if torch.is_autocast_enabled(kind):
        videos = [video.to(torch.get_autocast_dtype(kind)) for video in videos]
    video = videos[0] if len(videos) == 1 else torch.cat(list(videos), 1)
    word = _word(video, patch)
    if word is None:
        rows = rearrange(video, "b c t (h p) (w q) -> (b t) h w (c p q)", p=patch, q=patch)
    else:
        words = rearrange(video.contiguous().view(word), "b c t (h p) w -> (b t) h w (c p)", p=patch)
        rows = words.contiguous().view(video.dtype)
    return rearrange(rows, "n h w c -> n c h w")


def unfold(pictures: Tensor, patch: int, frames: int) -> Tensor:
    """Turn (B T, C patch^2, h, w) back into a (B, C, T, h patch, w patch) video, as ``pixel_shuffle`` does."""
    word = _word(pictures, patch)
    if word is None:
        return rearrange(pictures, "(b t) (c p q) h w -> b c t (h p) (w q)", t=frames, p=patch, q=patch)
    words = rearrange(pictures, "n c h w -> n h w c").contiguous().view(word)
    rows = rearrange(words, "(b t) h w (c p) -> b c t (h p) w", t=frames, p=patch)
    return rows.contiguous().view(pictures.dtype)


def finer_in(weight: Tensor, patch: int, factor: int) -> Tensor:
    """Return the weights by which a convolution of folded blocks sees ``factor`` times as fine pixels as before.

    Each fine pixel has an equal share of the coarse one's weight: it answers as it did to the blocks' means.

    Args:
        weight: (O, C patch^2, kh, kw) of a convolution after ``fold``.
        patch: px, the side of the blocks it was made for.
        factor: how many times as fine the pixels are, and as large the blocks.

    Returns:
        (O, C (factor patch)^2, kh, kw).
    """
    parts = weight.unflatten(1, (-1, patch, patch)) / factor**2
    return repeat(parts, "o c i j k l -> o (c i p j q) k l", p=factor, q=factor)


def check_sides(name: str, sides: Sequence[int], multiple: int) -> None:
    """Refuse pictures whose sides blocks, and blocks of blocks, do not fill.

    Args:
        name: what the sides were given as.
        sides: px.
        multiple: px.

    Raises:
        ValueError: if one is no multiple; the message names the nearest that are.
    """
    for side in sides:
        if side < 1 or side % multiple:
            below = max(side // multiple * multiple, 0)
            near = " or ".join(str(fit) for fit in (below, below + multiple) if fit)
            raise ValueError(f"{name} must be a multiple of {multiple} px; got {side}: take {near}")


def finer_out(weight: Tensor, patch: int, factor: int) -> Tensor:
    """Return the weights, or bias, by which a convolution before ``unfold`` says of fine pixels what it said of coarse.

    Args:
        weight: (C patch^2, ...).
        patch: px, the side of the blocks it was made for.
        factor: how many times as fine the pixels are.

    Returns:
        (C (factor patch)^2, ...).
    """
    parts = weight.unflatten(0, (-1, patch, patch))
    return repeat(parts, "c i j ... -> (c i p j q) ...", p=factor, q=factor)


def block_means(pictures: Tensor, side: int) -> Tensor:
    """Return the means (..., H / side, W / side) of blocks of side x side px, as ``avg_pool2d`` does, of any strides.

    Sums of every ``side``-th pixel take a CPU a quarter of the time of its pooling.
    """
    if side == 1:
        return pictures
    parts = (pictures[..., row::side, column::side] for row in range(side) for column in range(side))
    return reduce(torch.add, parts) / side**2


def _word(tensor: Tensor, patch: int) -> torch.dtype | None:
    """Return the type that holds a block's row; None where there is none, or gradients or a graph must pass."""
    graph = torch.compiler.is_compiling() or (tensor.requires_grad and torch.is_grad_enabled())
    return None if graph else _WORDS.get(patch * tensor.element_size())
