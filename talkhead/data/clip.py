"""The one record that travels through the library, and the constants that go with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from talkhead.short_repr import short_repr

EMOTIONS = ("angry", "contempt", "disgusted", "fear", "happy", "neutral", "sad", "surprised")
"""MEAD's eight emotion labels in alphabetical order; an emotion's index is its place here."""

SAMPLE_RATE = 16_000
"""Audio samples per second, everywhere inside the library."""


@short_repr
@dataclass(frozen=True, eq=False)
class Clip:
    """A stretch of one person's video with its speech.

    A batch is the same record with a leading B in every tensor. Fields that a source does not have (a sound-only
    recording has no picture) are None.

    Attributes:
        audio: (S,) float32 mono waveform in [-1, 1] at 16 kHz.
        emotion: () int64 index into ``EMOTIONS``.
        fps: () float32 frames per second; 0 where there is no picture.
        samples: () int64 number of valid audio samples; the rest of ``audio`` is padding.
        frames: (T, 3, H, W) uint8 RGB, or None.
        landmarks: (T, 68, 2) float32 px, (x, y), origin at the centre of the top-left pixel; NaN where no face was
            found. None without picture.
        reference: (3, H, W) uint8 frame from elsewhere in the clip, or None.
        reference_landmarks: (68, 2) float32 px of ``reference``, or None.
        bank: (R, 3, H, W) uint8 further pictures of the same person, chosen for their mouths, or None.
        bank_landmarks: (R, 68, 2) float32 px of ``bank``; NaN where there is no R-th picture. Or None.
        names: the clips' names in their cache, where they have one.
    """

    audio: Tensor
    emotion: Tensor
    fps: Tensor
    samples: Tensor
    frames: Tensor | None = None
    landmarks: Tensor | None = None
    reference: Tensor | None = None
    reference_landmarks: Tensor | None = None
    bank: Tensor | None = None
    bank_landmarks: Tensor | None = None
    names: tuple[str, ...] = ()

    def to(self, device: torch.device | str, non_blocking: bool | None = None) -> Clip:
        """Return the record with every tensor on ``device``.

        Args:
            device: where to.
            non_blocking: let the copy to a GPU run beside what the host does next; None: where the record lies in
                page-locked memory. A copy from a GPU may only be read after a synchronisation, so None waits for it.
        """
        if non_blocking is None:
            non_blocking = self.audio.is_pinned()
        return self._each(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Clip:
        """Return the record in page-locked memory; data loaders call it before a copy to a GPU."""
        return self._each(Tensor.pin_memory)

    def first(self, count: int) -> Clip:
        """Return the batch's first ``count`` clips."""
        return replace(self._each(lambda tensor: tensor[:count]), names=self.names[:count])

    def _each(self, change: Callable[[Tensor], Tensor]) -> Clip:
        """Return the record with ``change`` applied to every tensor it has."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        changed: dict[str, Any] = {name: change(value) for name, value in values.items() if isinstance(value, Tensor)}
        return replace(self, **changed)


def emotion_probabilities(emotion: str | int | Tensor | list[float]) -> Tensor:
    """Turn any accepted way of naming an emotion into a probability vector.

    Args:
        emotion: a name from ``EMOTIONS``; an index tensor of any shape (int64); or 8 probabilities (last axis).

    Returns:
        (..., 8) float32 probabilities.

    Raises:
        ValueError: if the name is unknown, the last axis is not 8 long, or (on the CPU) values are no probabilities.

    Example:
        >>> emotion_probabilities("happy").argmax().item() == EMOTIONS.index("happy")
        True
    """
    if isinstance(emotion, str):
        if emotion not in EMOTIONS:
            raise ValueError(f"emotion must be one of {', '.join(EMOTIONS)}; got {emotion!r}")
        emotion = EMOTIONS.index(emotion)
    value = torch.as_tensor(emotion)
    # On a GPU the values are not looked at: the host would wait for the card. There one_hot stops at a wrong index.
    look = value.device.type == "cpu"
    if not value.is_floating_point():
        if look and ((value < 0) | (value >= len(EMOTIONS))).any():
            raise ValueError(f"emotion indices must lie in 0..{len(EMOTIONS) - 1}; got {value.tolist()}")
        return torch.nn.functional.one_hot(value.long(), len(EMOTIONS)).float()
    if value.shape[-1] != len(EMOTIONS):
        raise ValueError(f"emotion must have {len(EMOTIONS)} probabilities last; got shape {tuple(value.shape)}")
    if look and ((value < 0).any() or not torch.allclose(value.sum(-1), torch.ones(()).to(value), atol=1e-3)):
        raise ValueError(f"emotion probabilities must be >= 0 and sum to 1; got {value.tolist()}")
    return value.float()
