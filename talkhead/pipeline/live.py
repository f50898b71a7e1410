"""A face that speaks while the sound still comes: frames leave a fixed time after their sound.

Frames are made in hops of a few. A hop is made as soon as ``look_ahead`` more seconds of sound are there: the landmark
net hears the last seconds up to then, and its answers for neighbouring hops are cross-faded where they overlap. Hops
lie at absolute frames, so the frames do not depend on the pieces in which the sound comes.

A frame leaves look_ahead + hop + the time to compute a hop after its own sound, at the latest. ``push`` does it in one
go; a server with two cores calls ``move`` in one thread and ``paint`` in another, for neither looks at what the other
changes: the next hop is then heard while this one is painted.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from fractions import Fraction
from functools import partial
from numbers import Real
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from talkhead.data.clip import SAMPLE_RATE
from talkhead.face.articulation import articulate
from talkhead.face.idle import idle_motion
from talkhead.face.motion_gains import check_gain, motion_gains
from talkhead.face.mouth_bank import Bank, shrunk
from talkhead.face.mouth_gate import close_mouth, relax_mouth, speech_gate
from talkhead.face.portrait import Portrait
from talkhead.finishing.placing import FramePlacer, check_output
from talkhead.heads.drawn_head import DrawnHead, hear_prosody
from talkhead.nets.head_motion import RATE
from talkhead.pipeline.at_once import paint_at_once, ready_to_paint
from talkhead.pipeline.feeling import check_strength, emotion_keys, leave_to
from talkhead.pipeline.live_frames import LiveFrames, LiveMotion
from talkhead.pipeline.stages import ANYONE, check_seed, check_steps, choose_fps
from talkhead.pipeline.worn import wear_expressions
from talkhead.speaker.references import bank_for, fitting_portrait, mouth_to_draw
from talkhead.speech.level import frame_decibels, num_frames_of, speech_level
from talkhead.speech.pitch import GrowingPitchgram
from talkhead.speech.prosody import PITCH_HOP
from talkhead.tracking.portrait import find_face, read_portrait
from talkhead.tracking.track import LandmarkDetector

if TYPE_CHECKING:
    from talkhead.pipeline.talking_head import TalkingHeadPipeline

REMEMBERED_SECONDS = 20.0
"""Sound that is kept: how loud the speaker and the room are is measured on it."""
QUIETEST = 10 ** (-42 / 20)
"""Speech level (RMS of full scale) below which the sound is taken for the room's noise, not for speech."""


class Live:
    """Frames for sound that comes in pieces; made by `TalkingHeadPipeline.live`.

    Attributes:
        portrait: the face.
        further: further pictures of the person, (R, 3, S, S) uint8 and (R, 68, 2) px of them, or None.
        size: (height, width) of the frames in px.
        fps: frames per second.
        hop: frames made at once.
        delay: seconds after its own sound that a frame leaves at the latest, without the time to compute it.
        num_frames: frames that have been moved, those that were skipped included.

    Args:
        pipeline: whose networks are used.
        portrait: the face.
        further: further pictures of the person, or None; see `begin_live`.
        emotion: see `TalkingHeadPipeline.stream`; a live voice's is not heard, because it must be known at once.
        emotion_strength: see `TalkingHeadPipeline.stream`; here it does not breathe with the voice.
        look_ahead: seconds of sound after a frame's own that the landmark net hears before it answers.
        hop: frames made at once.
        history: seconds of sound before a frame's own that it hears.
        fps: frames per second.
        seed: of the noise and of the small motions that speech does not tell.
        num_inference_steps: network evaluations per frame.
        mouth: gain of the mouth's motion.
        pose: gain of the head's motion.
        brow: gain of the brows' motion.
        blink: gain of the eyelids' motion.
        idle: see `TalkingHeadPipeline.stream`.
        teeth: see `TalkingHeadPipeline.stream`.
        frame: "crop" or "full"; see `TalkingHeadPipeline.stream`.
        size: px, side of the crop; see `TalkingHeadPipeline.stream`.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(
        self,
        pipeline: TalkingHeadPipeline,
        portrait: Portrait,
        *,
        further: Bank | None = None,
        emotion: Any = "neutral",
        emotion_strength: float = 1.0,
        look_ahead: float = 0.12,
        hop: int = 3,
        history: float = 2.0,
        fps: Fraction = Fraction(25),
        seed: int = 0,
        num_inference_steps: int = 1,
        mouth: float = 1.0,
        pose: float = 1.0,
        brow: float = 1.0,
        blink: float = 1.0,
        idle: float = 1.0,
        teeth: float = 1.0,
        frame: Literal["crop", "full"] = "crop",
        size: int | None = None,
    ) -> None:
        _check(look_ahead, hop, history)
        check_seed(seed)
        check_steps(pipeline.scheduler, num_inference_steps)
        check_strength(emotion_strength)
        gains = {"mouth": mouth, "pose": pose, "brow": brow, "blink": blink, "idle": idle}
        for name, gain in gains.items():
            check_gain(name, gain)
        self._net, self._scheduler = pipeline.landmark_net, pipeline.scheduler
        finer, side = pipeline.fine_renderer, portrait.face.shape[-1]
        painter = finer if finer is not None and finer.config.size == side else pipeline.renderer
        self._renderer = ready_to_paint(painter)
        self.portrait, self.further = portrait, further
        self._keys, self._strength = emotion_keys(emotion), emotion_strength
        # A diffusers model looks through all its modules for its device: milliseconds, of a hop's hundred.
        self._heard_on, self._painted_on = self._net.device, self._renderer.device
        self._rest = close_mouth(portrait.reference_landmarks)
        self.hop, self._seed, self._steps, self.fps = hop, seed, num_inference_steps, fps
        self._idle, self._gains = gains.pop("idle"), gains
        self._head, self._gram = self._drawn_head(pipeline.head_net), GrowingPitchgram(PITCH_HOP)
        # 0.28 s of 25 frames per second are 7, and in floating point a little more.
        self._ahead, self._history = math.ceil(look_ahead * fps - 1e-6), math.ceil(history * fps)
        self.delay = float((self._ahead + hop) / fps)
        speaker = pipeline.folder, pipeline.info.get("reference_landmarks")
        bank = None if further is None else shrunk(further, self._renderer.config.size)
        self._bank = bank and (bank[0][None].to(self._painted_on), bank[1][None].to(self._painted_on))
        drawn = mouth_to_draw(speaker, portrait.face, portrait.reference_landmarks, bank, teeth, self._painted_on)
        self._placer = FramePlacer(portrait, frame, size, device=self._painted_on, drawn=drawn, further=further)
        self.size = self._placer.size
        self._sound, self._first = torch.empty(0), 0  # the sound that is kept, and the number of its first sample
        self._fresh: list[Tensor] = []  # sound that no hop has needed yet
        self._arrived = self.num_frames = 0
        self._overlap: Tensor | None = None
        self._waiting: deque[Tensor] = deque()
        self._worn = self._wear()
        self._over = False

    def push(self, samples: Tensor, at_most: int | None = None) -> LiveFrames:
        """Take a piece of sound, and return the frames that can leave: ``paint`` of ``move``.

        Args:
            samples: (s,) floats in [-1, 1] at 16 kHz, of any length.
            at_most: see ``paint``.

        Returns:
            The frames, their landmarks and their sound; (0, H, W, 3) frames where none can leave yet.

        Raises:
            ValueError: if the samples have another shape, type or range, or the stream is over.
        """
        return self.paint(self.move(samples), at_most)

    def flush(self) -> LiveFrames:
        """Return the frames that still waited for sound; the stream is over."""
        return self.paint(self.finish())

    @property
    def missing(self) -> int:
        """Samples that the next hop still waits for."""
        return max(0, self._sample(self.num_frames + self.hop + self._ahead) - self._arrived)

    def move(self, samples: Tensor) -> LiveMotion:
        """Take a piece of sound as ``push`` does, and return the motion of the frames that can leave."""
        try:
            samples = torch.as_tensor(samples)
        except (TypeError, ValueError, RuntimeError):
            raise ValueError(f"samples must be (s,) floats in [-1, 1]; got {type(samples).__name__}") from None
        if samples.ndim != 1 or not samples.is_floating_point():
            raise ValueError(f"samples must be (s,) floats in [-1, 1]; got {tuple(samples.shape)}, {samples.dtype}")
        if len(samples) and (not samples.isfinite().all() or samples.abs().max() > 1.5):
            raise ValueError("samples must be finite and lie in [-1, 1]")
        if self._over:
            raise ValueError("the stream is over: flush was called; begin another with pipeline.live")
        self._fresh.append(samples.detach().to("cpu", torch.float32, copy=True))  # the caller may fill it again
        self._arrived += len(samples)
        return self._nothing() if self.missing else self._moved(self._while_heard())

    def finish(self) -> LiveMotion:
        """Return the motion of the frames that still waited for sound; the stream is over."""
        self._over = True
        return self._moved(self._to_the_end())

    def paint(self, motion: LiveMotion, at_most: int | None = None) -> LiveFrames:
        """Paint frames that ``move`` or ``finish`` returned.

        Args:
            motion: of whole hops, or the stream's last.
            at_most: paint no more than the last so many of them: for one who is late. The others are skipped; ``start``
                of the result tells. None: all.

        Raises:
            ValueError: if ``at_most`` is no whole number of at least 0.
        """
        if at_most is not None and (isinstance(at_most, bool) or not isinstance(at_most, int) or at_most < 0):
            raise ValueError(f"at_most must be a whole number of frames, or None; got {at_most!r}")
        skipped = 0 if at_most is None else max(0, len(motion.landmarks) - at_most)
        landmarks, start = motion.landmarks[skipped:], motion.start + skipped
        hops = landmarks.split(self.hop) if len(landmarks) else ()
        frames = [self._paint(part, start + place * self.hop) for place, part in enumerate(hops)]
        return LiveFrames(
            frames=torch.cat(frames) if frames else torch.empty(0, *self.size, 3, dtype=torch.uint8),
            landmarks=self._placer.to_frame(landmarks),
            audio=motion.audio[self._sample(start) - self._sample(motion.start) :].clone(),
            start=start,
        )

    def _sample(self, frame: int) -> int:
        return round(frame * SAMPLE_RATE / self.fps)

    def _move(self, count: int, ahead: int) -> Tensor:
        """Return the (count, 68, 2) px of the next frames, heard with ``ahead`` more."""
        start = self.num_frames
        stop, low = start + count + ahead, max(0, start - self._history)
        heard = self._heard(low, stop)
        kept = self._sound[: self._sample(stop) - self._first]
        level = speech_level(kept).clamp_min(QUIETEST)
        times = torch.arange(low, stop, dtype=torch.float64) / float(self.fps)
        told = self._keys.told_at(times, self._net, self._strength)
        inputs = (heard, self._rest, told, level)
        sound, rest, told, level = (tensor[None].to(self._heard_on) for tensor in inputs)
        moved = self._net(sound, rest, told, stop - low, level)[0].cpu()
        loudness = self._loudness(kept, level[0].cpu(), stop)
        part = articulate(moved, self._rest, **ANYONE, loudness=loudness[-len(moved) :])[start - low :]
        part = relax_mouth(part, self._rest, speech_gate(loudness, float(self.fps))[-len(part) :])
        if self._overlap is not None and (shared := min(len(self._overlap), len(part), self.hop)):
            ramp = ((torch.arange(shared) + 0.5) / shared).view(-1, 1, 1)
            part = torch.cat((torch.lerp(self._overlap[:shared], part[:shared], ramp), part[shared:]))
        part, self._overlap = part[:count], part[count:]
        if self._head is not None:
            part = self._head(part, start, *self._prosody(kept, level[0].cpu()))
        else:
            part = idle_motion(
                part, float(self.fps), seed=self._seed, first_frame=start, head=self._idle, blink=min(self._idle, 1.0)
            )
        self.num_frames += count
        self._forget()
        part = motion_gains(part, self.portrait.reference_landmarks, **self._gains)
        self._waiting.append(part)
        return next(self._worn)

    def _heard(self, low: int, stop: int) -> Tensor:
        """Return exactly the sound of frames low..stop-1; zeros for what the last frame outlasts."""
        first, last = self._sample(low), self._sample(stop)
        part = self._sound[first - self._first : last - self._first]
        return F.pad(part, (0, last - first - len(part)))

    def _loudness(self, kept: Tensor, level: Tensor, stop: int) -> Tensor:
        """Return the loudness in dB of the frames in the kept sound, which begins on a frame."""
        return frame_decibels(kept, level, stop - round(self._first * self.fps / SAMPLE_RATE))

    def _drawn_head(self, net: Any) -> DrawnHead | None:
        """Return what draws the head, where the pipeline has it and the head is to live; then the gains are its own."""
        if net is None or not self._idle:
            return None
        # One emotion for all of the draw, as offline; how long the last of several lasts is not known here.
        told = leave_to(net, self._keys.meant.mean(0), self._strength)
        gains = {name: self._idle * self._gains.pop(name) for name in ("pose", "brow", "blink")}
        return DrawnHead(net, self.portrait.reference_landmarks, told, float(self.fps), gains, self._seed)

    def _prosody(self, kept: Tensor, level: Tensor) -> tuple[Tensor, int]:
        """Return how the kept sound is spoken, and the number of its first frame at the head's own rate."""
        frame = SAMPLE_RATE // RATE
        skipped = -self._first % frame
        whole = len(kept) if self._over else len(kept) - (len(kept) - skipped) % frame
        heard = kept[skipped : max(whole, skipped + 1)]
        self._gram.first = (self._first + skipped) // frame
        return hear_prosody(heard, level, self._gram), self._gram.first

    def _forget(self) -> None:
        """Drop the sound that nothing looks at any more, in whole seconds, so that it is copied seldom."""
        oldest = self.num_frames - math.ceil(REMEMBERED_SECONDS * self.fps)
        oldest -= oldest % math.ceil(self.fps)
        if (first := self._sample(max(0, oldest))) > self._first:
            self._sound, self._first = self._sound[first - self._first :].clone(), first

    def _wear(self) -> Iterator[Tensor]:
        """Put the expressions on the motion as it comes."""
        moving = iter(self._waiting.popleft, None)
        strength = torch.tensor([self._strength])
        return wear_expressions(moving, self.portrait.reference_landmarks, self._keys, self._net, strength, self.fps)

    def _nothing(self) -> LiveMotion:
        return LiveMotion(torch.empty(0, 68, 2), torch.empty(0), self.num_frames)

    def _while_heard(self) -> Iterator[Tensor]:
        while not self.missing:
            yield self._move(self.hop, self._ahead)

    def _to_the_end(self) -> Iterator[Tensor]:
        total = num_frames_of(self._arrived, float(self.fps)) if self._arrived else 0
        while self.num_frames < total:
            left = total - self.num_frames
            yield self._move(min(self.hop, left), min(self._ahead, max(0, left - self.hop)))

    def _moved(self, parts: Iterator[Tensor]) -> LiveMotion:
        """Give the parts their sound, which is looked up before they let it be forgotten."""
        self._sound, self._fresh = torch.cat((self._sound, *self._fresh)), []
        start = self.num_frames
        sound = self._sound[self._sample(start) - self._first :]
        with torch.inference_mode():
            landmarks = torch.cat([torch.empty(0, 68, 2), *parts])
        # Copies made out here may be changed by who gets them.
        return LiveMotion(
            landmarks.clone(), sound[: self._sample(self.num_frames) - self._sample(start)].clone(), start
        )

    def _paint(self, landmarks: Tensor, start: int) -> Tensor:
        """Return (t, H, W, 3) uint8 frames."""
        device = self._painted_on
        face, rest = self.portrait.face[None].to(device), self.portrait.reference_landmarks[None].to(device)
        moved = landmarks[None].to(device)
        times = torch.arange(start, start + 1, dtype=torch.float64) / float(self.fps)
        told = self._keys.told_at(times, self._renderer, self._strength)
        with torch.inference_mode():
            condition = self._renderer.prepare(face, rest, moved, bank=self._bank, seed=self._seed, frame_offset=start)
            painted = paint_at_once(self._renderer, self._scheduler, condition, told, self._steps, self._seed, start)
        return self._placer(
            painted.frames[0], landmarks, None if painted.displacement is None else painted.displacement[0]
        )


def begin_live(
    pipeline: TalkingHeadPipeline,
    image: Any,
    *,
    reference_landmarks: Tensor | None = None,
    detector: str | LandmarkDetector | None = None,
    face: str | int = "largest",
    fps: float | Fraction | None = None,
    references: Any = None,
    fine: bool | None = None,
    **options: Any,
) -> Live:
    """Begin a video whose sound is still to come: ``push`` pieces of it, and take the frames.

    Args:
        pipeline: a `TalkingHeadPipeline`.
        image: the portrait; see `TalkingHeadPipeline.stream`.
        reference_landmarks: see `TalkingHeadPipeline.stream`.
        detector: see `TalkingHeadPipeline.stream`.
        face: see `TalkingHeadPipeline.stream`.
        fps: frames per second; None: the pipeline's (25).
        references: further pictures of the person; see `TalkingHeadPipeline.stream`.
        fine: whether a large face is painted by ``fine_renderer``, as offline; that takes two to three times as long,
            so None: on a GPU alone.
        options: see `Live`.

    Raises:
        ValueError: if an argument is out of range, or no face is found.

    Example:
        A microphone gives ``pieces`` of 16 kHz sound::

            live = pipeline.live("portrait.png", look_ahead=0.12)
            for samples in pieces:
                show(live.push(samples).frames)
    """
    check_output(options.get("frame", "crop"), options.get("size"))
    picture = read_portrait(image)
    if reference_landmarks is None:
        reference_landmarks = find_face(picture, pipeline._detector(detector), face, image)
    if fine is None:
        fine = pipeline.device.type != "cpu"
    scale, both = pipeline.info["crop_scale"], (pipeline.renderer, pipeline.fine_renderer if fine else None)
    shown = options.get("size") if options.get("frame", "crop") == "crop" else None
    portrait, renderer = fitting_portrait(picture, reference_landmarks, scale, *both, shown)
    if references is not None:
        found, own = partial(pipeline._detector, detector), (portrait.face, portrait.reference_landmarks)
        seen = scale, portrait.crop.side
        options["further"] = bank_for(references, pipeline.folder, renderer.config, found, face, seen, own)
    return Live(pipeline, portrait, fps=choose_fps(fps, None, pipeline.info["fps"]), **options)


def _check(look_ahead: float, hop: int, history: float) -> None:
    longest = REMEMBERED_SECONDS / 2
    if not isinstance(look_ahead, Real) or not 0 <= look_ahead <= longest:
        raise ValueError(f"look_ahead must lie in 0..{longest:g} s; got {look_ahead!r}")
    if not isinstance(history, Real) or not 0 < history <= longest:
        raise ValueError(f"history must be above 0, and at most {longest:g} s; got {history!r}")
    if isinstance(hop, bool) or not isinstance(hop, int) or hop < 1:
        raise ValueError(f"hop must be a whole number of frames, at least 1; got {hop!r}")
