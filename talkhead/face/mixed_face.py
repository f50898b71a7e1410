"""A face that is nobody's: one person's pictures with another's features mixed in, moving as the first moves."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from talkhead.face.mouth_bank import bent_pictures, mouth_opening_map, nearest_mouths
from talkhead.face.points import BROWS, JAW
from talkhead.face.polygon import signed_distance

_INWARDS, _SOFTNESS = 2.0, 2.0
"""px at 128 px: how far inside jaw and brows the other face begins, and how softly."""
_STRIDE, _BASE_SIZE = 4, 128


def mixed_face(frames: Tensor, landmarks: Tensor, others: Tensor, other_landmarks: Tensor, amount: Tensor) -> Tensor:
    """Mix a second person's face into pictures of the first.

    Each picture takes that one of the second person's whose mouth is most like its own, bends it to its landmarks,
    brings it to its own mean colour and mixes it in between jaw and brows, but not between open lips: the mouth's
    inside stays one person's, for that of another rarely opens as far.

    Args:
        frames: (B, T, 3, H, W) float in [0, 1].
        landmarks: (B, T, 68, 2) px; NaN: nothing is known of the picture, and it is left as it is.
        others: (B, R, 3, H, W) of the second person.
        other_landmarks: (B, R, 68, 2) px; NaN: no picture there.
        amount: (B,) in [0, 1], the second person's share.

    Returns:
        (B, T, 3, H, W) float in [0, 1].
    """
    index = nearest_mouths(other_landmarks, landmarks, 1)[0]
    bent = bent_pictures(others, other_landmarks, index, landmarks)[:, :, 0]
    mask = _inside(landmarks, (frames.shape[-2], frames.shape[-1]))
    weight = mask.sum((-1, -2)).clamp_min(1e-6)
    mean_own, mean_bent = ((x * mask).sum((-1, -2)) / weight for x in (frames, bent))
    bent = (bent + (mean_own - mean_bent).mean(1, keepdim=True)[..., None, None]).clamp(0, 1)
    return torch.lerp(frames, bent, mask * amount[:, None, None, None, None])


def _inside(landmarks: Tensor, size: tuple[int, int]) -> Tensor:
    """Return (B, T, 1, H, W) in [0, 1]: 1 in the face but for an open mouth, 0 outside and where nothing is known."""
    unit, known = size[0] / _BASE_SIZE, landmarks.isfinite().all(-1).all(-1)
    points = torch.nan_to_num(landmarks)
    outline = torch.cat([points[..., JAW, :], points[..., BROWS, :].flip(-2)], -2)
    distance = F.interpolate(signed_distance(outline, size, _STRIDE), size, mode="bilinear", align_corners=False)
    face = torch.sigmoid((-distance - _INWARDS * unit) / (_SOFTNESS * unit))
    face = face * (1 - mouth_opening_map(points, size)) * known[..., None, None]
    return rearrange(face, "b t h w -> b t 1 h w")
