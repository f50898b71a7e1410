"""A face's own coordinates: what is left of its landmarks without its place, its size and its roll."""

from __future__ import annotations

import torch
from torch import Tensor


def face_frame(landmarks: Tensor) -> tuple[Tensor, Tensor]:
    """Return the face's own coordinates: p = c + q M.

    Args:
        landmarks: (..., 68, 2) px.

    Returns:
        c (..., 1, 2) px, the mean of the points; M (..., 2, 2) px, a rotation (eyes level) times the size (root mean
        square distance of the points from c).
    """
    centre = landmarks.mean(-2, keepdim=True)
    size = (landmarks - centre).square().sum(-1).mean(-1).sqrt()
    across = landmarks[..., 42:48, :].mean(-2) - landmarks[..., 36:42, :].mean(-2)
    across = size.unsqueeze(-1) * across / across.norm(dim=-1, keepdim=True)
    down = torch.stack([-across[..., 1], across[..., 0]], dim=-1)
    return centre, torch.stack([across, down], dim=-2)


def to_face(landmarks: Tensor, frame: tuple[Tensor, Tensor]) -> Tensor:
    """Write (..., 68, 2) px in the coordinates of ``face_frame``: q = (p - c) M^-1; face sizes, no unit."""
    centre, axes = frame
    # M is a rotation times a size: its inverse is its transpose over the size squared.
    return (landmarks - centre) @ axes.mT / axes.square().sum((-2, -1), keepdim=True).mul(0.5)


def describe_portrait(identity: Tensor, size: float) -> Tensor:
    """Describe a portrait to the net: the face's shape, and how it stands in the picture.

    Args:
        identity: (B, 68, 2) px.
        size: width in px of the square picture.

    Returns:
        (B, 140): the coordinates q; the face's centre from the picture's middle in face sizes; the face's size over the
        picture's; the sine of the roll.
    """
    centre, axes = face_frame(identity)
    face = axes.square().sum((-2, -1)).mul(0.5).sqrt().unsqueeze(-1)
    place = (centre.squeeze(-2) - (size - 1) / 2) / face
    shape = to_face(identity, (centre, axes)).flatten(1)
    return torch.cat([shape, place, face / size, axes[:, 0, 1:] / face], dim=-1)
