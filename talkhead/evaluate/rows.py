"""The rows of the tables: what paints a clip, what moves its landmarks, and how both are scored."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from talkhead import metrics
from talkhead.data.clip import SAMPLE_RATE, Clip, emotion_probabilities
from talkhead.evaluate.motions import Mover, apply_mean_motion, move_landmarks
from talkhead.evaluate.report import Scores
from talkhead.face.warp import thin_plate_spline_warp
from talkhead.nets.renderer import Renderer
from talkhead.pipeline.feeling import leave_to
from talkhead.pipeline.windows import render_windows
from talkhead.schedulers import Scheduler
from talkhead.short_repr import short_repr
from talkhead.tracking.track import LandmarkDetector

REPEATED = "reference repeated"
WARPED = "reference warped by the landmarks"
TRUE_LANDMARKS = "ours, ground-truth landmarks"
PREDICTED_LANDMARKS = "ours, landmarks from the audio"
DETECTOR_FLOOR = "truth itself (noise floor)"

NO_MOTION = "no motion"
MEAN_MOTION = "training set's mean motion"
GENERATOR = "ours, from the audio"
PLACED_GENERATOR = "ours, from the audio and the portrait's place in its crop"
TRUTH = "truth itself"

PICTURE_COLUMNS = {
    "psnr": ("PSNR", 2),
    "ssim": ("SSIM", 3),
    "mouth_psnr": ("mouth PSNR", 2),
    "m_ld": ("M-LD", 2),
    "f_ld": ("F-LD", 2),
    "velocity": ("velocity", 2),
    "detected": ("faces found", 2),
    "sharpness": ("sharpness", 2),
    "seam": ("seam", 2),
    "calls": ("network calls", 0),
    "fps": ("frames/s", 1),
}
LANDMARK_COLUMNS = {
    "m_ld": ("M-LD", 2),
    "f_ld": ("F-LD", 2),
    "m_ld_centred": ("M-LD centred", 2),
    "f_ld_centred": ("F-LD centred", 2),
    "velocity": ("velocity", 2),
    "opening": ("opening correlation", 3),
    "lag": ("best lag", 1),
    "variance": ("variance ratio", 2),
    "sync": ("audio correlation", 3),
}


@short_repr
@dataclass(frozen=True, eq=False)
class Truth:
    """A clip as the tables judge by it: a reference frame, and the frames after it.

    Attributes:
        reference: (3, H, W) uint8 the first frame that has landmarks: the portrait.
        reference_landmarks: (68, 2) px.
        frames: (T, 3, H, W) uint8 the frames after it; only they count.
        landmarks: (T, 68, 2) px of ``frames``, as they stand in the cache.
        audio: (S,) the sound of ``frames``.
        first: index of ``frames[0]`` in the clip.
        clip: the whole clip.
        box: the mouth's box, (x0, y0, x1, y1) px.
        detected: (1 + T, 68, 2) px, what the detector finds on the reference and on ``frames``; None without one.
    """

    reference: Tensor
    reference_landmarks: Tensor
    frames: Tensor
    landmarks: Tensor
    audio: Tensor
    first: int
    clip: Clip
    box: tuple[int, int, int, int]
    detected: Tensor | None


def make_truth(clip: Clip, detector: LandmarkDetector | None) -> Truth:
    """Choose the frames that count and find the faces on them.

    Args:
        clip: a whole clip with frames and landmarks.
        detector: None leaves ``detected`` out.

    Raises:
        ValueError: if no frame has a face, or fewer than two follow the first that has one.
    """
    assert clip.frames is not None and clip.landmarks is not None
    faces = clip.landmarks.isfinite().all(-1).all(-1).nonzero()
    if not len(faces):
        raise ValueError(
            f"{' '.join(['clip', *clip.names])}: none of its {len(clip.landmarks)} frames has a face; take more of "
            "them (num_frames), or leave the clip out"
        )
    reference = int(faces[0])
    first = reference + 1
    frames, landmarks = clip.frames[first:], clip.landmarks[first:]
    if len(frames) < 2:
        raise ValueError(
            f"{' '.join(['clip', *clip.names])} must have at least 2 frames after its first with a face; "
            f"got {len(frames)}"
        )
    return Truth(
        reference=clip.frames[reference],
        reference_landmarks=clip.landmarks[reference],
        frames=frames,
        landmarks=landmarks,
        audio=clip.audio[round(first * SAMPLE_RATE / float(clip.fps)) :],
        first=first,
        clip=clip,
        box=metrics.mouth_box(landmarks, (frames.shape[-2], frames.shape[-1])),
        detected=None if detector is None else detect(clip.frames[reference:], detector),
    )


def detect(frames: Tensor, detector: LandmarkDetector) -> Tensor:
    """Return (T, 68, 2) px: the largest face of each (3, H, W) frame by itself, unsmoothed; NaN where none is found."""
    missing = torch.full((68, 2), math.nan)
    found = (detector(frame.contiguous()) for frame in frames)
    return torch.stack([missing if face is None else face.landmarks.float() for face in found])


def score_pictures(
    frames: Tensor, truth: Truth, detected: Tensor | None, calls: float, seconds: float
) -> dict[str, float]:
    """Score painted frames against the true ones.

    Args:
        frames: (T, 3, H, W) uint8.
        truth: what they should be.
        detected: (T, 68, 2) px, the landmarks found on ``frames``; None without a detector.
        calls: network evaluations per frame.
        seconds: what painting took; NaN where nothing was painted.

    Returns:
        The values of ``PICTURE_COLUMNS``; landmark distances in px256.
    """
    scores = {
        "psnr": _mean_psnr(frames, truth.frames),
        "ssim": metrics.ssim(frames, truth.frames).item(),
        "mouth_psnr": _mean_psnr(frames, truth.frames, truth.box),
        "sharpness": (metrics.sharpness(frames) / metrics.sharpness(truth.frames)).item(),
        "calls": calls,
        "fps": len(frames) / seconds,
    }
    if detected is not None and truth.detected is not None:
        scores |= _detected_scores(detected, truth.detected[1:], frames.shape[-1])
    return scores


def _mean_psnr(frames: Tensor, target: Tensor, box: tuple[int, int, int, int] | None = None) -> float:
    # An exact frame, infinite by definition, would hide all others in the mean.
    return metrics.psnr(frames, target, box, reduce="none").clamp_max(100).mean().item()


def _detected_scores(pred: Tensor, target: Tensor, size: int) -> dict[str, float]:
    unit: dict[str, Any] = {"unit": "px256", "size": size}
    return {
        "m_ld": metrics.landmark_distance(pred, target, "mouth", **unit).item(),
        "f_ld": metrics.landmark_distance(pred, target, **unit).item(),
        "velocity": metrics.landmark_velocity(pred, target, **unit).item(),
        "detected": pred.isfinite().all(-1).all(-1).float().mean().item(),
    }


def score_landmarks(pred: Tensor, truth: Truth) -> dict[str, float]:
    """Score moved landmarks (T, 68, 2) px against the cached ones.

    Returns:
        The values of ``LANDMARK_COLUMNS``; distances in px256.
    """
    target, size = truth.landmarks, truth.frames.shape[-1]
    unit: dict[str, Any] = {"unit": "px256", "size": size}
    opening = metrics.opening_correlation(pred, target)
    return {
        "m_ld": metrics.landmark_distance(pred, target, "mouth", **unit).item(),
        "f_ld": metrics.landmark_distance(pred, target, **unit).item(),
        "m_ld_centred": metrics.landmark_distance(pred, target, "mouth", "mean", **unit).item(),
        "f_ld_centred": metrics.landmark_distance(pred, target, "face", "mean", **unit).item(),
        "velocity": metrics.landmark_velocity(pred, target, **unit).item(),
        "opening": opening.value,
        "lag": math.nan if math.isnan(opening.value) else float(opening.lag),
        "variance": metrics.opening_variance_ratio(pred, target),
        "sync": metrics.audio_mouth_sync(pred, truth.audio).value,
    }


@short_repr
@dataclass(frozen=True, eq=False)
class Painting:
    """Frames and what they cost.

    Attributes:
        frames: (T, 3, H, W) uint8.
        calls: network evaluations per frame.
        seconds: time taken; NaN where nothing was computed.
    """

    frames: Tensor
    calls: float = 0.0
    seconds: float = math.nan


def detect_row(row: str, painting: Painting, truth: Truth, detector: LandmarkDetector | None) -> Tensor | None:
    """Return (T, 68, 2) px, the landmarks found on a row's frames; None without a detector."""
    if row == REPEATED and truth.detected is not None:  # one picture needs one detection
        return truth.detected[:1].expand(len(truth.frames), -1, -1)
    return None if detector is None else detect(painting.frames, detector)


def paint_repeated(truth: Truth) -> Painting:
    """Return the reference frame, over and over."""
    return Painting(truth.reference.expand_as(truth.frames))


def paint_warped(truth: Truth) -> Painting:
    """Return the reference frame bent to the true landmarks by a thin-plate spline."""
    start = time.perf_counter()
    reference, source = truth.reference[None].float(), truth.reference_landmarks[None]
    warped = [thin_plate_spline_warp(reference, source, part[None])[0] for part in truth.landmarks.split(32)]
    frames = torch.cat(warped).round().clamp(0, 255).to(torch.uint8)
    return Painting(frames, 0.0, time.perf_counter() - start)


class Painter(Protocol):
    """What ``paint_model`` needs of a pipeline."""

    @property
    def renderer(self) -> Renderer:
        """Paints."""

    @property
    def scheduler(self) -> Scheduler:
        """Its process."""


@dataclass(frozen=True)
class Model:
    """A renderer with its process, without the rest of a pipeline.

    Attributes:
        renderer: paints.
        scheduler: its process.
    """

    renderer: Renderer
    scheduler: Scheduler


@torch.no_grad()
def paint_model(
    model: Painter, truth: Truth, landmarks: Tensor, emotion: Tensor, options: Mapping[str, Any]
) -> Painting:
    """Return what the model's renderer paints on the landmarks.

    Args:
        model: a ``Model``, or a pipeline, which has both parts as well.
        truth: its reference frame is the portrait.
        landmarks: (T, 68, 2) px.
        emotion: (8,) probabilities.
        options: for ``render_windows``: num_inference_steps, seed, window, overlap, start_timestep.
    """
    start = time.perf_counter()
    portrait = (truth.reference, truth.reference_landmarks)
    told = leave_to(model.renderer, emotion)
    windows = render_windows(model.renderer, model.scheduler, *portrait, [landmarks], told, **options)
    frames = torch.cat([window.cpu() for window in windows])
    return Painting(frames, options["num_inference_steps"], time.perf_counter() - start)


def window_borders(frames: int, window: int, overlap: int) -> list[int]:
    """Return the frames at which ``render_windows`` begins a window or ends the one before.

    Example:
        >>> window_borders(32, window=16, overlap=4)  # windows paint 0-15, 12-27 and 24-31
        [12, 16, 24, 28]
    """
    starts = range(window - overlap, frames - overlap, window - overlap)
    return sorted({border for start in starts for border in (start, start + overlap)})


class Speaker(Painter, Mover, Protocol):
    """What `ClipScorer` needs of a pipeline."""


@dataclass(frozen=True)
class ClipScorer:
    """Scores one clip in every row of both tables.

    Attributes:
        model: has ``renderer`` and ``scheduler``; ``landmark_net`` and ``emotion_net`` may be None.
        detector: finds the landmarks again on painted frames; None leaves those columns empty.
        options: for ``render_windows``.
        mean: what ``mean_motion`` returned.
        show: is given the clip's true frames and each row's painted ones, for a picture.
    """

    model: Speaker
    detector: LandmarkDetector | None
    options: Mapping[str, Any]
    mean: tuple[Tensor, Tensor] | None
    show: Callable[[dict[str, Tensor]], None] | None = None

    def __call__(self, truth: Truth) -> dict[str, Scores]:
        """Return table name -> row name -> column key -> value."""
        moved = move_landmarks(self.model, truth) if self.model.landmark_net is not None else None
        paintings = self._paint(truth, moved)
        if self.show is not None:
            self.show({"truth": truth.frames, **{row: painting.frames for row, painting in paintings.items()}})
        return {"pictures": self._pictures(paintings, truth), "landmarks": self._landmarks(moved, truth)}

    def _paint(self, truth: Truth, moved: tuple[Tensor, Tensor, float] | None) -> dict[str, Painting]:
        label = emotion_probabilities(truth.clip.emotion)
        rows = {
            REPEATED: paint_repeated(truth),
            WARPED: paint_warped(truth),
            TRUE_LANDMARKS: paint_model(self.model, truth, truth.landmarks, label, self.options),
        }
        if moved is not None:
            landmarks, emotion, seconds = moved
            painted = paint_model(self.model, truth, landmarks, emotion, self.options)
            rows[PREDICTED_LANDMARKS] = Painting(painted.frames, painted.calls, painted.seconds + seconds)
        return rows

    def _pictures(self, paintings: Mapping[str, Painting], truth: Truth) -> Scores:
        rows: Scores = {}
        borders = window_borders(len(truth.frames), self.options["window"], self.options["overlap"])
        if len(borders) == len(truth.frames) - 1:  # windows of one frame, or of two that overlap: all steps are seams
            borders = []
        for row, painting in paintings.items():
            detected = detect_row(row, painting, truth, self.detector)
            rows[row] = score_pictures(painting.frames, truth, detected, painting.calls, painting.seconds)
            if borders and row in (TRUE_LANDMARKS, PREDICTED_LANDMARKS):
                rows[row]["seam"] = metrics.seam_ratio(painting.frames, borders)
        rows[DETECTOR_FLOOR] = {"seam": metrics.seam_ratio(truth.frames, borders)} if borders else {}
        if truth.detected is not None:
            rows[DETECTOR_FLOOR] |= _detected_scores(truth.detected[1:], truth.landmarks, truth.frames.shape[-1])
        return rows

    def _landmarks(self, moved: tuple[Tensor, Tensor, float] | None, truth: Truth) -> Scores:
        still = truth.reference_landmarks.expand_as(truth.landmarks)
        rows = {NO_MOTION: score_landmarks(still, truth)}
        if self.mean is not None:
            rows[MEAN_MOTION] = score_landmarks(apply_mean_motion(*self.mean, truth), truth)
        if moved is not None:
            rows[GENERATOR] = score_landmarks(moved[0], truth)
            assert self.model.landmark_net is not None  # what moved them
            if self.model.landmark_net.config.portrait_view != "none":
                placed = move_landmarks(self.model, truth, size=truth.frames.shape[-1])[0]
                rows[PLACED_GENERATOR] = score_landmarks(placed, truth)
        rows[TRUTH] = {"sync": metrics.audio_mouth_sync(truth.landmarks, truth.audio).value}
        return rows
