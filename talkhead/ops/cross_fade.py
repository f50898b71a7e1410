"""A long sequence made window by window, without a seam."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor


def cross_faded(make: Callable[[int, int], Tensor], total: int, window: int, context: int) -> Iterator[Tensor]:
    """Make ``total`` frames window by window, each with ``context`` more at both sides, and fade over half of either.

    Args:
        make: returns the (high - low, ...) frames low..high-1.
        total: number of frames.
        window: frames of one window.
        context: frames heard before and after it.

    Yields:
        (t, ...) consecutive frames.
    """
    window = max(1, window)
    fade = min(context // 2, window // 4)
    start, held = 0, None
    while start < total:
        # A rest shorter than half a window joins the last one: short windows hear too little.
        stop = total if total - start < 1.5 * window else start + window
        low, high = max(0, start - context), min(total, stop + context)
        part = make(low, high)[max(0, start - fade) - low : min(total, stop + fade) - low]
        if held is not None and len(held):
            ramp = ((torch.arange(len(held)) + 0.5) / len(held)).view(-1, 1, 1).to(part)
            part = torch.cat([torch.lerp(held, part[: len(held)], ramp), part[len(held) :]])
        keep = len(part) if stop == total else len(part) - 2 * fade
        yield part[:keep]
        start, held = stop, part[keep:]
