"""Find the 68 landmarks of a face in a picture, and follow them through a video.

Any callable picture -> ``Detection | None`` with a ``name`` is a detector (``LandmarkDetector``). Two come with the
library: ``FaceAlignmentDetector`` (the face-alignment package, a network whose weights are downloaded once) and
``DlibDetector`` (offline; the weights come with a package). The 68 points are those of the iBUG 300-W annotation: jaw
0-16, brows 17-26, nose 27-35, eyes 36-47, outer lip 48-59, inner lip 60-67.

dlib's 68-point model was trained on iBUG 300-W, whose licence allows research use only: so may the model be used.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from talkhead.devices import chosen_device
from talkhead.media.write import MediaWarning
from talkhead.short_repr import short_repr
from talkhead.tracking.detectors import (
    Detection,
    DlibDetector,
    FaceAlignmentDetector,
    missing_weights,
    offline,
    weights_folder,
)
from talkhead.tracking.shots import SHORTEST, Glimpse, ends_likeness, find_shots, glimpse

__all__ = [
    "Detection",
    "DlibDetector",
    "FaceAlignmentDetector",
    "LandmarkDetector",
    "MissingFaceError",
    "load_detector",
    "TrackedShot",
    "smooth_landmarks",
    "track_landmarks",
    "track_shots",
]


class LandmarkDetector(Protocol):
    """What the library asks of a landmark detector.

    A detector may also have ``follow(image, previous: Detection) -> Detection | None``: the same face, searched only
    around where it was in the frame before. ``track_shots`` uses it where it is there.
    """

    name: str

    def __call__(self, image: Tensor, face: str | int = "largest") -> Detection | None:
        """Find one face.

        Args:
            image: (3, H, W) uint8 RGB.
            face: which one: ``"largest"``; ``"center"``, the one nearest the picture's middle; or an index, counting
                from the left.

        Returns:
            The face, or None where there is none such.
        """
        ...


class MissingFaceError(ValueError):
    """No face was found where one is needed."""


def load_detector(name: str = "auto", device: str | torch.device = "auto") -> LandmarkDetector:
    """Load a landmark detector.

    Args:
        name: ``"face-alignment"``, ``"dlib"``, or ``"auto"``: face-alignment where its weights are in torch's cache,
            else dlib where it is installed, else face-alignment with its weights downloaded.
        device: where face-alignment's networks run, see ``chosen_device``; dlib's detector runs on the CPU.

    Returns:
        The detector.

    Raises:
        ValueError: if the name is unknown, or the device.
        ImportError: if the package is not installed; with ``"auto"``, if neither can be used.
        FileNotFoundError: if face-alignment's weights are missing and cannot be downloaded.
    """
    place = chosen_device(device)
    detectors: dict[str, Any] = {"face-alignment": lambda: FaceAlignmentDetector(place), "dlib": DlibDetector}
    if name in detectors:
        return detectors[name]()
    if name != "auto":
        raise ValueError(f"detector must be one of auto, face-alignment, dlib; got {name!r}")
    installed = importlib.util.find_spec("face_alignment") is not None
    if installed and not missing_weights(FaceAlignmentDetector.weights):
        return FaceAlignmentDetector(place)
    try:
        return DlibDetector()
    except ImportError:
        if installed and not offline():
            return FaceAlignmentDetector(place)
        missing = ", ".join(FaceAlignmentDetector.weights)
        raise ImportError(
            "detector 'auto' found none it can use; run: pip install dlib-bin face-recognition-models, "
            f"or place face-alignment's weights ({missing}) in {weights_folder()}"
        ) from None


@short_repr
@dataclass(frozen=True, eq=False)
class TrackedShot:
    """A shot of a video, with one face's landmarks.

    Attributes:
        length: frames.
        landmarks: (length, 68, 2) float32 px, or None where the shot cannot be used.
        confidence: (length,) float32, 0 where the landmarks were interpolated, or None.
        reason: why it cannot be used; empty where it can.
    """

    length: int
    landmarks: Tensor | None = None
    confidence: Tensor | None = None
    reason: str = ""


def track_landmarks(
    frames: Iterable[Tensor],
    detector: LandmarkDetector,
    face: str | int = "largest",
    missing: str = "error",
    max_gap: int = 5,
    smoothing: int = 7,
) -> tuple[Tensor, Tensor]:
    """Find one face's landmarks in every frame of a video without cuts.

    The face is chosen by ``face`` in the first frame that has it and followed from there where the detector can.

    Args:
        frames: (T, 3, H, W) uint8 RGB, or an iterator of frames.
        detector: any ``LandmarkDetector``.
        face: which face; see ``LandmarkDetector``.
        missing: what to do about frames without the face: ``"error"``: refuse the video; ``"skip"``: the same, for
            callers that leave such a clip out; ``"interpolate"``: fill gaps of up to ``max_gap`` frames linearly (at
            the ends: with the nearest frame's points), refuse longer ones.
        max_gap: frames.
        smoothing: frames, the window of ``smooth_landmarks``; 1: none.

    Returns:
        (T, 68, 2) float32 px, and (T,) float32 confidence, 0 where the landmarks were interpolated.

    Raises:
        MissingFaceError: if a face is missing and ``missing`` does not allow it, or a gap is too long.
        ValueError: if ``missing`` is unknown, there are no frames, or the video cuts; see ``track_shots``.
    """
    shots = track_shots(frames, detector, face, missing, max_gap, smoothing)
    if len(shots) > 1:
        raise ValueError(f"frames must be one shot of one face; they cut at frame {shots[0].length}, use track_shots")
    shot = shots[0]
    if shot.landmarks is None or shot.confidence is None:
        raise MissingFaceError(shot.reason)
    return shot.landmarks, shot.confidence


def track_shots(
    frames: Iterable[Tensor],
    detector: LandmarkDetector,
    face: str | int = "largest",
    missing: str = "error",
    max_gap: int = 5,
    smoothing: int = 7,
) -> list[TrackedShot]:
    """Find one face's landmarks in each shot of a video; a cut ends a shot, and so does another person's face.

    Args:
        frames: (T, 3, H, W) uint8 RGB, or an iterator of frames.
        detector: any ``LandmarkDetector``.
        face: which face; see ``LandmarkDetector``.
        missing: what to do about frames without the face; see ``track_landmarks``.
        max_gap: frames.
        smoothing: frames, the window of ``smooth_landmarks``; 1: none.

    Returns:
        The shots in order, of all frames. One of fewer than ``SHORTEST`` frames beside others (such as follow each
        other are one together), or without a face, has a reason in place of landmarks. A ``MediaWarning`` tells of a
        shot whose face changes slowly.

    Raises:
        MissingFaceError: if a face is missing and ``missing`` does not allow it, or a gap within a shot is too long.
        ValueError: if ``missing`` is unknown or there are no frames.
    """
    if missing not in ("error", "interpolate", "skip"):
        raise ValueError(f"missing must be one of error, interpolate, skip; got {missing!r}")
    glimpses: list[Glimpse] = []
    confidence: list[float] = []
    found: Detection | None = None
    for index, frame in enumerate(frames):
        found = _find(frame, detector, face, found)
        if found is None and missing != "interpolate":
            raise MissingFaceError(f"frame {index} shows no face ({face}); use missing='interpolate' or another clip")
        glimpses.append(glimpse(frame, None if found is None else found.landmarks.float().cpu()))
        confidence.append(0.0 if found is None else found.confidence)
    if not glimpses:
        raise ValueError("frames must hold at least one frame; got none")
    if all(seen.landmarks is None for seen in glimpses):
        raise MissingFaceError(f"none of the {len(glimpses)} frames shows a face; give another clip")
    try:
        shots = find_shots(glimpses, max_gap)
    except LookupError as error:
        raise MissingFaceError(str(error)) from None
    return [_tracked(glimpses[a:b], torch.tensor(confidence[a:b]), short, smoothing) for a, b, short in shots]


def _find(frame: Tensor, detector: LandmarkDetector, face: str | int, before: Detection | None) -> Detection | None:
    """Find the face of the frame before, or else the one that is asked for."""
    follow = getattr(detector, "follow", None)
    found = follow(frame, before) if follow is not None and before is not None else None
    return found if found is not None else detector(frame, face=face)


def _tracked(seen: list[Glimpse], confidence: Tensor, short: bool, smoothing: int) -> TrackedShot:
    """Fill the gaps of a shot and smooth it, or say why it cannot be used."""
    if all(frame.landmarks is None for frame in seen):
        return TrackedShot(len(seen), reason="no face between two cuts")
    if short:
        return TrackedShot(len(seen), reason=f"{len(seen)} frames beside cuts that are fewer than {SHORTEST} apart")
    if (alike := ends_likeness(seen)) < 0.5:
        message = f"the face at the end is hardly that at the beginning (likeness {alike:.2f}): look at it"
        warnings.warn(message, MediaWarning, stacklevel=3)
    gone = torch.full((68, 2), torch.nan)
    filled = _fill_gaps(torch.stack([gone if frame.landmarks is None else frame.landmarks for frame in seen]))
    return TrackedShot(len(seen), smooth_landmarks(filled, smoothing), confidence)


def smooth_landmarks(landmarks: Tensor, window: int = 7, order: int = 4) -> Tensor:
    """Smooth tracks over time without delay (Savitzky and Golay, 1964).

    Each frame's point is read off the polynomial of degree ``order`` that fits best the ``window`` frames around it (at
    the ends: the first or last ``window`` frames). So motion that is locally such a polynomial, as a mouth that closes
    and opens again, passes unchanged, and there is no lag. The defaults were chosen by measurement
    (``docs/measurements/tracking.md``): they halve the noise of still points and leave closed mouths closed.

    Args:
        landmarks: (T, ...) px, without NaN.
        window: frames, odd; 1: return a copy. A shorter clip is fitted as a whole.
        order: degree of the polynomial, below ``window``.

    Returns:
        The same shape, smoothed.

    Raises:
        ValueError: if the window is even or not longer than the order.
    """
    if window < 1 or window % 2 == 0:
        raise ValueError(f"window must be an odd number of frames (1: no smoothing); got {window}")
    if window > 1 and order >= window:
        raise ValueError(f"order must be below window={window}; got {order}")
    length = len(landmarks)
    window = min(window, length)
    if window <= order + 1:
        return landmarks.clone()  # the polynomial goes through every point
    positions = torch.arange(length)
    starts = (positions - window // 2).clamp(0, length - window)
    powers = torch.arange(order + 1, dtype=torch.float64)
    fit = torch.linalg.pinv((torch.arange(window, dtype=torch.float64)[:, None] - window // 2) ** powers)
    weights = ((positions - starts)[:, None] - window // 2) ** powers @ fit
    gathered = landmarks[starts[:, None] + torch.arange(window)]
    return torch.einsum("tw,tw...->t...", weights.to(landmarks), gathered)


def _fill_gaps(landmarks: Tensor) -> Tensor:
    """Fill frames of NaN linearly from their neighbours; at the ends, with the nearest frame."""
    known = torch.nonzero(landmarks.flatten(1).isfinite().all(1)).flatten().tolist()
    length = len(landmarks)
    filled = landmarks.clone()
    for before, after in zip([-1, *known], [*known, length], strict=True):
        first, last = landmarks[max(before, known[0])], landmarks[min(after, known[-1])]
        for index in range(before + 1, after):
            filled[index] = torch.lerp(first, last, (index - before) / (after - before))
    return filled
