"""Where painted squares are shown: as a picture of their own, as large as the portrait allows, or in the portrait."""

from __future__ import annotations

from collections.abc import Iterator
from numbers import Integral
from typing import Literal

import torch
from torch import Tensor

from talkhead.face.crop import crop_frames
from talkhead.face.mouth_bank import Bank, shrunk
from talkhead.face.portrait import Portrait
from talkhead.finishing.detail import DetailRestorer
from talkhead.finishing.drawn_mouth import DrawnMouth
from talkhead.finishing.further_detail import FurtherDetail

LARGEST = 512
"""px, side of the crop where no size is asked for and the portrait has more: what browsers and phones show well."""
BORDER = 0.15
"""Share of the square's side over which the motion fades where the square stays in its picture."""


AT_ONCE = 2**26
"""Bytes of whole pictures that are handed out at once, though always one picture."""


class FramePlacer:
    """Turn painted squares into frames.

    Attributes:
        size: (height, width) of the frames in px.

    Args:
        portrait: what the squares were painted from.
        frame: "crop": the square alone; "full": the whole picture with the square in it.
        size: side of the crop in px; None: as the portrait has it, from the renderer's size to ``LARGEST``.
        alpha: (H, W) uint8 opacity of the portrait's picture: frames then have four channels.
        device: where the squares are enlarged and pasted.
        drawn: fills opened mouths.
        further: (R, 3, S, S) uint8 further pictures of the person and their (R, 68, 2) px; larger ones than are shown
            are shrunk.

    Raises:
        ValueError: if ``frame`` or ``size`` is out of range, or ``size`` is given for a whole picture.
    """

    def __init__(
        self,
        portrait: Portrait,
        frame: Literal["crop", "full"] = "crop",
        size: int | None = None,
        alpha: Tensor | None = None,
        device: torch.device | str = "cpu",
        drawn: DrawnMouth | None = None,
        further: Bank | None = None,
    ) -> None:
        check_output(frame, size)
        self._portrait, self._full, self._drawn = portrait, frame == "full", drawn
        picture = portrait.picture if alpha is None else torch.cat((portrait.picture, alpha[None]))
        picture, self._device = picture.to(device), device
        self._painted_size = portrait.face.shape[-1]
        self._side = round(portrait.crop.side) if self._full else size or fitting_size(portrait)
        self.size = portrait.size if self._full else (self._side, self._side)
        self._restore: DetailRestorer | None = None
        self._picture = picture.permute(1, 2, 0).contiguous()
        if self._full or alpha is not None or self._side != self._painted_size:
            square = torch.cat([crop_frames(part, portrait.crop, self._side) for part in _threes(picture)])
            square = square[: len(picture)]
            border = BORDER if self._full else 0.0
            face, landmarks = portrait.face.to(device), portrait.reference_landmarks.to(device)
            detail = None
            if further is not None:
                detail = FurtherDetail(*self._as_shown(further), self._painted_size)
            self._restore = DetailRestorer(square, face, landmarks, border, detail)

    def __call__(self, painted: Tensor, landmarks: Tensor, displacement: Tensor | None = None) -> Tensor:
        """Place painted squares.

        Args:
            painted: (t, 3, s, s) uint8.
            landmarks: (t, 68, 2) px of them.
            displacement: of `Painted`: from where in the portrait the renderer sampled; None: by the landmarks.

        Returns:
            (t, H, W, 3 or 4) uint8 frames on the CPU.
        """
        parts = [*self.in_parts(painted, landmarks, displacement)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def in_parts(self, painted: Tensor, landmarks: Tensor, displacement: Tensor | None = None) -> Iterator[Tensor]:
        """Yield the same frames, whole pictures a few at a time: a window of a phone's takes half a gigabyte."""
        painted, landmarks = painted.to(self._device), landmarks.to(self._device, non_blocking=True)
        if self._restore is not None:
            painted = self._restore(painted, landmarks, displacement)
        if self._drawn is not None:
            painted = self._drawn(painted, self._on_square(landmarks))
        squares = painted.permute(0, 2, 3, 1)
        if not self._full:
            yield squares.contiguous().cpu()
            return
        for part in squares.split(max(1, AT_ONCE // self._picture.nbytes)):
            yield self._in_picture(part).contiguous().cpu()

    def to_frame(self, landmarks: Tensor) -> Tensor:
        """Turn (..., 68, 2) px of the painted square into px of the frames."""
        if self._full:
            return self._portrait.to_picture(landmarks)
        return self._on_square(landmarks)

    def _as_shown(self, further: Bank) -> Bank:
        """Return further pictures no larger than the square is shown: larger ones would be sampled at single points."""
        pictures, landmarks = (part.to(self._device) for part in further)
        larger = pictures.shape[-1] > self._side
        return shrunk((pictures, landmarks), self._side) if larger else (pictures, landmarks)

    def _on_square(self, landmarks: Tensor) -> Tensor:
        return (landmarks + 0.5) * (self._side / self._painted_size) - 0.5

    def _in_picture(self, squares: Tensor) -> Tensor:
        x, y, side = (round(value) for value in (self._portrait.crop.x, self._portrait.crop.y, self._side))
        height, width = self.size
        frames = self._picture.expand(len(squares), -1, -1, -1).clone()
        left, right, top, bottom = max(x, 0), min(x + side, width), max(y, 0), min(y + side, height)
        if left < right and top < bottom:
            frames[:, top:bottom, left:right] = squares[:, top - y : bottom - y, left - x : right - x]
        return frames


def fitting_size(portrait: Portrait) -> int:
    """Return the side in px at which the crop is shown where none is asked for: even, as H.264 wants it."""
    side = min(max(round(portrait.crop.side), portrait.face.shape[-1]), max(LARGEST, portrait.face.shape[-1]))
    return side - side % 2


def check_output(frame: str, size: int | None) -> None:
    """Raise a ValueError where frame or size is out of range."""
    if frame not in ("crop", "full"):
        raise ValueError(f"frame must be 'crop' or 'full'; got {frame!r}")
    if size is not None and frame == "full":
        raise ValueError("size is for frame='crop'; with frame='full' the frames are as large as the portrait")
    if size is not None and (not isinstance(size, Integral) or not 16 <= size <= 4096):
        raise ValueError(f"size must be a whole number of px in 16..4096; got {size!r}")


def _threes(picture: Tensor) -> list[Tensor]:
    """Split (3 or 4, H, W) into pictures of three channels, which is what is cropped; the opacity three times."""
    return [picture[:3]] if len(picture) == 3 else [picture[:3], picture[3:].expand(3, -1, -1)]
