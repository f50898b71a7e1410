"""Landmark sequences as things to keep and to edit: files, gains, smoothing, retargeting, plots."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from talkhead.face.landmarks import check_landmarks
from talkhead.face.motion_gains import motion_gains, retarget
from talkhead.face.points import LOWER_LIDS, RIGID, UPPER_LIDS
from talkhead.media.files import check_writable, write_whole
from talkhead.media.read import exact_fps
from talkhead.metrics import mouth_opening
from talkhead.one_line import one_line
from talkhead.renamed import renamed_arguments
from talkhead.short_repr import short_repr
from talkhead.tracking.track import smooth_landmarks

_LARGEST = 2**31  # bytes: 68 points in float64 of a day at 25 frames/s


@short_repr
@dataclass(frozen=True, eq=False)
class LandmarkSequence:
    """A face's motion: what the landmark generator makes, what the renderer paints.

    Attributes:
        landmarks: (T, 68, 2) float32 px, (x, y), of a picture of ``size``.
        fps: frames per second, as a fraction.
        size: (height, width) in px of the picture that the landmarks lie in.

    Raises:
        ValueError: if the landmarks have another shape or are not finite, or fps or size are not positive.

    Example:
        >>> LandmarkSequence(torch.zeros(50, 68, 2), 25, (128, 128)).duration
        2.0
    """

    landmarks: Tensor
    fps: Fraction
    size: tuple[int, int]

    def __post_init__(self) -> None:
        object.__setattr__(self, "landmarks", check_landmarks(self.landmarks))
        object.__setattr__(self, "fps", exact_fps(self.fps))
        try:
            height, width = (int(side) for side in self.size)
        except (TypeError, ValueError):
            height = width = 0
        if height < 1 or width < 1:
            raise ValueError(f"size must be (height, width) in px, both positive; got {self.size!r}")
        object.__setattr__(self, "size", (height, width))

    def __len__(self) -> int:
        return len(self.landmarks)

    @property
    def duration(self) -> float:
        """Length in seconds."""
        return float(len(self) / self.fps)

    def edit(self, change: Callable[[Tensor], Tensor]) -> LandmarkSequence:
        """Return the sequence with ``change`` applied to its (T, 68, 2) landmarks; T may change."""
        return replace(self, landmarks=change(self.landmarks.clone()))

    @renamed_arguments(identity="reference_landmarks")
    def gain(
        self,
        reference_landmarks: Tensor | None = None,
        mouth: float = 1.0,
        pose: float = 1.0,
        blink: float = 1.0,
        brow: float = 1.0,
    ) -> LandmarkSequence:
        """Exaggerate or damp the motion; see `motion_gains`. ``reference_landmarks`` defaults to the first frame."""
        reference_landmarks = self._at_rest(reference_landmarks)
        gains = {"mouth": mouth, "pose": pose, "blink": blink, "brow": brow}
        return replace(self, landmarks=motion_gains(self.landmarks, reference_landmarks, **gains))

    def smooth(self, window: int = 7) -> LandmarkSequence:
        """Return the sequence smoothed over ``window`` frames, odd, 7 or more; see `smooth_landmarks`."""
        if window < 7:
            raise ValueError(f"window must be 7 or more, fewer frames lie on one curve as they are; got {window}")
        return replace(self, landmarks=smooth_landmarks(self.landmarks, window))

    @renamed_arguments(identity="reference_landmarks")
    def retarget(
        self, face: Tensor, size: tuple[int, int], reference_landmarks: Tensor | None = None
    ) -> LandmarkSequence:
        """Return the motion on another face.

        Args:
            face: (68, 2) px of a picture of ``size``: the other face at rest.
            size: (height, width) in px of the other picture.
            reference_landmarks: (68, 2) px: this face at rest; None takes the first frame.
        """
        reference_landmarks, face = self._at_rest(reference_landmarks), _one_face(face, "face")
        return LandmarkSequence(retarget(self.landmarks, reference_landmarks, face), self.fps, size)

    def _at_rest(self, given: Tensor | None) -> Tensor:
        return self.landmarks[0] if given is None else _one_face(given, "reference_landmarks")

    def save(self, path: str | Path) -> None:
        """Write an ``.npz`` file with the landmarks, fps and frame size, whole or not at all.

        Raises:
            ValueError: if the name does not end in .npz.
            OSError: if the file cannot be written.
        """
        path = Path(path)
        if path.suffix != ".npz":
            raise ValueError(f"path: a landmark sequence is an .npz file; got '{path}'")
        check_writable(path)
        landmarks, fps = self.landmarks.cpu().numpy(), np.array([self.fps.numerator, self.fps.denominator])
        write_whole(
            path, lambda file: np.savez_compressed(file, landmarks=landmarks, fps=fps, size=np.array(self.size))
        )

    @classmethod
    def load(cls, path: str | Path, max_frames: float = float("inf")) -> LandmarkSequence:
        """Read a file written by `save`.

        Args:
            path: the file.
            max_frames: one of more is refused by its header, before it is unpacked.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it is not a landmark sequence, or has more frames.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"landmarks: no file '{path}'")
        try:
            if (count := _count_frames(path)) <= max_frames:
                return cls(*_read_arrays(path))
        except PermissionError:
            raise
        except Exception as error:  # zip, zlib, numpy and torch have errors of their own, and each means the same here
            reason = one_line(error, 200)
            raise ValueError(
                f"landmarks: '{path}' is no landmark sequence (.npz with landmarks, fps and size; {reason}); "
                "write one with LandmarkSequence.save"
            ) from error
        raise ValueError(f"landmarks: '{path}' has {count} frames; at most {max_frames:.0f} are taken, cut it first")

    def plot(self, path: str | Path) -> None:
        """Draw the motion to a picture file: the points' paths, and mouth, eyes and head against time.

        Raises:
            OSError: if the file cannot be written.
        """
        check_writable(path)
        figure = _draw(self)
        kind = Path(path).suffix.lstrip(".") or "png"
        write_whole(path, lambda file: figure.savefig(file, format=kind, dpi=120))


def _one_face(points: Tensor, name: str) -> Tensor:
    """Return (68, 2) px as they are; refuse any other shape."""
    points = torch.as_tensor(points)
    if points.shape != (68, 2):
        raise ValueError(f"{name} must have shape (68, 2), (x, y) in px; got {tuple(points.shape)}")
    return points


def _count_frames(path: str | Path) -> int:
    """Return the number of frames by the file's headers, after checking that nothing in it unpacks to more."""
    with zipfile.ZipFile(path) as archive:
        records = {record.filename: record for record in archive.infolist()}
        largest = max((record.file_size for record in records.values()), default=0)
        if set(records) != {"landmarks.npy", "fps.npy", "size.npy"} or largest > _LARGEST:
            raise ValueError(f"it holds {', '.join(sorted(records))[:80]}, of {largest} bytes")
        if {record.compress_type for record in records.values()} - {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
            raise ValueError("it is packed as numpy packs none")  # others unpack gigabytes for the first byte
        count, *points = _shape_told(archive, "landmarks.npy")
        if points != [68, 2] or _shape_told(archive, "fps.npy") != (2,) or _shape_told(archive, "size.npy") != (2,):
            raise ValueError(f"its landmarks have shape {(count, *points)}, or its fps or size are no two numbers")
        return count


def _shape_told(archive: zipfile.ZipFile, name: str) -> tuple[int, ...]:
    with archive.open(name) as file:
        version = np.lib.format.read_magic(file)
        shape, _, kind = np.lib.format.read_array_header_1_0(file)
    if version != (1, 0) or kind.itemsize > 16:  # bytes: numpy's largest float
        raise ValueError(f"its {name} holds {str(kind)[:80]}")
    return shape


def _read_arrays(path: str | Path) -> tuple[Tensor, Fraction, tuple[int, int]]:
    """Read what `LandmarkSequence.save` wrote, after `_count_frames`."""
    with open(path, "rb") as file, np.load(file, allow_pickle=False) as data:
        (numerator, denominator), (height, width) = data["fps"].tolist(), data["size"].tolist()
        if not all(isinstance(side, int) and 0 < side < 2**16 for side in (height, width)):
            raise ValueError(f"its size is {height} by {width}")
        return torch.from_numpy(data["landmarks"]), Fraction(numerator, denominator), (height, width)


def _draw(sequence: LandmarkSequence):  # -> matplotlib Figure, which is imported only here
    from matplotlib.figure import Figure

    points = sequence.landmarks.cpu()
    seconds = torch.arange(len(sequence)) / float(sequence.fps)
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    face, time = figure.subplots(1, 2, width_ratios=(1, 2))
    for k in range(68):
        face.plot(points[:, k, 0], points[:, k, 1], linewidth=0.8, alpha=0.6)
    face.scatter(points[0, :, 0], points[0, :, 1], s=5, color="black", zorder=3)
    face.set(title="paths; dots: first frame", xlabel="x (px)", ylabel="y (px)", aspect="equal")
    face.invert_yaxis()
    for name, value in _curves(points).items():
        time.plot(seconds, value, label=name)
    time.set(title=f"{len(sequence)} frames at {float(sequence.fps):.5g} per second", xlabel="seconds", ylabel="px")
    time.legend(loc="upper right")
    return figure


def _curves(points: Tensor) -> dict[str, Tensor]:
    """Mouth and eye opening and the head's shift from the first frame, each (T,) px."""
    eyes = (points[:, UPPER_LIDS] - points[:, LOWER_LIDS]).norm(dim=-1).mean(-1)
    shift = (points[:, RIGID].mean(1) - points[0, RIGID].mean(0)).norm(dim=-1)
    return {"mouth opening": mouth_opening(points), "eye opening": eyes, "head shift": shift}
