"""A face that speaks while it wears an expression: the words keep the lips, the expression has the rest.

The expression's displacements d of the portrait's points, in px, ride on the moving head: turned and scaled by the
similarity that takes the portrait's nose and eye corners to the frame's. Two gaps belong to others:

* between the lips, to the words. With g the gap that speech leaves between two facing points and o what the expression
  would add, the gap becomes g + k o, where k rises from 0 where the lips touch to 1 where they are wide apart, and k o
  is a fifth of g at most: lips that touch keep touching, the opening follows the same course, and no step is much
  longer than the words' own. What would close the lips further is left out; what moves both alike, and the corners,
  stays. A jaw that the expression drops, it drops by k alone.
* between the lids, to the blinks. With g the gap and r that of the portrait, it becomes g (1 + o / r): a closed eye is
  closed, however wide or narrow the expression makes it.

Last, brows come no nearer to the eyes than half of the portrait's own distance: nothing crosses.
"""

from __future__ import annotations

import torch
from torch import Tensor

from talkhead.face.frame import face_size
from talkhead.face.mouth_gate import bring_together, gaps_between_lips
from talkhead.face.points import EYELIDS, RIGID
from talkhead.face.similarity import fit_similarity

BROWS = ((17, 36), (18, 37), (19, 37), (20, 38), (21, 39), (22, 42), (23, 43), (24, 44), (25, 44), (26, 45))
"""Brow points and the eye point below each."""

TOUCHING = 0.035
"""How far apart a detector sees lips that touch, in face sizes; see `close_mouth`."""

APART = 0.25
"""Where lips are wide apart, in face sizes: an open vowel."""

WIDER = 0.2
"""The most that an expression opens the mouth beyond the words, as a share of what they open it."""


def expressive_motion(landmarks: Tensor, portrait: Tensor, offsets: Tensor, opening: Tensor) -> Tensor:
    """Lay an expression over a face's motion.

    Args:
        landmarks: (T, 68, 2) px, the motion; each frame is treated alone.
        portrait: (68, 2) px, the face at rest.
        offsets: (T, 68, 2) px, the expression's displacements of the portrait's points at each frame, without the jaw.
        opening: (T, 68, 2) px, those of the jaw that the expression drops.

    Returns:
        (T, 68, 2) px.
    """
    head = fit_similarity(portrait[list(RIGID)], landmarks[:, list(RIGID)])
    rest = head(portrait)
    offsets = spare_brows(rest, head.turn(offsets))
    moved = keep_lids(landmarks, offsets, rest)
    spoken, asked, jaw = gaps_between_lips(landmarks), gaps_between_lips(moved), head.turn(opening)
    wider = opening_part(asked - spoken, spoken)
    apart, added = lips_apart(landmarks), _mean(wider + gaps_between_lips(jaw))
    share = torch.minimum(apart, WIDER * _mean(spoken) / added.clamp_min(1e-6))
    return bring_together(moved, asked - spoken - share * wider) + share * jaw


def _mean(gaps: Tensor) -> Tensor:
    """Return the (T, 1, 1) mean length of (T, 3, 2) gaps."""
    return gaps.norm(dim=-1).mean(-1)[:, None, None]


def opening_part(added: Tensor, spoken: Tensor) -> Tensor:
    """Return what of (T, 3, 2) px added to the lips' gaps does not close them: the words alone may do that."""
    along = spoken / spoken.norm(dim=-1, keepdim=True).clamp_min(1e-6)
    return added - (added * along).sum(-1, keepdim=True).clamp_max(0) * along


def lips_apart(landmarks: Tensor) -> Tensor:
    """Return k, (T, 1, 1) in [0, 1]: 0 where the lips of (T, 68, 2) px touch, 1 where they are clearly apart."""
    gap = gaps_between_lips(landmarks).norm(dim=-1).mean(-1) / face_size(landmarks)
    return ((gap - TOUCHING) / (APART - TOUCHING)).clamp(0, 1)[:, None, None]


def keep_lids(landmarks: Tensor, offsets: Tensor, rest: Tensor) -> Tensor:
    """Add offsets, but give the gap between the lids back to the blinks: see the module's docstring.

    Args:
        landmarks: (T, 68, 2) px as spoken.
        offsets: (T, 68, 2) px.
        rest: (T, 68, 2) px, the portrait where the head is.
    """
    moved = landmarks + offsets
    for upper, lower in EYELIDS:
        open_by = (landmarks[:, lower] - landmarks[:, upper]).norm(dim=-1, keepdim=True)
        at_rest = (rest[:, lower] - rest[:, upper]).norm(dim=-1, keepdim=True).clamp_min(1e-3)
        surplus = (offsets[:, lower] - offsets[:, upper]) * (1 - (open_by / at_rest).clamp(0, 1))
        moved[:, upper] += surplus / 2
        moved[:, lower] -= surplus / 2
    return moved


def spare_brows(rest: Tensor, offsets: Tensor) -> Tensor:
    """Shorten what would bring the brows of (T, 68, 2) faces nearer to the eyes than half of their own distance."""
    offsets = offsets.clone()
    for brow, eye in BROWS:
        up = rest[:, brow] - rest[:, eye]
        height = up.norm(dim=-1, keepdim=True).clamp_min(1e-3)
        up = up / height
        nearer = -((offsets[:, brow] - offsets[:, eye]) * up).sum(-1, keepdim=True)
        offsets[:, brow] += (nearer - height / 2).clamp_min(0) * up
    return offsets
