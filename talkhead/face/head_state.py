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
from talkhead.face.points import EYE_CORNERS, EYELIDS, RIGID, points_at
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


class RestingHead:
    """A face at rest, measured once: what its tracks' head motion is read against, taken out of and put on.

    Args:
        identity: (..., 68, 2) px.
    """

    def __init__(self, identity: Tensor) -> None:
        centre, axes = points_at(identity, RIGID).mean(-2, keepdim=True), face_frame(identity)[1]
        self._frame = centre.unsqueeze(-3), axes.unsqueeze(-3)  # origin in the middle of the rigid points, face sizes
        self._z = to_face(identity, (centre, axes)).unsqueeze(-3)
        self._modes = _turn_modes(self._z)
        # Two unknowns, two equations: where the nose stands against the eyes.
        self._lever = torch.linalg.inv(_nose_from_eyes(self._modes))

    def read(self, landmarks: Tensor) -> Tensor:
        """See ``read_head``."""
        return self.split(landmarks)[0]

    def split(self, landmarks: Tensor) -> tuple[Tensor, Tensor]:
        """Return what ``read_head`` and ``still_head`` return of a (..., T, 68, 2) px track."""
        w = to_face(landmarks, self._frame)
        head = _fit(self._z, w)
        undone = _undone(head, w)
        e = undone - self._z
        turned = turn(_nose_from_eyes(e), self._lever)
        left = e - self._sideways(turned)
        eyes = points_at(left, EYE_CORNERS)[..., 1].mean(-1)
        brows = torch.stack([eyes - left[..., brow, 1].mean(-1) for brow in BROWS], -1)
        pose = torch.stack([head.factor.abs().log(), head.factor.angle()], -1)
        shift = head(torch.zeros_like(w[..., :1, :]))[..., 0, :]
        state = torch.cat([shift, pose, turned, brows], dim=-1)
        return state, self._picture(undone - self._turned(state))

    def move(self, landmarks: Tensor, state: Tensor) -> Tensor:
        """See ``move_head``."""
        w = to_face(landmarks, self._frame) + self._turned(state)
        cos, sin = state[..., 3].cos(), state[..., 3].sin()
        matrix = torch.stack([torch.stack([cos, sin], -1), torch.stack([-sin, cos], -1)], -2)
        return self._picture(state[..., 2].exp()[..., None, None] * turn(w, matrix) + state[..., None, :2])

    def _sideways(self, turned: Tensor) -> Tensor:
        """Return (..., T, 68, 2): where (..., T, 2) yaw and pitch take the points, in face sizes."""
        yaw, pitch = (self._modes[..., None, axis, :, :] for axis in (0, 1))
        return turned[..., 0, None, None] * yaw + turned[..., 1, None, None] * pitch

    def _turned(self, state: Tensor) -> Tensor:
        """Return (..., T, 68, 2): where yaw, pitch and brows take the points, in face sizes."""
        moved = self._sideways(state[..., 4:6])
        for side, brow in enumerate(BROWS):
            moved[..., brow, 1] -= state[..., 6 + side, None]
        return moved

    def _picture(self, own: Tensor) -> Tensor:
        """Write a (..., T, 68, 2) track of the face's own coordinates in px."""
        return self._frame[0] + turn(own, self._frame[1])


def read_head(landmarks: Tensor, identity: Tensor) -> Tensor:
    """Read the head's motion off a track.

    Args:
        landmarks: (..., T, 68, 2) px.
        identity: (..., 68, 2) px: the same face at rest.

    Returns:
        (..., T, 8), in the order of ``STATE``; all 0 where a frame is the face at rest.
    """
    return RestingHead(identity).read(landmarks)


def still_head(landmarks: Tensor, identity: Tensor) -> Tensor:
    """Take the motion that ``read_head`` reads out of a track; what lips, jaw and lids do stays.

    Args:
        landmarks: (..., T, 68, 2) px.
        identity: (..., 68, 2) px.

    Returns:
        (..., T, 68, 2) px.
    """
    return RestingHead(identity).split(landmarks)[1]


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
    return RestingHead(identity).move(landmarks, state)


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


def _turn_modes(z: Tensor) -> Tensor:
    """Return (..., 2, 68, 2): how the points of (..., 1, 68, 2) move per unit of yaw and pitch, less a similarity."""
    depth = torch.tensor(DEPTH).to(z, non_blocking=True)
    small = 1e-3 * torch.stack([torch.stack([depth, 0 * depth], -1), torch.stack([0 * depth, depth], -1)])
    return 1e3 * (_undone(_fit(z, z + small), z + small) - z)


def _nose_from_eyes(points: Tensor) -> Tensor:
    """Return (..., 2): the nose's middle less the eye corners' of (..., 68, 2)."""
    return points[..., NOSE_BASE, :].mean(-2) - points_at(points, EYE_CORNERS).mean(-2)


def _fit(z: Tensor, w: Tensor) -> Similarity:
    """Fit what takes the rigid points of a face at rest (their middle is the origin) to those of its frames."""
    return fit_similarity(points_at(z, RIGID), points_at(w, RIGID))


def _undone(head: Similarity, points: Tensor) -> Tensor:
    """Take a similarity off (..., 68, 2) points again."""
    scale = head.matrix.square().sum((-2, -1), keepdim=True).mul(0.5)
    return turn(points - head.target_mean, head.matrix.mT) / scale + head.source_mean
