"""What an evaluation leaves behind: tables as markdown, JSON and on the screen, and a log that a broken run resumes."""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch

from talkhead.data.manifest import json_lines
from talkhead.media.files import refuse_url, write_whole

Scores = dict[str, dict[str, float]]
"""Row name -> column key -> value; NaN where a value has no meaning."""

_PACKAGES = ("talkhead", "torch", "torchmetrics", "diffusers", "transformers", "torchaudio", "av", "numpy")


def results_folder(folder: str | Path) -> Path:
    """Return the folder ``output``, made where it is missing; what is in it stays.

    Raises:
        OSError: if it is a file, or cannot be made.
        ValueError: if it is a URL.
    """
    refuse_url("output", folder)
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise FileExistsError(f"output: '{folder}' is a file; give the name of a folder") from None
    except OSError as error:
        raise type(error)(f"output: '{folder}' cannot be made ({error.strerror}); choose another folder") from error
    return Path(folder)


@dataclass(frozen=True)
class Table:
    """One table of an evaluation.

    Attributes:
        title: what it shows.
        columns: key -> (heading, decimals).
        rows: name -> key -> value; a value that is missing or NaN is shown as a dash.

    Example:
        >>> table = Table("Pictures", {"psnr": ("PSNR", 2)}, {"ours": {"psnr": 31.416}, "none": {}})
        >>> print(table.markdown())
        | Pictures | PSNR |
        |---|---|
        | ours | 31.42 |
        | none | - |
    """

    title: str
    columns: Mapping[str, tuple[str, int]]
    rows: Scores

    def cells(self) -> list[list[str]]:
        """Return the heading row and the body rows as text."""
        head = [self.title, *(heading for heading, _ in self.columns.values())]
        body = [
            [name, *(_cell(row.get(key), n) for key, (_, n) in self.columns.items())] for name, row in self.rows.items()
        ]
        return [head, *body]

    def markdown(self) -> str:
        """Return the table as GitHub markdown."""
        rows = ([cell.replace("|", "\\|") for cell in row] for row in self.cells())
        head, *body = ("| " + " | ".join(row) + " |" for row in rows)
        return "\n".join([head, "|" + "---|" * (len(self.columns) + 1), *body])


@dataclass(frozen=True)
class Report:
    """The result of an evaluation.

    Attributes:
        tables: name -> table.
        protocol: what was measured, on what, how: printed with the tables.
        clips: clip name -> the scores of that clip alone.
        failed: clip name -> why it has none.
    """

    tables: dict[str, Table]
    protocol: dict[str, str]
    clips: dict[str, Any] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def markdown(self) -> str:
        """Return the tables, what failed and the protocol as markdown."""
        tables = "\n\n".join(table.markdown() for table in self.tables.values())
        failures = f"**{self.failures()}**\n\n" if self.failed else ""
        protocol = "\n".join(f"- {key}: {value}" for key, value in self.protocol.items())
        return f"{tables}\n\n{failures}{protocol}\n"

    def failures(self, most: int = 10) -> str:
        """Return how many clips could not be measured, and why, naming ``most`` of them; empty where none failed."""
        if not self.failed:
            return ""
        total = len(self.clips) + len(self.failed)
        return f"{len(self.failed)} of {total} clips could not be measured: {named(self.failed, 'the JSON file', most)}"

    def as_json(self) -> dict[str, Any]:
        """Return everything as plain JSON values; NaN and infinity become null."""
        tables = {name: table.rows for name, table in self.tables.items()}
        return plain({"tables": tables, "protocol": self.protocol, "clips": self.clips, "failed": self.failed})

    def save(self, folder: Path, stem: str) -> None:
        """Write ``<stem>.json`` and ``<stem>.md`` into ``folder``, each whole or not at all.

        Raises:
            OSError: if the folder refuses files.
        """
        text = json.dumps(self.as_json(), indent=1, ensure_ascii=False) + "\n"
        # A name that is no UTF-8 is written as the manifest writes it.
        write_whole(folder / f"{stem}.json", text.encode(errors="backslashreplace"))
        write_whole(folder / f"{stem}.md", self.markdown().encode(errors="backslashreplace"))

    def print(self) -> None:
        """Show the tables, what failed and the protocol on the screen; too wide a table lies on its side."""
        from rich.console import Console
        from rich.table import Table as Grid
        from rich.text import Text

        console = Console()
        for table in self.tables.values():
            cells = table.cells()
            if sum(max(map(len, column)) + 3 for column in zip(*cells, strict=True)) >= console.width:
                cells = [list(column) for column in zip(*cells, strict=True)]
            head, *body = cells
            grid = Grid()
            for number, heading in enumerate(head):  # as Text: of a name, rich would take [brackets] for its markup
                grid.add_column(Text(heading), justify="right" if number else "left", overflow="fold")
            for row in body:
                grid.add_row(*map(Text, row))
            console.print(grid)
        if self.failed:
            console.print(Text(self.failures(), style="bold"))
        for key, value in self.protocol.items():
            console.print(f"{key}: {value}", highlight=False, markup=False, style="dim")


def named(failed: Mapping[str, str], all_of_them: str, most: int = 10) -> str:
    """Return clips and what is wrong with each, ``most`` of them, and what names the others."""
    said = [reason if name in reason else f"{name}: {reason}" for name, reason in failed.items()]
    if len(said) > most:
        said[most:] = [f"and {len(said) - most} more, which {all_of_them} names"]
    return "; ".join(said)


class ClipLog:
    """Finished pieces of work, one JSON line each, so that a broken run goes on where it stopped.

    Pieces that were made with other settings are ignored.

    Args:
        path: the log; it is made when the first piece is added.
        settings: everything the results depend on.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self.path = path
        self.key = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:16]
        self.done: dict[str, Any] = {}
        # Line by line in bytes: a killed run may have torn its last one within a letter, and names may hold what
        # Python takes for line ends.
        for line in path.read_bytes().split(b"\n") if path.is_file() else []:
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if entry["settings"] == self.key:
                self.done[entry["name"]] = entry["scores"]

    def get(self, name: str, make: Callable[[], Any]) -> Any:
        """Return the piece, from the log or newly made and then logged."""
        if name not in self.done:
            self.done[name] = make()
            line = json_lines([{"settings": self.key, "name": name, "scores": self.done[name]}])
            torn = self.path.is_file() and not self.path.read_bytes().endswith(b"\n")
            with self.path.open("ab") as file:
                file.write(b"\n" * torn + line)
        return self.done[name]


def average(clips: Sequence[Scores]) -> Scores:
    """Return each row's mean over clips, every clip with the same weight; of a ``lag`` the median. NaN is left out.

    Example:
        >>> average([{"ours": {"psnr": 30.0, "lag": 0}}, {"ours": {"psnr": 32.0, "lag": 0}}])
        {'ours': {'psnr': 31.0, 'lag': 0.0}}
    """
    rows = {row: None for clip in clips for row in clip}
    keys = {row: {key: None for clip in clips for key in clip.get(row, {})} for row in rows}
    return {
        row: {key: _middle(key, [c[row][key] for c in clips if key in c.get(row, {})]) for key in keys[row]}
        for row in rows
    }


def _middle(key: str, values: Sequence[float]) -> float:
    finite = [value for value in values if not math.isnan(value)]
    return float((median if key == "lag" else fmean)(finite)) if finite else math.nan


def fingerprint(*networks: torch.nn.Module | None) -> str:
    """Return 16 hexadecimal digits that change with any weight of the networks."""
    digest = hashlib.sha256()
    for network in networks:
        for name, value in sorted(network.state_dict().items()) if network is not None else ():
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def environment(device: torch.device) -> dict[str, str]:
    """Return the hardware and the versions, as a table's reader needs them."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    packages = ", ".join(f"{package} {_version(package)}" for package in _PACKAGES)
    return {
        "hardware": f"{name}, {os.cpu_count()} CPU cores, {torch.get_num_threads()} threads",
        "versions": f"Python {platform.python_version()}, {packages}",
    }


def processor() -> str:
    """Return the processor's name, as far as the system tells it."""
    info = Path("/proc/cpuinfo")
    names = (
        [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        if info.is_file()
        else []
    )
    return names[0] if names else platform.processor() or platform.machine()


def _version(package: str) -> str:
    if package == "talkhead":
        from talkhead import __version__

        return __version__
    return version(package)


def _cell(value: float | None, decimals: int) -> str:
    """Return a number as it is printed, without a sign where nothing but zeros is left of it."""
    return "-" if value is None or not math.isfinite(value) else f"{value:z.{decimals}f}"


def plain(value: Any) -> Any:
    """Replace what JSON cannot hold: mappings become dicts, NaN and infinity in them null."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
