"""A face as the renderer sees it, cut from its picture."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from talkhead.face.crop import Crop, crop_frames, face_crop, from_crop, to_crop
from talkhead.face.landmarks import check_landmarks
from talkhead.short_repr import short_repr

SMALLEST = 8.0
"""px, side of the landmarks' box: smaller ones are no face to paint, but shares of the picture."""
LARGEST = 2.0
"""Sides of the picture that a landmarks' box cannot have, however close the face."""


@short_repr
@dataclass(frozen=True, eq=False)
class Portrait:
    """A face as the renderer sees it, and the picture it is cut from.

    Attributes:
        picture: (3, H, W) uint8 RGB.
        landmarks: (68, 2) px of ``picture``.
        crop: the square of ``picture`` that is painted.
        face: (3, s, s) uint8 RGB, the crop at the renderer's size.
        reference_landmarks: (68, 2) px of ``face``.
    """

    picture: Tensor
    landmarks: Tensor
    crop: Crop
    face: Tensor
    reference_landmarks: Tensor

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the picture in px."""
        return self.picture.shape[1], self.picture.shape[2]

    def to_picture(self, landmarks: Tensor) -> Tensor:
        """Turn (..., 68, 2) px of the face into px of the picture."""
        return from_crop(landmarks, self.crop, self.face.shape[-1])

    def to_face(self, landmarks: Tensor) -> Tensor:
        """Turn (..., 68, 2) px of the picture into px of the face."""
        return to_crop(landmarks, self.crop, self.face.shape[-1])


def crop_portrait(picture: Tensor, landmarks: Tensor, scale: float, size: int) -> Portrait:
    """Cut the square around the face, as `preprocess` cut it from the training clips.

    Args:
        picture: (3, H, W) uint8 RGB.
        landmarks: (68, 2) px.
        scale: side of the square relative to the landmarks' box.
        size: px, the renderer's.

    Raises:
        ValueError: if the landmarks have another shape, are not finite or cannot be px of the picture.
    """
    landmarks = torch.as_tensor(landmarks)
    if landmarks.shape != (68, 2):
        raise ValueError(f"reference_landmarks must have shape (68, 2), (x, y) in px; got {tuple(landmarks.shape)}")
    landmarks = check_landmarks(landmarks[None], "reference_landmarks")[0].cpu()
    _check_place(landmarks, picture)
    crop = face_crop(landmarks, scale)
    return Portrait(picture, landmarks, crop, crop_frames(picture, crop, size), to_crop(landmarks, crop, size))


def _check_place(landmarks: Tensor, picture: Tensor) -> None:
    """Raise where (68, 2) points are no face in a picture: shares of it, or px of another."""
    height, width = picture.shape[1:]
    low, high = landmarks.amin(0), landmarks.amax(0)
    box, (x, y) = (high - low).max().item(), ((low + high) / 2).tolist()
    inside = -0.5 <= x <= width - 0.5 and -0.5 <= y <= height - 0.5
    if not inside or not SMALLEST <= box <= LARGEST * max(height, width):
        (left, top), (right, bottom) = low.tolist(), high.tolist()
        raise ValueError(
            f"reference_landmarks must be px of the picture, {width} x {height}, not shares of it nor px of another; "
            f"got points from ({left:g}, {top:g}) to ({right:g}, {bottom:g}): give px, or leave them out to have the "
            "face found"
        )
