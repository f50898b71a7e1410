"""What the renderer is told about each frame of a window."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor


@dataclass(frozen=True)
class Condition:
    """What the network is told about each frame, in the network's range [-1, 1] and layout.

    Attributes:
        noise: (B, 3, T, H, W) the mask-noised carrier n, the noise end of the process.
        carrier: (B, 3, T, H, W) the reference, repeated or warped to each frame's landmarks.
        channels: (B, C', T, H, W) condition channels put beside the sample; C' may be 0.
        picture: (B, 3, H, W) the reference itself; None where nobody asks for it.
        coarse: (B, C'', T, H / 2, W / 2) condition channels that are smooth, or None.
        field: (B, T, H, W, 2) px, the spline's displacement, or None.
        bank: (B, N, 4, T, H, W) further pictures of the person bent to each frame, with their shares, or None.
        likeness: (B, T) in [0, 1], how like a frame's mouth that of the most like picture is, or None.
    """

    noise: Tensor
    carrier: Tensor
    channels: Tensor
    picture: Tensor | None = None
    coarse: Tensor | None = None
    field: Tensor | None = None
    bank: Tensor | None = None
    likeness: Tensor | None = None

    _FRAME_AXIS: ClassVar = {"noise": 2, "carrier": 2, "channels": 2, "coarse": 2, "field": 1, "bank": 3, "likeness": 1}

    def frames(self, start: int, stop: int) -> Condition:
        """Return the condition of frames ``start`` to ``stop``."""
        return self._each(lambda own, axis, _: own.narrow(axis, start, stop - start), self)

    def join(self, following: Condition) -> Condition:
        """Return the condition of these frames and of those that follow, of the same picture."""
        return self._each(lambda own, axis, other: torch.cat((own, other), axis), following)

    def _each(self, change: Callable[[Tensor, int, Tensor], Tensor], other: Condition) -> Condition:
        pairs = {name: (getattr(self, name), axis, getattr(other, name)) for name, axis in self._FRAME_AXIS.items()}
        return replace(self, **{name: change(*pair) for name, pair in pairs.items() if pair[0] is not None})
