"""Between generator and renderer: a motion that wears the emotions which the landmark net has not learnt."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import torch
import torch.nn.functional as F
from torch import Tensor

from talkhead.data.clip import EMOTIONS
from talkhead.face.expression import EMOTION_ACTIONS, action_offsets, project
from talkhead.face.expressive_motion import expressive_motion, share_blink
from talkhead.face.frame import eye_line
from talkhead.nets.landmark import LandmarkNet
from talkhead.pipeline.feeling import EmotionKeys, left_by
from talkhead.speech.level import frame_decibels, speech_level
from talkhead.speech.recording import Recording

LEAST_STEP = 0.05
"""In eye distances: a change of expression may always make steps as long as this, however small the words' are."""

BREATH_SECONDS = 0.8
"""Over how long the voice's energy is averaged before the expression follows it."""


def wear_expressions(
    landmarks: Iterator[Tensor], face: Tensor, keys: EmotionKeys, net: LandmarkNet, strength: Tensor, fps: Fraction
) -> Iterator[Tensor]:
    """Yield the motion with the expressions of the emotions that the landmark net has not learnt.

    Where nothing is left to show, nothing is touched. A change of expression waits, frame by frame, where it would make
    a step longer than the longest that the words have made so far, and lids share a blink that would (`share_blink`);
    else frame n depends on its own landmarks and time.

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
    offsets = emotion_offsets(face)
    done, before = 0, None
    for part in landmarks:
        frames = torch.arange(done, done + len(part))
        weights = left_by(net, keys.shown_at(frames.double() / float(fps)))
        weights = strength[frames.clamp_max(len(strength) - 1), None] * weights
        if before is None:
            before = Worn(part[:1], part[:1], weights[:1], LEAST_STEP * eye_line(face).norm())
        yield before.follow(part, weights, face, offsets)
        done += len(part)


@dataclass
class Worn:
    """What the last frame was, for the next to follow without a jump.

    Attributes:
        spoken: (1, 68, 2) px as the words have it.
        shown: (1, 68, 2) px with the expression.
        weights: (1, 8) of the expressions in it.
        longest: px, the longest step of a point that the words have made so far.
    """

    spoken: Tensor
    shown: Tensor
    weights: Tensor
    longest: Tensor

    def follow(self, spoken: Tensor, weights: Tensor, face: Tensor, offsets: Tensor) -> Tensor:
        """Return (T, 68, 2) px of the next frames with the (T, 8) expressions, or as much of them as can be reached.

        The expression's share of a step grows with the change of the weights, so that a part of the change,
        (longest - step of none) / (step of all - step of none), is what the words' longest step leaves.
        """
        if not (weights.any() or self.weights.any()):
            steps = torch.cat((self.spoken, spoken)).diff(dim=0).norm(dim=-1)
            self.longest = torch.maximum(self.longest, steps.max())
            self.spoken = self.shown = spoken[-1:]
            return spoken
        shown = wear(spoken, weights, face, offsets)
        for n in range(len(spoken)):
            words, asked = spoken[n : n + 1], weights[n : n + 1]
            self.longest = torch.maximum(self.longest, largest_step(self.spoken, words))
            whole = largest_step(self.shown, shown[n : n + 1])
            if whole > self.longest and not torch.equal(asked, self.weights):
                none = largest_step(self.shown, wear(words, self.weights, face, offsets))
                share = ((self.longest - none) / (whole - none).clamp_min(1e-6)).clamp(0, 1)
                asked = torch.lerp(self.weights, asked, share)
                shown[n : n + 1] = wear(words, asked, face, offsets)
            shown[n : n + 1] = share_blink(self.shown, shown[n : n + 1], self.longest)
            self.spoken, self.shown, self.weights = words, shown[n : n + 1].clone(), asked
        return shown


def wear(spoken: Tensor, weights: Tensor, face: Tensor, offsets: Tensor) -> Tensor:
    """Return (T, 68, 2) px with (T, 8) weights of the expressions; where all are 0, the same as it was."""
    worn = torch.einsum("te,epd->tpd", weights, offsets)
    return torch.where(weights.any(1)[:, None, None], expressive_motion(spoken, face, worn), spoken)


def largest_step(before: Tensor, after: Tensor) -> Tensor:
    """Return the longest way of a point between two frames of (1, 68, 2) px."""
    return (after - before).norm(dim=-1).max()


def emotion_offsets(face: Tensor) -> Tensor:
    """Return (8, 68, 2) px at strength 1, in the order of `EMOTIONS`, without the jaw: the words alone drop it."""
    mixes = [EMOTION_ACTIONS[name] for name in EMOTIONS]
    closed = [action_offsets({name: weight for name, weight in mix.items() if name != "jawOpen"}) for mix in mixes]
    return project(torch.stack(closed), face)


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
