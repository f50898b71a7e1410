"""Where a video cuts: to another person, to another picture and back, or from one face to another in one picture.

Landmarks say where a face is, not whose it is: after a cut they go on on the next face. So each frame is remembered by
two small pictures, the face brought upright by its eyes and the whole scene, and where they or the landmarks change as
no head moves, the video is cut.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

FACE_SIDE, SCENE_SIZE = 24, (18, 24)
"""px of the two small pictures."""
SHORTEST = 10
"""Frames of a shot worth keeping."""

# Measured on 40 talking people and all pairs of them (docs/measurements/tracking.md): from one frame to the next a face
# keeps a likeness of 0.74 (blinks) and moves by at most 0.05 of the distance of its outer eye corners.
_STRANGE, _UNLIKE = 0.6, 0.8
_HOP, _LEAP = 0.1, 0.5
_SUDDEN = 8.0


@dataclass(frozen=True)
class Glimpse:
    """What is remembered of one frame.

    Attributes:
        landmarks: (68, 2) px, or None where no face was found.
        face: (3, n, n) uint8, the upright face, or None.
        scene: (3, h, w) uint8, the whole frame.
    """

    landmarks: Tensor | None
    face: Tensor | None
    scene: Tensor


class Shot(NamedTuple):
    """A stretch of frames: the first one, and the one after the last.

    There is no cut in it, unless it is ``short``: one beside others, or several in a row, of less than ``SHORTEST``.
    """

    start: int
    end: int
    short: bool = False


def glimpse(frame: Tensor, landmarks: Tensor | None) -> Glimpse:
    """Remember a frame.

    Args:
        frame: (3, H, W) uint8 RGB.
        landmarks: (68, 2) px of the face in it, or None.
    """
    scene = F.interpolate(frame[None].float(), SCENE_SIZE, mode="area")[0].round().to(torch.uint8)
    return Glimpse(landmarks, None if landmarks is None else _upright_face(frame, landmarks), scene)


def _upright_face(frame: Tensor, landmarks: Tensor) -> Tensor:
    """Cut out eyes, nose, mouth and brows, turned and scaled by the eyes."""
    left, right = landmarks[36:42].mean(0), landmarks[42:48].mean(0)
    middle = (left + right + landmarks[33]) / 3
    across = right - left
    side = across.norm().clamp(min=1)
    line = torch.linspace(-1.1, 1.1, FACE_SIDE)
    down, along = torch.meshgrid(1.15 * line, line, indexing="ij")
    turned = torch.stack([-across[1], across[0]]) / side  # a quarter turn clockwise, as y points down
    places = middle + side * (along[..., None] * across / side + down[..., None] * turned)
    # Averaged down first: a large face sampled at so few points would sparkle.
    zoom = float((FACE_SIDE / (2.2 * side)).clamp(max=1))
    height, width = frame.shape[-2:]
    small = (max(round(height * zoom), 1), max(round(width * zoom), 1))
    picture = F.interpolate(frame[None].float(), small, mode="area") if zoom < 0.7 else frame[None].float()
    grid = (places + 0.5) * 2 / torch.tensor([width, height]) - 1
    face = F.grid_sample(picture, grid[None], mode="bilinear", padding_mode="border", align_corners=False)
    return face[0].round().to(torch.uint8)


def likeness(a: Tensor, b: Tensor) -> float:
    """Return the correlation of two small faces, without their brightness and contrast: 1 is the same.

    Args:
        a: (..., 3, n, n) uint8, one face or several to be averaged.
        b: the same.
    """
    first, second = _standardised(a), _standardised(b)
    if min(first.std(), second.std()) < 2:
        return 1.0  # a blank, such as a face in the dark, is like anything
    return float(F.cosine_similarity(first, second, dim=0))


def _standardised(faces: Tensor) -> Tensor:
    face = faces.float().reshape(-1, *faces.shape[-3:]).mean(0)
    return (face - face.mean((1, 2), keepdim=True)).flatten()


def find_shots(frames: Sequence[Glimpse], max_gap: int) -> list[Shot]:
    """Return the shots of a video, in order; they leave out no frame.

    Args:
        frames: what is remembered of each frame.
        max_gap: frames for which a face may be missing in a shot.

    Raises:
        LookupError: if a face is missing for longer, and no cut says why; the message names the frames.
    """
    sudden = _sudden_changes(frames)
    gaps = _long_gaps(frames, sudden, max_gap)
    cuts: set[int] = set()
    known = [index for index, seen in enumerate(frames) if seen.landmarks is not None]
    for place, (before, after) in enumerate(itertools.pairwise(known)):
        within = [index for index in range(before + 1, after + 1) if index in sudden]
        if _is_other(frames, known, place, bool(within)):
            cuts.update(within or [after])
        elif after > before + 1:
            cuts.update(within)  # another picture is shown, and then this one again
    for index in sudden:
        if known and (index <= known[0] or index > known[-1]):
            cuts.add(index)
    for start, end in gaps:  # a cut says why at one end; at the other the picture may have come or gone slowly
        for border, near in ((start, range(start, start + max_gap + 1)), (end, range(end - max_gap, end + 1))):
            if cuts.isdisjoint(near):
                cuts.add(border)
    borders = [0, *sorted(cuts - {0}), len(frames)]
    return _joined([Shot(a, b) for a, b in zip(borders, borders[1:], strict=False) if b > a])


def _long_gaps(frames: Sequence[Glimpse], sudden: set[int], max_gap: int) -> list[tuple[int, int]]:
    """Return where a face is missing for more than ``max_gap`` frames beside a cut."""
    gaps = []
    missing = [seen.landmarks is None for seen in frames]
    start = 0
    for gone, run in itertools.groupby(missing):
        end = start + len(list(run))
        if gone and end - start > max_gap:
            if not sudden & {start, end}:
                raise LookupError(f"frames {start} to {end - 1} show no face: more than max_gap={max_gap} allows")
            gaps.append((start, end))
        start = end
    return gaps


def _joined(shots: list[Shot]) -> list[Shot]:
    """Join neighbours that are too short to be kept: a tracker that loses a face hops several times."""
    result: list[Shot] = []
    for shot in shots:
        short = len(shots) > 1 and shot.end - shot.start < SHORTEST
        if short and result and result[-1].short:
            result[-1] = Shot(result[-1].start, shot.end, short)
        else:
            result.append(Shot(shot.start, shot.end, short))
    return result


def _sudden_changes(frames: Sequence[Glimpse]) -> set[int]:
    """Return the frames whose whole picture differs from the one before as it does nowhere near.

    A camera that moves, or someone who walks past, changes several pictures in a row, and so does a flash.
    """
    changes = [0.0]
    for before, after in zip(frames, frames[1:], strict=False):
        # The median: a face that goes, or a hand that comes, is no other picture.
        changes.append(float((after.scene.float() - before.scene.float()).abs().median()))
    found = set()
    for index, change in enumerate(changes):
        near = changes[max(index - 12, 1) : index] + changes[index + 1 : index + 13]
        beside = changes[max(index - 1, 1) : index] + changes[index + 1 : index + 2]
        if change > _SUDDEN and change > max(5 * statistics.median(near or [0.0]), 3 * max(beside, default=0.0)):
            found.add(index)
    return found


def _is_other(frames: Sequence[Glimpse], known: list[int], place: int, sudden: bool) -> bool:
    """Whether the ``place``-th known face and the next one are not one face that went on."""
    before, after = known[place : place + 2]
    first, second = frames[before].landmarks, frames[after].landmarks
    assert first is not None and second is not None
    eyes = (first[45] - first[36]).norm().clamp(min=1)
    moved = float((second - first).norm(dim=-1).mean() / eyes) / (after - before)
    earlier = [frames[i].face for i in known[max(place - 2, 0) : place + 1] if before - i < 3]
    later = [frames[i].face for i in known[place + 1 : place + 4] if i - after < 3]
    alike = likeness(_stack(earlier), _stack(later))
    if moved > _LEAP or (alike < _STRANGE and _is_least_alike(frames, known, place)):
        return True
    return (moved > _HOP and (sudden or alike < _UNLIKE)) or (sudden and alike < _UNLIKE)


def _is_least_alike(frames: Sequence[Glimpse], known: list[int], place: int) -> bool:
    """Whether the step after the ``place``-th known face is the one of its neighbours at which the face changes."""

    def step(at: int) -> float:
        return likeness(_stack([frames[known[at]].face]), _stack([frames[known[at + 1]].face]))

    return step(place) <= min(step(at) for at in range(max(place - 2, 0), min(place + 3, len(known) - 1)))


def _stack(faces: Sequence[Tensor | None]) -> Tensor:
    return torch.stack([face for face in faces if face is not None])


def ends_likeness(frames: Sequence[Glimpse]) -> float:
    """Return how alike the faces at the two ends of a shot are: one that changes slowly passes every other test."""
    faces = [seen.face for seen in frames if seen.face is not None]
    return likeness(_stack(faces[:5]), _stack(faces[-5:])) if faces else 1.0
