"""Augmentation of a clip's pictures and landmarks together: colour, mirror, similarity, shape. Float32 always."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from talkhead.face.frame import turn
from talkhead.face.mixed_face import mixed_face
from talkhead.face.points import MIRROR, points_at
from talkhead.face.warp import pixel_grid, sample
from talkhead.ops.precision import full_precision


def recolour(frames: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Give a share of the samples another palette: channels mixed, gained, offset; the same for all of its frames.

    Args:
        frames: (B, T, 3, H, W) float in [0, 1].
        share: probability that a sample is recoloured.
        generator: source of the draws.

    Returns:
        (B, T, 3, H, W) float in [0, 1].
    """
    batch = len(frames)

    def draw(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator).to(frames, non_blocking=True)

    mix = torch.softmax(4 * draw(batch, 3, 3), -1)  # rows are convex: grey stays grey
    strength = draw(batch, 1, 1)
    mix = strength * mix + (1 - strength) * torch.eye(3).to(frames, non_blocking=True)
    gain, offset = 0.6 + 0.8 * draw(batch, 3, 1), 0.3 * draw(batch, 3, 1) - 0.15
    chosen = draw(batch, 1, 1) < share
    mix = torch.where(chosen, mix * gain, torch.eye(3).to(frames, non_blocking=True))
    offset = torch.where(chosen, offset, 0.0)
    with full_precision(frames):
        mixed = torch.einsum("bij,btjhw->btihw", mix, frames) + offset[:, None, :, :, None]
    return mixed.clamp(0, 1)


def mirror(frames: Tensor, landmarks: Tensor, share: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Flip a share of the samples left to right, with their landmarks renamed.

    Args:
        frames: (B, T, 3, H, W).
        landmarks: (B, T, 68, 2) px.
        share: probability that a sample is flipped.
        generator: source of the draws.
    """
    chosen = (torch.rand(len(frames), 1, 1, 1, generator=generator) < share).to(frames.device, non_blocking=True)
    flipped = points_at(landmarks, MIRROR)
    flipped[..., 0] = frames.shape[-1] - 1 - flipped[..., 0]
    return torch.where(chosen[..., None], frames.flip(-1), frames), torch.where(chosen, flipped, landmarks)


def jitter(frames: Tensor, landmarks: Tensor, share: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Turn (at most 15 degrees), scale (0.75 to 1.25) and shift (at most 8%) a share of the samples, all frames alike.

    Args:
        frames: (B, T, 3, H, W) float; what comes in from outside is mirrored at the border.
        landmarks: (B, T, 68, 2) px.
        share: probability that a sample is moved.
        generator: source of the draws.
    """
    draws = 2 * torch.rand(len(frames), 4, generator=generator) - 1
    chosen = (torch.rand(len(frames), generator=generator) < share).nonzero()[:, 0]
    return _changed(frames, landmarks, chosen, _jittered, draws)


def _jittered(frames: Tensor, landmarks: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
    """Move all samples by their (B, 4) draws in [-1, 1]: turn, scale, shift along x and y."""
    batch, count, _, height, width = frames.shape
    angle, scale = draws[:, 0] * math.radians(15), torch.exp(draws[:, 1] * math.log(1.25))
    rotation = torch.stack([angle.cos(), angle.sin(), -angle.sin(), angle.cos()], -1).view(batch, 1, 2, 2)
    centre = frames.new_tensor([(width - 1) / 2, (height - 1) / 2])
    shift = draws[:, 2:] * 0.08 * frames.new_tensor([width, height])
    scale = scale[:, None, None, None]
    moved = turn(landmarks - centre, scale * rotation) + (centre + shift)[:, None, None]
    pixels = pixel_grid(height, width, frames.device) - centre - shift[:, None, None]
    grid = turn(pixels, rotation.mT / scale) + centre
    grid = (grid + 0.5) / frames.new_tensor([width, height]) * 2 - 1
    sampled = F.grid_sample(frames.flatten(1, 2), grid, "bicubic", padding_mode="reflection", align_corners=False)
    return sampled.clamp(0, 1).view(batch, count, -1, height, width), moved


_WAVES = ((0.5, 0.0), (0.0, 0.5), (1.0, 0.0), (0.0, 1.0), (0.7, 0.7))
"""Cycles on a frame's side, along x and y, of the waves that bend a face."""
_BEND = 0.03  # of the frame's side: the most that one wave moves a point, along x and along y
_INVERSIONS = 20  # the slopes add to 0.83 at most: at the very worst 2.4% of what the waves moved is left


def reshape(frames: Tensor, landmarks: Tensor, share: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Give a share of the samples another face: bent by slow waves that stand still in the picture, all frames alike.

    Noses, lips, jaws and their distances become other people's, while the face moves as it moved: what one well-known
    man teaches is taught of many. A pixel comes from where five waves of at most 3% of the side, with periods from one
    to two sides, displace it; two neighbours never change places, for the waves' slopes add to less than one.

    Args:
        frames: (B, T, 3, H, W) float in [0, 1], H = W; the border goes on outside.
        landmarks: (B, T, 68, 2) px.
        share: probability that a sample is bent.
        generator: source of the draws.
    """
    batch, waves = len(frames), len(_WAVES)
    chosen = (torch.rand(batch, generator=generator) < share).nonzero()[:, 0]
    heights = _BEND * frames.shape[-1] * (2 * torch.rand(batch, waves, 2, generator=generator) - 1)
    phases = 2 * math.pi * torch.rand(batch, waves, 1, generator=generator)
    return _changed(frames, landmarks, chosen, _reshaped, heights, phases)


def _reshaped(frames: Tensor, landmarks: Tensor, heights: Tensor, phases: Tensor) -> tuple[Tensor, Tensor]:
    """Bend all samples by waves of (B, 5, 2) heights in px and (B, 5, 1) phases."""
    batch, _, _, height, width = frames.shape
    waves = torch.tensor(_WAVES).to(frames, non_blocking=True) * (2 * math.pi / width)

    def displacement(places: Tensor) -> Tensor:
        """Return where (B, N, 2) px places come from, less where they are."""
        return ((places[:, :, None, :] * waves).sum(-1)[..., None] + phases[:, None]).sin().mul(heights[:, None]).sum(2)

    with full_precision(frames):
        pixels = pixel_grid(height, width, frames.device).view(1, -1, 2).expand(batch, -1, -1)
        field = displacement(pixels).view(batch, 1, height, width, 2)
        bent = sample(frames.flatten(1, 2), field)[:, :, 0].clamp(0, 1).view(frames.shape)
        points = moved = landmarks.flatten(1, 2)
        for _ in range(_INVERSIONS):  # the place whose content comes from the point; a contraction
            moved = points - displacement(moved)
    return bent, moved.view(landmarks.shape)


def _changed(
    frames: Tensor, landmarks: Tensor, chosen: Tensor, change: Callable[..., tuple[Tensor, Tensor]], *draws: Tensor
) -> tuple[Tensor, Tensor]:
    """Change the chosen samples by their draws; the others cost nothing and stay as they are, to the bit."""
    if not len(chosen):
        return frames, landmarks
    frames, landmarks = frames.clone(), landmarks.clone()
    own = [draw[chosen].to(frames, non_blocking=True) for draw in draws]
    chosen = chosen.to(frames.device, non_blocking=True)  # before it indexes: that would copy it and wait
    frames[chosen], landmarks[chosen] = change(frames[chosen], landmarks[chosen], *own)
    return frames, landmarks


_MOST = 0.7  # of another person in a mixed face


def mingle(frames: Tensor, landmarks: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Mix into a share of the samples the face of the next sample of the batch, by up to 70%, all frames alike.

    A batch of one sample is left as it is. Several processes mix among their own samples.

    Args:
        frames: (B, T, 3, H, W) float in [0, 1].
        landmarks: (B, T, 68, 2) px; NaN: no picture there.
        share: probability that a sample is mixed.
        generator: source of the draws.
    """
    chosen = (torch.rand(len(frames), generator=generator) < share).nonzero()[:, 0]
    amount = _MOST * torch.rand(len(frames), generator=generator)[chosen]
    if not len(chosen) or len(frames) == 1:
        return frames
    chosen, amount = chosen.to(frames.device, non_blocking=True), amount.to(frames, non_blocking=True)
    other = (chosen + 1) % len(frames)
    out = frames.clone()
    out[chosen] = mixed_face(frames[chosen], landmarks[chosen], frames[other], landmarks[other], amount)
    return out
