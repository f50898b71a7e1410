"""What the clips of a person give a speaker besides weights: a portrait, and pictures of the mouth."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from talkhead.data.dataset import ClipDataset
from talkhead.face.mouth_bank import mouth_shape
from talkhead.media.read import iter_frames
from talkhead.metrics import head_pose, sharpness
from talkhead.metrics.blinks import eye_opening
from talkhead.speaker.references import differing_mouths

BANK = 64
"""Pictures of the mouth that an adapted speaker has: each frame takes the two that are most like it."""


@dataclass(frozen=True)
class Shots:
    """The frames of some clips that have a face.

    Attributes:
        frames: (N, 3, H, W) uint8.
        landmarks: (N, 68, 2) px.
        places: of each frame, the clip's place among the entries and the frame's in the clip.
    """

    frames: Tensor
    landmarks: Tensor
    places: list[tuple[int, int]]


def read_shots(root: str | Path, entries: Sequence[dict[str, Any]], most: int = 1500) -> Shots:
    """Read frames of clips, evenly spread where there are more than ``most``."""
    clips = ClipDataset(root, [entry["name"] for entry in entries], reference="first")
    step = max(1, -(-sum(entry["frames"] for entry in entries) // most))
    frames, landmarks, places = [], [], []
    for place in range(len(clips)):
        clip = clips[place]
        assert clip.frames is not None and clip.landmarks is not None
        kept = [t for t in range(0, len(clip.frames), step) if clip.landmarks[t].isfinite().all()]
        frames.append(clip.frames[kept])
        landmarks.append(clip.landmarks[kept])
        places += [(place, t) for t in kept]
    return Shots(torch.cat(frames), torch.cat(landmarks), places)


def choose_portrait(shots: Shots) -> int:
    """Return the index of the frame that is the best portrait: turned to the camera, mouth shut, eyes open, sharp.

    Each counts by the number of frames that are better, the first two twice.
    """
    pose = head_pose(shots.landmarks)
    turned = pose.roll.abs() + pose.yaw.abs() + (pose.pitch - pose.pitch.median()).abs()
    mouth, eyes = mouth_shape(shots.landmarks)[:, 0], eye_opening(shots.landmarks)
    wrong = 2 * _rank(turned) + 2 * _rank(mouth) + _rank(-eyes) + _rank(-sharpness(shots.frames, "none"))
    return int(wrong.argmin())


def choose_mouths(shots: Shots, count: int = BANK) -> tuple[Tensor, Tensor]:
    """Return pictures whose mouths differ as much as can be, (R, 3, H, W) uint8, and their landmarks."""
    kept = differing_mouths(shots.landmarks, count)
    return shots.frames[kept], shots.landmarks[kept]


def read_frame(path: Path, fps: Fraction, number: int) -> Tensor:
    """Return one (3, H, W) uint8 frame of a recording, as `preprocess` counts them at this rate."""
    return next(itertools.islice(iter_frames(path, fps), number, None)).clone()


def _rank(values: Tensor) -> Tensor:
    """Return how many of the values are less than each."""
    return (values[:, None] > values).sum(1)
