"""A stream of frames cut into segments, and the weights by which what two windows say of a frame is mixed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor


def cut_segments(landmarks: Iterable[Tensor], length: int, overlap: int) -> Iterator[tuple[Tensor, bool]]:
    """Cut a stream of frames into segments of ``length``; the last has up to ``length + overlap`` frames.

    A segment is given away only when more than ``overlap`` frames follow it, so that no window adds fewer.

    Args:
        landmarks: chunks (t, ...) of any t, in order.
        length: frames of a segment.
        overlap: frames that a window takes from the next segment.

    Yields:
        (frames of the segment, whether it is the last).
    """
    held: Tensor | None = None
    for chunk in landmarks:
        held = chunk if held is None else torch.cat((held, chunk))
        while len(held) > length + overlap:
            yield held[:length], False
            held = held[length:]
    if held is not None and len(held):
        yield held, True


def crossfade(overlap: int) -> Tensor:
    """Return the (overlap,) weights of the newer window: a squared sine, rising, symmetric about 1/2.

    Example:
        >>> crossfade(3)
        tensor([0.1464, 0.5000, 0.8536])
    """
    place = torch.arange(1, overlap + 1, dtype=torch.float64) / (overlap + 1)
    return (torch.sin(place * torch.pi / 2) ** 2).float()
