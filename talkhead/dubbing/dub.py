"""New words for an existing video: the mouth follows another sound, everything else stays the video's own.

    video -> track_face ----------------------------+
    video's sound -> heard_motion --+               |
    new sound -----> heard_motion --+-> new_lips ---+-> paint_each -> repaint -> frames

Each frame is its own reference picture, so head, eyes, light and background are the video's; outside the repainted
region the frames are the video's bit for bit (before they are encoded again).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from talkhead.data.clip import SAMPLE_RATE
from talkhead.dubbing.face_track import FaceTrack, track_face
from talkhead.dubbing.kept_track import kept_track
from talkhead.dubbing.new_lips import heard_motion, new_lips, resting_face
from talkhead.dubbing.own_sound import own_sound
from talkhead.dubbing.repaint import repaint
from talkhead.face.crop import Crop, crop_frames, face_crop, to_crop
from talkhead.face.mouth_bank import Bank, shrunk
from talkhead.media.files import check_apart
from talkhead.media.formats import open_writer
from talkhead.media.read import MediaInfo, iter_frames, probe
from talkhead.nets.renderer import Renderer
from talkhead.pipeline.at_once import paint_at_once
from talkhead.pipeline.feeling import leave_to, named_emotion
from talkhead.pipeline.stages import check_seed, check_steps, read_speech
from talkhead.pipeline.talking_head import TalkingHeadPipeline
from talkhead.progress import progress_bar
from talkhead.schedulers import Scheduler
from talkhead.short_repr import short_repr
from talkhead.speaker.references import differing_mouths, fitting_renderer
from talkhead.speech.level import num_frames_of
from talkhead.tracking.track import LandmarkDetector

PIECE = 64
"""Frames that are held at once when a video is played backwards."""
BATCH = 8
"""Frames painted at once."""
BANK = 12
"""Frames of the video from which the renderer may copy the person's own teeth, where it can."""


@short_repr
@dataclass(frozen=True, eq=False)
class Dubbing:
    """All that is known before the first frame is painted.

    Attributes:
        video: the file.
        order: (T',) which of its frames is shown when.
        old: (T', 68, 2) px, the face in those frames; NaN where it is not shown.
        new: (T', 68, 2) px, the same with the new mouth.
        runs: stretches of frames that show the face without a cut.
        emotion: (8,) probabilities.
        audio: (S,) the new sound at 16 kHz, as long as the frames.
        fps: frames per second.
        size: (height, width) in px.
        bank: (R, 3, S, S) uint8 further faces from the video, and their (R, 68, 2) px, for a renderer that uses them.
    """

    video: Path
    order: Tensor
    old: Tensor
    new: Tensor
    runs: tuple[slice, ...]
    emotion: Tensor
    audio: Tensor
    fps: Fraction
    size: tuple[int, int]
    bank: Bank | None = None


def dub(
    pipeline: TalkingHeadPipeline,
    video: str | Path,
    audio: Any,
    output: str | Path,
    *,
    emotion: str | Mapping[str, float] | Tensor = "neutral",
    length: Literal["video", "audio"] = "video",
    face: str | int = "largest",
    detector: str | LandmarkDetector | None = None,
    seed: int = 0,
    num_inference_steps: int | None = None,
    progress: bool = True,
) -> Path:
    """Let a person in a video say something else, in memory that does not grow with the pictures.

    Args:
        pipeline: whose networks are used.
        video: the file; frames without the face, and other people, stay as they are.
        audio: the new sound: a file or (S,) floats in [-1, 1] at 16 kHz.
        output: see `open_writer`; it appears when it is complete. The tracked face is kept beside it until then, so
            that an interrupted call does not start from the beginning.
        emotion: a name, a mapping or 8 probabilities: how the new words are said. The face's expression stays its own.
        length: "video": sound is cut or followed by silence; "audio": the video is cut, or played back and forth.
        face: which face of several, in the first frame of each shot: "largest", "center" or an index from the left.
        detector: see `TalkingHeadPipeline.stream`.
        seed: of the noise.
        num_inference_steps: network evaluations per frame; None: the pipeline's own number.
        progress: show bars on stderr.

    Returns:
        ``output``.

    Raises:
        FileNotFoundError: if a file does not exist.
        ValueError: if an argument is out of range, ``output`` is a file that is read, one cannot be read, or no frame
            shows the face.
        OSError: if ``output`` cannot be written; this, and what is out of range, is found out before the work begins.
    """
    check_apart(output, video=video, audio=audio)
    check_seed(seed)
    if num_inference_steps is not None:
        check_steps(pipeline.scheduler, num_inference_steps)
    _, fps, size = _header(video)
    open_writer(output, fps, size)  # opens nothing, and refuses what it could not write
    detector = pipeline.info.get("detector", "auto") if detector is None else detector
    with kept_track(video, output, face=face, detector=str(getattr(detector, "name", detector))) as track:
        plan = plan_dubbing(
            pipeline, video, audio, track=track, emotion=emotion, length=length, face=face, detector=detector,
            progress=progress,
        )  # fmt: skip
        frames = dubbed_frames(pipeline, plan, seed=seed, num_inference_steps=num_inference_steps)
        with (
            open_writer(output, plan.fps, plan.size, plan.audio) as writer,
            progress_bar(len(plan.order), progress) as advance,
        ):
            for frame in frames:
                writer.append(frame)
                advance()
    return Path(output)


def plan_dubbing(
    pipeline: TalkingHeadPipeline,
    video: str | Path,
    audio: Any,
    *,
    emotion: str | Mapping[str, float] | Tensor = "neutral",
    length: Literal["video", "audio"] = "video",
    face: str | int = "largest",
    detector: str | LandmarkDetector | None = None,
    progress: bool = False,
    track: Callable[[Callable[[], FaceTrack]], FaceTrack] = lambda make: make(),
) -> Dubbing:
    """Track the face, hear both sounds and place the new mouth.

    Args:
        pipeline: see `dub`.
        video: see `dub`.
        audio: see `dub`.
        emotion: see `dub`.
        length: see `dub`.
        face: see `dub`.
        detector: see `dub`.
        progress: see `dub`.
        track: given the function that tracks the face, returns the track: from it, or from an earlier call.
    """
    if length not in ("video", "audio"):
        raise ValueError(f"length must be 'video' or 'audio'; got {length!r}")
    info, fps, size = _header(video)
    speech = read_speech(audio)
    assert speech is not None
    feeling = named_emotion(emotion)

    def follow() -> FaceTrack:
        with progress_bar(info.num_frames or 0, progress) as advance:
            frames = (advance() or frame for frame in iter_frames(video))
            return track_face(frames, pipeline._detector(detector), face)

    found = track(follow)
    count = len(found) if length == "video" else num_frames_of(len(speech), float(fps))
    order = back_and_forth(len(found), count)
    samples = round(count / fps * SAMPLE_RATE)
    speech = torch.nn.functional.pad(speech, (0, max(0, samples - len(speech))))[:samples]
    rest, told = resting_face(found), leave_to(pipeline.landmark_net, feeling)
    heard = [
        None if sound is None else heard_motion(pipeline.landmark_net, sound, rest, told, float(fps))
        for sound in (own_sound(video, len(found), fps), speech)
    ]
    assert heard[1] is not None
    new = new_lips(found, order, rest, _cut(heard[0], len(found)), heard[1][:count], float(fps))
    runs = _painted_runs(found, order)
    painters = [_painter(pipeline, found.landmarks[order[run]]).config for run in runs]
    largest = max((painter["size"] for painter in painters if painter.get("bank")), default=0)
    bank = further_faces(video, found, pipeline.info["crop_scale"], largest) if largest else None
    return Dubbing(Path(video), order, found.landmarks[order], new, runs, feeling, speech, fps, size, bank)


def dubbed_frames(
    pipeline: TalkingHeadPipeline, plan: Dubbing, *, seed: int = 0, num_inference_steps: int | None = None
) -> Iterator[Tensor]:
    """Yield the (H, W, 3) uint8 frames of a dubbing, in order.

    Args:
        pipeline: whose renderer paints.
        plan: from `plan_dubbing`.
        seed: of the noise.
        num_inference_steps: network evaluations per frame; None: the pipeline's own number.
    """
    frames = frames_in_order(plan.video, plan.order)
    done = 0
    for run in plan.runs:
        for _ in range(done, run.start):
            yield next(frames).permute(1, 2, 0)
        yield from _painted(
            pipeline, plan, run, itertools.islice(frames, run.stop - run.start), num_inference_steps, seed
        )
        done = run.stop
    for frame in frames:
        yield frame.permute(1, 2, 0)


def _painted(
    pipeline: TalkingHeadPipeline, plan: Dubbing, run: slice, frames: Iterator[Tensor], steps: int | None, seed: int
) -> Iterator[Tensor]:
    """Yield one run's frames with the new mouth."""
    crops = steady_crops(plan.old[run], pipeline.info["crop_scale"])
    renderer = _painter(pipeline, plan.old[run])
    size, emotion, first = renderer.config.size, leave_to(renderer, plan.emotion), run.start
    bank = shrunk(plan.bank, size) if plan.bank is not None and renderer.config.get("bank") else None
    steps = pipeline.info["num_inference_steps"] if steps is None else steps
    moving = zip(frames, crops, plan.old[run], plan.new[run], strict=True)
    while batch := list(itertools.islice(moving, BATCH)):
        faces = torch.stack([crop_frames(frame, crop, size) for frame, crop, _, _ in batch])
        old = torch.stack([to_crop(points, crop, size) for _, crop, points, _ in batch])
        new = torch.stack([to_crop(points, crop, size) for _, crop, _, points in batch])
        painted = paint_each(
            renderer, pipeline.scheduler, faces, old, new, emotion, bank=bank, steps=steps, seed=seed, first=first
        )
        for (frame, crop, _, _), *face in zip(batch, faces, old, new, painted, strict=True):
            yield repaint(frame, crop, *face)
        first += len(batch)


def paint_each(
    renderer: Renderer,
    scheduler: Scheduler,
    faces: Tensor,
    old: Tensor,
    new: Tensor,
    emotion: Tensor,
    *,
    bank: Bank | None,
    steps: int,
    seed: int,
    first: int,
) -> Tensor:
    """Return (N, 3, s, s) uint8: frames whose reference is each frame itself.

    Args:
        renderer: paints.
        scheduler: its process.
        faces: (N, 3, s, s) uint8.
        old: (N, 68, 2) px, the landmarks of ``faces``.
        new: (N, 68, 2) px, those to paint.
        emotion: (8,) probabilities.
        bank: (R, 3, s, s) uint8 further pictures of the person with their (R, 68, 2) px, or None.
        steps: network evaluations per frame.
        seed: of the noise.
        first: number of the first frame in the video.
    """
    count, device = len(faces), renderer.device
    further = None
    if bank is not None:
        pictures, points = (part.to(device)[None].expand(count, *part.shape) for part in bank)
        further = pictures, points
    condition = renderer.prepare(
        faces.to(device),
        old.to(device),
        new[:, None].to(device),
        bank=further,
        seed=seed,
        frame_offset=torch.arange(first, first + count, device=device),
    )
    return paint_at_once(renderer, scheduler, condition, emotion, steps, seed, first).frames[:, 0]


def further_faces(video: str | Path, track: FaceTrack, scale: float, size: int) -> Bank:
    """Return up to ``BANK`` faces of a video that differ in mouth or turn: (R, 3, size, size) uint8, (R, 68, 2) px.

    Args:
        video: the file.
        track: of the face in it.
        scale: side of the square relative to the landmarks' box.
        size: px, the pictures' side.
    """
    shown = track.shown.nonzero().flatten()
    wanted = set(shown[differing_mouths(track.landmarks[shown], BANK)].tolist())
    faces, points = [], []
    for index, frame in enumerate(itertools.islice(iter_frames(video), max(wanted) + 1)):
        if index in wanted:
            crop = face_crop(track.landmarks[index], scale)
            faces.append(crop_frames(frame, crop, size))
            points.append(to_crop(track.landmarks[index], crop, size))
    return torch.stack(faces), torch.stack(points)


def steady_crops(landmarks: Tensor, scale: float) -> list[Crop]:
    """Return the square around the face in each of (T, 68, 2) frames of a run: of one size, moving as the head does."""
    side, crops = _steady_side(landmarks, scale), []
    for frame in landmarks:
        own = face_crop(frame, scale)
        middle_x, middle_y = own.x + own.side / 2, own.y + own.side / 2
        crops.append(Crop(float(round(middle_x - side / 2)), float(round(middle_y - side / 2)), side))
    return crops


def _steady_side(landmarks: Tensor, scale: float) -> float:
    """Return the side in px of a square that holds the face in all of (T, 68, 2) frames."""
    return max(face_crop(frame, scale).side for frame in landmarks[:: max(1, len(landmarks) // 50)])


def _painter(pipeline: TalkingHeadPipeline, landmarks: Tensor) -> Renderer:
    """Return the renderer for a face as large as in a run's (T, 68, 2) frames."""
    side = _steady_side(landmarks, pipeline.info["crop_scale"])
    return fitting_renderer(pipeline.renderer, pipeline.fine_renderer, side, None)


def back_and_forth(frames: int, count: int) -> Tensor:
    """Return (count,) indices of ``frames`` frames played forwards, backwards, forwards ...

    Example:
        >>> back_and_forth(4, 9).tolist()
        [0, 1, 2, 3, 2, 1, 0, 1, 2]
    """
    period = max(1, 2 * (frames - 1))
    place = torch.arange(count) % period
    return torch.minimum(place, period - place).clamp(max=frames - 1)


def frames_in_order(video: str | Path, order: Tensor) -> Iterator[Tensor]:
    """Yield a video's frames in an order made by `back_and_forth`, holding at most ``PIECE`` of them."""
    indices = order.tolist()
    place = 0
    while place < len(indices):
        stop = place + 1
        step = indices[stop] - indices[place] if stop < len(indices) else 1
        while stop < len(indices) and indices[stop] - indices[stop - 1] == step:
            stop += 1
        stretch, place = indices[place:stop], stop
        if step == 0:  # a video of one frame
            only = next(itertools.islice(iter_frames(video), stretch[0], None))
            yield from itertools.repeat(only, len(stretch))
            continue
        if step > 0:
            yield from itertools.islice(iter_frames(video), stretch[0], stretch[-1] + 1)
            continue
        for first in range(0, len(stretch), PIECE):  # backwards: decoded again from the start, piece by piece
            part = stretch[first : first + PIECE]
            yield from reversed(list(itertools.islice(iter_frames(video), part[-1], part[0] + 1)))


def _painted_runs(track: FaceTrack, order: Tensor) -> tuple[slice, ...]:
    """Return the stretches of output frames that show the face without a cut."""
    shot = torch.bucketize(order, torch.tensor(track.shots), right=True)
    shown = track.shown[order]
    key = torch.where(shown, shot, -1).tolist()
    runs, start = [], 0
    for same, group in itertools.groupby(key):
        stop = start + len(list(group))
        if same >= 0:
            runs.append(slice(start, stop))
        start = stop
    return tuple(runs)


def _header(video: str | Path) -> tuple[MediaInfo, Fraction, tuple[int, int]]:
    """Return what a video's header says, with its frames per second and its (height, width) in px."""
    info = probe(video)
    if info.fps is None or info.height is None or info.width is None:
        raise ValueError(f"video: {str(video)!r} holds no picture; give a video")
    return info, info.fps, (info.height, info.width)


def _cut(motion: Tensor | None, frames: int) -> Tensor | None:
    return None if motion is None else motion[:frames]
