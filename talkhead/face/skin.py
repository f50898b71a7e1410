"""The colour of a face's skin, where it does not move with the mouth, and what brings one light to another."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from talkhead.face.points import JAW, LEFT_EYE, MOUTH_CORNERS, NOSE, RIGHT_EYE

_CHEEK = ((0.5, 0.3, 0.2, 0.0), (0.4, 0.2, 0.4, 0.0), (0.3, 0.5, 0.2, 0.0), (0.35, 0.15, 0.2, 0.3))
"""Shares of eye, jaw's upper end, nostril and corner of the mouth in each spot on a cheek."""
_SPOT = 5  # px at 128 px: the side of a spot
_BASE_SIZE = 128
_SAME_LIGHT = 0.03
"""A head that moves changes its own colour by this much; only what differs by more was taken in another light."""
_GAINS = (0.3, 3.0)
"""No light is believed to be weaker or stronger than this."""


def skin_colour(pictures: Tensor, landmarks: Tensor) -> Tensor:
    """Return the mean colour of the nose's bridge and the cheeks.

    Args:
        pictures: (N, 3, H, W) float.
        landmarks: (N, 68, 2) px.

    Returns:
        (N, 3), in the pictures' range.
    """
    height, width = pictures.shape[-2:]
    reach = round((_SPOT - 1) / 2 * width / _BASE_SIZE)
    steps = torch.arange(-reach, reach + 1, device=pictures.device)
    around = torch.stack(torch.meshgrid(steps, steps, indexing="xy"), -1).flatten(0, 1)
    places = _spots(landmarks)[:, :, None] + around
    unit = torch.stack([torch.full((), 2 / side, device=pictures.device) for side in (width, height)])
    grid = (places + 0.5) * unit - 1
    return F.grid_sample(pictures, grid, padding_mode="border", align_corners=False).mean((-1, -2))


def beyond(change: Tensor, same: float | Tensor) -> Tensor:
    """Return d^3 / (d^2 + s^2) of a change d: little of what is within s, nearly all of what is far beyond."""
    return change**3 / (change**2 + same**2)


def with_skin_of(portrait: Tensor, portrait_landmarks: Tensor, pictures: Tensor, landmarks: Tensor) -> Tensor:
    """Give pictures of a person the light of a portrait of the same person, one gain for each channel.

    Args:
        portrait: (B, 3, H, W) float in [0, 1].
        portrait_landmarks: (B, 68, 2) px.
        pictures: (B, R, 3, H, W) float in [0, 1].
        landmarks: (B, R, 68, 2) px; NaN: no picture there.

    Returns:
        (B, R, 3, H, W). Of the skin's ratio less one there remains what is `beyond` a head's own movement: pictures out
        of one video stay what they are.
    """
    want = skin_colour(portrait, portrait_landmarks)[:, None]
    have = skin_colour(pictures.flatten(0, 1), torch.nan_to_num(landmarks).flatten(0, 1)).view(*pictures.shape[:3])
    away = (want.clamp_min(1e-2) / have.clamp_min(1e-2)).clamp(*_GAINS) - 1
    return pictures * (1 + beyond(away, _SAME_LIGHT))[..., None, None]


def _spots(landmarks: Tensor) -> Tensor:
    """Return (N, P, 2) px: three places on the nose's bridge, four on either cheek."""
    jaw, nose = landmarks[:, JAW], landmarks[:, NOSE]
    found = [nose[:, 1:4]]
    sides = (
        (RIGHT_EYE, jaw[:, 1:3], nose[:, 4], MOUTH_CORNERS[0]),
        (LEFT_EYE, jaw[:, 14:16], nose[:, 8], MOUTH_CORNERS[1]),
    )
    for eye, ends, nostril, corner in sides:
        places = torch.stack([landmarks[:, eye].mean(1), ends.mean(1), nostril, landmarks[:, corner]], 1)
        found.append(torch.tensor(_CHEEK).to(landmarks, non_blocking=True) @ places)
    return torch.cat(found, 1)
