"""Find the 68 landmarks of a face in a picture, and follow them through a video.

Any callable picture -> ``Detection | None`` with a ``name`` is a detector (``LandmarkDetector``). Two come with the
library: ``FaceAlignmentDetector`` (the face-alignment package, a network whose weights are downloaded once) and
``DlibDetector`` (offline; the weights come with a package). The 68 points are those of the iBUG 300-W annotation: jaw
0-16, brows 17-26, nose 27-35, eyes 36-47, outer lip 48-59, inner lip 60-67.

dlib's 68-point model was trained on iBUG 300-W, whose licence allows research use only: so may the model be used.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from typing import Any, Protocol

import torch
from torch import Tensor

from talkhead.data.detectors import (
    Detection,
    DlibDetector,
    FaceAlignmentDetector,
    missing_weights,
    offline,
    weights_folder,
)
from talkhead.devices import chosen_device

__all__ = [
    "Detection",
    "DlibDetector",
    "FaceAlignmentDetector",
    "LandmarkDetector",
    "MissingFaceError",
    "load_detector",
    "smooth_landmarks",
    "track_landmarks",
]


class LandmarkDetector(Protocol):
    """What the library asks of a landmark detector.

    A detector may also have ``follow(image, previous: Detection) -> Detection | None``: the same face, searched only
    around where it was in the frame before. ``track_landmarks`` uses it where it is there.
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


def track_landmarks(
    frames: Iterable[Tensor],
    detector: LandmarkDetector,
    face: str | int = "largest",
    missing: str = "error",
    max_gap: int = 5,
    smoothing: int = 7,
) -> tuple[Tensor, Tensor]:
    """Find one face's landmarks in every frame of a video.

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
        ValueError: if ``missing`` is unknown or there are no frames.
    """
    if missing not in ("error", "interpolate", "skip"):
        raise ValueError(f"missing must be one of error, interpolate, skip; got {missing!r}")
    follow = getattr(detector, "follow", None)
    landmarks, confidence = [], []
    found: Detection | None = None
    gap = 0
    for index, frame in enumerate(frames):
        found = follow(frame, found) if follow is not None and found is not None else None
        found = found if found is not None else detector(frame, face=face)
        if found is None and missing != "interpolate":
            raise MissingFaceError(f"frame {index} shows no face ({face}); use missing='interpolate' or another clip")
        gap = 0 if found is not None else gap + 1
        if gap > max_gap:
            raise MissingFaceError(
                f"frames {index + 1 - gap} to {index} show no face: more than max_gap={max_gap} allows"
            )
        landmarks.append(torch.full((68, 2), torch.nan) if found is None else found.landmarks.float())
        confidence.append(0.0 if found is None else found.confidence)
    if not landmarks:
        raise ValueError("frames must hold at least one frame; got none")
    filled = _fill_gaps(torch.stack(landmarks))
    return smooth_landmarks(filled, smoothing), torch.tensor(confidence)


def smooth_landmarks(landmarks: Tensor, window: int = 7, order: int = 4) -> Tensor:
    """Smooth tracks over time without delay (Savitzky and Golay, 1964).

    Each frame's point is read off the polynomial of degree ``order`` that fits best the ``window`` frames around it (at
    the ends: the first or last ``window`` frames). So motion that is locally such a polynomial, as a mouth that closes
    and opens again, passes unchanged, and there is no lag. The defaults were chosen by measurement (``docs/data.md``):
    they halve the noise of still points and leave closed mouths closed.

    Args:
        landmarks: (T, ...) px, without NaN.
        window: frames, odd; 1: return a copy. A shorter clip is fitted as a whole.
        order: degree of the polynomial, below ``window``.

    Returns:
        The same shape, smoothed.

    Raises:
        ValueError: if the window is even or not longer than the order.
    """
    if window < 1 or window % 2 == 0 or (window > 1 and order >= window):
        raise ValueError(f"window must be odd and above order (or 1: no smoothing); got window {window}, order {order}")
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
    if not known:
        raise MissingFaceError(f"none of the {length} frames shows a face; give another clip")
    filled = landmarks.clone()
    for before, after in zip([-1, *known], [*known, length], strict=True):
        first, last = landmarks[max(before, known[0])], landmarks[min(after, known[-1])]
        for index in range(before + 1, after):
            filled[index] = torch.lerp(first, last, (index - before) / (after - before))
    return filled
