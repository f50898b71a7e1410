"""Another size of what a face does, and another face that does it.

A 2-D point (x, y) is written as the complex number x + iy, so that a similarity (rotation, scale, shift) is
``w = a z + b`` with complex a, b; a's modulus is the scale and its argument the rotation.
"""

from __future__ import annotations

from numbers import Real

import torch
from torch import Tensor

from talkhead.face.articulation import part_lips
from talkhead.face.points import BROWS, EYES, LOWER_JAW, MOUTH, RIGID
from talkhead.face.similarity import fit_similarity


def check_gain(name: str, gain: float) -> None:
    """Raise a ValueError where a gain is not from 0 to 10: beyond that points leave the face, and sums overflow."""
    if not isinstance(gain, Real) or not 0 <= gain <= 10:
        raise ValueError(f"{name} must be a gain from 0 to 10 (1 changes nothing); got {gain!r}")


def retarget(landmarks: Tensor, reference_landmarks: Tensor, face: Tensor) -> Tensor:
    """Carry the displacements of one face over to another, turned and scaled by the faces' similarity.

    Args:
        landmarks: (..., T, 68, 2) px: one face moving.
        reference_landmarks: (68, 2) px: that face at rest.
        face: (68, 2) px: the other face at rest.

    Returns:
        (..., T, 68, 2) px: the other face moving.
    """
    return face + fit_similarity(reference_landmarks, face).turn(landmarks - reference_landmarks)


def motion_gains(
    landmarks: Tensor,
    reference_landmarks: Tensor,
    *,
    mouth: float = 1.0,
    pose: float = 1.0,
    blink: float = 1.0,
    brow: float = 1.0,
) -> Tensor:
    """Scale what the mouth, the head, the eyelids and the brows do, relative to the face at rest.

    Each frame is ``c + a (z - c + e) + d``: z the face at rest, c the middle of its rigid points, (a, d) the head's
    pose, e the expression. A gain multiplies e (mouth with the lower jaw; eyelids; brows) or raises the pose to its
    power. Lips that a gain above 1 would have cross touch, or lie as they lay.

    Args:
        landmarks: (T, 68, 2) px.
        reference_landmarks: (68, 2) px: the face at rest.
        mouth: gain of lips and lower jaw; 0 keeps them at rest, 1 changes nothing.
        pose: gain of the head's rotation, scale and shift.
        blink: gain of the eyelids.
        brow: gain of the brows.

    Returns:
        (T, 68, 2) px.

    Raises:
        ValueError: if a gain is not a number from 0 to 10.
    """
    for name, gain in (("mouth", mouth), ("pose", pose), ("blink", blink), ("brow", brow)):
        check_gain(name, gain)
    if mouth == pose == blink == brow == 1:
        return landmarks
    centre = reference_landmarks[RIGID, :].mean(0)
    z, w = _complex(reference_landmarks - centre), _complex(landmarks - centre)
    head = fit_similarity(reference_landmarks[RIGID, :] - centre, landmarks[:, RIGID] - centre)
    a, shift = head.factor, _complex(head.target_mean)[:, 0]  # the source's mean is 0
    expression = (w - shift[:, None]) / a[:, None] - z
    turned = torch.polar(a.abs() ** pose, a.angle() * pose)
    w = turned[:, None] * (z + expression * _gain_per_point(mouth, blink, brow).to(z.device)) + pose * shift[:, None]
    moved = _real(w) + centre
    return part_lips(moved, landmarks) if mouth > 1 else moved


def _complex(points: Tensor) -> Tensor:
    return torch.view_as_complex(points.contiguous())


def _real(points: Tensor) -> Tensor:
    return torch.view_as_real(points.resolve_conj())


def _gain_per_point(mouth: float, blink: float, brow: float) -> Tensor:
    gain = torch.ones(68)
    gain[LOWER_JAW] = mouth
    gain[[LOWER_JAW.start, LOWER_JAW.stop - 1]] = (1 + mouth) / 2  # its ends go half the way
    gain[MOUTH] = mouth
    gain[EYES] = blink
    gain[BROWS] = brow
    return gain
