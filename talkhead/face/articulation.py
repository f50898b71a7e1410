"""How far a mouth moves: the swing of lips and jaw about their mean, for a voice that the net was not trained on.

A regression that hears a stranger is less sure and moves less than the stranger does. The lips' swing about their mean
posture is therefore widened; the posture itself, which belongs to the face, is not. What it is sure of is loudness,
which it follows more than people do: a part of that is taken away. Where the net's own speaker is one
whose lips a detector sees apart when they touch, narrow openings are closed further. Lips meet but never cross, unless
they do so at rest.
"""

from __future__ import annotations

import torch
from torch import Tensor

from talkhead.face.frame import eye_line, face_size, quarter_turn
from talkhead.face.head_state import RestingHead
from talkhead.face.mouth_gate import bring_together, gaps_between_lips
from talkhead.face.points import LOWER_JAW, MOUTH


def articulate(
    landmarks: Tensor,
    rest: Tensor,
    articulation: float = 1.0,
    habit: float = 1.0,
    closing: float = 0.0,
    restraint: float = 0.0,
    loudness: Tensor | None = None,
) -> Tensor:
    """Widen the mouth's swing, and keep a share of the head's motion.

    Args:
        landmarks: (T, 68, 2) px: a stretch of speech, long enough for its mean to be a posture (seconds).
        rest: (68, 2) px: the face at rest.
        articulation: gain of the swing of lips and lower jaw about their mean over the stretch.
        habit: gain of the head's and brows' motion from rest: 1 keeps what the net has learnt of its speaker, 0 holds
            the head still.
        closing: opening in face sizes under which lips close twice as fast, ``shut_narrow``; 0: as predicted.
        restraint: opening in face sizes that a sound of the speech level no longer brings, others in proportion to
            their amplitude.
        loudness: (T,) of the frames, dB relative to the speech level; None where there is no restraint.

    Returns:
        (T, 68, 2) px.
    """
    if articulation == habit == 1 and not closing and not restraint:
        return landmarks
    resting = RestingHead(rest)
    head, moved = resting.split(landmarks)
    for points in (LOWER_JAW, MOUTH):
        part = moved[:, points]
        moved[:, points] = torch.lerp(part.mean(0), part, articulation)
    if restraint:
        assert loudness is not None
        amplitude = 10 ** (loudness.to(moved) / 20)
        surplus = restraint * face_size(rest) * (amplitude - amplitude.mean())
        moved = bring_together(moved, surplus.view(-1, 1, 1) * _down(moved).expand(-1, 3, 2))
    if closing:
        moved = shut_narrow(moved, rest, closing)
    return resting.move(part_lips(moved, rest), habit * head)


def shut_narrow(landmarks: Tensor, rest: Tensor, closing: float) -> Tensor:
    """Close narrow openings further: an opening o below ``closing`` becomes 2 o - closing.

    Args:
        landmarks: (..., T, 68, 2) px.
        rest: (68, 2) px: its size is the unit.
        closing: where this begins, in face sizes (root mean square distance of the points from their mean).

    Returns:
        (..., T, 68, 2) px; lips that would cross are left to ``part_lips``.
    """
    return bring_together(landmarks, _short_of(landmarks, closing * face_size(rest)))


def widen_narrow(landmarks: Tensor, rest: Tensor, closing: float) -> Tensor:
    """Undo ``shut_narrow``: an opening o below ``closing`` becomes (o + closing) / 2, as its speaker's lips are seen.

    Args:
        landmarks: (..., T, 68, 2) px.
        rest: (68, 2) px: its size is the unit.
        closing: as there.

    Returns:
        (..., T, 68, 2) px.
    """
    return bring_together(landmarks, -_short_of(landmarks, closing * face_size(rest)) / 2)


def part_lips(landmarks: Tensor, rest: Tensor) -> Tensor:
    """Push lips that cross apart until they touch.

    Args:
        landmarks: (..., T, 68, 2) px.
        rest: (68, 2) px: lips that are closer together here may come as close again.

    Returns:
        (..., T, 68, 2) px.
    """
    least = (gaps_between_lips(rest) * _down(rest)).sum(-1).clamp(max=0.0)
    return bring_together(landmarks, -_short_of(landmarks, least))


def _short_of(landmarks: Tensor, opening: Tensor) -> Tensor:
    """Return (..., P, 2) px, downwards: what each gap between the lips lacks to ``opening`` px, 0 where it is wider."""
    down = _down(landmarks)
    gap = (gaps_between_lips(landmarks) * down).sum(-1)
    return (opening - gap).clamp_min(0).unsqueeze(-1) * down


def _down(landmarks: Tensor) -> Tensor:
    """Return (..., 1, 2): the unit vector from the eyes' line towards the chin."""
    return quarter_turn(torch.nn.functional.normalize(eye_line(landmarks), dim=-1)).unsqueeze(-2)
