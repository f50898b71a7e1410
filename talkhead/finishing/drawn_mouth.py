"""The inside of an opened mouth, drawn where no picture of the person shows it: teeth, and the dark behind them."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from talkhead.face.frame import eye_line
from talkhead.face.mouth_bank import mouth_shape
from talkhead.face.points import CHIN, INNER_LIP, LEFT_EYE, LOWER_INNER_LIP, RIGHT_EYE, RIGID, UPPER_INNER_LIP
from talkhead.face.polygon import signed_distance
from talkhead.face.similarity import fit_similarity
from talkhead.face.skin import skin_colour
from talkhead.face.smooth_step import smooth_step

_WIDER = 0.03
"""Eye distances: a mouth so much wider open than any that the person's own pictures show is drawn by 40%."""
_MARGIN, _INSET, _EDGE = 3.0, 0.3, 0.3
"""px at 128 px: how far around the lips' inner edge a frame may change, how far inside it what is drawn ends, and how
softly. On the edge itself, mouths were found 9% wider open than they are."""


class _Row(NamedTuple):
    """Teeth from the middle outwards, as seen from the front; in eye distances, which are 62 mm."""

    widths: tuple[float, ...]
    shorter: tuple[float, ...]
    """Each than the first."""
    rounded: float
    """By how much a tooth's sides end before its middle."""
    bow: float
    """How far the row has turned away at one eye distance from its middle, were it a parabola."""


# Mean widths from Wheeler's Dental Anatomy: above 8.5, 6.5, 7.5, 7 mm, below 5, 5.5, 7, 7 mm; from the canine on the
# arch turns away, and less of a tooth is seen.
_UPPER = _Row((0.137, 0.097, 0.081, 0.065, 0.05, 0.04), (0.0, 0.016, 0.0, 0.02, 0.03, 0.035), 0.016, 0.25)
_LOWER = _Row((0.085, 0.09, 0.085, 0.065, 0.05, 0.04), (0.0, 0.0, 0.004, 0.012, 0.02, 0.025), 0.012, 0.1)
_INCISAL = 0.055
"""Eye distances that the upper teeth reach below where the lips meet at rest; people show 1 to 4 mm."""
_BELOW, _COVERED = 0.015, 0.035
"""The same: how far the lower teeth end below that place, moved with the jaw, and how much of them is seen at most."""
_CROWN = 0.15
"""The same: from a tooth's edge to the gum."""
_SEAM = 0.007
"""The same: half width of the shade between two teeth."""
_SHADE = 0.045
"""The same: how deep the lips' shade reaches."""
_WHITE, _BEHIND = 1.25, 0.75
"""Upper teeth are so much brighter than the bright of the eyes; the lower ones have that share of it."""
_DARK, _TONGUE, _GUM = (0.33, 0.22, 0.18), (0.62, 0.38, 0.33), (0.8, 0.5, 0.5)
"""Colours as shares of the skin's."""
_RED = 0.1
"""What light there is in a mouth has met its walls: shade s is s^0.9 of red and s^1.1 of blue."""


class DrawnMouth:
    """Show teeth, and the dark behind them, between the lips of frames made from a portrait that has neither.

    A portrait with its lips closed holds no pixel of a mouth's inside, and a renderer trained on the squared error puts
    the mean of all mouths there, which is no mouth. Here it is drawn as anatomy has it: upper teeth that are fast to
    the skull, lower ones fast to the jaw and mostly behind the lip, a tongue in the depth of a wide mouth; as white as
    the portrait's eyes, in the shade of lips and cheeks. Shades and colours are those between the lips of GRID's
    speakers and of the training half of Face Research Lab London's smiles. A mouth that the person's own pictures show
    as wide open keeps what they show. Any resolution: nothing is enlarged.

    Args:
        face: (3, s, s) uint8 the portrait as the renderer saw it, on the device that is to do the work.
        shown: (K, 68, 2) px landmarks of the person's own pictures, the portrait's first.
        strength: share of what is drawn where nothing of the person's own will do, in [0, 1].
    """

    def __init__(self, face: Tensor, shown: Tensor, strength: float = 1.0) -> None:
        self._rest, self._strength = shown[0].float(), strength
        self._widest = mouth_shape(shown)[:, 0].amax()
        skin = skin_colour(face[None].float(), self._rest[None])[0]
        self._dark, self._tongue, self._gum = (
            (skin * skin.new_tensor(share))[:, None, None] for share in (_DARK, _TONGUE, _GUM)
        )
        self._tooth = (_WHITE * _eye_white(face.float(), self._rest, skin)).clamp(max=240)[:, None, None]

    @torch.inference_mode()
    def __call__(self, frames: Tensor, landmarks: Tensor) -> Tensor:
        """Fill the mouths of (t, 3 or 4, S, S) uint8 frames, of any size S, with their (t, 68, 2) px landmarks."""
        height, width = frames.shape[-2:]
        inner, unit = landmarks[:, INNER_LIP], height / 128
        opening = mouth_shape(landmarks)[:, 0]
        wider = (opening - self._widest).clamp_min(0)
        share = self._strength * (1 - torch.exp(wider.square() / (-2 * _WIDER**2)))
        if not share.any():
            return frames
        stride = max(1, int(unit / 2))  # of the distance to the lips, which is smooth
        low = ((inner.amin((0, 1)) - _MARGIN * unit) / stride).floor().clamp_min(0) * stride
        high = inner.amax((0, 1)) + _MARGIN * unit
        (left, top), (right, bottom) = low.int().tolist(), high.int().tolist()
        box = ((min(bottom, height) - top) // stride * stride, (min(right, width) - left) // stride * stride)
        if min(box) < 2 * stride:
            return frames
        distance = signed_distance(inner - low, box, stride)[:, None]
        if stride > 1:
            distance = F.interpolate(distance, box, mode="bilinear", align_corners=False)
        drawn = self._drawn(landmarks, low, distance[:, 0], opening)
        mask = torch.sigmoid((distance + _INSET * unit) / (-_EDGE * unit)) * share[:, None, None, None]
        out = frames.clone()
        place = out[:, :3, top : top + box[0], left : left + box[1]]
        place.copy_(torch.lerp(place.float(), drawn, mask).round_().clamp_(0, 255))
        return out

    def _drawn(self, landmarks: Tensor, low: Tensor, distance: Tensor, opening: Tensor) -> Tensor:
        """Return (t, 3, h, w) in 0..255: the insides of mouths, of a box at (2,) px ``low``.

        Args:
            landmarks: (t, 68, 2) px.
            low: left and top of the box.
            distance: (t, h, w) px to the lips' inner edge, negative inside.
            opening: (t,) eye distances.
        """
        rigid = list(RIGID)
        head = fit_similarity(self._rest[rigid], landmarks[:, rigid])
        axis = head.turn(eye_line(self._rest)[None, None])  # (t, 1, 2) px: an eye distance to the right
        rows, columns = (torch.arange(side, device=low.device) for side in distance.shape[1:])
        places = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), -1) + low
        meeting = head(self._rest[UPPER_INNER_LIP].mean(0)[None, None])  # where the lips meet at rest
        x, y = _on_axis(places[None], meeting[:, None], axis[:, None])
        upper, lower = (
            _on_axis(landmarks[:, lip], meeting, axis)[1].mean(1)[:, None, None]
            for lip in (UPPER_INNER_LIP, LOWER_INNER_LIP)
        )
        corners = _on_axis(landmarks[:, INNER_LIP][:, [0, 4]], meeting, axis)[0]
        jaw = _on_axis(landmarks[:, CHIN], head(self._rest[CHIN][None]), axis)[1].mean(1)[:, None, None]
        opening = opening[:, None, None]
        scale = axis.norm(dim=-1, keepdim=True)
        soft = 0.006 + 0.5 / scale

        down = (y - upper) / (lower - upper).clamp_min(1e-3)
        tongue = (smooth_step((down - 0.35) / 0.65) * smooth_step((opening - 0.06) / 0.12))[:, None]
        colour = torch.lerp(self._dark, self._tongue, tongue)
        end, light = _teeth(x, _LOWER)
        seen = torch.sigmoid((y - torch.maximum(jaw, lower - _COVERED) - _BELOW + end) / soft)[:, None]
        light = _BEHIND * light * (1 - 1.5 * x.abs()).clamp_min(0.1)
        colour = torch.lerp(colour, self._tooth * light[:, None], seen)
        end, light = _teeth(x, _UPPER)
        gum = torch.sigmoid((_INCISAL + end - _CROWN - y) / soft)[:, None]
        light = light * (1 - 2.2 * x.square()).clamp_min(0.1)
        tooth = torch.lerp(self._tooth * light[:, None], self._gum, gum)
        colour = torch.lerp(colour, tooth, torch.sigmoid((_INCISAL + end - y) / soft)[:, None])

        half = ((corners[:, 1] - corners[:, 0]) / 2).clamp_min(0.1)[:, None, None]
        shade = 0.65 + 0.35 * smooth_step(distance / (-_SHADE * scale))
        shade = shade * (1 - 0.4 * (x / half).clamp(-1, 1).square()) * (0.9 + 0.1 * (opening / 0.15).clamp(max=1))
        return colour * shade[:, None] ** shade.new_tensor((1 - _RED, 1.0, 1 + _RED))[:, None, None]


def _on_axis(places: Tensor, origin: Tensor, axis: Tensor) -> tuple[Tensor, Tensor]:
    """Return where (..., 2) px lie to the right of an origin, and below it, in lengths of the axis to the right."""
    away, power = places - origin, axis.square().sum(-1)
    across = axis[..., 0] * away[..., 1] - axis[..., 1] * away[..., 0]
    return (away * axis).sum(-1) / power, across / power


def _teeth(x: Tensor, row: _Row) -> tuple[Tensor, Tensor]:
    """Return how far a row of teeth ends before its first tooth does, negated, and how much light it has, at x."""
    widths = x.new_tensor(row.widths)
    ends = widths.cumsum(0)
    tooth = torch.bucketize(x.abs(), ends[:-1])
    half = widths[tooth] / 2
    to_side = (half - (ends[tooth] - half - x.abs()).abs()).clamp_min(0)
    across = 1 - to_side / half  # 0 in the middle of a tooth, 1 at its sides
    end = -x.new_tensor(row.shorter)[tooth] - row.rounded * across**4 - row.bow * x.square()
    return end, 1 - 0.2 * torch.exp(-((to_side / _SEAM) ** 2))


def _eye_white(face: Tensor, landmarks: Tensor, skin: Tensor) -> Tensor:
    """Return the (3,) colour of the brightest fifth between the lids, no darker than a part of the skin's light."""
    size = (face.shape[-2], face.shape[-1])
    outlines = torch.stack([landmarks[RIGHT_EYE], landmarks[LEFT_EYE]])
    seen = face[:, signed_distance(outlines, size).amin(0) < -0.3]
    least = 0.65 * skin.mean() * skin.new_tensor((1.0, 0.92, 0.85))
    if not seen.shape[1]:
        return least
    light = seen.mean(0)
    return torch.maximum(seen[:, light >= light.quantile(0.8)].median(1).values, least)
