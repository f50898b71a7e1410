"""One light for pictures of one person that were taken in several, read off skin that does not move with the mouth."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from talkhead.face.frame import face_frame, to_face
from talkhead.face.polygon import signed_distance
from talkhead.face.skin import beyond
from talkhead.face.warp import thin_plate_spline_warp

_SKIN = (1, 2, 31, 33, 35, 14, 15, 46, 47, 42, 28, 39, 40, 41)
"""An outline: under the eyes from ear to ear, and back along the nose's base. Below, brightness changes with speech."""
_UPPER_FACE = (*range(17, 27), 15, 14, 35, 33, 31, 2, 1)
"""An outline: over the brows, and back along the nose's base."""
_INSIDE = 2.0
"""px at 128 px by which a place must lie inside that outline: lids and the face's edge stay out."""
_CELL = 2
"""px at 128 px, the side of the places that are compared: fine texture never lies quite on itself."""
_DARKEST, _BRIGHTEST = 8.0, 250.0
"""Levels beyond which a place tells nothing of the light: what is clipped has lost it."""
_FEWEST = 20
"""Places that must be left: a picture with less skin in it keeps its light."""
_SAME = (0.03, 0.05, 0.1)
"""By so much gain (logarithm), slope and contrast differ between frames of one video; only more is another light."""
_FLATTEST, _HARDEST = 0.5, 2.0
_MOST = 1.6
"""The logarithm of the largest gain: five times as bright."""
_SIDE = 1.2
"""Face sizes from the face's middle beyond which the light does not change further."""
_ROUNDS, _TUKEY = 12, 4.685
"""Fits, each weighted by the one before; standard deviations beyond which a place (hair, glasses) counts nothing."""


def light_between(pictures: Tensor, landmarks: Tensor, face: Tensor, face_landmarks: Tensor) -> Tensor:
    r"""Return what must be done to each picture of a person for it to stand in the light of one picture.

    Each picture is bent to the face. On the skin of nose and upper cheeks log(face / picture) = a + b u is fitted for
    each channel, u across the face, by iteratively reweighted least squares with Tukey's biweight (Holland and Welsch
    1977): what hangs or is worn before the skin in one of the two alone does not count. The contrast c of their tone
    curves is how much further apart, in logarithms, the dark and the bright tenth of the face's upper half are than
    the picture's. Of a change d there remains d^3 / (d^2 + s^2), s what the frames of one video differ by.

    Args:
        pictures: (R, 3, H, W) uint8, or float in 0..255.
        landmarks: (R, 68, 2) px of them.
        face: (3, H, W) the picture whose light is wanted, of the same range.
        face_landmarks: (68, 2) px of it.

    Returns:
        (R, 3, 4) for each channel a; b, u in face sizes (see `face_frame`) from the face's middle; c - 1; and the
        logarithm m of the face's skin, about which c stretches. All 0 where too little skin is seen: no change.
    """
    height, width = face.shape[-2:]
    cell, unit = max(1, round(_CELL * height / 128)), height / 128
    size = (height // cell * cell, width // cell * cell)
    target, none = face_landmarks.float(), torch.zeros(len(pictures), 3, 4, device=pictures.device)
    skin = signed_distance(target[list(_SKIN)], size, cell) < -_INSIDE * unit
    if skin.sum() < _FEWEST:
        return none
    bent = thin_plate_spline_warp(pictures.float(), landmarks.float(), target.expand(len(pictures), 1, -1, -1))[:, 0]
    own, others = (F.avg_pool2d(part, cell).clamp_min(1) for part in (face[None].float(), bent))
    wanted, given = (part[..., skin].mT for part in (own, others))  # (1 or R, P, 3)
    darker, brighter = torch.minimum(wanted, given).amin(-1), torch.maximum(wanted, given).amax(-1)
    seen = (darker > _DARKEST) & (brighter < _BRIGHTEST)
    across = _across(target[None], size, cell)[0]
    line = _robust_line(across[skin], (wanted / given).log(), seen)
    lit = others * (line[..., :1, None] + line[..., 1:, None] * across).exp()
    upper = signed_distance(target[list(_UPPER_FACE)], size, cell) < 0
    contrast = (_spread(own[..., upper]) / _spread(lit[..., upper])).clamp(_FLATTEST, _HARDEST) - 1
    change = torch.cat((line, contrast[:, None, None].expand(-1, 3, 1)), -1)
    change = beyond(change, change.new_tensor(_SAME))
    middle = wanted.log().median(1).values[..., None].expand(len(pictures), 3, 1)
    return torch.where(seen.sum(1)[:, None, None] < _FEWEST, none, torch.cat((change, middle), -1))


def in_light(pictures: Tensor, landmarks: Tensor, light: Tensor) -> Tensor:
    """Return (R, 3, H, W) uint8 pictures in another light.

    Args:
        pictures: (R, 3, H, W) uint8 of any size.
        landmarks: (R, 68, 2) px of them.
        light: (R, 3, 4) from `light_between`.
    """
    changed = torch.empty_like(pictures)
    for picture, points, one, out in zip(pictures, landmarks.float(), light, changed, strict=True):  # large, as floats
        across = _across(points[None], (pictures.shape[-2], pictures.shape[-1])).clamp(-_SIDE, _SIDE)
        gain, slope, contrast, middle = one[..., None, None].unbind(1)
        change = (gain + slope * across).clamp(-_MOST, _MOST)
        change = change + contrast * (picture.float().clamp_min(1).log() + change - middle)
        out.copy_((picture * change.exp()).round_().clamp_(0, 255))
    return changed


def _spread(values: Tensor) -> Tensor:
    """Return (R,): how far apart, in logarithms, the dark and the bright tenth of (R, 3, P) levels lie."""
    low, high = values.mean(1).log().quantile(values.new_tensor([0.1, 0.9]), dim=-1)
    return (high - low).clamp_min(1e-3)


def _across(landmarks: Tensor, size: tuple[int, int], stride: int = 1) -> Tensor:
    """Return (R, H / stride, W / stride): how far across each of (R, 68, 2) px faces lies a place, in face sizes."""
    rows, columns = (torch.arange(0, side, stride, device=landmarks.device) + (stride - 1) / 2 for side in size)
    places = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), -1)
    own = to_face(places.flatten(0, 1), face_frame(landmarks))[..., 0]
    return own.unflatten(-1, (len(rows), len(columns)))


def _robust_line(places: Tensor, values: Tensor, seen: Tensor) -> Tensor:
    """Fit a + b u to (R, P, 3) values at (P,) places u where (R, P) are seen: (R, 3, 2)."""
    design = torch.stack((torch.ones_like(places), places), -1)
    known = torch.where(seen[..., None], values, torch.nan).nanmedian(1, keepdim=True).values.nan_to_num()
    fit = torch.cat((known, torch.zeros_like(known)), 1)  # (R, 2, 3)
    for _ in range(_ROUNDS):
        off = (values - design @ fit).norm(dim=-1)
        spread = 1.4826 * torch.where(seen, off, torch.nan).nanmedian(1, keepdim=True).values.nan_to_num()
        share = (1 - (off / (_TUKEY * spread.clamp_min(1e-3))).square()).clamp_min(0).square() * seen
        weighted = (design * share[..., None]).mT  # (R, 2, P)
        ridge = 1e-6 * torch.eye(2, device=values.device)
        fit = torch.linalg.solve(weighted @ design + ridge, weighted @ values)
    return fit.mT
