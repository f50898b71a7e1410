"""Further pictures of a person, each bent to the frame where its mouth is most like the frame's: real teeth to copy."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from talkhead.face.crop import Crop, crop_frames, to_crop
from talkhead.face.frame import eye_line, quarter_turn
from talkhead.face.mouth_gate import gaps_between_lips
from talkhead.face.points import EYES, INNER_LIP, MOUTH_CORNERS, NOSE_TIP, OUTER_LIP, OUTER_LIP_PAIRS
from talkhead.face.polygon import signed_distance
from talkhead.face.skin import with_skin_of
from talkhead.face.warp import sample, thin_plate_spline_field

_TOLERANCE = 0.1
"""In eye distances: mouths that differ by this much are of little use to each other."""
_CHOICE = 0.05
"""In eye distances: a picture that differs by this from the frame has 0.61 of the share of one that does not."""
_OWN_LIGHT = 1.0
"""The portrait has e times the share of a picture that is as like the frame: it is of the frame's day and light."""
_LIPS, _LOWER_FACE = (4.0, 1.5), (16.0, 4.0)
"""px at 128 px: how far beyond the lips what changes with the mouth reaches, and how softly that ends."""
_STRIDE = 4
"""px between the places where the distance to the lips is measured; it is interpolated between them."""
_BASE_SIZE = 128

Bank = tuple[Tensor, Tensor]
"""(R, 3, S, S) uint8 pictures of a person and their (R, 68, 2) px."""


def mouth_shape(landmarks: Tensor) -> Tensor:
    """Return how open and how wide a mouth is, in eye distances: inner height, outer height, width.

    Args:
        landmarks: (..., 68, 2) px.

    Returns:
        (..., 3); NaN where the landmarks are.
    """
    eyes = eye_line(landmarks).norm(dim=-1)
    inner = gaps_between_lips(landmarks).norm(dim=-1).mean(-1)
    (upper, lower), (right, left) = OUTER_LIP_PAIRS[1], MOUTH_CORNERS
    outer = (landmarks[..., upper, :] - landmarks[..., lower, :]).norm(dim=-1)
    width = (landmarks[..., right, :] - landmarks[..., left, :]).norm(dim=-1)
    return torch.stack([inner, outer, width], -1) / eyes.clamp_min(1e-6)[..., None]


def mouth_and_turn(landmarks: Tensor) -> Tensor:
    """Return by what pictures of a person are told apart: `mouth_shape`, and where the nose's tip is from the eyes.

    Args:
        landmarks: (..., 68, 2) px.

    Returns:
        (..., 5) eye distances.
    """
    line, tip = eye_line(landmarks), landmarks[..., NOSE_TIP, :] - landmarks[..., EYES, :].mean(-2)
    across = quarter_turn(line)
    unit = line.square().sum(-1).clamp_min(1e-6)
    turn = torch.stack([(tip * line).sum(-1), (tip * across).sum(-1)], -1) / unit[..., None]
    return torch.cat([mouth_shape(landmarks), turn], -1)


def nearest_mouths(bank_landmarks: Tensor, landmarks: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Choose for each frame the pictures whose mouths are most like the frame's.

    Args:
        bank_landmarks: (B, R, 68, 2) px of each picture; NaN: no picture there.
        landmarks: (B, T, 68, 2) px of the frames.
        count: N, pictures per frame.

    Returns:
        Their indices (B, T, N) int64, the nearest first, and how far each may be relied on, (B, T, N) in [0, 1]:
        exp(-d^2 / (2 tolerance^2)), 0 where there is no picture.
    """
    index, squared = _nearest(mouth_shape(bank_landmarks), mouth_shape(landmarks), count)
    return index, torch.exp(squared / (-2 * _TOLERANCE**2))


def nearest_pictures(bank_landmarks: Tensor, landmarks: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Choose for each frame the pictures of the same person whose mouth, and whose head's turn, are most like its own.

    Args:
        bank_landmarks: (B, R, 68, 2) px of each picture; NaN: no picture there.
        landmarks: (B, T, 68, 2) px of the frames.
        count: N, pictures per frame.

    Returns:
        Their indices (B, T, N) int64, the nearest first, and d^2, (B, T, N), in eye distances; inf: no picture.
    """
    return _nearest(mouth_and_turn(bank_landmarks), mouth_and_turn(landmarks), count)


def likeness(pictures_landmarks: Tensor, landmarks: Tensor) -> Tensor:
    """Return how like a frame's mouth, and its head's turn, those in the most like of a person's pictures are.

    Args:
        pictures_landmarks: (B, R, 68, 2) px of each picture; NaN: no picture there.
        landmarks: (B, T, 68, 2) px of the frames.

    Returns:
        (B, T) in [0, 1]: exp(-d^2 / (2 choice^2)), as the shares in ``mouth_bank``.
    """
    return torch.exp(nearest_pictures(pictures_landmarks, landmarks, 1)[1][..., 0] / (-2 * _CHOICE**2))


def bent_pictures(pictures: Tensor, points: Tensor, index: Tensor, landmarks: Tensor) -> Tensor:
    """Bend to each frame the pictures that were chosen for it.

    Args:
        pictures: (B, R, 3, H, W) float.
        points: (B, R, 68, 2) px of them; NaN: no picture there.
        index: (B, T, N) which of them.
        landmarks: (B, T, 68, 2) px of the frames.

    Returns:
        (B, T, N, 3, H, W); where there is no picture it means nothing.
    """
    first = torch.arange(len(pictures), device=index.device)[:, None, None] * pictures.shape[1]
    which = (first + index).flatten()
    target = landmarks.repeat_interleave(index.shape[-1], 1).flatten(0, 1)[:, None]
    source, there = points.flatten(0, 1)[which], torch.arange(len(which), device=index.device)
    if index.device.type == "cpu":  # training leaves half of the samples without; a GPU would have to wait for which
        there = there[source.isfinite().flatten(1).all(1)]
        if not len(there):
            return pictures.new_zeros(*index.shape, *pictures.shape[2:])
    size = (pictures.shape[-2], pictures.shape[-1])
    field = thin_plate_spline_field(torch.nan_to_num(source[there]), target[there], size)
    moved = sample(pictures.flatten(0, 1), field, index=which[there])[:, :, 0]
    if len(there) < len(which):
        moved = moved.new_zeros(len(which), *moved.shape[1:]).index_copy(0, there, moved)
    return moved.unflatten(0, index.shape)


def mouth_bank(
    bank: Tensor,
    bank_landmarks: Tensor,
    portrait: Tensor,
    portrait_landmarks: Tensor,
    landmarks: Tensor,
    count: int,
) -> Tensor:
    """Bend to each frame the pictures whose mouths are most like the frame's, and say what share each should have.

    A picture's share is the softmax of -d^2 / (2 choice^2) over the portrait, which has a little in advance, and the
    pictures, d how far its mouth and its head's turn are from the frame's, in the lower face and 0 away from it: cheeks
    and chin move with the mouth. All are brought to the portrait's light first.

    Args:
        bank: (B, R, 3, H, W) float pictures of the same person in [0, 1], R >= 1.
        bank_landmarks: (B, R, 68, 2) px of each; NaN: no picture there.
        portrait: (B, 3, H, W) float in [0, 1].
        portrait_landmarks: (B, 68, 2) px.
        landmarks: (B, T, 68, 2) px of the frames.
        count: N, pictures per frame.

    Returns:
        (B, N, 4, T, H, W): the bent picture's three channels, and its share; what is left is the portrait's.
    """
    index, squared = nearest_pictures(bank_landmarks, landmarks, count)
    own = nearest_pictures(portrait_landmarks[:, None], landmarks, 1)[1]
    likeness = torch.cat([squared, own], -1).clamp(max=1e4) / (-2 * _CHOICE**2)
    likeness[..., -1] += _OWN_LIGHT
    if index.device.type == "cpu":  # of a large bank a window takes a few; a GPU would have to wait for which
        used, index = index.unique(return_inverse=True)
        bank, bank_landmarks = bank[:, used], bank_landmarks[:, used]
    lit = with_skin_of(portrait, portrait_landmarks, bank, bank_landmarks)
    moved = rearrange(bent_pictures(lit, bank_landmarks, index, landmarks), "b t n c h w -> b n c t h w")
    where = _around(landmarks, (bank.shape[-2], bank.shape[-1]), *_LOWER_FACE)[:, None, None]  # (B, 1, 1, T, H, W)
    share = rearrange(likeness.softmax(-1)[..., :-1], "b t n -> b n 1 t 1 1") * where
    return torch.cat([moved, share.to(moved)], 2)


def shares(offered: Tensor, odds: Tensor | None = None) -> Tensor:
    """Return what share of a frame each picture has that ``mouth_bank`` offers.

    Args:
        offered: (B, N, 4, T, H, W) from ``mouth_bank``.
        odds: (B, N, T, H, W) by which each picture's share is multiplied before all are made to add up to 1 again;
            None: 1.

    Returns:
        (B, N, T, H, W) in [0, 1]; what is left is the portrait's.
    """
    share = offered[:, :, 3]
    if odds is None:
        return share
    own = (1 - share.sum(1, keepdim=True)).clamp_min(0)
    share = share * odds
    return share / (own + share.sum(1, keepdim=True))


def mixed(portrait: Tensor, offered: Tensor, share: Tensor | None = None) -> Tensor:
    """Mix what ``mouth_bank`` offers into the portrait.

    Args:
        portrait: (B, 3, T, H, W) the portrait bent to the frames.
        offered: (B, N, 4, T, H, W) from ``mouth_bank``.
        share: (B, N, T, H, W) from ``shares``; None: as offered.

    Returns:
        (B, 3, T, H, W).
    """
    share = shares(offered) if share is None else share
    own = (1 - share.sum(1)).clamp_min(0)[:, None]
    return own * portrait + (share[:, :, None] * offered[:, :, :3]).sum(1)


def _nearest(have: Tensor, want: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the indices (B, T, N) of the rows of (B, R, D) nearest to (B, T, D), and d^2; NaN is infinitely far."""
    squared = (want[:, :, None] - have[:, None]).square().sum(-1)  # (B, T, R)
    squared = torch.nan_to_num(squared, nan=torch.inf)
    if (lack := count - squared.shape[-1]) > 0:
        squared = F.pad(squared, (0, lack), value=torch.inf)
    found, index = squared.topk(count, dim=-1, largest=False)
    return index.clamp(max=have.shape[1] - 1), found


def lip_map(landmarks: Tensor, size: tuple[int, int]) -> Tensor:
    """Return (B, T, H, W) in [0, 1]: 1 on the lips and a little around them, falling softly to 0."""
    return _around(landmarks, size, *_LIPS)


def mouth_opening_map(landmarks: Tensor, size: tuple[int, int]) -> Tensor:
    """Return (B, T, H, W) in [0, 1]: near 1 between the lips of an open mouth, near 0 elsewhere."""
    unit = size[0] / _BASE_SIZE
    distance = _distance(landmarks[..., INNER_LIP, :], size)
    return torch.sigmoid((-0.75 * unit - distance) / (0.5 * unit))


def _around(landmarks: Tensor, size: tuple[int, int], margin: float, softness: float) -> Tensor:
    unit = size[0] / _BASE_SIZE
    distance = _distance(landmarks[..., OUTER_LIP, :], size)
    return torch.sigmoid((margin * unit - distance) / (softness * unit))


def _distance(outline: Tensor, size: tuple[int, int]) -> Tensor:
    """Signed distance (B, T, H, W) px to (B, T, K, 2) outlines, measured on a lattice and interpolated."""
    lattice = signed_distance(torch.nan_to_num(outline), size, _STRIDE)
    return F.interpolate(lattice, size, mode="bilinear", align_corners=False)


def shrunk(bank: Bank, size: int) -> Bank:
    """Return the pictures at another size, with their landmarks."""
    whole = Crop(0.0, 0.0, float(bank[0].shape[-1]))
    return crop_frames(bank[0], whole, size), to_crop(bank[1], whole, size)
