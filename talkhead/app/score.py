"""What can be said of a talking-head video without its truth."""

from __future__ import annotations

import math
from pathlib import Path

import torch.nn.functional as F

from talkhead.data.clip import SAMPLE_RATE
from talkhead.dubbing.face_track import track_face
from talkhead.evaluate.videos import own_sound
from talkhead.media.read import iter_frames, probe
from talkhead.metrics.mouths import audio_mouth_sync, mouth_opening
from talkhead.tracking.track import LandmarkDetector


def score(video: str | Path, detector: LandmarkDetector) -> dict[str, str]:
    """Return measures of a video by name, in words.

    Args:
        video: the file.
        detector: finds the face.

    Raises:
        ValueError: if the video cannot be read, or no frame shows a face.
    """
    info = probe(video)
    if info.fps is None:
        raise ValueError(f"video: {str(video)!r} holds no picture; give a video")
    track = track_face(iter_frames(video), detector)
    shown = track.shown
    rows = {
        "frames": f"{len(track)} at {float(info.fps):g} per second, {info.width} x {info.height} px",
        "frames with a face": f"{int(shown.sum())}, in {len(list(track.runs()))} uncut stretches",
    }
    longest = max(track.runs(), key=lambda run: run.stop - run.start)
    points = track.landmarks[longest]
    size = (points - points.mean(1, keepdim=True)).square().sum(-1).mean(1).sqrt()
    opening = mouth_opening(points) / size
    rows["mouth's opening, face sizes"] = (
        f"{opening.mean():.3f} on average, {opening.std(correction=0):.3f} up and down"
    )
    sound = None if info.sample_rate is None else own_sound(Path(video))
    if sound is None:
        return rows | {"loudness and mouth": "no sound"}
    first, last = (round(frame / info.fps * SAMPLE_RATE) for frame in (longest.start, longest.stop))
    # Where a sound ends before the picture, nobody speaks.
    sync = audio_mouth_sync(points, F.pad(sound, (0, max(0, last - len(sound))))[first:last])
    if math.isnan(sync.value):
        return rows | {"loudness and mouth": "cannot be told: one of the two does not change"}
    # Of real speech 0.36 to 0.47 (docs/measurements/landmark.md): more is not better.
    rows["loudness and mouth"] = f"correlation {sync.value:.2f} (real speech: 0.36 to 0.47), best at {sync.lag} frames"
    return rows
