"""The time that a bar says is left, by a clock that the tests turn."""

from typing import Any

import pytest
from rich import progress as rich_progress

from talkhead.progress import progress_bar, work_bar


class Clock:
    """What every bar reads, and the bar that was made last."""

    now = 0.0
    bar: Any = None

    def left(self) -> float | None:
        """Return the seconds that the bar says are left."""
        return self.bar.tasks[0].time_remaining


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()

    class Bar(rich_progress.Progress):
        def __init__(self, *columns: Any, disable: bool = True, **options: Any) -> None:
            super().__init__(*columns, get_time=lambda: made.now, **options | {"disable": True})
            made.bar = self

    monkeypatch.setattr(rich_progress, "Progress", Bar)
    return made


@pytest.mark.parametrize("seconds", [0.5, 10, 45, 120, 5000])
def test_the_time_that_is_left_is_told_however_long_a_piece_takes(clock: Clock, seconds: float) -> None:
    with work_bar("generate", "videos", 50, True) as bar:
        bar.advance(12, 12)  # passed over
        for _ in range(10):
            clock.now += seconds
            bar.advance()
        assert clock.left() == pytest.approx(28 * seconds, abs=1)


def test_frames_that_come_by_windows_of_minutes_tell_it_too(clock: Clock) -> None:
    with progress_bar(600, True) as count:
        for frame in range(120):
            clock.now += 100 * (frame % 12 == 0)
            count("frame")
        assert clock.left() == pytest.approx(4000, rel=0.2)  # rich counts a whole window too many


def test_what_went_quickly_at_the_start_is_forgotten(clock: Clock) -> None:
    """A fetch that is gone on with looks at what is there, and then has far to go for the rest."""
    with work_bar("fetch", "clips", 1000, True) as bar:
        for seconds in 900 * [0.01] + 70 * [20]:
            clock.now += seconds
            bar.advance()
        assert clock.left() == pytest.approx(30 * 20, abs=2)


def test_what_went_slowly_at_the_start_is_forgotten(clock: Clock) -> None:
    with work_bar("tune", "steps", None, True) as bar:
        for seconds in 3 * [60.0] + 100 * [1]:
            clock.now += seconds
            bar.plan(200)
            bar.advance()
        assert clock.left() == pytest.approx(97, abs=2)
