"""Put what FFmpeg decodes onto the library's clock: pictures at a constant rate, sound beside them."""

from __future__ import annotations

import math
import statistics
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from talkhead.media.container import MAX_SECONDS, audio_stream, opened, packets, video_stream
from talkhead.media.write import MediaWarning, exact_fps

BACK, AHEAD = Fraction(1, 2), 10
"""Seconds by which a clock must go back or ahead to have been started again; less is jitter, or a pause."""

_FEW, _MANY = 3000, 100_000
"""Frames by whose times a rate is told, and that it has to keep up with."""

_TYPICAL = [Fraction(r) for r in (5, 6, 8, 10, 12, 15, 18, 20, 24, 25, 30, 48, 50, 60, 90, 100, 120, 240)]
_TYPICAL += [Fraction(r * 1000, 1001) for r in (24, 30, 60, 120)] + [Fraction(15, 2), Fraction(25, 2)]


def frame_rate(container: Any, stream: Any, path: str | Path, argument: str = "video") -> Fraction:
    """Return the constant rate at which a video's frames are handed out, per second.

    It is the stream's nominal rate: that of a phone's 30 frames per second, although some were dropped and the average
    is 29, or of a recorder that leaves out frames which do not change. Where the header's nominal rate is far from how
    the frames lie, it is the most common distance of two frames; the lower of the two, if it loses no frame. Where
    frames come faster for a while, it is the least rate that keeps up with them.

    Args:
        container: the open file.
        stream: its picture.
        path: the file, opened a second time to see the frames' times.
        argument: what to call the file in messages.

    Raises:
        ValueError: if no rate within (0.1, 1000) can be told.
    """
    average, nominal = stream.average_rate, stream.guessed_rate
    header = Fraction(nominal or average or 0)
    # Where the header's rate makes up its length to the tick, what comes later is as what comes first.
    even = stream.frames and stream.frames == (stream.duration or 0) * stream.time_base * header
    times, unit = _frame_times(path, argument, _FEW if even else _MANY)
    first = [time * unit for time in times[:_FEW]]
    steps = [b - a for a, b in zip(first, first[1:], strict=False) if b > a]
    rate = header
    if len(steps) >= 3:
        common = 1 / statistics.median(steps)
        usual = min(_TYPICAL, key=lambda r: abs(r / common - 1))
        seen = usual if abs(usual / common - 1) < 0.02 else Fraction(common).limit_denominator(1001)
        # Times in whole milliseconds make a rate of 29.97 look like 30.3.
        slower = abs(header / common - 1) > 0.02 and seen < header and _regular(steps)
        if not header or ((slower or not _fits(first, header)) and _fits(first, seen)):
            rate = seen
        rate = _kept_up(np.array(times, float) * float(unit), rate)
    if not Fraction(1, 10) < rate < 1000:
        got = f"a frame rate of {float(rate):g} per second" if rate else "no frame rate"
        raise ValueError(f"{argument}: {str(path)!r} says {got}; convert it to MP4 at 25 frames per second first")
    return exact_fps(rate)


def _frame_times(path: str | Path, argument: str, most: int) -> tuple[list[int], Fraction]:
    """Return the times of a video's first frames, in order, until its clock starts again, and their unit in s.

    The list is empty where the file does not give them all.
    """
    times: list[int] = []
    last = None  # in the order of decoding, in which times grow
    with opened(path, argument) as container:
        stream = video_stream(container)
        unit, back = Fraction(stream.time_base), float(BACK / stream.time_base)
        for packet in packets(container, stream):
            if packet.pts is None:
                return [], unit
            now = last if packet.dts is None else packet.dts
            if len(times) == most or (last is not None and now < last - back):
                break
            last = now
            times.append(packet.pts)
    return sorted(times), unit


def _regular(steps: list[Fraction]) -> bool:
    """Whether most distances of two frames are about the same."""
    middle = statistics.median(steps)
    return len(steps) >= 10 and sum(abs(step / middle - 1) < 0.2 for step in steps) > 0.6 * len(steps)


def _fits(times: list[Fraction], rate: Fraction) -> bool:
    """Whether every frame has a tick of its own, hardly more than half a tick from its time."""
    slot, far = -1, 0
    for time in times:
        place = (time - times[0]) * rate
        slot = max(slot + 1, round(place))
        far += abs(slot - place) > 0.75
    return far <= len(times) // 100


def _kept_up(seconds: np.ndarray, rate: Fraction) -> Fraction:
    """Return a rate at which no frame comes more than two ticks late for those before it: ``rate``, or one above it.

    Only a rate that the frames reach for a second is taken: a few that come at once after a hiccup are no rate.
    """
    if _behind(seconds, rate) <= 2:
        return rate
    fastest = 1.05 * float((np.searchsorted(seconds, seconds + 1) - np.arange(len(seconds))).max()) + 1
    # 30 before 29.97: it keeps up with both.
    above = sorted((r for r in _TYPICAL if rate < r < fastest), key=lambda r: (math.ceil(r), r.denominator))
    return next((r for r in above if _behind(seconds, r) <= 2), rate)


def _behind(seconds: np.ndarray, rate: Fraction) -> float:
    """By how many ticks frames come late at most, where each has a tick of its own."""
    places = (seconds - seconds[0]) * float(rate)
    numbers = np.arange(len(places))
    slots = np.maximum.accumulate(np.rint(places) - numbers) + numbers
    return round(float((slots - places).max()), 6)


def at_constant_rate(
    frames: Iterator[Any], convert: Callable[..., Tensor], fps: Fraction, zero: Fraction, path: str, slack: int = 0
) -> Iterator[Tensor]:
    """Yield for each tick of the frame rate the picture shown then.

    Every decoded frame is shown: none is lost, and each lies within half a tick of its time, wherever the times grow by
    a tick or more. A time that is wrong alone among its neighbours is not followed: some writers put one into an evenly
    spaced file. A clock that starts again (joined files) goes on; a picture that stands still while its sound runs on
    is shown as long, and the last one as long as it says.

    Args:
        frames: decoded frames of FFmpeg.
        convert: (frame, (width, height)) -> picture; called once for each frame.
        fps: ticks per second.
        zero: seconds of the first tick, on the frames' clock.
        path: the file, for warnings.
        slack: ticks by which a frame may be late without the one before it being repeated: 1 for codecs that know no
            variable rate, for which a time that is late by a tick is the writer's fault.

    Yields:
        (3, H, W) uint8 RGB.

    Raises:
        ValueError: if the ticks come to more than ``MAX_SECONDS``.
    """
    held, size = None, None
    slot = 0
    for tick, frame in _slots(_positions(frames, fps, zero, path), slack):
        if tick > MAX_SECONDS * fps:
            raise ValueError(f"video: {path!r} says it lasts more than {MAX_SECONDS} s; its clock is damaged")
        if held is not None:  # what comes before the first frame shows the first frame
            yield from (held for _ in range(tick - slot))
            slot = tick
        size = size or (frame.width, frame.height)
        held = convert(frame, size)
        lasts = (frame.duration or 0) * (frame.time_base or 0) * fps
    if held is not None:
        # A picture alone, as in a GIF of one, has no rate of its own that would say how many it is.
        least = Fraction(3, 2) if slot else max(Fraction(3, 2), fps / 2)
        stands = least < lasts <= MAX_SECONDS * fps - slot
        yield from (held for _ in range(round(lasts) if stands else 1))


def _positions(frames: Iterator[Any], fps: Fraction, zero: Fraction, path: str) -> Iterator[tuple[Fraction, Any]]:
    """Yield frames with their times in ticks, without the jumps of a clock that starts again."""
    shift, expected = Fraction(0), None
    pauses = _Pauses(path)
    for frame in frames:
        time = expected if frame.pts is None else (frame.pts * frame.time_base - zero) * fps + shift
        if expected is None or time is None:
            # The first frame shown is the first tick, unless there are a few before it that cannot be decoded.
            first = time or Fraction(0)
            time = first if 2 < first <= AHEAD * fps else Fraction(0)
            shift += time - first
        elif _starts_again(time - expected, fps) and not pauses.last((time - expected) / fps, frame):
            message = f"{path}: timestamps jump by {float((time - expected) / fps):.1f} s; the jump is ignored"
            warnings.warn(message, MediaWarning, stacklevel=2)
            shift, time = shift + expected - time, expected
        expected = time + 1
        yield time, frame


def _starts_again(jump: Fraction, per_second: Fraction | int = 1) -> bool:
    return jump < -BACK * per_second or jump > AHEAD * per_second


def _slots(frames: Iterator[tuple[Fraction, Any]], slack: int) -> Iterator[tuple[int, Any]]:
    """Give each frame a tick of its own.

    How late a frame is against an evenly spaced video grows by whole ticks where frames were left out, and jitters
    around them: the median of five neighbours keeps those steps where they are and passes over the jitter.
    """
    window: deque[tuple[Fraction, Any]] = deque()
    late: list[Fraction] = []
    slot, behind = -1, 0
    index = 0

    def settle(reach: int) -> tuple[int, Any]:
        nonlocal slot, index, behind
        reach = min(reach, index, 2)
        first = index - max(index - 2, 0)
        around = late[first - reach : first + reach + 1]
        step = round(statistics.median(around))
        behind = step if step > behind + slack else behind
        slot = index + behind
        if index >= 2:
            late.pop(0)
        index += 1
        return slot, window.popleft()[1]

    count = 0
    for position, frame in frames:
        window.append((position, frame))
        late.append(position - count)
        count += 1
        if len(window) == 3:
            yield settle(2)
    while window:
        yield settle(len(window) - 1)


def at_rate(frames: Iterator[Tensor], fps: Fraction, wanted: Fraction) -> Iterator[Tensor]:
    """Bring pictures from one constant rate to another: each tick shows the picture whose time is nearest.

    Args:
        frames: pictures, ``fps`` of them per second.
        fps: their rate.
        wanted: ticks per second of the result.

    Yields:
        The pictures, repeated or left out.

    Example:
        >>> list(at_rate(iter(range(6)), Fraction(30), Fraction(25)))
        [0, 1, 2, 4, 5]
        >>> list(at_rate(iter(range(3)), Fraction(15), Fraction(30)))
        [0, 0, 1, 1, 2, 2]
    """
    tick = 0
    for index, frame in enumerate(frames):
        # A tick half-way between two pictures shows the earlier one.
        while 2 * tick * fps <= (2 * index + 1) * wanted:
            tick += 1
            yield frame
        last = frame, index
    if tick:
        frame, index = last
        while tick < round((index + 1) * wanted / fps):
            tick += 1
            yield frame


class Restarts:
    """Follow a sound's clock through the restarts that its picture's clock makes, so that both stay together.

    Args:
        path: the file with the picture; None: there is none.
    """

    def __init__(self, path: str | Path | None) -> None:
        self._path = path
        self._shift = Fraction(0)
        self._jumps: list[Fraction] | None = None

    def follow(self, time: Fraction | None, expected: Fraction | None) -> tuple[Fraction | None, bool]:
        """Return where a block of sound lies on the continued clock, and whether the clock started again with it.

        Args:
            time: when it starts, as the file says.
            expected: when the sound before it ended, on the continued clock.
        """
        if time is None:
            return expected, False
        time += self._shift
        if expected is None or not _starts_again(time - expected):
            return time, False
        if self._jumps is None:
            self._jumps = [] if self._path is None else clock_jumps(self._path, video_stream)[0]
        jump = next((j for j in self._jumps if _alike(j, time - expected)), None)
        if jump is None and time > expected:
            return time, False  # a long pause
        if jump is None:
            self._shift += expected - time
            return expected, True
        self._jumps = self._jumps[self._jumps.index(jump) + 1 :]
        self._shift -= jump
        return time - jump, True


class _Pauses:
    """Tell a picture that stands still for long from a clock that starts again.

    Args:
        path: the file.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = path
        self._sound: tuple[list[Fraction], Fraction | None] | None = None

    def last(self, jump: Fraction, frame: Any) -> bool:
        """Return whether the sound runs on while the picture's clock jumps; see `Restarts` for the other way.

        Args:
            jump: seconds by which the frame comes too late.
            frame: FFmpeg's, the first after the jump.
        """
        if jump < 0:
            return False
        if self._sound is None:
            self._sound = clock_jumps(self._path, audio_stream)
        jumps, end = self._sound
        common = next((n for n, other in enumerate(jumps) if _alike(other, jump)), None)
        if common is not None:
            self._sound = jumps[common + 1 :], end
            return False
        # Where the sound ends long before, nothing is out of time without the jump, and the clock may be damaged.
        return end is not None and end > frame.pts * frame.time_base - jump / 2


def _alike(jump: Fraction, other: Fraction) -> bool:
    """Tell whether picture and sound jump together; where files are joined, both rarely end at the same moment."""
    return abs(jump - other) < 2


def clock_jumps(path: str | Path, choose: Callable[[Any], Any]) -> tuple[list[Fraction], Fraction | None]:
    """Return how a stream's clock runs; nothing is decoded.

    Args:
        path: the file.
        choose: takes the open file and returns the stream, or None.

    Returns:
        By how many seconds it jumps where it starts again, in order, and its last moment; None where there is none.
    """
    jumps: list[Fraction] = []
    last = None
    with opened(path, "video") as container:
        stream = choose(container)
        if stream is None:
            return [], None
        step = 1 / Fraction(stream.guessed_rate or stream.average_rate or 25) if stream.type == "video" else None
        expected = None
        for packet in packets(container, stream):
            if packet.dts is None:
                continue
            time = packet.dts * packet.time_base
            if expected is not None and _starts_again(time - expected):
                jumps.append(time - expected)
            expected = time + (step or (packet.duration or 0) * packet.time_base)
            last = max(last or expected, expected)
    return jumps, last
