"""What leaves a live face: motion that can be painted, and frames."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from talkhead.short_repr import short_repr


@short_repr
@dataclass(frozen=True, eq=False)
class LiveFrames:
    """The frames that leave at one time.

    Attributes:
        frames: (T, H, W, 3) uint8 RGB, T >= 0.
        landmarks: (T, 68, 2) px of ``frames``.
        audio: (S,) float32 their sound at 16 kHz.
        start: number of the first of them since the stream began.
    """

    frames: Tensor
    landmarks: Tensor
    audio: Tensor
    start: int


@short_repr
@dataclass(frozen=True, eq=False)
class LiveMotion:
    """Frames that can be painted.

    Attributes:
        landmarks: (T, 68, 2) px of the painted square, T >= 0.
        audio: (S,) float32 their sound at 16 kHz.
        start: number of the first of them since the stream began.
    """

    landmarks: Tensor
    audio: Tensor
    start: int

    def join(self, following: LiveMotion) -> LiveMotion:
        """Return these frames and those that follow."""
        landmarks = torch.cat((self.landmarks, following.landmarks))
        return LiveMotion(landmarks, torch.cat((self.audio, following.audio)), self.start)
