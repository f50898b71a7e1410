"""The steps from a picture and a recording to frames, each a small function; `talkhead.pipeline` strings them."""

from __future__ import annotations

import copy
import math
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor

from talkhead.data.clip import SAMPLE_RATE
from talkhead.devices import give_back_memory, in_whole_pieces, keep_memory
from talkhead.face.frame import face_size
from talkhead.face.landmarks import check_landmarks
from talkhead.face.motion_gains import motion_gains
from talkhead.face.portrait import Portrait
from talkhead.finishing.placing import FramePlacer
from talkhead.media.container import SAMPLE_RATES
from talkhead.media.formats import open_writer
from talkhead.media.read import exact_fps, read_audio
from talkhead.nets.landmark import LandmarkNet
from talkhead.pipeline.feeling import EmotionKeys, EmotionTrack, join_tracks
from talkhead.pipeline.motion import LandmarkSequence
from talkhead.pipeline.windows import set_timesteps
from talkhead.schedulers import Scheduler
from talkhead.short_repr import short_repr
from talkhead.speech.level import num_frames_of
from talkhead.speech.recording import Recording

if TYPE_CHECKING:
    from talkhead.pipeline.windows import Painted


FAR = 4.0
"""Times that the first face of given landmarks may be larger or smaller than the portrait's."""
_UNEVEN = 10_000  # phases of a resampling filter: more make one of gigabytes (47999 Hz), where files take FFmpeg's
_GIVE_BACK = 1500
"""Frames, of one video or of many, after which what they left in memory is given back."""


@short_repr
@dataclass(frozen=True, eq=False)
class Result:
    """A talking-head video, or (from `TalkingHeadPipeline.stream`) a piece of one.

    Attributes:
        frames: (T, H, W, 3) uint8 RGB, or (T, H, W, 4) with the opacity where it was asked for.
        landmarks: (T, 68, 2) float32 px of ``frames``.
        emotion: the probability of each emotion's name, as asked for or heard, on average.
        emotion_track: the same for every frame, and what of it the face shows.
        audio: (S,) float32 the speech at 16 kHz, or None.
        fps: frames per second.
        motion: the same landmarks in px of the portrait's picture: to save, edit and render again.
        start: index of the first frame in the whole video.
    """

    frames: Tensor
    landmarks: Tensor
    emotion: dict[str, float]
    emotion_track: EmotionTrack
    audio: Tensor | None
    fps: Fraction
    motion: LandmarkSequence
    start: int = 0

    def save(self, path: str | Path) -> None:
        """Write the video with the speech as its sound, whole or not at all; see `open_writer` for the formats.

        Raises:
            ValueError: if the name's ending is none of them, or the format has no opacity and the frames have.
            OSError: if the file cannot be written.
        """
        height, width, channels = self.frames.shape[1:]
        with open_writer(path, self.fps, (height, width), self.audio, alpha=channels == 4) as video:
            for frame in self.frames:
                video.append(frame)


class Stream(Iterator[Result]):
    """The pieces of a video in order, made as they are asked for, on a CPU of several threads a few ahead.

    These threads wait for as long as the stream is kept, which a traceback, too, does: whoever may stop before its end
    closes it, or asks for the pieces in a ``with`` statement.

    Attributes:
        num_frames: of the whole video.
        size: (height, width) of the frames in px.
        fps: frames per second.
        audio: the whole speech at 16 kHz, (S,) float32, or of a file the `Recording` to slice; None: there is none.
        emotion: the probability of each emotion's name in the beginning.
    """

    _painted_since: ClassVar = 0  # frames of all streams since memory was given back

    def __init__(
        self,
        painted: Iterator[tuple[Painted, Tensor]],
        portrait: Portrait,
        audio: Tensor | Recording | None,
        keys: EmotionKeys,
        fps: Fraction,
        num_frames: int,
        placer: FramePlacer,
    ) -> None:
        self._portrait, self._placer = portrait, placer
        self._made = _in_parts(painted, placer)
        self.audio, self.fps, self.num_frames = audio, fps, num_frames
        self._keys, self.emotion = keys, keys.track(0, 1, fps).mean
        self.size = placer.size
        self._done = 0
        keep_memory()

    def __enter__(self) -> Self:
        """Return the stream."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """End the video here: no more pieces come, what was made ahead is dropped, the threads that made it end."""
        self._made.close()

    def __next__(self) -> Result:
        """Return the next piece."""
        with in_whole_pieces():
            frames, landmarks = next(self._made)
        start, self._done = self._done, self._done + len(frames)
        Stream._painted_since += len(frames)
        if Stream._painted_since >= _GIVE_BACK:
            Stream._painted_since = 0
            give_back_memory()
        track = self._keys.track(start, self._done, self.fps)
        in_picture = self._portrait.to_picture(landmarks)
        return Result(
            frames=frames,
            landmarks=self._placer.to_frame(landmarks),
            emotion=track.mean,
            emotion_track=track,
            audio=self._sound(start, self._done),
            fps=self.fps,
            motion=LandmarkSequence(in_picture, self.fps, self._portrait.size),
            start=start,
        )

    def _sound(self, start: int, stop: int) -> Tensor | None:
        """Return the samples of frames ``start`` to ``stop``; the last piece has all that is left."""
        if self.audio is None:
            return None
        first, last = (round(frame / self.fps * SAMPLE_RATE) for frame in (start, stop))
        part = self.audio[first : None if stop == self.num_frames else last]
        return part.clone()  # the caller may change it, and later frames hear what was before theirs


def _in_parts(
    painted: Iterator[tuple[Painted, Tensor]], placer: FramePlacer
) -> Generator[tuple[Tensor, Tensor], None, None]:
    """Yield frames, no more at a time than should be held, and their landmarks in px of the face."""
    for piece, landmarks in painted:
        done = 0
        for frames in placer.in_parts(piece.frames, landmarks, piece.displacement):
            yield frames, landmarks[done : done + len(frames)]
            done += len(frames)


def join_results(pieces: list[Result]) -> Result:
    """Join the pieces of one video."""
    first = pieces[0]
    sounds = [piece.audio for piece in pieces if piece.audio is not None]
    motion = torch.cat([piece.motion.landmarks for piece in pieces])
    track = join_tracks([piece.emotion_track for piece in pieces])
    return replace(
        first,
        emotion=track.mean,
        emotion_track=track,
        frames=torch.cat([piece.frames for piece in pieces]),
        landmarks=torch.cat([piece.landmarks for piece in pieces]),
        audio=torch.cat(sounds) if sounds else None,
        motion=replace(first.motion, landmarks=motion),
    )


def open_speech(audio: Any, sample_rate: int = SAMPLE_RATE, optional: bool = False) -> Tensor | Recording | None:
    """Return speech as `read_speech` does, but that of a file as a `Recording`, however long it is."""
    if not isinstance(audio, str | Path):
        return read_speech(audio, sample_rate, optional)
    speech = Recording.open(audio)
    if not len(speech):
        raise ValueError(f"audio: '{audio}' has no sound; give a recording with at least one sample")
    return speech


def read_speech(audio: Any, sample_rate: int = SAMPLE_RATE, optional: bool = False) -> Tensor | None:
    """Return speech as (S,) float32 at 16 kHz.

    Args:
        audio: a sound or video file, or (S,) floats in [-1, 1].
        sample_rate: of floats.
        optional: return None for None instead of raising.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be read, is empty, or has another shape, type or range.
    """
    if isinstance(audio, str | Path):
        speech = read_audio(audio)
        if not len(speech):
            raise ValueError(f"audio: '{audio}' has no sound; give a recording with at least one sample")
        return speech
    if audio is None and optional:
        return None
    if audio is None:
        raise ValueError("audio must be given, unless landmarks are: there is nothing to move the face by")
    try:
        speech = torch.as_tensor(audio)
    except (TypeError, ValueError, RuntimeError):
        wanted = "a file's name, or (S,) floats in [-1, 1] (what is in memory as a file: write it to one)"
        raise ValueError(f"audio must be {wanted}; got {type(audio).__name__}") from None
    if speech.ndim != 1 or not speech.is_floating_point() or not len(speech):
        raise ValueError(
            "audio must be a file, or (S,) floats in [-1, 1] with S >= 1 samples of one channel; "
            f"got shape {tuple(speech.shape)}, {speech.dtype}"
        )
    if not speech.isfinite().all() or speech.abs().max() > 1.5:  # a little beyond 1 is what resampling leaves
        raise ValueError(f"audio must lie in [-1, 1]; got values up to {speech.abs().max().item():g}")
    least, most = SAMPLE_RATES
    if not isinstance(sample_rate, Real) or not least <= sample_rate <= most or sample_rate != int(sample_rate):
        wanted = f"a whole number of samples per second from {least} to {most}"
        raise ValueError(f"sample_rate must be {wanted}; got {sample_rate!r}")
    speech = speech.detach().to("cpu", torch.float32, copy=True)  # the caller may fill it again
    if sample_rate != SAMPLE_RATE:
        if sample_rate // math.gcd(int(sample_rate), SAMPLE_RATE) > _UNEVEN:
            raise ValueError(
                f"sample_rate={sample_rate} has no short ratio to {SAMPLE_RATE}, no short filter: give the sound as "
                "a file, or at one of the usual rates"
            )
        from torchaudio.functional import resample

        speech = resample(speech, int(sample_rate), SAMPLE_RATE)
    return speech


def read_motion(landmarks: Tensor | LandmarkSequence | str | Path | None) -> Tensor | LandmarkSequence | None:
    """Return landmarks as a checked tensor, or as a sequence with its own rate and size, both copies; None stays.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no landmark sequence, or the landmarks have another shape or are not finite.
    """
    if isinstance(landmarks, str | Path):
        return LandmarkSequence.load(landmarks)
    if landmarks is None:
        return None
    if isinstance(landmarks, LandmarkSequence):
        return landmarks.edit(lambda points: points)
    return check_landmarks(landmarks).clone()  # the caller may fill it again before the last piece is asked for


def check_seed(seed: Any) -> None:
    """Raise a ValueError where a seed is no whole number of 64 bits, as the generators of noise take it."""
    if isinstance(seed, bool) or not isinstance(seed, int) or not -(2**63) <= seed < 2**63:
        raise ValueError(f"seed must be a whole number from -2**63 to 2**63 - 1; got {seed!r}")


def check_steps(scheduler: Scheduler, steps: Any) -> None:
    """Raise a ValueError where a scheduler cannot space so many steps; it is copied, never changed."""
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ValueError(f"num_inference_steps must be a whole number of at least 1; got {steps!r}")
    set_timesteps(copy.deepcopy(scheduler), steps, None, "cpu")


def choose_fps(fps: float | Fraction | None, given: Any, default: str | float) -> Fraction:
    """Return the frame rate: the one asked for, else the landmark sequence's, else the pipeline's.

    Raises:
        ValueError: if it is not positive, or contradicts the landmark sequence's.
    """
    own = given.fps if isinstance(given, LandmarkSequence) else None
    if fps is None:
        return own or exact_fps(Fraction(default))
    rate = exact_fps(fps)
    if own is not None and rate != own:
        raise ValueError(f"fps must be {own}, that of the landmark sequence, or be left out; got {rate}")
    return rate


def count_frames(
    given: Tensor | LandmarkSequence | None, speech: Tensor | Recording | None, portrait: Portrait, fps: Fraction
) -> int:
    """Return the video's number of frames, after checking that given landmarks fit the sound and the picture.

    Raises:
        ValueError: if sound and landmarks differ by more than one frame, or the landmarks belong to another picture.
    """
    seconds = None if speech is None else len(speech) / SAMPLE_RATE
    if given is None:
        assert speech is not None
        return num_frames_of(len(speech), float(fps))
    if isinstance(given, LandmarkSequence) and given.size != portrait.size:
        raise ValueError(
            f"landmarks lie in a picture of {given.size} px (height, width), the portrait has {portrait.size}; "
            "move them over with LandmarkSequence.retarget"
        )
    _check_face_size(given, portrait)
    if seconds is not None and abs(len(given) - seconds * fps) > 1:
        raise ValueError(
            f"landmarks and audio must be equally long within one frame; got {len(given)} frames at {float(fps):g} per "
            f"second ({float(len(given) / fps):.2f} s) and {seconds:.2f} s of sound: cut one, or give fps"
        )
    return len(given)


def _check_face_size(given: Tensor | LandmarkSequence, portrait: Portrait) -> None:
    """Raise where given landmarks do not begin with a face about as large as the portrait's."""
    first = given.landmarks[0] if isinstance(given, LandmarkSequence) else given[0]
    size, own = face_size(first).item(), face_size(portrait.landmarks).item()
    if not own / FAR <= size <= own * FAR:
        raise ValueError(
            "landmarks must be px of the portrait's picture, not shares of it nor px of another; their first face is "
            f"{size / own:.2g} times as large as the portrait's: give px, or move them over with "
            "LandmarkSequence.retarget"
        )


def place_landmarks(given: Tensor | LandmarkSequence, portrait: Portrait, chunk: int = 64) -> Iterator[Tensor]:
    """Yield given landmarks, px of the picture, as (t, 68, 2) px of the face."""
    landmarks = given.landmarks if isinstance(given, LandmarkSequence) else given
    for part in landmarks.cpu().split(chunk):
        yield portrait.to_face(part)


ANYONE: dict[str, Any] = {"articulation": 1.35, "habit": 0.5, "closing": 0.09, "restraint": 0.04}
"""How the landmark net's motion is changed for a voice and a face it was not trained on (docs/landmark.md)."""


def move_landmarks(
    net: LandmarkNet,
    speech: Tensor | Recording | None,
    portrait: Portrait,
    emotion: Tensor,
    fps: Fraction,
    idle: float,
    seed: int,
) -> Iterator[Tensor]:
    """Yield the (t, 68, 2) px of the face that the speech moves, piece by piece.

    Silence closes the mouth. The net turns and scales with the face it is given, so the motion is this portrait's.
    """
    assert speech is not None
    face, feeling = portrait.reference_landmarks.to(net.device), emotion.to(net.device)
    for part in net.stream(speech.to(net.device), face, feeling, float(fps), idle=idle, seed=seed, **ANYONE):
        yield part.cpu()


def scale_motion(landmarks: Iterator[Tensor], portrait: Portrait, **gains: float) -> Iterator[Tensor]:
    """Apply `motion_gains` relative to the portrait's face."""
    return (motion_gains(part, portrait.reference_landmarks, **gains) for part in landmarks)
