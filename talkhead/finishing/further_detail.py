"""The fine detail of further pictures of a person, where a renderer has mixed them into the portrait."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from talkhead.face.mouth_bank import lip_map, nearest_pictures
from talkhead.face.warp import sample, thin_plate_spline_field

_LEAST = 1 / 256
"""A share below this cannot be seen."""


class Mixture(NamedTuple):
    """What can be seen of further pictures in one frame, n of them.

    Attributes:
        which: (n,) the pictures' numbers.
        shift: (n, s, s, 2) px from where in each a pixel was sampled, less where it is.
        change: (n, 3, s, s) levels by which each differs from the portrait, both bent, at the renderer's size.
        share: (n, s, s) in [0, 1].
    """

    which: Tensor
    shift: Tensor
    change: Tensor
    share: Tensor


class FurtherDetail:
    """Replace the portrait's fine detail by that of further pictures, as far as these are shown.

    What holds a share g of picture n in the place of the portrait is to hold a share g of n's fine detail, too: with
    the portrait's alone, the line of its shut lips lay across the other's teeth. With W bent at full size, w bent at
    the renderer's size and U enlarging, g ((W_n - U w_n) - (W - U w)) is added to what has all of W - U w.

    Args:
        pictures: (R, 3, S, S) uint8 of any size. Those no finer than the renderer's have no detail to give: around them
            the portrait's skin keeps its own, and only between and on the lips it goes.
        landmarks: (R, 68, 2) px of them, all on the device that is to do the work.
        size: px, the renderer's.
    """

    def __init__(self, pictures: Tensor, landmarks: Tensor, size: int) -> None:
        self._large = pictures  # a speaker's 32, of a large face, take four times as much as floats
        small = [F.interpolate(one[None].float(), (size, size), mode="bilinear", antialias=True) for one in pictures]
        self._small = torch.cat(small)
        self._landmarks = (landmarks.float() + 0.5) * (size / pictures.shape[-1]) - 0.5

    def mixtures(self, landmarks: Tensor, own: Tensor, share: Tensor) -> list[Mixture]:
        """Bend the pictures as the renderer did, those that can be seen; one mixture a frame.

        Args:
            landmarks: (t, 68, 2) px of the frames.
            own: (t, 3, s, s) the bent portrait, in levels.
            share: (t, N, s, s) of each picture, the nearest first.
        """
        size = (own.shape[-2], own.shape[-1])
        if self._large.shape[-1] <= size[-1]:
            share = share * lip_map(landmarks[None], size)[0][:, None]
        seen = share.amax((-1, -2)) > _LEAST
        if not seen.any():
            return [Mixture(seen[:0], own[:0], own[:0], share[0, :0])] * len(own)
        frame = seen.nonzero()[:, 0]
        which = nearest_pictures(self._landmarks[None], landmarks[None], share.shape[1])[0][0][seen]
        field = thin_plate_spline_field(self._landmarks[which], landmarks[frame][:, None], size)
        taken, place = which.unique(return_inverse=True)  # `sample` makes all that it is given finer
        change = sample(self._small[taken], field, index=place)[:, :, 0] - own[frame]
        counts = seen.sum(1).tolist()
        parts = (part.split(counts) for part in (which, field[:, 0], change, share[seen].clamp(0, 1)))
        return [Mixture(*one) for one in zip(*parts, strict=True)]

    def put(self, frame: Tensor, places: Tensor, mixture: Mixture) -> None:
        """Put the pictures' detail into one frame.

        Args:
            frame: (1, 3, S, S) the bent portrait in levels; changed in place.
            places: (1, S, S, 2) of its pixels, from -1 to 1 over the frame.
            mixture: of this frame.
        """
        if not len(mixture.which):
            return
        share, size = mixture.share, mixture.share.shape[-1]
        seen = (share > _LEAST).any(0)
        rows, columns = (_span(seen.any(axis), size, frame.shape[-1]) for axis in (1, 0))
        grid = places[:, rows, columns].expand(len(share), -1, -1, -1)
        share = F.grid_sample(share[:, None], grid, padding_mode="border", align_corners=False)
        shift = mixture.shift.permute(0, 3, 1, 2)
        shift = F.grid_sample(shift, grid, padding_mode="border", align_corners=False).permute(0, 2, 3, 1)
        source = self._large[mixture.which].float()
        bent = F.grid_sample(source, grid + shift * (2 / size), "bicubic", "border", align_corners=False)
        change = F.grid_sample(mixture.change, grid, "bicubic", "border", align_corners=False)
        part = frame[:, :, rows, columns]
        part += (share * (bent - part - change)).sum(0, keepdim=True)


def _span(seen: Tensor, size: int, side: int) -> slice:
    """Return where, on a side of that many px, the places lie that are seen of ``size``."""
    found = seen.nonzero().flatten()
    return slice(int(found[0]) * side // size, min(-(-(int(found[-1]) + 1) * side // size), side))
