"""What moves a clip's landmarks where the true ones are not used: the model from the sound, and the mean motion."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from talkhead.data.clip import Clip, emotion_probabilities
from talkhead.face.motion_gains import retarget
from talkhead.nets.conformer import ConformerClassifier
from talkhead.nets.landmark import LandmarkNet
from talkhead.pipeline.feeling import leave_to
from talkhead.pipeline.hearing import classify

if TYPE_CHECKING:
    from talkhead.evaluate.rows import Truth


class Mover(Protocol):
    """What `move_landmarks` needs of a pipeline."""

    @property
    def landmark_net(self) -> LandmarkNet | None:
        """Moves the face; None: nothing does, and it is not asked."""

    @property
    def emotion_net(self) -> ConformerClassifier | None:
        """Hears the emotion; None: the label is told."""


@torch.no_grad()
def move_landmarks(model: Mover, truth: Truth, size: float | None = None) -> tuple[Tensor, Tensor, float]:
    """Return the landmarks that the model makes of the sound, the emotion it hears, and the seconds it took.

    The face at rest is the reference frame's. The small random head motion that ``generate`` adds is off: it can only
    be a distance from this recording's own.

    Args:
        model: with a landmark net.
        truth: the clip.
        size: the frame's width in px, to let the net see where in it the portrait stands; None, as in the pipeline: it
            sees the face alone. The crop of a cached clip is cut around all of its frames, so the place tells where
            the head will go: with ``size`` the numbers flatter.

    Returns:
        (T, 68, 2) px; (8,) probabilities; s.
    """
    clip, net, start = truth.clip, model.landmark_net, time.perf_counter()
    assert net is not None
    audio, reference_landmarks = clip.audio.to(net.device), truth.reference_landmarks.to(net.device)
    label = emotion_probabilities(clip.emotion)
    emotion = label if model.emotion_net is None else classify(model.emotion_net, clip.audio)
    moved = net.generate(
        audio, reference_landmarks, leave_to(net, emotion).to(net.device), fps=float(clip.fps), idle=0.0, size=size
    ).cpu()
    stop = truth.first + len(truth.frames)
    return moved[truth.first : stop], emotion, time.perf_counter() - start


def mean_motion(clips: Iterable[Clip]) -> tuple[Tensor, Tensor] | None:
    """Average the training clips' motion, frame index by frame index.

    Displacements from the reference frame are carried over to one face by similarity, so that clips of differing
    crops can be averaged.

    Args:
        clips: whole clips with landmarks and reference landmarks.

    Returns:
        (T, 68, 2) px mean displacements and (68, 2) px the face they belong to; None without clips.
    """
    face: Tensor | None = None
    total, count = torch.zeros(0, 68, 2), torch.zeros(0, 1, 1)
    for clip in clips:
        reference_landmarks = clip.reference_landmarks
        assert reference_landmarks is not None and clip.landmarks is not None
        face = reference_landmarks if face is None else face
        motion = retarget(clip.landmarks, reference_landmarks, face) - face
        seen = motion.isfinite().all(-1, keepdim=True).all(-2, keepdim=True)
        pad = (0, 0, 0, 0, 0, max(len(motion) - len(total), 0))
        total, count = torch.nn.functional.pad(total, pad), torch.nn.functional.pad(count, pad)
        total[: len(motion)] += torch.where(seen, motion, 0)
        count[: len(motion)] += seen
    return None if face is None else (total / count.clamp_min(1), face)


def apply_mean_motion(motion: Tensor, face: Tensor, truth: Truth) -> Tensor:
    """Return the mean motion on the clip's own face, (T, 68, 2) px; past its end it holds its last frame."""
    index = torch.arange(truth.first, truth.first + len(truth.frames)).clamp_max(len(motion) - 1)
    return retarget(face + motion[index], face, truth.reference_landmarks)
