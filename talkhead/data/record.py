"""Work in many pieces, written down as it is done: what is finished is on the disk before the next piece is."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from talkhead.data.manifest import Entry, json_lines
from talkhead.progress import WorkBar, work_bar


class Record:
    """What `recorded_work` gives: the lines of a run.

    Attributes:
        entries: the lines that this run has written.
        done: pieces done by this run and those before it.
    """

    def __init__(self, file: BinaryIO, bar: WorkBar, done: int) -> None:
        self.entries: list[Entry] = []
        self.done = done
        self._file, self._bar = file, bar

    def add(self, new: Iterable[tuple[str, Entry]], weight: float = 1, note: str = "") -> None:
        """Write the lines of one piece, each beside what it is to be called where it failed."""
        named = list(new)
        self._file.write(json_lines([entry for _, entry in named]))
        self._file.flush()
        os.fsync(self._file.fileno())
        self.entries += [entry for _, entry in named]
        self.done += 1
        self._bar.advance(weight, note=note)
        for name, entry in named:
            if entry["status"] == "failed":
                self._bar.say(f"failed: {name}: {entry['reason']}")


@contextmanager
def recorded_work(
    lines: Path, word: str, things: str, total: int, passed: int, show: bool, weight: float | None = None
) -> Iterator[Record]:
    """Give the record of work that may be stopped at any moment and gone on with, with a bar on stderr.

    Args:
        lines: file of JSON lines to append to.
        word: what is going on.
        things: what is counted.
        total: how many there are.
        passed: how many were done before.
        show: whether the bar is seen.
        weight: of all that is to do, where pieces weigh more or less.

    Raises:
        KeyboardInterrupt: passed on, after saying how much is done.
    """
    with work_bar(word, things, total, show, weight) as bar, lines.open("ab") as file:
        bar.advance(passed if weight is None else 0, passed)
        record = Record(file, bar, passed)
        try:
            yield record
        except KeyboardInterrupt:
            said = f"stopped: {record.done} of {total} done; run the same command again to continue"
            print(said, file=sys.stderr)
            raise
