"""Detail from the portrait, and from further pictures, for what was painted smaller than the portrait is."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from talkhead.devices import side_by_side
from talkhead.face.smooth_step import smooth_step
from talkhead.face.warp import sample, spline_displacement
from talkhead.finishing.further_detail import FurtherDetail, Mixture

STIFFNESS = 1e-3
"""That of ``thin_plate_spline_warp``."""


class DetailRestorer:
    """Enlarge painted frames to the portrait's resolution with the portrait's own fine detail.

    With V the displacement by which the renderer sampled the portrait (or, where it tells none, the spline's to the
    frame's landmarks), W the portrait bent by it at full resolution, w the same of the small portrait and U enlarging,
    the result is W + U(painted - w): what the renderer has added, on skin and hair as sharp as they were. Where the
    renderer copies, the result is the bent portrait itself. With its own displacement nothing that it has moved, hair
    before a wall, is left where the spline had it: that was a halo.

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
        self._square = large if self.opaque else torch.cat((large[:, :3] * (large[:, 3:] / 255), large[:, 3:]), 1)
        self._face, self._landmarks = face[None].float(), landmarks[None]
        self._weight = fading(self.size, border).to(square.device, non_blocking=True)
        centres = (torch.arange(self.side, device=square.device) + 0.5) / self.side * 2 - 1
        self._still = torch.stack(torch.meshgrid(centres, centres, indexing="xy"), -1)[None]

    @torch.inference_mode()
    def __call__(self, painted: Tensor, landmarks: Tensor, displacement: Tensor | None = None) -> Tensor:
        """Enlarge (t, 3, s, s) uint8 frames with their (t, 68, 2) px landmarks to (t, 3 or 4, S, S) uint8.

        Args:
            painted: the frames.
            landmarks: theirs.
            displacement: (t, s, s, 2 + N) px, the renderer's own, then shares of further pictures; None: the spline's.
        """
        shift = None if displacement is None else displacement[..., :2]
        if shift is None:
            source = self._landmarks.expand(len(landmarks), -1, -1)
            shift = spline_displacement(source, landmarks, (self.size, self.size), STIFFNESS)
        bent = sample(self._face, shift[None])[0].transpose(0, 1)
        mixtures: list[Mixture | None] = [None] * len(painted)
        if self._further is not None and displacement is not None and displacement.shape[-1] > 2:
            share = displacement[..., 2:].permute(0, 3, 1, 2) * self._weight
            mixtures = [*self._further.mixtures(landmarks, bent, share)]
        change = (painted.float() - bent) * self._weight
        shift = (shift * self._weight[..., None]).permute(0, 3, 1, 2)
        # One by one, on the CPU one in each thread: full-size floats are large.
        ones = list(zip(shift.split(1), change.split(1), mixtures, strict=True))
        if shift.device.type == "cpu":
            return torch.cat(side_by_side(lambda one: self._add(*one), ones))
        return torch.cat([self._add(*one) for one in ones])

    def _add(self, shift: Tensor, change: Tensor, mixture: Mixture | None) -> Tensor:
        side = (self.side, self.side)
        moved = F.interpolate(shift, side, mode="bilinear", align_corners=False).permute(0, 2, 3, 1)
        grid = moved.mul_(2 / self.size).add_(self._still)
        bent = F.grid_sample(self._square, grid, "bicubic", "border", align_corners=False)
        grown = F.interpolate(change, side, mode="bicubic", align_corners=False)
        opacity = bent[:, 3:]
        colours = bent if self.opaque else bent[:, :3] / (opacity / 255).clamp_min(1e-4)
        if mixture is not None and self._further is not None:
            self._further.put(colours, self._still, mixture)
        colours += grown
        return torch.cat((colours, opacity), 1).round_().clamp_(0, 255).to(torch.uint8)


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
