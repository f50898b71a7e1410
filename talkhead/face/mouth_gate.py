"""Silence closes the mouth: which frames hold speech, what a closed mouth is, and the way back to it.

The regression that drives the landmarks has no reason to be exact where nobody speaks. The gate g_t in [0, 1] measures
speech from the sound alone, and lips, corners and jaw are blended between what was predicted (g = 1) and the same
face with its lips as close as those of the portrait at rest (g = 0).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from talkhead.face.frame import eye_line, face_size, quarter_turn
from talkhead.face.points import (
    CHIN_TIP,
    INNER_LIP_PAIRS,
    LOWER_INNER_LIP,
    NOSE_AND_EYES,
    OUTER_LIP_PAIRS,
    UPPER_INNER_LIP,
    points_at,
)
from talkhead.face.similarity import fit_similarity

_JAW = (0.23, 0.33, 0.45, 0.61, 0.77)
FALLS = {
    **dict(zip(range(3, 8), _JAW, strict=True)),
    CHIN_TIP: 0.83,
    **dict(zip(range(13, 8, -1), _JAW, strict=True)),
    **dict.fromkeys((48, 54, 60, 64), 0.27),  # the corners
    **dict.fromkeys((50, 51, 52), -0.11),
    **dict.fromkeys((55, 59), 0.68),
    **dict.fromkeys((56, 57, 58), 0.87),
    **dict.fromkeys(UPPER_INNER_LIP, -0.23),
    **dict.fromkeys(LOWER_INNER_LIP, 0.77),
}
"""How far each point of lips and jaw falls as the inner lips part by 1, and rises as they meet: the regression on the
opening over 204 clips of GRID speaker s1, made symmetric. Three quarters are the lower lip's."""


def speech_gate(
    decibels: Tensor,
    fps: float,
    *,
    closed_below: float = -38.0,
    open_above: float = -28.0,
    floor_margin: float = 5.0,
    hold_seconds: float = 0.25,
    ramp_seconds: float = 0.2,
) -> Tensor:
    """Turn the loudness of each frame into a gate with smooth ramps.

    The threshold lies below the speech level, or above the noise floor (the 5th percentile) where that is higher; it
    never rises past -12 dB. Speech is held for a moment at both sides, because lips part before they sound.

    Args:
        decibels: (T,) loudness of the frames relative to the speech level, in dB.
        fps: frames per second.
        closed_below: dB at and under which a frame is silent.
        open_above: dB at and over which it is speech.
        floor_margin: dB by which speech must exceed the noise floor.
        hold_seconds: how long speech is held before and after.
        ramp_seconds: length of the raised-cosine ramps.

    Returns:
        (T,) gate in [0, 1].

    Example:
        >>> gate = speech_gate(torch.tensor([-90.0] * 50 + [0.0] * 50), fps=25)
        >>> gate[0].item(), gate[-1].item()
        (0.0, 1.0)
    """
    shift = (decibels.quantile(0.05) + floor_margin - closed_below).clamp(0, -12.0 - open_above)
    gate = ((decibels - closed_below - shift) / (open_above - closed_below)).clamp(0, 1)
    hold, ramp = round(hold_seconds * fps), round(ramp_seconds * fps / 2)
    if hold:
        gate = F.max_pool1d(gate[None, None], 2 * hold + 1, stride=1, padding=hold)[0, 0]
    if ramp:
        window = torch.hann_window(2 * ramp + 3, periodic=False)[1:-1].to(gate)
        padded = F.pad(gate[None, None], (ramp, ramp), mode="replicate")
        gate = F.conv1d(padded, (window / window.sum())[None, None])[0, 0].clamp(0, 1)
    # Rounding leaves crumbs; a closed mouth is closed.
    return torch.where(gate < 1e-4, 0.0, torch.where(gate > 1 - 1e-4, 1.0, gate))


def close_mouth(landmarks: Tensor, closed: float = 0.035) -> Tensor:
    """Return the face with its lips brought together.

    Facing points of the inner lips approach each other, three quarters of the way by the lower lip, because the jaw
    does the opening; outer lips, corners and jaw follow as far as they do in speech (``FALLS``). A closed mouth stays.

    Args:
        landmarks: (..., 68, 2) px.
        closed: how far apart a detector sees lips that touch, in face sizes (root mean square distance of the points
            from their mean); the default is the median over the first frames of 240 clips of a resting speaker.

    Returns:
        (..., 68, 2) px.
    """
    # The gap is measured along the face's own vertical, from the eyes' line, so a tilted face closes as well.
    across = eye_line(landmarks)
    down = quarter_turn(across / across.norm(dim=-1, keepdim=True).clamp_min(1e-6))
    touching = closed * face_size(landmarks).unsqueeze(-1)
    gaps = (gaps_between_lips(landmarks) * down.unsqueeze(-2)).sum(-1)
    return bring_together(landmarks, (gaps - touching).clamp_min(0).unsqueeze(-1) * down.unsqueeze(-2))


def gaps_between_lips(landmarks: Tensor) -> Tensor:
    """Return the (..., 3, 2) vectors from the upper inner lip's points to the lower's."""
    return points_at(landmarks, LOWER_INNER_LIP) - points_at(landmarks, UPPER_INNER_LIP)


def bring_together(landmarks: Tensor, surplus: Tensor) -> Tensor:
    """Take (..., 3, 2) px out of the gaps between the lips, as a jaw does it: ``FALLS``."""
    moved = landmarks - _shares(landmarks) * surplus.mean(-2, keepdim=True)
    # Each of the three pairs closes by its own surplus.
    rest = surplus - surplus.mean(-2, keepdim=True)
    for which, pair in enumerate(zip(INNER_LIP_PAIRS, OUTER_LIP_PAIRS, strict=True)):
        for point in (*pair[0], *pair[1]):
            moved[..., point, :] -= FALLS[point] * rest[..., which, :]
    return moved


def _shares(landmarks: Tensor) -> Tensor:
    """Return (68, 1): how far each point falls when the lips part by 1."""
    return torch.tensor([FALLS.get(point, 0.0) for point in range(68)]).to(landmarks).unsqueeze(-1)


def relax_mouth(landmarks: Tensor, rest: Tensor, gate: Tensor) -> Tensor:
    """Bring the lips as close together as those of ``rest`` where nobody speaks; the head keeps moving.

    They meet where the prediction has them; corners and jaw follow. Lips and jaw blended into those of ``rest``
    would be further from what speakers do: a silent mouth mostly is about to speak, or has just spoken.

    Args:
        landmarks: (T, 68, 2) px, predicted.
        rest: (68, 2) px, a face whose mouth is at rest (``close_mouth`` it first where it is open).
        gate: (T,) in [0, 1] from ``speech_gate``: 0 rest, 1 as predicted.

    Returns:
        (T, 68, 2) px.
    """
    pose = fit_similarity(rest[NOSE_AND_EYES].expand(len(landmarks), -1, -1), landmarks[:, NOSE_AND_EYES])
    surplus = gaps_between_lips(landmarks) - pose.turn(gaps_between_lips(rest))
    return torch.lerp(bring_together(landmarks, surplus), landmarks, gate.view(-1, 1, 1).to(landmarks))
