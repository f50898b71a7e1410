"""How open the eyes are, and when they blink."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from talkhead.face.points import EYE_CORNERS, EYELIDS
from talkhead.metrics.landmarks import checked_points


class Blinks(NamedTuple):
    """The blinks of a clip.

    Attributes:
        per_minute: how many per minute; NaN where no face was seen.
        duration: seconds from half closed to half open, averaged; NaN without a blink.
    """

    per_minute: float
    duration: float


def eye_opening(landmarks: Tensor) -> Tensor:
    """Return the (...) height of the eyes over their width, averaged over both (the eye aspect ratio)."""
    points = checked_points(landmarks)
    height = torch.stack([(points[..., up, :] - points[..., low, :]).norm(dim=-1) for up, low in EYELIDS]).mean(0)
    corners = (EYE_CORNERS[:2], EYE_CORNERS[2:])
    width = torch.stack([(points[..., a, :] - points[..., b, :]).norm(dim=-1) for a, b in corners]).mean(0)
    return height / width


def find_blinks(landmarks: Tensor, fps: float, closed: float = 0.75, reopened: float = 0.1) -> Blinks:
    """Count the blinks of one clip.

    A blink is a dip of the eyes' opening, relative to its upper quartile in the four seconds around it, under
    ``closed``; two dips are one where the opening does not rise by ``reopened`` between them. What stays closed for
    0.8 s is a look downwards.

    Args:
        landmarks: (T, 68, 2) px; frames with NaN count as open.
        fps: frames per second.
        closed: share of the open eye under which it counts as blinking; a detector never sees it wholly shut.
        reopened: rise, as a share of the open eye, between two blinks.

    Returns:
        Their rate, and their mean duration at half depth; NaN where no frame has a face.
    """
    if not eye_opening(landmarks).isfinite().any():
        return Blinks(math.nan, math.nan)
    durations = [duration for _, duration in blink_moments(landmarks, fps, closed, reopened)]
    mean = sum(durations) / len(durations) if durations else math.nan
    return Blinks(60 * len(durations) * fps / len(landmarks), mean)


def blink_moments(
    landmarks: Tensor, fps: float, closed: float = 0.75, reopened: float = 0.1
) -> list[tuple[int, float]]:
    """Return the frame at which the lids are closest, and the duration in seconds, of each blink of `find_blinks`."""
    opening = eye_opening(landmarks)
    opening = opening.nan_to_num(float(opening.nanmedian()))
    relative = opening / _running_quantile(opening, round(4 * fps), 0.75).clamp_min(1e-6)
    dips: list[int] = []
    for low in _minima(relative, closed):
        if dips and relative[dips[-1] : low + 1].max() - relative[[dips[-1], low]].max() < reopened:
            dips[-1] = min(dips[-1], low, key=lambda frame: relative[frame].item())  # one dip: its lowest place
        else:
            dips.append(low)
    found = [(low, _width_below(relative, low, (1 + relative[low].item()) / 2) / fps) for low in dips]
    return [(low, duration) for low, duration in found if duration <= 0.8]


def _running_quantile(values: Tensor, window: int, share: float) -> Tensor:
    half = min(window // 2, len(values) - 1)
    padded = F.pad(values[None, None], (half, half), mode="reflect")[0, 0]
    return padded.unfold(0, 2 * half + 1, 1).quantile(share, dim=1)


def _minima(values: Tensor, below: float) -> list[int]:
    """Return the indices of the local minima under ``below``, in order; a plateau counts once."""
    padded = F.pad(values, (1, 1), value=math.inf)
    return ((values < below) & (values < padded[:-2]) & (values <= padded[2:])).nonzero()[:, 0].tolist()


def _width_below(values: Tensor, low: int, level: float) -> float:
    """Return how many frames around ``low`` a curve stays below ``level``, with linear interpolation at both ends."""
    first, last = low, low
    while first > 0 and values[first] < level:
        first -= 1
    while last < len(values) - 1 and values[last] < level:
        last += 1

    def crossing(outside: int, inside: int) -> float:
        rise = (values[outside] - values[inside]).item()
        return 1.0 if values[outside] < level or not rise else (level - values[inside].item()) / rise

    left = crossing(first, first + 1) if first < low else 0.0
    right = crossing(last, last - 1) if last > low else 0.0
    return last - first - 2 + left + right if first < low < last else last - first
