"""A face that speaks while it wears an expression: the words keep the lips, the expression has the rest.

The expression's displacements d of the portrait's points, in px, ride on the moving head: turned and scaled by the
similarity that takes the portrait's nose and eye corners to the frame's. Two gaps belong to others:

* between the lips, to the words: it stays what speech leaves. Lips that touch keep touching, and the opening keeps its
  course. What moves both lips alike, and the corners, stays; what would part them is taken back by the upper lip for a
  third and by the lower for two thirds, the skin of the chin with it, as the chin raiser (AU17) pushes it.
* between the lids, to the blinks. With g the gap and r that of the portrait, it becomes g (1 + o / r): a closed eye is
  closed, however wide or narrow the expression makes it.

Last, brows come no nearer to the eyes than half of the portrait's own distance: nothing crosses.
"""

from __future__ import annotations

import torch
from torch import Tensor

from talkhead.face.mouth_gate import gaps_between_lips
from talkhead.face.points import CHIN, EYELIDS, INNER_LIP_PAIRS, LOWER_LIDS, OUTER_LIP_PAIRS, RIGID, UPPER_LIDS
from talkhead.face.similarity import fit_similarity

BROWS = ((17, 36), (18, 37), (19, 37), (20, 38), (21, 39), (22, 42), (23, 43), (24, 44), (25, 44), (26, 45))
"""Brow points and the eye point below each."""


def expressive_motion(landmarks: Tensor, portrait: Tensor, offsets: Tensor) -> Tensor:
    """Lay an expression over a face's motion.

    Args:
        landmarks: (T, 68, 2) px, the motion; each frame is treated alone.
        portrait: (68, 2) px, the face at rest.
        offsets: (T, 68, 2) px, the expression's displacements of the portrait's points at each frame.

    Returns:
        (T, 68, 2) px.
    """
    head = fit_similarity(portrait[list(RIGID)], landmarks[:, list(RIGID)])
    rest = head(portrait)
    offsets = spare_brows(rest, head.turn(offsets))
    moved = keep_lids(landmarks, offsets, rest)
    return keep_gap(moved, gaps_between_lips(moved) - gaps_between_lips(landmarks))


def keep_gap(landmarks: Tensor, surplus: Tensor) -> Tensor:
    """Take (T, 3, 2) px out of the gaps between the lips, without the jaw; see the module's docstring.

    `bring_together` is another thing: a mouth that speaks less, which the jaw closes.
    """
    moved = landmarks.clone()
    for pairs in (OUTER_LIP_PAIRS, INNER_LIP_PAIRS):
        for which, (upper, lower) in enumerate(pairs):
            moved[:, upper] += surplus[:, which] / 3
            moved[:, lower] -= 2 * surplus[:, which] / 3
    for (upper, lower), which in (((49, 59), 0), ((53, 55), 2)):  # the outer lips' points beside the corners
        moved[:, upper] += surplus[:, which] / 3
        moved[:, lower] -= surplus[:, which] / 3
    skin = torch.tensor([0.3, 0.7, 1.0, 0.7, 0.3]).to(landmarks)[:, None]
    moved[:, CHIN] -= 2 / 3 * skin * surplus.mean(1, keepdim=True)
    return moved


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


def share_blink(before: Tensor, after: Tensor, longest: Tensor) -> Tensor:
    """Let the lower lids do what of a blink's step would take the upper ones further than ``longest`` px.

    A wide eye's upper lid has further to go than the words' own blink took it. The gaps between the lids stay.

    Args:
        before: (1, 68, 2) px, the frame before.
        after: (1, 68, 2) px.
        longest: px.
    """
    steps = (after - before)[:, UPPER_LIDS]
    beyond = (1 - longest / steps.norm(dim=-1, keepdim=True).clamp_min(1e-6)).clamp_min(0) * steps
    if not beyond.any():
        return after
    after = after.clone()
    after[:, UPPER_LIDS] -= beyond
    after[:, LOWER_LIDS] -= beyond
    return after


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
