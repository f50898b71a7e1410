"""Was the video good enough to learn a person from? Numbers, and what is said of them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from talkhead.adapting.held_out import seconds_of
from talkhead.data.dataset import ClipDataset
from talkhead.data.manifest import open_clip
from talkhead.face.mouth_bank import mouth_opening_map, mouth_shape
from talkhead.metrics import audio_mouth_sync, head_pose
from talkhead.nets.sync import WINDOW, SyncNet

GOOD_SECONDS = 15.0
OPEN_MOUTH = 0.12
"""Of the eyes' distance: an opening of the inner lips from which teeth can be seen."""
_TEETH_BRIGHTER = 25.0
"""Grey levels by which the brightest tenth between the lips is above the darkest: teeth, not a dark hole."""


def measure_footage(
    root: Path, entries: Sequence[Mapping[str, Any]], lost: Sequence[tuple[str, str]], expert: SyncNet | None = None
) -> dict[str, Any]:
    """Measure the clips of a person.

    Args:
        root: the cache.
        entries: the manifest's, of the usable clips.
        lost: (name, reason) of the others.
        expert: judge of synchrony; None: the correlation of the mouth with the sound's loudness stands in.

    Returns:
        ``seconds``, ``clips``, ``lost``; ``faces_lost``, the share of the frames without a face; ``face_pixels``, the
        median width of the face in the recording; ``noise``, the standard deviation of a pixel's noise in grey levels
        (see `pixel_noise`); ``yaw`` and ``pitch``, degrees between the 5th and 95th percentile; ``open_mouth``, the
        share of frames whose mouth is open; ``teeth``, the share of those in which something bright is between the
        lips; ``loudness``, dB of full scale; ``sync_offset`` in frames (positive: the mouth is late) and ``sync_by``.
    """
    clips = ClipDataset(root, [entry["name"] for entry in entries], reference="first")
    every: dict[str, list[float]] = {}
    weights: list[int] = []
    poses: list[Tensor] = []
    for place, entry in enumerate(entries):
        clip = clips[place]
        assert clip.frames is not None and clip.landmarks is not None
        found = clip.landmarks.isfinite().all(-1).all(-1)
        pose = head_pose(clip.landmarks[found])
        poses.append(torch.stack([pose.yaw, pose.pitch], -1))
        open_mouth, teeth = _teeth(clip.frames[found], clip.landmarks[found])
        fps = float(Fraction(entry["fps"]))
        values = {
            "faces_lost": _unseen(root, entry),
            "face_pixels": _face_width(clip.landmarks[found]) * entry["crop"][2] / entry["size"],
            "noise": pixel_noise(clip.frames),
            "open_mouth": open_mouth,
            "teeth": teeth,
            "loudness": 20 * math.log10(max(clip.audio.square().mean().sqrt().item(), 1e-6)),
            "sync_offset": sync_offset(clip.landmarks, clip.audio, fps, expert),
        }
        for name, value in values.items():
            every.setdefault(name, []).append(value)
        weights.append(entry["frames"])
    spread = torch.cat(poses)
    low, high = (spread.nanquantile(q, 0) for q in (0.05, 0.95))
    yaw, pitch = (high - low).tolist()
    told = {name: _mean(values, weights) for name, values in every.items() if name != "sync_offset"}
    return {
        "seconds": sum(seconds_of(dict(entry)) for entry in entries),
        "clips": len(entries),
        "lost": [{"clip": name, "reason": reason} for name, reason in lost],
        **told,
        "yaw": yaw,
        "pitch": pitch,
        "sync_offset": _median(every["sync_offset"]),
        "sync_by": "loudness" if expert is None else "expert",
    }


def pixel_noise(frames: Tensor) -> float:
    """Return the standard deviation of a pixel's noise, in grey levels, from how still pixels change.

    Half of the pixels move with the head; in the others only the noise changes. The median absolute difference of
    neighbouring frames is 0.6745 sqrt(2) standard deviations of a normal noise; the lower quartile of the pixels'
    medians is taken, so that what moves does not count.

    Args:
        frames: (T, 3, H, W) uint8.
    """
    if len(frames) < 2:
        return math.nan
    grey = frames.float().mean(1)
    change = grey.diff(dim=0).abs().flatten(1).median(0).values
    return (change.quantile(0.25) / (0.6745 * math.sqrt(2))).item()


def sync_offset(landmarks: Tensor, audio: Tensor, fps: float, expert: SyncNet | None) -> float:
    """Return by how many frames the mouth is late; NaN where it cannot be told."""
    if expert is not None and abs(fps - 25) < 0.01 and len(landmarks) >= WINDOW and landmarks.isfinite().all():
        judged = expert.judge(landmarks, audio, fps)
        return float(judged.offset) if judged.confidence > 0 else math.nan
    found = audio_mouth_sync(landmarks, audio)
    return math.nan if math.isnan(found.value) else float(found.lag)


def remarks(facts: Mapping[str, Any], fps: float) -> list[str]:
    """Say in plain words what is wrong with the footage; nothing where it is good."""
    said = []
    if facts["seconds"] < GOOD_SECONDS:
        said.append(f"Only {facts['seconds']:.0f} s of video: {GOOD_SECONDS:.0f} s and more teach a mouth better.")
    if facts["lost"]:
        first = facts["lost"][0]
        said.append(f"{len(facts['lost'])} clips could not be used ({first['clip']}: {first['reason']}).")
    if facts["faces_lost"] > 0.02:
        said.append(
            f"In {facts['faces_lost']:.0%} of the frames no face was found: film from the front, nothing before it."
        )
    if facts["face_pixels"] < 80:
        said.append(f"The face is {facts['face_pixels']:.0f} px wide: film closer, or with more pixels.")
    if facts["noise"] > 4:
        said.append(f"The picture is noisy ({facts['noise']:.1f} grey levels): more light helps most.")
    if facts["yaw"] > 40 or facts["pitch"] > 40:
        said.append("The head turns far: what a turned face hides cannot be learnt from it.")
    if facts["open_mouth"] < 0.1:
        said.append("The mouth is hardly ever open: let the person say more, and clearly.")
    elif facts["teeth"] < 0.2:
        said.append("Teeth are hardly seen between the open lips: more light from the front, or a smile, shows them.")
    if facts["loudness"] < -45:
        said.append("The sound is very quiet, or there is none: lips are learnt from the sound.")
    if not math.isnan(facts["sync_offset"]) and abs(facts["sync_offset"]) >= (2 if facts["sync_by"] == "expert" else 4):
        late = "late" if facts["sync_offset"] > 0 else "early"
        ms = abs(facts["sync_offset"]) * 1000 / fps
        said.append(f"The lips seem {ms:.0f} ms {late} against the sound: check the recording.")
    return said


def _unseen(root: Path, entry: Mapping[str, Any]) -> float:
    """Return the share of a clip's frames whose landmarks were not found but interpolated."""
    with open_clip(root, dict(entry)) as file:
        return (file.get_tensor("confidence") == 0).float().mean().item()


def _teeth(frames: Tensor, landmarks: Tensor) -> tuple[float, float]:
    """Return the share of frames with an open mouth, and of these the share with something bright between the lips."""
    if not len(frames):
        return math.nan, math.nan
    wide = mouth_shape(landmarks)[:, 0] > OPEN_MOUTH
    if not wide.any():
        return 0.0, math.nan
    side = frames.shape[-1]
    inside = mouth_opening_map(landmarks[wide][None], (side, side))[0] > 0.5
    grey = frames[wide].float().mean(1)
    seen = [_is_bright(picture[where]) for picture, where in zip(grey, inside, strict=True)]
    return wide.float().mean().item(), sum(seen) / len(seen)


def _is_bright(values: Tensor) -> bool:
    if len(values) < 5:
        return False
    return bool(values.quantile(0.9) - values.quantile(0.1) > _TEETH_BRIGHTER)


def _face_width(landmarks: Tensor) -> float:
    return (landmarks[:, 16] - landmarks[:, 0]).norm(dim=-1).median().item() if len(landmarks) else math.nan


def _mean(values: Sequence[float], weights: Sequence[int]) -> float:
    known = [(v, w) for v, w in zip(values, weights, strict=True) if math.isfinite(v)]
    return sum(v * w for v, w in known) / sum(w for _, w in known) if known else math.nan


def _median(values: Sequence[float]) -> float:
    known = [v for v in values if math.isfinite(v)]
    return statistics.median(known) if known else math.nan
