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

The noise is keyed by the seed and the absolute frame, the portrait is in every window: nothing drifts, and the
result does not depend on how, or how far, the stream is consumed.
"""

from __future__ import annotations

import copy
import inspect
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from talkhead.nets.renderer import Condition, Renderer
from talkhead.schedulers import even_timesteps


def cut_segments(landmarks: Iterable[Tensor], length: int, overlap: int) -> Iterator[tuple[Tensor, bool]]:
    """Cut a stream of frames into segments of ``length``; the last has up to ``length + overlap`` frames.

    A segment is given away only when more than ``overlap`` frames follow it, so that no window adds fewer.

    Args:
        landmarks: chunks (t, ...) of any t, in order.
        length: frames of a segment.
        overlap: frames that a window takes from the next segment.

    Yields:
        (frames of the segment, whether it is the last).
    """
    held: Tensor | None = None
    for chunk in landmarks:
        held = chunk if held is None else torch.cat((held, chunk))
        while len(held) > length + overlap:
            yield held[:length], False
            held = held[length:]
    if held is not None and len(held):
        yield held, True


def crossfade(overlap: int) -> Tensor:
    """Return the (overlap,) weights of the newer window: a squared sine, rising, symmetric about 1/2.

    Example:
        >>> crossfade(3)
        tensor([0.1464, 0.5000, 0.8536])
    """
    place = torch.arange(1, overlap + 1, dtype=torch.float64) / (overlap + 1)
    return (torch.sin(place * torch.pi / 2) ** 2).float()


@dataclass
class _Segment:
    """Frames on their way from the noise to the picture.

    Attributes:
        start: absolute index of the first frame.
        x: (1, 3, t, H, W) the frames at their present level.
        condition: what the renderer sees beside x.
        head: (1, 3, overlap, H, W) what the window before has predicted for the first frames, or None.
    """

    start: int
    x: Tensor
    condition: Condition
    head: Tensor | None = None


def render_windows(
    renderer: Renderer,
    scheduler: Any,
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
) -> Iterator[Tensor]:
    """Paint a face along a stream of landmarks, in memory that does not grow with its length.

    Args:
        renderer: the network with its ``prepare``, ``predict`` and ``decode``.
        scheduler: what steps from one level to the next; it is copied, never changed.
        reference: (3, H, W) uint8 the portrait, of the renderer's size.
        reference_landmarks: (68, 2) px of the portrait.
        landmarks: chunks (t, 68, 2) px of the portrait, in order, of any t.
        emotion: (8,) probabilities.
        num_inference_steps: network evaluations per frame (frames in an overlap take two of each).
        seed: of the noise.
        window: frames painted together.
        overlap: frames that neighbouring windows share, at most half a window.
        start_timestep: how noisy the start is, the rest of it being the carrier; None starts at the noise end.
        guidance_scale: 1 follows the emotion, more exaggerates it at twice the cost (classifier-free guidance).

    Yields:
        (t, 3, H, W) uint8 finished frames, in order.

    Raises:
        ValueError: if overlap is negative or more than half of window, or there is no step.
    """
    check_windows(window, overlap, num_inference_steps)
    scheduler = copy.deepcopy(scheduler)
    set_timesteps(scheduler, num_inference_steps, start_timestep, renderer.device)
    painter = _Painter(renderer, scheduler, emotion, overlap, seed, start_timestep is not None, guidance_scale)
    portrait = (reference[None].to(renderer.device), reference_landmarks[None].to(renderer.device))
    start = 0
    for segment, last in cut_segments(landmarks, window - overlap, overlap):
        painter.arrive(portrait, segment, start)
        start += len(segment)
        yield from painter.advance(last)


def check_windows(window: int, overlap: int, num_inference_steps: int) -> None:
    """Raise a ValueError where the numbers of `render_windows` make no windows or no steps."""
    if window < 1:
        raise ValueError(f"window must be at least 1 frame; got {window}")
    if not 0 <= overlap <= window // 2:
        raise ValueError(f"overlap must lie in 0..window // 2 = {window // 2}; got {overlap} with window {window}")
    if num_inference_steps < 1:
        raise ValueError(f"num_inference_steps must be at least 1; got {num_inference_steps}")


def set_timesteps(scheduler: Any, steps: int, start: int | None, device: torch.device | str) -> None:
    """Set a scheduler's timesteps: its own spacing, or from ``start`` evenly down where a start is given.

    Raises:
        ValueError: if there are more steps than integers from ``start`` down to 0.
    """
    if start is None:
        scheduler.set_timesteps(steps, device=device)
    elif "start_timestep" in inspect.signature(scheduler.set_timesteps).parameters:
        scheduler.set_timesteps(steps, device=device, start_timestep=start)
    else:  # diffusers' own schedulers take a list
        scheduler.set_timesteps(timesteps=even_timesteps(steps, start), device=device)


class _Painter:
    """The wavefront: the segments on their way, oldest (and furthest) first.

    Attributes:
        partial: whether the process starts from the noised carrier rather than from the noise end.
    """

    def __init__(
        self,
        renderer: Renderer,
        scheduler: Any,
        emotion: Tensor,
        overlap: int,
        seed: int,
        partial: bool,
        guidance_scale: float,
    ) -> None:
        self.renderer, self.scheduler = renderer, scheduler
        self.emotion, self.guidance_scale = emotion[None].to(renderer.device), guidance_scale
        self.overlap, self.ramp = overlap, crossfade(overlap).to(renderer.device)[:, None, None]
        self.seed, self.partial = seed, partial
        self.timesteps: list[int] = scheduler.timesteps.tolist()
        self.segments: deque[_Segment] = deque()
        self.levels: deque[int] = deque()

    @torch.inference_mode()
    def arrive(self, portrait: tuple[Tensor, Tensor], landmarks: Tensor, start: int) -> None:
        """Put the next segment at the noise end."""
        landmarks = landmarks[None].to(self.renderer.device)
        condition = self.renderer.prepare(*portrait, landmarks, seed=self.seed, frame_offset=start)
        x = condition.noise
        if self.partial:
            x = self.scheduler.add_noise(condition.carrier, x, torch.tensor(self.timesteps[:1], device=x.device))
        self.segments.append(_Segment(start, x, condition))
        self.levels.append(0)

    @torch.inference_mode()
    def advance(self, last: bool) -> Iterator[Tensor]:
        """Run every window whose frames are ready, the newest first; yield the frames that are done."""
        ready = len(self.segments) if last else len(self.segments) - 1
        while True:
            moved = False
            for place in reversed(range(ready)):
                moved |= self._run(place)
            while self.segments and self.levels[0] == len(self.timesteps):
                yield self.renderer.decode(self.segments.popleft().x)[0]
                self.levels.popleft()
                ready -= 1
            if not last or not moved:
                return

    def _run(self, place: int) -> bool:
        """Paint window ``place`` once and step its segment, if both neighbours are where it needs them."""
        level = self.levels[place]
        follows = place + 1 < len(self.segments)
        if level == len(self.timesteps) or (follows and self.levels[place + 1] != level):
            return False
        if place > 0 and self.levels[place - 1] != level + 1:  # its prediction of the shared frames is missing
            return False
        segment, length = self.segments[place], self.segments[place].x.shape[2]
        window = _window(segment, self.segments[place + 1], self.overlap) if follows and self.overlap else segment
        timestep = self.timesteps[level]
        predicted = self.renderer.predict(window.x, timestep, window.condition, self.emotion, self.guidance_scale)
        own = predicted[:, :, :length]
        if segment.head is not None:
            blended = torch.lerp(segment.head, own[:, :, : self.overlap], self.ramp.to(own.dtype))
            own = torch.cat((blended, own[:, :, self.overlap :]), dim=2)
        if window is not segment:
            self.segments[place + 1].head = predicted[:, :, length:]
        segment.x = self._step(own, timestep, segment, level)
        self.levels[place] += 1
        return True

    def _step(self, predicted: Tensor, timestep: int, segment: _Segment, level: int) -> Tensor:
        """Step one segment; a scheduler that draws noise gets a generator keyed by seed, frame and level."""
        extra = {}
        if "generator" in inspect.signature(self.scheduler.step).parameters:
            key = (self.seed * 1_000_003 + segment.start) * 10_007 + level
            extra["generator"] = torch.Generator().manual_seed(key % 2**63)
        return self.scheduler.step(predicted, timestep, segment.x, **extra).prev_sample


def _window(segment: _Segment, following: _Segment, overlap: int) -> _Segment:
    """Return the segment with the first ``overlap`` frames of the one that follows."""

    def join(a: Tensor, b: Tensor) -> Tensor:
        return torch.cat((a, b[:, :, :overlap]), dim=2)

    pairs = ((getattr(segment.condition, f.name), getattr(following.condition, f.name)) for f in fields(Condition))
    condition = Condition(*(join(mine, its) for mine, its in pairs))
    return _Segment(segment.start, join(segment.x, following.x), condition)
