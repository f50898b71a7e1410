"""Measure everything that a graphics card changes, in one command, and write one page and one JSON.

    python examples/gpu_report.py                          # six minutes at most, into gpu_report.md and gpu_report.json
    python examples/gpu_report.py --seconds 150 --only tests mask_noise --output results/gpu_report

Sections: `tests` (the CUDA tests of the kernel and the networks), `mask_noise` (the kernel beside eager and compiled
PyTorch and the card's copy bandwidth, and its block sizes), `generation` (frames per second and latency at 128 and 256
px), `paper` (the paper's process), `training` (steps per second of the three modules, in bf16 where the card has it).
Inputs are made up from the bundled speaker's face: no data set is needed, and without PyAV only the mp4 row is missing.

Each section runs in a process that may fail or hang without taking the others with it; its fault is put on the page.
Without CUDA everything runs on the CPU, small, to show that it runs: its times then say nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(1, str(Path(__file__).resolve().parents[1]))

SHARES = {"tests": 0.3, "mask_noise": 0.2, "generation": 0.25, "paper": 0.1, "training": 0.3}
"""The sections, and the share of the whole time that each may take where all are asked for: a little more than all."""
PACKAGES = ("torch", "triton", "lightning", "diffusers", "transformers", "torchaudio", "torchmetrics", "numpy", "av")
Rows = dict[str, dict[str, float]]


class Log:
    """What one section found: tables that grow row by row, remarks, and a fault; saved after every change.

    Args:
        path: the JSON file.
        seconds: how long the section may take.
    """

    def __init__(self, path: Path, seconds: float) -> None:
        self.path, self.deadline = path, time.monotonic() + seconds
        self.content: dict[str, Any] = {"state": "running", "tables": {}, "remarks": []}
        self.save()

    def row(self, table: str, name: str, values: dict[str, float]) -> None:
        """Add a row; the keys of ``values`` are the headings."""
        self.content["tables"].setdefault(table, {})[name] = values
        self.save()

    def say(self, remark: str) -> None:
        """Add a sentence below the tables."""
        self.content["remarks"].append(remark)
        self.save()

    def attempt(self, table: str, name: str, measure: Callable[[], dict[str, float]], needs: float = 2.0) -> None:
        """Add the row that ``measure`` returns; say so where it fails, or where fewer than ``needs`` seconds are left.

        What breaks the card's context is not caught: the section ends, and the next starts in a new process.
        """
        if self.deadline - time.monotonic() < needs:
            return self.say(f"{table}, {name}: left out, no time was left")
        try:
            self.row(table, name, measure())
        except Exception as error:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
                torch.cuda.empty_cache()
            self.say(f"{table}, {name}: failed with {last_lines(error)}")

    def save(self) -> None:
        """Write the file, whole or not at all."""
        temporary = self.path.with_suffix(".partial")
        temporary.write_text(json.dumps(self.content))
        os.replace(temporary, self.path)


def last_lines(error: BaseException, count: int = 8) -> str:
    """Return the end of an error's traceback."""
    return "\n".join("".join(traceback.format_exception(error)).strip().splitlines()[-count:])


def tests(log: Log, device: str) -> None:
    """Run the tests that need CUDA; on a CPU they skip."""
    folder = Path(__file__).resolve().parents[1] / "tests"
    files = [folder / "test_mask_noise_triton.py", folder / "test_cuda.py"]
    command = [sys.executable, "-m", "pytest", "-vv", "-k", "cuda", "--tb=short", "-p", "no:cacheprovider"]
    command += ["-o", "filterwarnings=", *map(str, files)]
    seconds = max(log.deadline - time.monotonic(), 1)
    options: dict[str, Any] = {"env": os.environ | {"PYTHONUNBUFFERED": "1"}, "cwd": folder.parent}
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=seconds, **options)
        output = run.stdout + run.stderr[-2000:]
    except subprocess.TimeoutExpired as late:
        output = (late.stdout or b"").decode() + f"\nstopped after {seconds:.0f} s"
    lines = output.strip().splitlines()
    ended = [re.search(r"::\S+ (PASSED|FAILED|ERROR|SKIPPED)", line) for line in lines]
    outcomes = [found[1] for found in ended if found]
    log.row("CUDA tests", "all", {o.lower(): outcomes.count(o) for o in ("PASSED", "FAILED", "ERROR", "SKIPPED")})
    for line in lines:
        if line.startswith("E   ") or "FAILED" in line:
            log.say(line[:400])
    log.say(lines[-1].strip("= ") if lines else "pytest said nothing")


def mask_noise(log: Log, device: str) -> None:
    """The kernel beside what one would write without it, the copy bandwidth, and its block sizes."""
    import gpu_report_kernel

    gpu_report_kernel.measure(log, device)


def generation(log: Log, device: str) -> None:
    """Frames per second and latency, from sound to frames."""
    import gpu_report_speed

    gpu_report_speed.generation(log, device)


def paper(log: Log, device: str) -> None:
    """The paper's process on the same card."""
    import gpu_report_speed

    gpu_report_speed.paper(log, device)


def training(log: Log, device: str) -> None:
    """Steps per second of the three modules."""
    import gpu_report_training

    gpu_report_training.measure(log, device)


def work(names: list[str], folder: Path, seconds: float) -> None:
    """Run sections in this process, each into a file of its own; stop where one leaves the card's context broken."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    end = time.monotonic() + seconds
    for place, name in enumerate(names):
        left = end - time.monotonic()
        if left < 2:
            return
        share = SHARES[name] / sum(SHARES[other] for other in names[place:])  # of what is left
        allowed = min(left, sum(SHARES.values()) * share * left + 5)
        start, log = time.monotonic(), Log(folder / f"{name}.json", allowed)
        try:
            globals()[name](log, device)
            log.content["state"] = "done"
        except Exception as error:
            log.content |= {"state": "failed", "fault": last_lines(error, 20)}
        log.content["seconds"] = time.monotonic() - start
        log.save()
        if device == "cuda":
            torch.cuda.synchronize()  # raises where the context is broken; this process is then of no more use


def supervise(names: list[str], folder: Path, seconds: float) -> dict[str, Any]:
    """Run sections in processes of their own until all have ended or the time is up; return what they found."""
    end, pending, found = time.monotonic() + seconds, list(names), {}
    while pending and end - time.monotonic() > 3:
        left = end - time.monotonic()
        command = [sys.executable, __file__, "--worker", str(folder), "--seconds", str(left), "--only", *pending]
        with open(folder / "stderr.txt", "w+", encoding="utf-8") as stderr:
            try:
                subprocess.run(command, stderr=stderr, timeout=left, check=False)
            except subprocess.TimeoutExpired:
                stderr.write("\nstopped: the time was up")
            stderr.seek(0)
            end_of_output = "\n".join(stderr.read().strip().splitlines()[-20:])
        begun = [name for name in pending if (folder / f"{name}.json").is_file()]
        for name in begun:
            found[name] = json.loads((folder / f"{name}.json").read_text())
            if found[name]["state"] == "running":
                found[name] |= {"state": "failed", "fault": end_of_output}
        if not begun:  # the process did not even come to its first section
            found[pending[0]] = {"state": "failed", "tables": {}, "remarks": [], "fault": end_of_output}
        pending = [name for name in pending if name not in found]
    for name in pending:
        found[name] = {"state": "left out", "tables": {}, "remarks": ["no time was left"]}
    return found


def machine() -> dict[str, str]:
    """Return the card, the processor and the versions."""
    if torch.cuda.is_available():
        card = torch.cuda.get_device_properties(0)
        name = f"{card.name}, {card.total_memory / 2**30:.0f} GiB, compute capability {card.major}.{card.minor}"
        name += f", {card.multi_processor_count} multiprocessors, CUDA {torch.version.cuda}"
    else:
        name = "none: there is no CUDA here; everything ran small on the CPU, and its times say nothing"
    return {"card": name, "processor": f"{os.cpu_count()} cores", "versions": ", ".join(map(versioned, PACKAGES))}


def versioned(package: str) -> str:
    """Return a package's name and version."""
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return f"{package} absent"


def page(facts: dict[str, str], found: dict[str, Any]) -> str:
    """Return everything as markdown."""
    lines = ["# Speed on a graphics card", "", *(f"- {key}: {value}" for key, value in facts.items())]
    for name, section in found.items():
        lines += ["", f"## {name.replace('_', ' ')}", ""]
        for title, rows in section["tables"].items():
            lines += [*table(title, rows), ""]
        lines += [f"- {remark}" if "\n" not in remark else f"```\n{remark}\n```" for remark in section["remarks"]]
        if "fault" in section:
            lines += ["", "This section failed:", "", "```", section["fault"], "```"]
        elif section["state"] != "done":
            lines += ["", f"This section was {section['state']}."]
    return "\n".join(lines) + "\n"


def table(title: str, rows: Rows) -> list[str]:
    """Return a table's lines; the headings are the keys of its rows, in the order of their first appearance."""
    headings = list(dict.fromkeys(key for row in rows.values() for key in row))
    lines = ["| " + " | ".join([title, *headings]) + " |", "|---" * (len(headings) + 1) + "|"]
    for name, row in rows.items():
        lines.append("| " + " | ".join([name, *(number(row.get(key)) for key in headings)]) + " |")
    return lines


def number(value: float | None) -> str:
    """Return three digits that count, or all of a whole number's; a dash for what was not measured."""
    if value is None:
        return "-"
    return f"{value:.0f}" if value == int(value) or abs(value) >= 1000 else f"{value:.3g}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--output", type=Path, default=Path("gpu_report"), help="the page's name without .md (%(default)s)"
    )
    parser.add_argument("--seconds", type=float, default=350, help="for everything (%(default)s)")
    parser.add_argument("--only", nargs="+", choices=list(SHARES), default=list(SHARES), help="sections (all)")
    parser.add_argument(
        "--worker", type=Path, help=argparse.SUPPRESS
    )  # the folder of a process that `supervise` starts
    arguments = parser.parse_args()
    if arguments.worker:
        return work(arguments.only, arguments.worker, arguments.seconds)
    parts = Path(f"{arguments.output}.parts")
    parts.mkdir(parents=True, exist_ok=True)
    for old in parts.glob("*.json"):
        old.unlink()
    start, found = time.monotonic(), supervise(arguments.only, parts, arguments.seconds)
    facts = machine() | {"took": f"{time.monotonic() - start:.0f} s"}
    Path(f"{arguments.output}.json").write_text(json.dumps({"machine": facts, "sections": found}, indent=1) + "\n")
    Path(f"{arguments.output}.md").write_text(page(facts, found))
    print(page(facts, found))


if __name__ == "__main__":
    main()
