"""Jobs side by side: their windows share network calls, and nothing else."""

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from test_jobs import home, job, one_thread, run, write_jobs  # noqa: F401

from talkhead.media.read import iter_frames
from talkhead.nets.condition import Condition
from talkhead.nets.renderer import Renderer
from talkhead.scale import shared_calls
from talkhead.scale.results import read_results
from talkhead.scale.shared_calls import WINDOWS, take_turns
from talkhead.scale.videos import generate_jobs


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The windows of each network call."""
    counts: list[int] = []
    original = Renderer.predict_displaced

    def counting(self: Renderer, sample: torch.Tensor, *rest: Any) -> Any:
        counts.append(len(sample))
        return original(self, sample, *rest)

    monkeypatch.setattr(Renderer, "predict_displaced", counting)
    return counts


def pictures(path: Path) -> torch.Tensor:
    return torch.stack(list(iter_frames(path))).int()


def test_videos_of_jobs_side_by_side_are_those_of_jobs_one_by_one(home: Path, tmp_path: Path, calls: list[int]) -> None:  # noqa: F811
    """Two lengths, two emotions, one with guidance, one bad one: fewer calls, the same frames."""
    lines = [
        job(output="a.mp4", seed=1),
        job(output="b.mp4", audio="b.wav", emotion="happy"),
        job(output="c.mp4", audio="none.wav"),
        job(output="d.mp4", seed=2, emotion="sad"),
        job(output="e.mp4", guidance_scale=2.0),
        job(output="f.mp4", audio="b.wav", seed=3, num_inference_steps=2),
    ]
    jobs = write_jobs(home / "together.jsonl", *lines)
    assert run(jobs, tmp_path / "alone", at_once=1).ok == 5
    alone = list(calls)
    calls.clear()
    assert run(jobs, tmp_path / "together", at_once=4).ok == 5
    assert sum(calls) == sum(alone) and len(calls) < len(alone)
    assert set(alone) == {1} and max(calls) == 3
    reasons = [
        [(r["output"], r["status"], r["reason"], r["key"]) for r in read_results(tmp_path / n)]
        for n in ("alone", "together")
    ]
    assert reasons[0] == reasons[1] and reasons[0][2][1] == "failed"
    for name in "abdef":
        found, expected = (pictures(tmp_path / n / f"{name}.mp4") for n in ("together", "alone"))
        assert found.shape == expected.shape
        assert (found - expected).abs().max() <= 2  # a batch's rounding, through H.264


def test_a_call_has_no_more_windows_than_one_jobs(home: Path, tmp_path: Path, calls: list[int]) -> None:  # noqa: F811
    jobs = write_jobs(home / "many.jsonl", *(job(seed=n) for n in range(WINDOWS + 2)))
    assert run(jobs, tmp_path, at_once=WINDOWS + 2).ok == WINDOWS + 2
    assert set(calls) == {WINDOWS, 2}


def test_a_network_that_fails_for_one_job_fails_for_it_alone(
    home: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The second job's noise is marked, and a call that has it in it fails."""
    prepare, predict = Renderer.prepare, Renderer.predict_displaced

    def preparing(self: Renderer, *given: Any, seed: int, **more: Any) -> Condition:
        condition = prepare(self, *given, seed=seed, **more)
        return replace(condition, noise=torch.full_like(condition.noise, 7.0)) if seed == 2 else condition

    def failing(self: Renderer, sample: torch.Tensor, timestep: int, condition: Condition, *rest: Any) -> Any:
        if condition.noise.eq(7.0).any():
            raise RuntimeError("out of memory")
        return predict(self, sample, timestep, condition, *rest)

    monkeypatch.setattr(Renderer, "prepare", preparing)
    monkeypatch.setattr(Renderer, "predict_displaced", failing)
    jobs = write_jobs(home / "odd.jsonl", job(seed=1), job(seed=2), job(seed=3))
    tally = run(jobs, tmp_path, at_once=3)
    assert tally.ok == 2 and [(line, reason) for line, _, reason in tally.failed] == [(2, "out of memory")]


def test_what_stops_one_stops_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Ctrl-C: every job's own clearing away is done."""
    ended: list[str] = []

    def task(name: str, stops: bool) -> Callable[[Any], None]:
        def work(ask: Any) -> None:
            try:
                for _ in range(3):
                    ask(SimpleNamespace(answer=None))
                    if stops:
                        raise KeyboardInterrupt
            finally:
                ended.append(name)

        return work

    monkeypatch.setattr(shared_calls, "_answer", lambda calls: None)
    with pytest.raises(KeyboardInterrupt):
        take_turns([task("a", False), task("b", True), task("c", False)])
    assert sorted(ended) == ["a", "b", "c"]


def test_a_run_that_its_first_job_ends_leaves_no_threads_that_wait_for_their_turn() -> None:
    def full(ask: Callable[[Any], Any]) -> None:
        raise OSError("output: the disk is full")

    before = set(threading.enumerate())
    with pytest.raises(OSError, match="the disk is full"):
        take_turns([full, lambda ask: None, lambda ask: None])
    left = set(threading.enumerate()) - before
    for thread in left:
        thread.join(5)
    assert not [thread for thread in left if thread.is_alive()]


def test_at_once_is_at_least_one(home: Path, tmp_path: Path) -> None:  # noqa: F811
    with pytest.raises(ValueError, match="at_once must be at least 1, or None; got 0"):
        generate_jobs(write_jobs(home / "one.jsonl", job()), tmp_path, at_once=0)
