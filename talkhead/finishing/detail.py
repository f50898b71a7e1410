"""Detail from the portrait, and from further pictures, for what was painted smaller than the portrait is."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from talkhead.devices import side_by_side
from talkhead.face.smooth_step import smooth_step
from talkhead.face.warp import finer, spline_displacement
from talkhead.finishing.further_detail import FurtherDetail, Mixture

STIFFNESS = 1e-3
"""That of ``thin_plate_spline_warp``."""
_ENLARGED = 640
"""px, the largest side of a picture that is kept four times as fine: 79 MB."""


class DetailRestorer:
    """Bring painted frames to the size shown with the portrait's own detail: enlarged or shrunk they would be soft.

    With V the displacement by which the renderer sampled the portrait (or, where it tells none, the spline's to the
    frame's landmarks), W the portrait bent by it at the size shown, w the same at the size painted and U scaling from
    that to this, the result is W + U(painted - w): what the renderer has added, on skin and hair as sharp as they
    were. Where the renderer copies, the result is the bent portrait itself. With its own displacement nothing that it
    has moved, hair before a wall, is left where the spline had it: that was a halo.

    A square that stays in its picture must not move at its border: there V and the change fade to nothing, so that hair
    and shoulders are stretched across the border. Blending two pictures there would show them twice.

    Args:
        square: (3, S, S) uint8 RGB, or (4, S, S) with the opacity: the portrait.
        face: (3, s, s) uint8 the portrait as the renderer saw it.
        landmarks: (68, 2) the portrait's landmarks, px of ``face``; all three on the device that is to do the work.
        border: share of the side over which the motion fades; 0: not at all.
        further: gives its own detail where a renderer has mixed in further pictures.
    """

    def __init__(
        self,
        square: Tensor,
        face: Tensor,
        landmarks: Tensor,
        border: float = 0.0,
        further: FurtherDetail | None = None,
    ) -> None:
        self.side, self.size = square.shape[-1], face.shape[-1]
        self.opaque, self._further = len(square) == 3, further
        large = square[None].float()
        # Colours that are weighted by their opacity can be moved; those under no opacity mean nothing.
        large = large if self.opaque else torch.cat((large[:, :3] * (large[:, 3:] / 255), large[:, 3:]), 1)
        self._square, self._face, self._landmarks = _Sampled(large), _Sampled(face[None].float()), landmarks[None]
        self._weight = fading(self.size, border).to(square.device, non_blocking=True)
        self._still, self._painted_still = (_centres(side, square.device) for side in (self.side, self.size))

    @torch.inference_mode()
    def __call__(self, painted: Tensor, landmarks: Tensor, displacement: Tensor | None = None) -> Tensor:
        """Bring (t, 3, s, s) uint8 frames with their (t, 68, 2) px landmarks to (t, 3 or 4, S, S) uint8.

        Args:
            painted: the frames.
            landmarks: theirs.
            displacement: (t, s, s, 2 + N) px, the renderer's own, then shares of further pictures; None: the spline's.
        """
        shift = None if displacement is None else displacement[..., :2]
        if shift is None:
            source = self._landmarks.expand(len(landmarks), -1, -1)
            shift = spline_displacement(source, landmarks, (self.size, self.size), STIFFNESS)
        bent = self._face.at(shift * (2 / self.size) + self._painted_still)
        mixtures: list[Mixture | None] = [None] * len(painted)
        if self._further is not None and displacement is not None and displacement.shape[-1] > 2:
            share = displacement[..., 2:].permute(0, 3, 1, 2) * self._weight
            mixtures = [*self._further.mixtures(landmarks, bent, share)]
        change = (painted.float() - bent) * self._weight
        shift = (shift * self._weight[..., None]).permute(0, 3, 1, 2).contiguous()  # what is enlarged fastest
        # One by one, on the CPU one in each thread: full-size floats are large.
        ones = list(zip(shift.split(1), change.split(1), mixtures, strict=True))
        if shift.device.type == "cpu":
            return torch.cat(side_by_side(lambda one: self._add(*one), ones))
        return torch.cat([self._add(*one) for one in ones])

    def _add(self, shift: Tensor, change: Tensor, mixture: Mixture | None) -> Tensor:
        side = (self.side, self.side)
        moved = F.interpolate(shift, side, mode="bilinear", align_corners=False).permute(0, 2, 3, 1)
        bent = self._square.at(moved.mul_(2 / self.size).add_(self._still))
        # Along one side, then the other: without `antialias`, which changes nothing else here, both at once.
        grown = F.interpolate(change, side, mode="bicubic", align_corners=False, antialias=True)
        opacity = bent[:, 3:]
        colours = bent if self.opaque else bent[:, :3] / (opacity / 255).clamp_min(1e-4)
        if mixture is not None and self._further is not None:
            self._further.put(colours, self._still, mixture)
        colours += grown
        return torch.cat((colours, opacity), 1).round_().clamp_(0, 255).to(torch.uint8)


class _Sampled:
    """A picture that is sampled frame after frame.

    Bilinear samples of it made four times as fine are sharper than bicubic ones of itself, and cost half; those that
    `sample` takes are a little sharper still, and cost four times as much. A larger one would need too much memory.

    Args:
        picture: (1, C, S, S) levels.
    """

    def __init__(self, picture: Tensor) -> None:
        self._side, self._picture, self._mode = picture.shape[-1], picture, "bicubic"
        if self._side <= _ENLARGED:
            self._picture, self._mode = finer(finer(picture)), "bilinear"

    def at(self, places: Tensor) -> Tensor:
        """Return the (t, C, h, w) levels at (t, h, w, 2) places, from -1 to 1 over the picture; edges are repeated."""
        source = self._picture.expand(len(places), -1, -1, -1)
        # The outermost pixels, which both have, lie at -1 and 1 of either.
        places = places * (self._side / (self._side - 1))
        return F.grid_sample(source, places, self._mode, "border", align_corners=True)


def _centres(side: int, device: torch.device) -> Tensor:
    """Return (1, side, side, 2): where a picture's pixels lie, from -1 to 1 over it."""
    centres = (torch.arange(side, device=device) + 0.5) / side * 2 - 1
    return torch.stack(torch.meshgrid(centres, centres, indexing="xy"), -1)[None]


def fading(side: int, border: float) -> Tensor:
    """Return (side, side) weights: 1 inside, falling along a smooth step to 0 at the border's outermost pixels.

    Args:
        side: px.
        border: share of the side over which they fall; 0: all weights are 1.
    """
    position = torch.arange(side, dtype=torch.float32)
    distance = torch.minimum(position, side - 1 - position)
    ramp = (distance / (border * side)).clamp(max=1) if border else torch.ones(side)
    ramp = smooth_step(ramp)
    return ramp[:, None] * ramp
