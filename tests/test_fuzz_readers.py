"""Damaged files of every format give a good result or one sentence, never a crash, a traceback or a flood of memory."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest


def fuzz(first: int, count: int, seconds: int) -> Counter[str]:
    """Run mutations in a process that may die of them; return how often each outcome came, and fail on a bad one."""
    command = [sys.executable, str(Path(__file__).with_name("fuzz.py")), str(first), str(count)]
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, cwd=root, env=environment(root))
    lines = [line.split(" ", 2) for line in done.stdout.splitlines()]
    outcomes = Counter(line[2] if len(line) == 3 and line[2] else "ended the process" for line in lines)
    bad = [" ".join(line) for line in lines if len(line) < 3 or line[2] not in ("good", "refused")]
    assert not bad and done.returncode == 0, f"{bad[:10]} {done.stderr[-500:]}"
    assert len(lines) == 3 * count
    return outcomes


def environment(root: Path) -> dict[str, str]:
    import os

    return os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}


def test_two_hundred_damaged_files():
    outcomes = fuzz(0, 200, 120)
    assert outcomes["good"] > 50 and outcomes["refused"] > 200  # some survive, most are refused


@pytest.mark.storm
@pytest.mark.parametrize("part", range(10))
def test_two_thousand_damaged_files(part):
    fuzz(1000 + 200 * part, 200, 600)
