"""A face that nobody drives still lives: small head motion and blinks, a function of the seed and the time alone."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from talkhead.face.frame import face_size
from talkhead.face.points import EYELIDS

_SLOT_SECONDS = 4.0


def idle_motion(
    landmarks: Tensor, fps: float, *, seed: int = 0, first_frame: int = 0, head: float = 1.0, blink: float = 1.0
) -> Tensor:
    """Add a slow sway of the head and blinks.

    The sway is a sum of three sines per axis, slower than half a hertz, with random phases: about 1% of the face's size
    sideways and up and down, and half a degree of roll. One blink of 0.28 s falls at a random moment into every 4 s.
    Frame n has the same motion whatever window it is computed in.

    Args:
        landmarks: (T, 68, 2) px.
        fps: frames per second.
        seed: chooses phases and moments.
        first_frame: absolute number of the first frame given.
        head: gain of the sway; 0 turns it off.
        blink: gain of the blinks; 1 closes the eyes fully, 0 turns them off.

    Returns:
        (T, 68, 2) px.

    Example:
        >>> still = torch.rand(50, 68, 2) * 100
        >>> moved = idle_motion(still, fps=25)
        >>> torch.equal(idle_motion(still[20:], fps=25, first_frame=20), moved[20:])
        True
    """
    time = (torch.arange(len(landmarks), dtype=torch.float64) + first_frame) / fps
    moved = landmarks.clone()
    closing = (blink * _blinks(time, seed)).to(landmarks)[:, None]
    for upper, lower in EYELIDS:
        # The upper lid does most of the way, as eyelids do.
        gap = landmarks[:, lower] - landmarks[:, upper]
        moved[:, upper] += 0.85 * closing * gap
        moved[:, lower] -= 0.15 * closing * gap
    sway = (head * _sway(time, seed)).to(landmarks)
    centre = moved.mean(1, keepdim=True)
    size = face_size(moved)[:, None, None]
    cos, sin = sway[:, 2].cos(), sway[:, 2].sin()
    turn = torch.stack([torch.stack([cos, sin], -1), torch.stack([-sin, cos], -1)], -2)
    with torch.autocast(moved.device.type, enabled=False):
        return (moved - centre) @ turn + centre + size * sway[:, None, :2]


def _sway(time: Tensor, seed: int) -> Tensor:
    """Return (T, 3): shift right and down in face sizes, roll in radians; all begin at zero."""
    generator = torch.Generator().manual_seed(seed)
    rates = torch.tensor([0.11, 0.23, 0.41], dtype=torch.float64)
    phases = 2 * math.pi * torch.rand(3, 3, generator=generator, dtype=torch.float64)
    sizes = torch.tensor([[0.006], [0.006], [0.005]], dtype=torch.float64) / torch.tensor([1.0, 1.6, 2.8])
    angles = 2 * math.pi * rates * time[:, None, None] + phases
    return (sizes * (angles.sin() - phases.sin())).sum(-1)


def _blinks(time: Tensor, seed: int, duration: float = 0.28) -> Tensor:
    """Return the (T,) closing of the eyes in [0, 1]: a raised cosine at a random moment of every slot."""
    slots = (time / _SLOT_SECONDS).floor().long()
    closing = torch.zeros_like(time)
    for slot in slots.unique().tolist():
        generator = torch.Generator().manual_seed((seed * 1_000_003 + slot + 1) % 2**63)
        # Away from the slot's ends, so that no blink is cut and two are never closer than a second.
        moment = (slot + 0.15 + 0.7 * torch.rand((), generator=generator).item()) * _SLOT_SECONDS
        phase = (time - moment) / duration
        pulse = torch.where(phase.abs() < 0.5, torch.cos(math.pi * phase).square(), torch.zeros_like(phase))
        closing = torch.maximum(closing, pulse)
    return closing
