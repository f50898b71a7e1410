"""What ``judge`` measures on one video, with a truth beside it or alone, and how clips become a row."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, median
from typing import Any, Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from talkhead import metrics
from talkhead.data.clip import SAMPLE_RATE
from talkhead.evaluate.report import Scores
from talkhead.nets.sync import RATE, WINDOW, SyncNet
from talkhead.tracking.identity import can_describe_faces, describe_faces

_AT_ONCE = 64
"""Frames that are measured together: as floating numbers they take four times the room."""

TRUTH = "truth itself"
STILL = "first frame held (does nothing)"

PAPER_COLUMNS = {
    "psnr": ("PSNR", 2),
    "ssim": ("SSIM", 3),
    "m_ld": ("M-LD", 2),
    "f_ld": ("F-LD", 2),
    "m_ld_frobenius": ("M-LD, Frobenius", 1),
    "f_ld_frobenius": ("F-LD, Frobenius", 1),
    "m_ld_centred": ("M-LD centred", 2),
    "f_ld_centred": ("F-LD centred", 2),
    "velocity": ("velocity", 2),
    "opening": ("opening correlation", 3),
    "lag": ("best lag", 1),
    "clips": ("clips", 0),
    "failed": ("failed", 0),
}
ALIVE = {
    "lips": "lip dynamics",
    "silent": "silent lips",
    "brows": "brow dynamics",
    "roll": "roll",
    "yaw": "yaw",
    "pitch": "pitch",
    "shift": "head shift",
    "blinks": "blinks/min",
    "blink_seconds": "a blink's duration (s)",
}
"""Measures that need no truth, and are as good as they are close to it."""
OF_TRUTH = "_of_truth"
"""Ends the key of the truth's own value over the frames that a shorter video has."""
_DECIMALS = {"silent": 3, "brows": 4, "shift": 3, "blink_seconds": 3}
OUR_COLUMNS = {
    **{key: (heading, _DECIMALS.get(key, 2)) for key, heading in ALIVE.items()},
    **{f"{key}_closeness": (f"{heading}, closeness", 2) for key, heading in ALIVE.items()},
    "sync_match": ("sync match", 3),
    "sync_confidence": ("sync confidence", 3),
    "sync_offset": ("sync offset", 1),
    "sharpness": ("sharpness", 0),
    "sharpness_drift": ("sharpness, change per minute", 3),
    "identity": ("identity", 3),
    "identity_drift": ("identity, change per minute", 3),
    "found": ("faces found", 2),
    "clips": ("clips", 0),
    "failed": ("failed", 0),
}
_MEDIANS = ("lag", "sync_offset")
EVERY = 5
"""From one frame whose face is described to the next: a description takes as long as finding the face."""


class Judged(Protocol):
    """What is judged; see ``videos.Take``."""

    @property
    def frames(self) -> Tensor:
        """See ``videos.Take``."""
        ...

    @property
    def landmarks(self) -> Tensor:
        """See ``videos.Take``."""
        ...

    @property
    def found(self) -> float:
        """See ``videos.Take``."""
        ...

    @property
    def audio(self) -> Tensor | None:
        """See ``videos.Take``."""
        ...

    @property
    def fps(self) -> float:
        """See ``videos.Take``."""
        ...


def judge_clip(take: Judged, truth: Judged | None, expert: SyncNet | None) -> dict[str, float]:
    """Return every value that can be had of one video.

    Args:
        take: the video; its frames are the truth's first ones.
        truth: None leaves the paired measures out.
        expert: the judge of synchrony; None leaves it out.
    """
    scores = alone(take, expert) | same_person(take, take if truth is None else truth)
    if truth is None:
        return scores
    count = len(take.frames)
    if count < len(truth.frames):  # how far a mouth or a head goes depends on how long it is looked at
        common = alive(truth.landmarks[:count], truth.frames.shape[-1], truth.fps, truth.audio)
        scores |= {f"{key}{OF_TRUTH}": value for key, value in common.items()}
    return scores | paired(take, truth)


def alone(take: Judged, expert: SyncNet | None) -> dict[str, float]:
    """Return the measures that need no truth."""
    landmarks, size = take.landmarks, take.frames.shape[-1]
    scores = {**alive(landmarks, size, take.fps, take.audio), **_sharpness(take), "found": take.found}
    if take.audio is None:
        return scores
    audio = take.audio[: _samples(landmarks, take.fps)]
    if expert is not None and round(len(audio) / SAMPLE_RATE * RATE) >= WINDOW:
        sync = expert.judge(landmarks, audio, take.fps)
        scores |= {"sync_match": sync.match, "sync_confidence": sync.confidence}
        # Where nothing moves no lag is better than another.
        scores["sync_offset"] = float(sync.offset) if sync.confidence > 0 else math.nan
    return scores


def alive(landmarks: Tensor, size: int, fps: float, audio: Tensor | None) -> dict[str, float]:
    """Return the values of ``ALIVE``, without ``silent`` where there is no sound.

    Args:
        landmarks: (T, 68, 2) px.
        size: px, width of the frame.
        fps: frames per second.
        audio: (S,) at 16 kHz, of any length, from the first frame on; None: silent.
    """
    motion, blinks = metrics.head_motion(landmarks), metrics.find_blinks(landmarks, fps)
    scores: dict[str, float] = {
        "lips": metrics.lip_dynamics(landmarks, size).item(),
        "brows": metrics.brow_dynamics(landmarks).item() if len(landmarks) > 1 else math.nan,
        **{name: value.item() for name, value in motion.items()},
        "blinks": blinks.per_minute,
        "blink_seconds": blinks.duration,
    }
    if audio is not None and len(audio):
        samples = _samples(landmarks, fps)
        heard = audio[:samples]
        # Where a sound ends before the picture, nobody speaks.
        silent = metrics.silences(F.pad(heard, (0, samples - len(heard))), len(landmarks), fps)
        scores["silent"] = metrics.silent_lips(landmarks, silent).item()
    return scores


def _samples(landmarks: Tensor, fps: float) -> int:
    """Return how many samples of sound the frames last."""
    return round(len(landmarks) / fps * SAMPLE_RATE)


def same_person(take: Judged, portrait: Judged) -> dict[str, float]:
    """Return how much a face is, and stays, that of another video's first frame; nothing without dlib's net."""
    if not can_describe_faces():
        return {}
    whose = describe_faces(portrait.frames[:1], portrait.landmarks[:1])[0]
    similar = metrics.identity_similarity(describe_faces(take.frames[::EVERY], take.landmarks[::EVERY]), whose, "none")
    drift = metrics.drift_per_minute(similar, take.fps / EVERY)
    return {"identity": similar.nanmean().item(), "identity_drift": drift.item()}


def _sharpness(take: Judged) -> dict[str, float]:
    """Return the mean sharpness and its change per minute as a share of that mean."""
    sharp = torch.cat([metrics.sharpness(some, reduce="none") for some in take.frames.split(_AT_ONCE)])
    drift = metrics.drift_per_minute(sharp, take.fps) / sharp.mean()
    return {"sharpness": sharp.mean().item(), "sharpness_drift": drift.item()}


def paired(take: Judged, truth: Judged) -> dict[str, float]:
    """Return the measures against the truth, over the frames that both have; px256."""
    count = min(len(take.frames), len(truth.frames))
    frames, target = take.frames[:count], truth.frames[:count]
    points, true = take.landmarks[:count], truth.landmarks[:count]
    unit: dict[str, Any] = {"unit": "px256", "size": frames.shape[-1]}
    opening = metrics.opening_correlation(points, true)
    pairs = zip(frames.split(_AT_ONCE), target.split(_AT_ONCE), strict=True)
    psnr = [metrics.psnr(*pair, reduce="none") for pair in pairs]
    scores = {
        "psnr": torch.cat(psnr).clamp_max(100).mean().item(),
        "ssim": metrics.ssim(frames, target).item(),
        "opening": opening.value,
        "lag": math.nan if math.isnan(opening.value) else float(opening.lag),
        "velocity": metrics.landmark_velocity(points, true, **unit).item() if count > 1 else math.nan,
    }
    regions: dict[str, Literal["mouth", "face"]] = {"m_ld": "mouth", "f_ld": "face"}
    for name, region in regions.items():
        scores[name] = metrics.landmark_distance(points, true, region, **unit).item()
        scores[f"{name}_centred"] = metrics.landmark_distance(points, true, region, "mean", **unit).item()
        scores[f"{name}_frobenius"] = metrics.landmark_distance(points, true, region, reduce="frobenius", **unit).item()
    return scores


def average_clips(clips: Sequence[Scores], rows: Sequence[str]) -> Scores:
    """Average each row over the clips that have it (offsets and lags: the median), and add the closeness to the truth.

    The truth's mean is taken over the row's own clips, and of each over the frames that both have.
    """
    table: Scores = {}
    for row in rows:
        own = [clip[row] for clip in clips if row in clip]
        keys = {key for scores in own for key in scores if not key.endswith(OF_TRUTH)}
        table[row] = {key: _middle(key, [s[key] for s in own if key in s]) for key in keys}
        pairs = [(clip[row], clip[TRUTH]) for clip in clips if row in clip and TRUTH in clip]
        for key in ALIVE:
            if row != TRUTH and pairs:
                true = [s.get(f"{key}{OF_TRUTH}", t.get(key, math.nan)) for s, t in pairs]
                reference = _middle(key, true)
                table[row][f"{key}_closeness"] = metrics.closeness(table[row].get(key, math.nan), reference)
    return table


def _middle(key: str, values: Sequence[float]) -> float:
    finite = [value for value in values if math.isfinite(value)]
    return float((median if key in _MEDIANS else fmean)(finite)) if finite else math.nan
