"""A head's motion as eight numbers per frame, and the way back from them to 68 points.

The face at rest is z, its own coordinates those of ``face_frame``. A frame is read as

    p = c + s R(roll) (z + e - c) + d,

c the middle of the rigid points (nose and eye corners), and what is left, e, holds the turn of the head out of the
picture's plane, each point sideways by its depth times the yaw and downwards by its depth times the pitch, the brows'
height, and everything else (lips, jaw, lids), which this file does not touch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from talkhead.face.frame import face_frame, to_face, turn
from talkhead.face.points import EYE_CORNERS, EYELIDS, RIGID
from talkhead.face.similarity import Similarity, fit_similarity

STATE = ("right", "down", "size", "roll", "yaw", "pitch", "right brow", "left brow")
"""The numbers in order: shift in face sizes; logarithm of the size's change; radians clockwise; sines of the angles (in
the depths' unit, about right for anyone); height of the brows in face sizes, the person's right one first."""

BROWS = (slice(17, 22), slice(22, 27))
"""The person's right and left brow."""
NOSE_BASE = slice(29, 36)

# How far each point stands before the eyes, in face sizes: the neutral face of USC ICT FaceKit (MIT licence), made
# symmetric: right half of the jaw, nose and so on; mirrored below.
_JAW = (-1.02, -0.97, -0.86, -0.74, -0.56, -0.34, -0.08, 0.19, 0.22)
_BROW = (-0.24, -0.04, 0.11, 0.23, 0.27)
_NOSE = (0.28, 0.42, 0.56, 0.70, 0.30, 0.40, 0.43, 0.40, 0.30)
_EYE = (-0.11, 0.03, 0.06, 0.0, 0.03, 0.0)
_LEFT_EYE = (0.0, 0.06, 0.03, -0.11, 0.0, 0.03)
_LIPS = (0.18, 0.36, 0.46, 0.48, 0.46, 0.36, 0.18, 0.31, 0.40, 0.42, 0.40, 0.31)
_INNER_LIPS = (0.17, 0.34, 0.38, 0.34, 0.17, 0.33, 0.37, 0.33)
DEPTH = (*_JAW, *_JAW[-2::-1], *_BROW, *_BROW[::-1], *_NOSE, *_EYE, *_LEFT_EYE, *_LIPS, *_INNER_LIPS)


def read_head(landmarks: Tensor, identity: Tensor) -> Tensor:
    """Read the head's motion off a track.

    Args:
        landmarks: (..., T, 68, 2) px.
        identity: (..., 68, 2) px: the same face at rest.

    Returns:
        (..., T, 8), in the order of ``STATE``; all 0 where a frame is the face at rest.
    """
    z, w = _own(identity, identity).unsqueeze(-3), _own(landmarks, identity)
    head = _fit(z, w)
    e = _undone(head, w) - z
    modes = _turn_modes(identity)
    # Two unknowns, two equations: where the nose stands against the eyes.
    lever = _nose_from_eyes(modes)
    turned = torch.linalg.solve(lever.mT.unsqueeze(-3), _nose_from_eyes(e).unsqueeze(-1)).squeeze(-1)
    left = e - torch.einsum("...tm,...mkc->...tkc", turned, modes)
    eyes = left[..., list(EYE_CORNERS), 1].mean(-1)
    brows = torch.stack([eyes - left[..., brow, 1].mean(-1) for brow in BROWS], -1)
    pose = torch.stack([head.factor.abs().log(), head.factor.angle()], -1)
    return torch.cat([head(torch.zeros_like(w[..., :1, :]))[..., 0, :], pose, turned, brows], dim=-1)


def still_head(landmarks: Tensor, identity: Tensor) -> Tensor:
    """Take the motion that ``read_head`` reads out of a track; what lips, jaw and lids do stays.

    Args:
        landmarks: (..., T, 68, 2) px.
        identity: (..., 68, 2) px.

    Returns:
        (..., T, 68, 2) px.
    """
    z, w = _own(identity, identity).unsqueeze(-3), _own(landmarks, identity)
    return _picture(_undone(_fit(z, w), w) - _turned(read_head(landmarks, identity), identity), identity)


def move_head(landmarks: Tensor, identity: Tensor, state: Tensor) -> Tensor:
    """Put a head's motion on a track whose head is still: the inverse of ``read_head``.

    Args:
        landmarks: (..., T, 68, 2) px, such as ``still_head`` leaves.
        identity: (..., 68, 2) px.
        state: (..., T, 8).

    Returns:
        (..., T, 68, 2) px.

    Example:
        >>> face = torch.rand(68, 2) * 100
        >>> state = torch.randn(5, 8) * 0.02
        >>> moved = move_head(face.expand(5, 68, 2), face, state)
        >>> torch.allclose(still_head(moved, face), face.expand(5, 68, 2), atol=0.5)
        True
    """
    w = _own(landmarks, identity) + _turned(state, identity)
    cos, sin = state[..., 3].cos(), state[..., 3].sin()
    matrix = torch.stack([torch.stack([cos, sin], -1), torch.stack([-sin, cos], -1)], -2)
    w = state[..., 2].exp()[..., None, None] * turn(w, matrix) + state[..., None, :2]
    return _picture(w, identity)


def close_lids(landmarks: Tensor, closing: Tensor) -> Tensor:
    """Close the eyes by a share of their own opening, the upper lid doing most of the way, as eyelids do.

    Args:
        landmarks: (..., 68, 2) px.
        closing: (...) in [0, 1]; 0 changes nothing.

    Returns:
        (..., 68, 2) px.
    """
    moved = landmarks.clone()
    for upper, lower in EYELIDS:
        gap = closing.unsqueeze(-1).to(landmarks) * (landmarks[..., lower, :] - landmarks[..., upper, :])
        moved[..., upper, :] += 0.85 * gap
        moved[..., lower, :] -= 0.15 * gap
    return moved


def _turned(state: Tensor, identity: Tensor) -> Tensor:
    """Return (..., T, 68, 2): where yaw, pitch and brows take the points, in face sizes."""
    moved = torch.einsum("...tm,...mkc->...tkc", state[..., 4:6], _turn_modes(identity))
    for side, brow in enumerate(BROWS):
        moved[..., brow, 1] -= state[..., 6 + side, None]
    return moved


def _turn_modes(identity: Tensor) -> Tensor:
    """Return (..., 2, 68, 2): how the points move per unit of yaw and pitch, less what a similarity explains of it."""
    depth = torch.tensor(DEPTH).to(identity)
    small = 1e-3 * torch.stack([torch.stack([depth, 0 * depth], -1), torch.stack([0 * depth, depth], -1)])
    z = _own(identity, identity).unsqueeze(-3)
    return 1e3 * (_undone(_fit(z, z + small), z + small) - z)


def _nose_from_eyes(points: Tensor) -> Tensor:
    """Return (..., 2): the nose's middle less the eye corners' of (..., 68, 2)."""
    return points[..., NOSE_BASE, :].mean(-2) - points[..., list(EYE_CORNERS), :].mean(-2)


def _rigid_frame(identity: Tensor) -> tuple[Tensor, Tensor]:
    """Return the face's own coordinates about the middle of its rigid points."""
    return identity[..., list(RIGID), :].mean(-2, keepdim=True), face_frame(identity)[1]


def _own(landmarks: Tensor, identity: Tensor) -> Tensor:
    """Write px in the face's own coordinates, from the middle of its rigid points, in face sizes."""
    centre, axes = _rigid_frame(identity)
    if landmarks.ndim > identity.ndim:
        centre, axes = centre.unsqueeze(-3), axes.unsqueeze(-3)
    return to_face(landmarks, (centre, axes))


def _picture(own: Tensor, identity: Tensor) -> Tensor:
    """The inverse of ``_own`` for a (..., T, 68, 2) track."""
    centre, axes = _rigid_frame(identity)
    return centre.unsqueeze(-3) + turn(own, axes.unsqueeze(-3))


def _fit(z: Tensor, w: Tensor) -> Similarity:
    """Fit what takes the rigid points of a face at rest (their middle is the origin) to those of its frames."""
    return fit_similarity(z[..., list(RIGID), :], w[..., list(RIGID), :])


def _undone(head: Similarity, points: Tensor) -> Tensor:
    """Take a similarity off (..., 68, 2) points again."""
    scale = head.matrix.square().sum((-2, -1), keepdim=True).mul(0.5)
    return turn(points - head.target_mean, head.matrix.mT) / scale + head.source_mean
