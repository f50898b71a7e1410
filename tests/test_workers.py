"""Mapping over processes that die, fail, or are stopped. Nothing heavy is imported: each worker imports this file."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from talkhead.data.workers import map_sources


def work(source: str, job: Path, stopped: Callable[[], bool]) -> str:
    if source == "deadly":
        os._exit(1)
    if source == "faulty":
        raise OSError("disk full")
    if source == "endless":
        (job / "started").touch()
        while not stopped():
            time.sleep(0.01)
        (job / "stopped").touch()
        raise KeyboardInterrupt
    return f"did {source}"


@pytest.mark.parametrize("workers", [1, 2])
def test_every_source_is_done_once(tmp_path: Path, workers: int) -> None:
    results = list(map_sources(work, ["a", "b", "c"], tmp_path, workers))
    assert sorted(results) == [(s, f"did {s}") for s in "abc"]


def test_a_worker_that_dies_takes_one_source_with_it(tmp_path: Path) -> None:
    results = dict(map_sources(work, ["a", "deadly", "b", "c"], tmp_path, 2))
    assert results.pop("deadly") == "the worker process died of it, by a crash or for want of memory"
    assert results == {s: f"did {s}" for s in "abc"}


def test_what_a_task_raises_ends_the_run_and_stops_the_others(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="disk full"):
        list(map_sources(work, ["endless", "faulty"], tmp_path, 2))
    assert not (tmp_path / "started").exists() or (tmp_path / "stopped").exists()


def test_closing_the_results_stops_the_work(tmp_path: Path) -> None:
    results = map_sources(work, ["a", "endless", "b"], tmp_path, 2)
    next(results)
    results.close()
    assert not (tmp_path / "started").exists() or (tmp_path / "stopped").exists()
