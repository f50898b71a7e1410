"""The 68 landmarks by name: every index that the library knows of them stands here.

The order is that of iBUG's 300-W (Sagonas et al., 2013), which dlib and face-alignment answer in. "Left" and "right"
are the person's own: the right eye stands on the left of the picture.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

JAW = slice(0, 17)
"""From the right ear along the chin to the left ear."""
BROWS = slice(17, 27)
RIGHT_BROW, LEFT_BROW = slice(17, 22), slice(22, 27)
NOSE = slice(27, 36)
"""Bridge from above (4 points), then the nostrils' line."""
EYES = slice(36, 48)
OUTER_LIP = slice(48, 60)
INNER_LIP = slice(60, 68)

PARTS = (JAW, BROWS, NOSE, EYES, OUTER_LIP, INNER_LIP)
"""The six parts of a face: together all points, each once."""

RIGHT_EYE, LEFT_EYE = slice(36, 42), slice(42, 48)
EYE_CORNERS = (36, 39, 42, 45)
EYELIDS = ((37, 41), (38, 40), (43, 47), (44, 46))
"""Pairs of an upper and a lower eyelid's point that face each other."""
UPPER_LIDS, LOWER_LIDS = [upper for upper, _ in EYELIDS], [lower for _, lower in EYELIDS]

MOUTH = slice(48, 68)
"""The outer and the inner lip."""
MOUTH_CORNERS = (48, 54)
"""Right and left, of the outer lip."""
UPPER_LIP = (48, 49, 50, 51, 52, 53, 54)
"""The outer edge of the lip that moves with the skull, and its corners."""
OUTER_LIP_PAIRS = ((50, 58), (51, 57), (52, 56))
"""Points of the upper and the lower lip's outer edge that face each other, right, middle, left."""
INNER_LIP_PAIRS = ((61, 67), (62, 66), (63, 65))
"""The same of the inner edges, beside those of ``OUTER_LIP_PAIRS``."""
UPPER_INNER_LIP, LOWER_INNER_LIP = [upper for upper, _ in INNER_LIP_PAIRS], [lower for _, lower in INNER_LIP_PAIRS]

NOSE_TIP = 30
CHIN_TIP = 8
CHIN = slice(6, 11)
"""The five points that fall with the lower lip."""
LOWER_JAW = slice(3, 14)
"""The points that follow the mouth when it opens wide."""
JAW_ENDS = (0, 16)
LOWER_FACE = (*range(4, 13), 35, 33, 31)
"""An outline: along the jaw below the cheeks, and back under the nose."""

RIGID = (*range(27, 36), *EYE_CORNERS)
"""Nose and eye corners: they move with the head, hardly with speech, and not with a blink."""
NOSE_AND_EYES = slice(27, 48)
"""Nose and eyes with their lids: more points than ``RIGID``, that speech does not move either."""


def _mirror() -> tuple[int, ...]:
    """Return the index of each point's partner across the face's midline."""
    order = list(range(68))
    pairs = [(i, 16 - i) for i in range(8)] + [(17 + i, 26 - i) for i in range(5)]
    pairs += [(31, 35), (32, 34), (36, 45), (37, 44), (38, 43), (39, 42), (40, 47), (41, 46)]
    pairs += [(48, 54), (49, 53), (50, 52), (59, 55), (58, 56), (60, 64), (61, 63), (67, 65)]
    for a, b in pairs:
        order[a], order[b] = b, a
    return tuple(order)


MIRROR = _mirror()
"""``points_at(landmarks, MIRROR)`` renames the points after a left-right flip."""


def points_at(landmarks: Tensor, which: Sequence[int]) -> Tensor:
    """Return points by their numbers, in the order given.

    The same as ``landmarks[..., which, :]``, for which a host would wait: torch copies a list to a card and waits.

    Args:
        landmarks: (..., 68, D).
        which: N numbers from 0 to 67.

    Returns:
        (..., N, D), a copy.
    """
    return landmarks.index_select(-2, torch.tensor(which).to(landmarks.device, non_blocking=True))
