"""Still pictures of people as clips: each picture is a window of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from talkhead.face.crop import crop_frames, face_crop, to_crop
from talkhead.media.folders import PICTURES, media_files
from talkhead.media.read import read_image
from talkhead.tracking.track import LandmarkDetector, MissingFaceError


def people_of(root: Path) -> dict[str, list[Path]]:
    """Return the pictures of each person below a folder, in order of name; hidden files are passed over.

    A picture in a folder of its own below ``root`` is of the person of that folder's name; one directly in ``root`` is
    of the person whom its name calls before the first underscore (``001_neutral.jpg``, ``001_smiling.jpg``; where
    nothing stands there, the whole name).

    Args:
        root: the folder.
    """
    people: dict[str, list[Path]] = {}
    for path in media_files(root, PICTURES):
        place = path.relative_to(root)
        person = place.parts[-2] if len(place.parts) > 1 else path.stem.partition("_")[0] or path.stem
        people.setdefault(person, []).append(path)
    return people


def cut_stills(
    paths: Sequence[Path], detector: LandmarkDetector, face: str | int, scale: float, size: int
) -> tuple[Tensor, Tensor]:
    """Cut the face out of each of a person's pictures.

    Args:
        paths: the pictures.
        detector: finds the face.
        face: which face of several.
        scale: side of the square relative to the landmarks' box, in each picture its own.
        size: px, side of the result.

    Returns:
        (N, 3, size, size) uint8 and (N, 68, 2) px of them.

    Raises:
        MissingFaceError: if there is no face in one.
        ValueError: if one cannot be read.
    """
    pictures, points = [], []
    for path in paths:
        picture = read_image(path)
        found = detector(picture, face=face)
        if found is None:
            raise MissingFaceError(f"no face in {path.name}")
        crop = face_crop(found.landmarks, scale)
        pictures.append(crop_frames(picture, crop, size))
        points.append(to_crop(found.landmarks, crop, size))
    return torch.stack(pictures), torch.stack(points)
