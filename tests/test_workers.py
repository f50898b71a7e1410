"""Mapping over processes that die, fail, or are stopped. Nothing heavy is imported: each worker imports this file."""

import os
import subprocess
import sys
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


SCRIPT = """
import subprocess, sys
from talkhead.data.workers import map_sources

def twice(source, job, stopped):
    return source * 2

def main():
    print("reads", flush=True)
    for source, result in map_sources(twice, ["a", "b", "c"], None, 2):
        print(source, result, flush=True)

"""
GUARDED = f"{SCRIPT}if __name__ == '__main__':\n    main()\n"


def run_script(script: Path, code: str) -> subprocess.CompletedProcess[str]:
    script.write_text(code)
    return subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60, check=False)


def test_a_script_without_a_guard_is_told_once(tmp_path: Path) -> None:
    run = run_script(tmp_path / "script.py", f"{SCRIPT}main()\n")
    assert run.returncode == 1
    assert run.stdout.count("reads") in (2, 3)  # it, and the workers that had begun: none tries again
    assert run.stderr.count("Traceback") == 1
    assert run.stderr.splitlines()[-1] == (
        "RuntimeError: workers: no worker process could begin; a script must be a file with its work below "
        '`if __name__ == "__main__":`, for each worker reads it first; or take workers=1'
    )


def test_a_script_that_a_script_with_workers_starts_has_its_own(tmp_path: Path) -> None:
    """What it runs beside or after its workers is no worker, though it is its child."""
    (tmp_path / "inner.py").write_text(GUARDED)
    inner = f"    subprocess.run([sys.executable, {str(tmp_path / 'inner.py')!r}], check=True)\n"
    run = run_script(tmp_path / "outer.py", GUARDED + inner)
    assert run.returncode == 0, run.stderr
    assert sorted(run.stdout.split()) == sorted(["reads", "a", "aa", "b", "bb", "c", "cc"] * 2)
