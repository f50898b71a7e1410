"""The inside of an opened mouth, lent by pictures of another person where none of this one shows it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from talkhead.face.mouth_bank import mouth_shape, nearest_mouths
from talkhead.face.points import INNER_LIP, MOUTH
from talkhead.face.polygon import signed_distance
from talkhead.face.skin import skin_colour
from talkhead.face.warp import spline_displacement

_OFFERED = 4
"""Pictures mixed in a frame, at most, by how alike their mouths are: one alone would jump where another is nearer."""
_WIDER = 0.06
"""Eye distances: a mouth so much wider open than any that the person's own pictures show takes 40% of what is lent."""
_MARGIN, _EDGE = 3.0, 0.5
"""px at 128 px: how far around the lips' inner edge a frame may change, and how soft that edge is."""
_AROUND = 16.0
"""px at 128 px: how much of a lender's picture is kept around the lips; frames look 3 px beyond theirs."""
_STIFFNESS = 1e-3


class BorrowedMouth:
    """Show teeth, and the dark behind them, between the lips of frames made from a portrait that has neither.

    A portrait with its lips closed holds no pixel of a mouth's inside, and a renderer trained on the squared error puts
    the mean of all mouths there, which is no mouth. Here the pictures of a lender whose mouths are most like the
    frame's are bent to its lips, in the light of the portrait's skin, and shown between them (mouth retrieval; Thies et
    al. 2016, Face2Face, section 7, from another person's pictures). A mouth that the person's own pictures show as wide
    open keeps what they show.

    Args:
        pictures: (R, 3, s, s) uint8 of the lender.
        bank_landmarks: (R, 68, 2) px of them.
        face: (3, s, s) uint8 the portrait as the renderer saw it; all on the device that is to do the work.
        shown: (K, 68, 2) px landmarks of the person's own pictures, the portrait's first.
        strength: share of what is lent where nothing of the person's own will do, in [0, 1].
    """

    def __init__(
        self, pictures: Tensor, bank_landmarks: Tensor, face: Tensor, shown: Tensor, strength: float = 1.0
    ) -> None:
        self._bank, self._strength = bank_landmarks.float(), strength
        self._widest = mouth_shape(shown)[:, 0].amax()
        light = skin_colour(face[None].float(), shown[:1])
        gains = light / skin_colour(pictures.float(), self._bank).clamp_min(1.0)
        # Each frame gets its own copies: of the mouths with a little around them, not of whole pictures.
        size, lips = pictures.shape[-1], self._bank[:, MOUTH]
        around = _AROUND * size / 128
        low = (lips.amin((0, 1)) - around).floor().clamp(0, size - 1)
        (left, top), (right, bottom) = low.int().tolist(), (lips.amax((0, 1)) + around).int().tolist()
        mouths = pictures[..., top : max(bottom, top + 1), left : max(right, left + 1)]
        self._mouths, self._lips = mouths.float() * gains.clamp(0.3, 2.0)[..., None, None], lips - low

    @torch.inference_mode()
    def __call__(self, frames: Tensor, landmarks: Tensor) -> Tensor:
        """Fill the mouths of (t, 3 or 4, S, S) uint8 frames, of any size S, with their (t, 68, 2) px landmarks."""
        height, width = frames.shape[-2:]
        inner, unit = landmarks[:, INNER_LIP], height / 128
        wider = (mouth_shape(landmarks)[:, 0] - self._widest).clamp_min(0)
        share = self._strength * (1 - torch.exp(wider.square() / (-2 * _WIDER**2)))
        stride = max(1, int(unit))  # the pictures are no finer than that
        low = ((inner.amin((0, 1)) - _MARGIN * unit) / stride).floor().clamp_min(0) * stride
        high = inner.amax((0, 1)) + _MARGIN * unit
        (left, top), (right, bottom) = low.int().tolist(), high.int().tolist()
        box = ((min(bottom, height) - top) // stride, (min(right, width) - left) // stride)
        if min(box) < 2:
            return frames
        whole = (box[0] * stride, box[1] * stride)
        distance = signed_distance(inner - low, whole, stride)[:, None]
        lips = (landmarks[:, MOUTH] - low + 0.5) / stride - 0.5
        lent = self._bent(lips, box, *self._nearest(landmarks))
        if stride > 1:
            distance = F.interpolate(distance, whole, mode="bilinear", align_corners=False)
            lent = F.interpolate(lent, whole, mode="bicubic", align_corners=False)
        mask = torch.sigmoid(distance / (-_EDGE * unit)) * share[:, None, None, None]
        out = frames.clone()
        place = out[:, :3, top : top + whole[0], left : left + whole[1]]
        place.copy_(torch.lerp(place.float(), lent, mask).round_().clamp_(0, 255))
        return out

    def _nearest(self, landmarks: Tensor) -> tuple[Tensor, Tensor]:
        """Return the indices (t, N) of the lender's pictures for each frame, and their shares, which add up to 1."""
        index, alike = nearest_mouths(self._bank[None], landmarks[None], min(_OFFERED, len(self._bank)))
        alike = alike[0] + 1e-6
        return index[0], alike / alike.sum(1, keepdim=True)

    def _bent(self, lips: Tensor, box: tuple[int, int], index: Tensor, share: Tensor) -> Tensor:
        """Return (t, 3, *box) in 0..255: the lender's pictures bent to (t, 20, 2) px lips and mixed."""
        source, target = self._lips[index.flatten()], lips.repeat_interleave(index.shape[1], 0)
        shift = spline_displacement(source, target, box, _STIFFNESS, anchored=False)
        rows, columns = (torch.arange(length, device=shift.device) for length in box)
        places = shift + torch.stack(torch.meshgrid(columns, rows, indexing="xy"), -1)
        height, width = self._mouths.shape[-2:]
        grid = torch.stack([(places[..., 0] + 0.5) * (2 / width), (places[..., 1] + 0.5) * (2 / height)], -1) - 1
        moved = F.grid_sample(self._mouths[index.flatten()], grid, "bicubic", "border", align_corners=False)
        return (moved.unflatten(0, index.shape) * share[..., None, None, None]).sum(1)
