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


def skin_colour(pictures: Tensor, landmarks: Tensor) -> Tensor:
    """Return the mean colour of the nose's bridge and the cheeks.

    Args:
        pictures: (N, 3, H, W) float.
        landmarks: (N, 68, 2) px.

    Returns:
        (N, 3), in the pictures' range.
    """
    side = max(1, round(_SPOT * pictures.shape[-1] / _BASE_SIZE)) // 2 * 2 + 1
    spots = F.avg_pool2d(pictures, side, 1, side // 2, count_include_pad=False)
    size = torch.tensor([pictures.shape[-1], pictures.shape[-2]]).to(landmarks, non_blocking=True)
    grid = (_spots(landmarks) + 0.5) / size * 2 - 1
    found = F.grid_sample(spots, grid[:, None], padding_mode="border", align_corners=False)
    return found[:, :, 0].mean(-1)


def in_the_light_of(pictures: Tensor, landmarks: Tensor, portrait: Tensor, portrait_landmarks: Tensor) -> Tensor:
    """Give pictures of a person the light of another picture of the same person, channel by channel.

    Args:
        pictures: (B, R, 3, H, W) float in [0, 1].
        landmarks: (B, R, 68, 2) px; NaN: no picture there.
        portrait: (B, 3, H, W) float in [0, 1].
        portrait_landmarks: (B, 68, 2) px.

    Returns:
        (B, R, 3, H, W), each channel times g = 1 + d^3 / (d^2 + s^2), d how far the skin's ratio is from one and s what
        a head's own movement does: pictures out of one video stay what they are.
    """
    want = skin_colour(portrait, portrait_landmarks)[:, None]
    have = skin_colour(pictures.flatten(0, 1), torch.nan_to_num(landmarks).flatten(0, 1)).view(*pictures.shape[:3])
    away = (want.clamp_min(1e-2) / have.clamp_min(1e-2)).clamp(*_GAINS) - 1
    gain = 1 + away**3 / (away**2 + _SAME_LIGHT**2)
    return pictures * gain[..., None, None]


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
