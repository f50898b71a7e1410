"""A face's own coordinates: what is left of its landmarks without its place, its size and its roll."""

from __future__ import annotations

import torch
from torch import Tensor

from talkhead.face.points import (
    BROWS,
    CHIN_TIP,
    EYES,
    JAW_ENDS,
    LEFT_EYE,
    LOWER_INNER_LIP,
    LOWER_LIDS,
    MOUTH,
    MOUTH_CORNERS,
    NOSE_TIP,
    OUTER_LIP_PAIRS,
    RIGHT_EYE,
    UPPER_INNER_LIP,
    UPPER_LIDS,
    points_at,
)


def face_frame(landmarks: Tensor) -> tuple[Tensor, Tensor]:
    """Return the face's own coordinates: p = c + q M.

    Args:
        landmarks: (..., 68, 2) px.

    Returns:
        c (..., 1, 2) px, the mean of the points; M (..., 2, 2) px, a rotation (eyes level) times the size (root mean
        square distance of the points from c).
    """
    across = eye_line(landmarks)
    across = face_size(landmarks).unsqueeze(-1) * across / across.norm(dim=-1, keepdim=True)
    return landmarks.mean(-2, keepdim=True), torch.stack([across, quarter_turn(across)], dim=-2)


def face_size(landmarks: Tensor) -> Tensor:
    """Return the (...) px root mean square distance of (..., 68, 2) points from their mean."""
    return (landmarks - landmarks.mean(-2, keepdim=True)).square().sum(-1).mean(-1).sqrt()


def eye_line(landmarks: Tensor) -> Tensor:
    """Return the (..., 2) px from the middle of the right eye to that of the left: to the right in the picture."""
    return landmarks[..., LEFT_EYE, :].mean(-2) - landmarks[..., RIGHT_EYE, :].mean(-2)


def quarter_turn(vector: Tensor) -> Tensor:
    """Turn (..., 2) vectors from x (right) to y (down)."""
    return torch.stack([-vector[..., 1], vector[..., 0]], dim=-1)


def to_face(landmarks: Tensor, frame: tuple[Tensor, Tensor]) -> Tensor:
    """Write (..., 68, 2) px in the coordinates of ``face_frame``: q = (p - c) M^-1; face sizes, no unit."""
    centre, axes = frame
    # M is a rotation times a size: its inverse is its transpose over the size squared.
    return turn(landmarks - centre, axes.mT) / axes.square().sum((-2, -1), keepdim=True).mul(0.5)


def turn(points: Tensor, matrix: Tensor) -> Tensor:
    """Return (..., N, 2) points times (..., 2, 2): x @ M without a product that autocast or TF32 would round.

    Example:
        >>> turn(torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, 1.0], [-1.0, 0.0]])).tolist()
        [[-4.0, 3.0]]
    """
    return points[..., :1] * matrix[..., None, 0, :] + points[..., 1:] * matrix[..., None, 1, :]


def describe_portrait(reference_landmarks: Tensor, size: float) -> Tensor:
    """Describe a portrait to the net: the face's shape, and how it stands in the picture.

    Args:
        reference_landmarks: (B, 68, 2) px.
        size: width in px of the square picture.

    Returns:
        (B, 140): the coordinates q; the face's centre from the picture's middle in face sizes; the face's size over the
        picture's; the sine of the roll.
    """
    centre, axes = face_frame(reference_landmarks)
    face = axes.square().sum((-2, -1)).mul(0.5).sqrt().unsqueeze(-1)
    place = (centre.squeeze(-2) - (size - 1) / 2) / face
    shape = to_face(reference_landmarks, (centre, axes)).flatten(1)
    return torch.cat([shape, place, face / size, axes[:, 0, 1:] / face], dim=-1)


def summarize_portrait(reference_landmarks: Tensor, size: float) -> Tensor:
    """Describe a portrait by a few numbers that two hundred clips can teach what to make of.

    Args:
        reference_landmarks: (B, 68, 2) px.
        size: width in px of the square picture.

    Returns:
        (B, 22): the last four numbers of ``describe_portrait``; the left, upper, right and lower edge of the landmarks'
        box over the picture's width; of the shape q: the mouth's opening, centre, width and height, the brows above the
        eyes, the eyes' opening, the nose's tip from the eyes and the chin (which way the face looks), the sum of the
        jaw's two ends, the corners of the mouth above its centre.
    """
    described = describe_portrait(reference_landmarks, size)
    q = described[:, :136].unflatten(1, (68, 2))
    eyes, mouth = q[:, EYES].mean(1), q[:, MOUTH].mean(1)
    right_corner, left_corner = MOUTH_CORNERS
    upper_middle, lower_middle = OUTER_LIP_PAIRS[1]
    heights = [
        (points_at(q, LOWER_INNER_LIP) - points_at(q, UPPER_INNER_LIP))[..., 1].mean(1),
        q[:, left_corner, 0] - q[:, right_corner, 0],
        q[:, lower_middle, 1] - q[:, upper_middle, 1],
        q[:, BROWS, 1].mean(1) - eyes[:, 1],
        points_at(q, LOWER_LIDS)[..., 1].mean(1) - points_at(q, UPPER_LIDS)[..., 1].mean(1),
        points_at(q, MOUTH_CORNERS)[..., 1].mean(1) - mouth[:, 1],
    ]
    ends = q[:, JAW_ENDS[0]] + q[:, JAW_ENDS[1]]
    shape = [torch.stack(heights, dim=1), mouth, q[:, NOSE_TIP] - eyes, q[:, CHIN_TIP], ends]
    edges = (torch.cat([reference_landmarks.amin(1), reference_landmarks.amax(1)], dim=1) + 0.5) / size
    return torch.cat([described[:, 136:], edges, *shape], dim=1)
