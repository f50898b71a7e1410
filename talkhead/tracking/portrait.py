"""The picture that is given as a portrait, and the landmarks of the face in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from talkhead.media.read import read_image
from talkhead.tracking.track import LandmarkDetector


def read_portrait(image: Any, transparent: bool = False) -> Tensor:
    """Return a picture as (3, H, W) uint8 RGB.

    Args:
        image: a file, its bytes, a PIL image, an (H, W, 3) uint8 array or a (3, H, W) uint8 tensor. The first three are
            read as a viewer shows them, see ``talkhead.media.read.read_image``.
        transparent: leave the colours of a transparent picture as they are, instead of laying them over white.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be read, or has another shape or type.
    """
    if isinstance(image, str | Path | bytes | bytearray | memoryview) or hasattr(image, "convert"):
        return read_image(image, opacity=transparent)[:3]
    picture = torch.from_numpy(np.ascontiguousarray(image)) if isinstance(image, np.ndarray) else image
    if not isinstance(picture, Tensor) or picture.dtype != torch.uint8 or picture.ndim != 3 or 3 not in picture.shape:
        got = f"shape {tuple(image.shape)}, {image.dtype}" if hasattr(image, "shape") else type(image).__name__
        kinds = "a file, its bytes, a PIL image, an (H, W, 3) uint8 array or a (3, H, W) uint8 tensor"
        raise ValueError(f"image must be {kinds}; got {got}")
    return (picture if picture.shape[0] == 3 else picture.permute(2, 0, 1)).contiguous().cpu()


def find_face(picture: Tensor, detector: LandmarkDetector, face: str | int, image: Any = None) -> Tensor:
    """Return the (68, 2) px landmarks of the face in a (3, H, W) uint8 picture.

    Args:
        picture: from ``read_portrait``.
        detector: what looks for it.
        face: which one, see ``LandmarkDetector``.
        image: what the picture was read from: a file is named where there is no face in it.

    Raises:
        ValueError: if there is no face, or not the one asked for.
    """
    found = detector(picture, face=face)
    if found is None:
        which = "" if face == "largest" else f" ({face!r})"
        where = f" in '{image}'" if isinstance(image, str | Path) else ""
        raise ValueError(
            f"image: no face{which} was found{where} by the detector {detector.name}; "
            "give a picture with a face seen from the front and at least 40 px high, or reference_landmarks"
        )
    return found.landmarks
