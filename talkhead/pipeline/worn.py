"""Between generator and renderer: a motion that wears the emotions which the landmark net has not learnt."""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction

import torch
import torch.nn.functional as F
from torch import Tensor

from talkhead.data.clip import EMOTIONS
from talkhead.face.expression import EMOTION_ACTIONS, action_offsets, project
from talkhead.face.expressive_motion import expressive_motion
from talkhead.media.recording import Recording
from talkhead.nets.landmark import LandmarkNet
from talkhead.pipeline.feeling import EmotionKeys, left_by
from talkhead.speech.level import frame_decibels, speech_level

OPENING = "jawOpen"
"""The action that only the words may have: the jaw drops as far as they part the lips."""

BREATH_SECONDS = 0.8
"""Over how long the voice's energy is averaged before the expression follows it."""


def wear_expressions(
    landmarks: Iterator[Tensor],
    face: Tensor,
    keys: EmotionKeys,
    net: LandmarkNet,
    strength: Tensor,
    fps: Fraction,
) -> Iterator[Tensor]:
    """Yield the motion with the expressions of the emotions that the landmark net has not learnt.

    Frame n depends on its own landmarks and its own time alone. Where nothing is left to show, nothing is touched.

    Args:
        landmarks: (t, 68, 2) px chunks, in order.
        face: (68, 2) px, the portrait's landmarks in the same picture.
        keys: the emotion over time.
        net: the landmark net that has made the motion.
        strength: (T,) of the expression at each frame: the one asked for times `breathing`.
        fps: frames per second.

    Yields:
        (t, 68, 2) px.
    """
    offsets, opening = emotion_offsets(face)
    done = 0
    for part in landmarks:
        frames = torch.arange(done, done + len(part))
        weights = left_by(net, keys.shown_at(frames.double() / float(fps)))
        weights = strength[frames.clamp_max(len(strength) - 1), None] * weights
        if weights.any():
            worn, dropped = (torch.einsum("te,epd->tpd", weights, table) for table in (offsets, opening))
            part = torch.where(weights.any(1)[:, None, None], expressive_motion(part, face, worn, dropped), part)
        yield part
        done += len(part)


def emotion_offsets(face: Tensor) -> tuple[Tensor, Tensor]:
    """Return (8, 68, 2) px at strength 1, in the order of `EMOTIONS`: all but the jaw's opening, and it alone."""
    mixes = [EMOTION_ACTIONS[name] for name in EMOTIONS]
    closed = [action_offsets({name: w for name, w in mix.items() if name != OPENING}) for mix in mixes]
    opened = [action_offsets({name: w for name, w in mix.items() if name == OPENING}) for mix in mixes]
    return project(torch.stack(closed), face), project(torch.stack(opened), face)


def breathing(speech: Tensor | Recording | None, num_frames: int, fps: Fraction, seed: int) -> Tensor:
    """Return the (T,) factor by which an expression's strength breathes.

    It follows the voice's energy, averaged over `BREATH_SECONDS`, from 0.85 in silence to 1.05 at the speech's own
    level, and a slow wander of 5% that the seed chooses. Without sound there is the wander alone.

    Args:
        speech: (S,) at 16 kHz, or None.
        num_frames: T.
        fps: frames per second.
        seed: of the wander.
    """
    energy = torch.full((num_frames,), 0.75)
    if speech is not None:
        decibels = frame_decibels(speech, speech_level(speech), num_frames)
        half = round(BREATH_SECONDS * float(fps) / 2)
        window = torch.hann_window(2 * half + 3, periodic=False)[1:-1]
        padded = F.pad(((decibels + 30) / 30).clamp(0, 1)[None, None], (half, half), mode="replicate")
        energy = F.conv1d(padded, (window / window.sum())[None, None])[0, 0]
    generator = torch.Generator().manual_seed((seed * 1_000_003 + 7) % 2**63)
    phases = 2 * math.pi * torch.rand(2, generator=generator, dtype=torch.float64)
    time = torch.arange(num_frames, dtype=torch.float64)[:, None] / float(fps)
    wander = (2 * math.pi * torch.tensor([0.13, 0.29]) * time + phases).sin().mean(1).float()
    return 0.85 + 0.2 * energy + 0.05 * wander
