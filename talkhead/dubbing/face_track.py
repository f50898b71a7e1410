"""One face followed through a whole video: over cuts, over frames that do not show it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from talkhead.face.frame import face_frame
from talkhead.short_repr import short_repr
from talkhead.tracking.track import LandmarkDetector, smooth_landmarks

CUT = 20.0
"""Grey levels by which a 32 x 18 px thumbnail changes at a cut, on average; a talking person changes it by 1 to 3."""
JUMP = 0.5
"""Face sizes that a face cannot move from one frame to the next."""
FURTHEST = 2.0
"""Face sizes that it cannot move while it is not seen, however long: two people's faces are further apart."""
LONGEST_GAP = 5
"""Frames without the face that are filled in between two with it."""


@short_repr
@dataclass(frozen=True, eq=False)
class FaceTrack:
    """A face's landmarks in a video.

    Attributes:
        landmarks: (T, 68, 2) px; NaN where the face is not shown.
        shots: index of the first frame of each shot, the first of them 0.
    """

    landmarks: Tensor
    shots: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.landmarks)

    @property
    def shown(self) -> Tensor:
        """(T,) bool: whether a frame shows the face."""
        return self.landmarks.isfinite().flatten(1).all(1)

    def runs(self) -> Iterator[slice]:
        """Yield the stretches of frames that show the face without a cut."""
        start = None
        cuts, shown = set(self.shots), self.shown.tolist()
        for index, here in enumerate([*shown, False]):
            if start is not None and (not here or index in cuts):
                yield slice(start, index)
                start = None
            if here and start is None:
                start = index


def track_face(
    frames: Iterable[Tensor], detector: LandmarkDetector, face: str | int = "largest", smoothing: int = 7
) -> FaceTrack:
    """Follow one face through a video of any length, frame by frame.

    The face is chosen anew after a cut, and where it comes back into view.

    Args:
        frames: (3, H, W) uint8 RGB each.
        detector: finds landmarks.
        face: which face; see ``LandmarkDetector``.
        smoothing: frames, the window of ``smooth_landmarks`` within a run.

    Raises:
        ValueError: if no frame shows the face.
    """
    follow = getattr(detector, "follow", None)
    points, shots, before, found = [], [0], None, None
    for index, frame in enumerate(frames):
        thumbnail = F.adaptive_avg_pool2d(frame.float(), (18, 32))
        if before is not None and (thumbnail - before).abs().mean() > CUT:
            shots.append(index)
            found = None
        before = thumbnail
        found = follow(frame, found) if follow is not None and found is not None else None
        found = found if found is not None else detector(frame, face=face)
        points.append(torch.full((68, 2), torch.nan) if found is None else found.landmarks.float())
    if not points or not any(p.isfinite().all() for p in points):
        raise ValueError(f"video: no frame shows the face ({face}); give a video with a face seen from the front")
    landmarks = torch.stack(points)
    shots += _jumps(landmarks)
    track = FaceTrack(_filled(landmarks, set(shots)), tuple(sorted(set(shots))))
    for run in track.runs():
        landmarks = track.landmarks
        landmarks[run] = smooth_landmarks(landmarks[run], smoothing)
    return track


def _jumps(landmarks: Tensor) -> list[int]:
    """Return the frames at which the face is somewhere else than where it was last seen: another person, or a cut."""
    known = torch.nonzero(landmarks.isfinite().flatten(1).all(1)).flatten()
    centre, axes = face_frame(landmarks[known])
    size = axes.square().sum((-2, -1)).mul(0.5).sqrt()
    moved = (centre[1:] - centre[:-1]).norm(dim=-1).squeeze(-1) / size[1:]
    grown = (size[1:] / size[:-1]).log().abs()
    allowed = (JUMP * known.diff()).clamp(max=FURTHEST)
    return known[1:][(moved > allowed) | (grown > 0.25)].tolist()


def _filled(landmarks: Tensor, cuts: set[int]) -> Tensor:
    """Fill short gaps within a shot linearly."""
    filled = landmarks.clone()
    known = torch.nonzero(landmarks.isfinite().flatten(1).all(1)).flatten().tolist()
    for first, last in zip(known[:-1], known[1:], strict=True):
        gap = last - first - 1
        if 0 < gap <= LONGEST_GAP and not cuts & set(range(first + 1, last + 1)):
            for index in range(first + 1, last):
                filled[index] = torch.lerp(landmarks[first], landmarks[last], (index - first) / (last - first))
    return filled
