"""Video of any length from a renderer of a few frames: overlapping windows, blended at every step.

The frames are cut into segments of ``window - overlap`` frames. Window w paints segment w and the first ``overlap``
frames of segment w + 1; where two windows paint the same frame, their predictions of x_0 are cross-faded *before* the
scheduler steps, so that every level of the process is one video and not a row of windows:

    x_0 = (1 - r) x_0[window w - 1] + r x_0[window w],   r rising over the overlap
    x at the next level = scheduler.step(x_0, t, x)

Window w at level k needs the frames of segments w and w + 1 at level k, that is window w + 1 at level k - 1. The
windows therefore advance as a wavefront: when segment w arrives, window w - 1 runs at level 0, w - 2 at level 1, and so
on. Only two segments more than there are steps are held, whatever the video's length, and finished frames leave while
later ones have not even arrived.

Windows at one level do not need each other's answers, only each other's frames. So if several segments arrive together,
the windows that they complete are painted together, level by level (``windows_per_call``): a graphics card is filled
by a batch of windows, and hardly by one; the cores of a CPU paint a window each.

The noise is keyed by the seed and the absolute frame, the portrait is in every window: nothing drifts, and the
result does not depend on how, or how far, the stream is consumed.
"""

from __future__ import annotations

import copy
import inspect
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import accumulate, groupby, pairwise
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from talkhead.devices import side_by_side, usable_threads
from talkhead.nets.condition import Condition
from talkhead.nets.renderer import Renderer
from talkhead.ops.segments import crossfade, cut_segments
from talkhead.schedulers import Scheduler, even_timesteps, keyed_step
from talkhead.speaker.schema import check_windows

_TOGETHER = 8
"""Windows painted together at most, where nobody says otherwise."""
_P = TypeVar("_P")
_R = TypeVar("_R")


class Painted(NamedTuple):
    """Finished frames.

    Attributes:
        frames: (t, 3, H, W) uint8.
        displacement: (t, H, W, 2 + N) px, from where in the portrait each pixel was sampled, less where it is, then the
            shares of N further pictures that were mixed in; None where the renderer does not sample the portrait.
    """

    frames: Tensor
    displacement: Tensor | None


@dataclass
class _Segment:
    """Frames on their way from the noise to the picture.

    Attributes:
        start: absolute index of the first frame.
        x: (1, 3, t, H, W) the frames at their present level.
        condition: what the renderer sees beside x.
        head: (1, 3, overlap, H, W) what the window before has predicted for the first frames, or None.
        level: how many steps it has taken.
        moved: (1, t, H, W, 2 + N) displacements and shares of the last prediction, or None.
        head_moved: those of ``head``, or None.
    """

    start: int
    x: Tensor
    condition: Condition
    head: Tensor | None = None
    level: int = 0
    moved: Tensor | None = None
    head_moved: Tensor | None = None


def render_windows(*portrait: Any, **options: Any) -> Iterator[Tensor]:
    """Yield the (t, 3, H, W) uint8 frames of `paint_windows`, which see for the arguments, alone."""
    for painted in paint_windows(*portrait, **options):
        yield painted.frames


def paint_windows(
    renderer: Renderer,
    scheduler: Scheduler,
    reference: Tensor,
    reference_landmarks: Tensor,
    landmarks: Iterable[Tensor],
    emotion: Tensor,
    *,
    num_inference_steps: int = 4,
    seed: int = 0,
    window: int = 16,
    overlap: int = 4,
    start_timestep: int | None = None,
    guidance_scale: float = 1.0,
    windows_per_call: int | None = None,
    bank: tuple[Tensor, Tensor] | None = None,
) -> Iterator[Painted]:
    """Paint a face along a stream of landmarks, in memory that does not grow with its length.

    Args:
        renderer: the network with its ``prepare``, ``predict`` and ``decode``.
        scheduler: what steps from one level to the next; it is copied, never changed.
        reference: (3, H, W) uint8 the portrait, of the renderer's size.
        reference_landmarks: (68, 2) px of the portrait.
        landmarks: chunks (t, 68, 2) px of the portrait, in order, of any t.
        emotion: (8,) probabilities, or (T, 8), one for each frame: a window is told the mean over its own.
        num_inference_steps: network evaluations per frame (frames in an overlap take two of each).
        seed: of the noise.
        window: frames painted together.
        overlap: frames that neighbouring windows share, at most half a window.
        start_timestep: how noisy the start is, the rest of it being the carrier; None starts at the noise end.
        guidance_scale: 1 follows the emotion, more exaggerates it at twice the cost (classifier-free guidance).
        windows_per_call: windows that share a network call, at most; None: 8 on a GPU; on the CPU 1, but as many calls
            at once as there are threads, up to 8. The first take fewer, 1, 2, 4 ..., so that the first frames do not
            wait. It changes no more than a call's rounding.
        bank: further pictures of the person, (R, 3, H, W) uint8 of the renderer's size, and their landmarks
            (R, 68, 2) px: mouths to copy from.

    Yields:
        Finished frames, in order.

    Raises:
        ValueError: if overlap is negative or more than half of window, or there is no step or no window in a call.
    """
    check_windows(window, overlap, num_inference_steps, windows_per_call)
    scheduler = copy.deepcopy(scheduler)
    # On the CPU, wherever the renderer is: each step reads its number, and would wait for the card.
    set_timesteps(scheduler, num_inference_steps, start_timestep, "cpu")
    per_call = windows_per_call or (_TOGETHER if renderer.device.type == "cuda" else 1)
    most = per_call if windows_per_call or per_call > 1 else min(usable_threads(), _TOGETHER)
    partial = start_timestep is not None
    painter = _Painter(renderer, scheduler, emotion, overlap, seed, partial, guidance_scale, most, per_call)
    if bank is not None:
        painter.bank = bank[0][None].to(renderer.device), bank[1][None].to(renderer.device)
    portrait = (reference[None].to(renderer.device), reference_landmarks[None].to(renderer.device))
    together = 1
    waiting: list[Tensor] = []
    for segment, last in cut_segments(landmarks, window - overlap, overlap):
        waiting.append(segment)
        if len(waiting) == together or last:
            painter.arrive(portrait, waiting)
            waiting, together = [], min(2 * together, most)
            yield from painter.advance(last)


def set_timesteps(scheduler: Scheduler, steps: int, start: int | None, device: torch.device | str) -> None:
    """Set a scheduler's timesteps: its own spacing, or from ``start`` evenly down where a start is given.

    Raises:
        ValueError: if there are more steps than integers from ``start`` down to 0, or the scheduler takes no start.
    """
    taken = inspect.signature(scheduler.set_timesteps).parameters
    if start is None:
        scheduler.set_timesteps(steps, device=device)
    elif "start_timestep" in taken:
        scheduler.set_timesteps(steps, device=device, start_timestep=start)
    elif "timesteps" in taken:  # many of diffusers' own take a list
        scheduler.set_timesteps(timesteps=even_timesteps(steps, start), device=device)
    else:
        said = f"beside a {type(scheduler).__name__}, which begins at the noise end alone; got {start}"
        raise ValueError(f"start_timestep must be left out {said}")


class _Painter:
    """The wavefront: the segments on their way, oldest (and furthest) first.

    Attributes:
        partial: whether the process starts from the noised carrier rather than from the noise end.
        together: how many windows are painted together, at most.
        per_call: how many of them share a network call.
        bank: further pictures of the person and their landmarks, with a leading 1, or None.
    """

    bank: tuple[Tensor, Tensor] | None = None

    def __init__(
        self,
        renderer: Renderer,
        scheduler: Scheduler,
        emotion: Tensor,
        overlap: int,
        seed: int,
        partial: bool,
        guidance_scale: float,
        together: int,
        per_call: int,
    ) -> None:
        self.renderer, self.scheduler = renderer, scheduler
        self.emotion, self.guidance_scale = emotion.to(renderer.device), guidance_scale
        self.overlap, self.ramp = overlap, crossfade(overlap).to(renderer.device)
        self.seed, self.partial, self.together, self.per_call = seed, partial, together, per_call
        self.timesteps: list[int] = scheduler.timesteps.tolist()
        self.segments: deque[_Segment] = deque()
        self.arrived = 0

    @torch.inference_mode()
    def arrive(self, portrait: tuple[Tensor, Tensor], segments: list[Tensor]) -> None:
        """Put the next segments' landmarks, (t, 68, 2) px each, at the noise end."""
        starts = list(accumulate(map(len, segments), initial=self.arrived))

        def prepared(places: Sequence[int]) -> list[Condition]:
            landmarks = torch.cat([segments[place] for place in places])[None]
            landmarks, first = landmarks.to(self.renderer.device, non_blocking=True), starts[places[0]]
            whole = self.renderer.prepare(*portrait, landmarks, bank=self.bank, seed=self.seed, frame_offset=first)
            ends = [starts[place] - first for place in (*places, places[-1] + 1)]
            return [whole] if len(places) == 1 else [whole.frames(*own) for own in pairwise(ends)]

        conditions = [own for call in self._calls(prepared, range(len(segments))) for own in call]
        for start, condition in zip(starts, conditions, strict=False):
            x = condition.noise
            if self.partial:
                x = self.scheduler.add_noise(condition.carrier, x, torch.tensor(self.timesteps[:1]))
            self.segments.append(_Segment(start, x, condition))
        self.arrived = starts[-1]

    @torch.inference_mode()
    def advance(self, last: bool) -> Iterator[Painted]:
        """Paint every window whose frames are there, level by level; yield the frames that are done."""
        ready = len(self.segments) if last else len(self.segments) - 1
        for level in range(len(self.timesteps)):
            # A window needs its own frames and those that it shares with the next at one level.
            at = [segment.level == level for segment in self.segments] + [True]
            places = [place for place in range(ready) if at[place] and at[place + 1]]
            self._run(places, level)
        while self.segments and self.segments[0].level == len(self.timesteps):
            done = self.segments.popleft()
            yield Painted(self.renderer.decode(done.x)[0], None if done.moved is None else done.moved[0])

    def _run(self, places: list[int], level: int) -> None:
        """Paint the windows at ``places``, those of one length in one call, and step their segments."""
        follows = [place + 1 < len(self.segments) for place in places]
        windows = [
            _window(self.segments[place], self.segments[place + 1], self.overlap)
            if more and self.overlap
            else self.segments[place]
            for place, more in zip(places, follows, strict=True)
        ]
        predictions = [answer for _, group in groupby(windows, _length) for answer in self._predict(list(group), level)]
        for place, window, (predicted, moved) in zip(places, windows, predictions, strict=True):
            segment = self.segments[place]
            length = segment.x.shape[2]
            own = self._faded(segment.head, predicted[:, :, :length], 2)
            segment.moved = None if moved is None else self._faded(segment.head_moved, moved[:, :length], 1)
            if window is not segment:
                following = self.segments[place + 1]
                following.head = predicted[:, :, length:]
                following.head_moved = None if moved is None else moved[:, length:]
            key = {"seed": self.seed, "frame": segment.start, "level": level}
            segment.x = keyed_step(self.scheduler, own, self.timesteps[level], segment.x, **key)
            segment.level += 1

    def _faded(self, before: Tensor | None, own: Tensor, axis: int) -> Tensor:
        """Cross-fade what the window before has said of a segment's first frames into what its own says."""
        if before is None:
            return own
        first, rest = own.narrow(axis, 0, self.overlap), own.narrow(axis, self.overlap, own.shape[axis] - self.overlap)
        ramp = self.ramp.to(own.dtype).view(-1, *(1 for _ in own.shape[axis + 1 :]))
        return torch.cat((torch.lerp(before, first, ramp), rest), axis)

    def _predict(self, windows: list[_Segment], level: int) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Yield x_0 (1, 3, t, H, W) and displacement of each of several windows of one length, a few in a call."""

        def answered(part: Sequence[_Segment]) -> Iterator[tuple[Tensor, Tensor | None]]:
            x, condition = part[0].x, part[0].condition
            if len(part) > 1:
                x, condition = torch.cat([w.x for w in part]), batched([w.condition for w in part])
            emotion = torch.cat([self._told(w.start, w.x.shape[2]) for w in part])
            answer, moved = self.renderer.predict_displaced(
                x, self.timesteps[level], condition, emotion, self.guidance_scale
            )
            return zip(answer.split(1), [None] * len(part) if moved is None else moved.split(1), strict=True)

        for answers in self._calls(answered, windows):
            yield from answers

    def _calls(self, work: Callable[[Sequence[_P]], _R], pieces: Sequence[_P]) -> list[_R]:
        """Return what ``work`` makes of the pieces, a few in a call; on the CPU several calls at once."""
        parts = [pieces[first : first + self.per_call] for first in range(0, len(pieces), self.per_call)]
        if self.renderer.device.type == "cpu" and self.together > self.per_call:
            return side_by_side(work, parts)
        return [work(part) for part in parts]

    def _told(self, start: int, length: int) -> Tensor:
        """Return the (1, 8) emotion of ``length`` frames from ``start`` on."""
        return self.emotion[None] if self.emotion.ndim == 1 else self.emotion[start : start + length].mean(0)[None]


def _window(segment: _Segment, following: _Segment, overlap: int) -> _Segment:
    """Return the segment with the first ``overlap`` frames of the one that follows."""
    condition = segment.condition.join(following.condition.frames(0, overlap))
    return _Segment(segment.start, torch.cat((segment.x, following.x[:, :, :overlap]), 2), condition)


def _length(window: _Segment) -> int:
    """Return a window's number of frames."""
    return window.x.shape[2]


def batched(conditions: list[Condition]) -> Condition:
    """Return the conditions of several windows as one batch."""
    parts = ([getattr(condition, f.name) for condition in conditions] for f in fields(Condition))
    return Condition(*(None if part[0] is None else torch.cat(part) for part in parts))  # type: ignore[arg-type]
