"""Further pictures of the portrait's person: the teeth and lips that one portrait does not show."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from talkhead.data.index import VIDEO
from talkhead.face.borrowed_mouth import BorrowedMouth
from talkhead.face.crop import crop_frames, face_crop, to_crop
from talkhead.face.mouth_bank import mouth_shape
from talkhead.media.read import iter_frames
from talkhead.tracking.portrait import find_face, read_portrait
from talkhead.tracking.track import LandmarkDetector

MOST = 4
"""How many pictures are kept."""

_LOOKED_AT = 60
"""Frames of a video in which a face is looked for: one detection is a matter of tens of milliseconds."""

Bank = tuple[Tensor, Tensor]


def read_references(
    references: Sequence[Any] | str | Path, detector: LandmarkDetector, face: str | int, scale: float, size: int
) -> Bank:
    """Return further pictures of a person, cut as the portrait is.

    Args:
        references: one or several pictures (as for a portrait) or videos of the person. Of many, those are kept whose
            mouths differ the most.
        detector: finds the faces.
        face: which face of several.
        scale: side of the square relative to the landmarks' box.
        size: px, the renderer's.

    Returns:
        (R, 3, size, size) uint8 and (R, 68, 2) px of them, R at most 4.

    Raises:
        FileNotFoundError: if a file does not exist.
        ValueError: if one cannot be read, or there is no face in it.
    """
    many = [references] if isinstance(references, str | Path) else list(references)
    faces: list[tuple[Tensor, Tensor]] = []
    for one in many:
        if isinstance(one, str | Path) and Path(one).suffix.lower() in VIDEO:
            found = _faces_of(one, detector, face)
        else:
            picture = read_portrait(one)
            try:
                found = [(picture, find_face(picture, detector, face, one))]
            except ValueError as error:
                raise ValueError(str(error).replace("image:", "references:", 1)) from error
        faces += found
    if not faces:
        raise ValueError("references must hold at least one picture or video of the person; got none")
    landmarks = torch.stack([points for _, points in faces])
    kept = differing_mouths(landmarks)
    crops = [face_crop(landmarks[place], scale) for place in kept]
    pictures = [crop_frames(faces[place][0], crop, size) for place, crop in zip(kept, crops, strict=True)]
    points = [to_crop(landmarks[place], crop, size) for place, crop in zip(kept, crops, strict=True)]
    return torch.stack(pictures), torch.stack(points)


def differing_mouths(landmarks: Tensor, most: int = MOST) -> list[int]:
    """Choose faces whose mouths differ: the most open first, then always the one furthest from those chosen.

    Args:
        landmarks: (N, 68, 2) px.
        most: how many to choose.

    Returns:
        Their indices, at most ``most``.

    Example:
        >>> differing_mouths(torch.rand(9, 68, 2).sort(0).values).__len__()
        4
    """
    shapes = mouth_shape(landmarks)
    chosen = [int(shapes[:, 0].argmax())]
    while len(chosen) < min(most, len(shapes)):
        distance = (shapes[:, None] - shapes[chosen]).norm(dim=-1).amin(1)
        distance[chosen] = -1.0
        chosen.append(int(distance.argmax()))
    return chosen


def lend_mouth(
    folder: Path | None,
    face: Tensor,
    landmarks: Tensor,
    own: Bank | None,
    strength: float,
    device: torch.device | str = "cpu",
) -> BorrowedMouth | None:
    """Let a speaker's own pictures lend another portrait the inside of its mouth.

    Args:
        folder: the speaker's; None, or one without pictures, lends nothing.
        face: (3, s, s) uint8 the portrait as the renderer sees it.
        landmarks: (68, 2) px of it.
        own: further pictures of the portrait's person.
        strength: share of what is lent, in [0, 1]; see `BorrowedMouth`.
        device: where mouths are to be filled.

    Raises:
        ValueError: if ``strength`` is out of range, or the speaker's pictures are damaged.
    """
    if not 0 <= strength <= 1:
        raise ValueError(f"teeth must be in [0, 1], the share of the speaker's mouth that is lent; got {strength}")
    bank = load_bank(folder) if strength and folder is not None else None
    if bank is None:
        return None
    shown = landmarks[None] if own is None else torch.cat((landmarks[None], own[1].to(landmarks)))
    lender, bank_landmarks = bank
    return BorrowedMouth(lender.to(device), bank_landmarks.to(device), face.to(device), shown.to(device), strength)


def load_bank(folder: Path, size: int | None = None) -> Bank | None:
    """Load a speaker's own mouths; None where the folder has none.

    Args:
        folder: the speaker's.
        size: px, the renderer's; None: any.

    Raises:
        ValueError: if the file is damaged or holds something else.
    """
    path = folder / "bank.safetensors"
    if not path.is_file():
        return None
    try:
        tensors = load_file(path)
        pictures, landmarks = tensors["pictures"], tensors["landmarks"]
    except (SafetensorError, KeyError, OSError) as error:
        raise ValueError(f"pipeline: '{path}' is no bank of mouths ({error}); export the speaker again") from error
    size = (pictures.shape or (0,))[-1] if size is None else size
    count = pictures.shape[0] if pictures.ndim else 0
    right = pictures.shape == (count, 3, size, size) and landmarks.shape == (count, 68, 2) and 1 <= count <= 64
    if not right or pictures.dtype != torch.uint8 or not landmarks.isfinite().all():
        raise ValueError(
            f"pipeline: '{path}' must hold pictures (R, 3, {size}, {size}) uint8 and finite landmarks (R, 68, 2); got "
            f"{tuple(pictures.shape)} {pictures.dtype} and {tuple(landmarks.shape)}; export the speaker again"
        )
    return pictures, landmarks.float()


def _faces_of(path: str | Path, detector: LandmarkDetector, face: str | int) -> list[tuple[Tensor, Tensor]]:
    """Return faces of a video with their landmarks, from frames spread over it."""
    found = []
    for frame in _spread(iter_frames(path)):
        detection = detector(frame, face=face)
        if detection is not None:
            found.append((frame, detection.landmarks))
    if not found:
        raise ValueError(f"references: no face was found in '{path}'; give a video with a face seen from the front")
    return found


def _spread(frames: Iterable[Tensor]) -> list[Tensor]:
    """Keep at most 2 x 60 frames, evenly spread, of a video of unknown length: every n-th, n doubling as it goes on."""
    kept: list[Tensor] = []
    step = 1
    for number, frame in enumerate(frames):
        if number % step == 0:
            kept.append(frame)
        if len(kept) > 2 * _LOOKED_AT:
            kept, step = kept[::2], 2 * step
    return kept[:: max(1, len(kept) // _LOOKED_AT)]
