"""How far a video, or a run over many pieces, is."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Count = Callable[[int, int], None]
"""What is told, after each frame, how many are done and how many there are."""

_SHORT = 30.0
"""s: rich tells the time that is left from what these have seen; where all pieces take longer, it sees too few ..."""
_PIECES = 64
"""... and so many are looked back at. All since the start would be too many: loading, and what is only looked at, as
the clips that a run finds fetched, go at a speed of their own."""


@contextmanager
def progress_bar(total: int, show: bool | Count) -> Iterator[Callable[..., None]]:
    """Give a function that counts one frame of ``total``, with a bar on stderr or whatever ``show`` does.

    It takes, if wanted, a word on the frame to stand beside their number.
    """
    if callable(show):
        numbers = itertools.count(1)
        yield lambda word="": show(next(numbers), total)
        return
    if not show:
        yield lambda word="": None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True)) as bar:
        task, pace = bar.add_task(f"{total} frames", total=total), _Pace(bar)

        def count(word: str = "") -> None:
            pace.note()
            bar.update(task, advance=1, description=f"{total} frames {word}".rstrip())

        yield count


@contextmanager
def work_bar(word: str, things: str, total: int | None, show: bool, weight: float | None = None) -> Iterator[WorkBar]:
    """Give a bar on stderr for work that comes in pieces of unequal size, with the time that is left.

    Args:
        word: what is going on.
        things: what is counted, such as ``clips``.
        total: how many; None: not known yet.
        show: whether it is seen.
        weight: of all that is to do, where pieces weigh more or less; None: each weighs 1.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn(word), BarColumn(), TextColumn("{task.fields[count]}/{task.fields[of]} {task.fields[things]}"),
        TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.description}"),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), disable=not show) as bar:
        task = bar.add_task("", total=weight, count=0, of="?", things=things)
        made = WorkBar(bar, task)
        if total is not None:
            made.plan(total, weight)
        yield made


class _Pace:
    """Has rich remember the last pieces for the time that is left, however long they take."""

    def __init__(self, bar: Any) -> None:
        self._bar = bar
        self._times: deque[float] = deque(maxlen=_PIECES)

    def note(self) -> None:
        """Note that a piece is done, before rich is told."""
        now = self._bar.get_time()
        self._times.append(now)
        # A second more, lest the time that passes until rich looks at its clock cost the first of them.
        self._bar.speed_estimate_period = max(_SHORT, now - self._times[0] + 1)


class WorkBar:
    """A bar of `work_bar`."""

    def __init__(self, bar: Any, task: Any) -> None:
        self._bar, self._task, self._count = bar, task, 0
        self._pace = _Pace(bar)

    def plan(self, total: int, weight: float | None = None) -> None:
        """Say how many there are, and what they weigh."""
        self._bar.update(self._task, total=total if weight is None else weight, of=total)

    def advance(self, weight: float = 1, things: int = 1, note: str = "") -> None:
        """Count what is done; ``note`` stands at the bar's end."""
        self._count += things
        if weight > 0:  # rich sees no others
            self._pace.note()
        self._bar.update(self._task, advance=weight, count=self._count, description=note)

    def say(self, line: str) -> None:
        """Print a line above the bar, where the bar is seen."""
        if not self._bar.disable:
            self._bar.console.print(line, markup=False, highlight=False, soft_wrap=True)
