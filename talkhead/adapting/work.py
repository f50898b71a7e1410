"""The folder beside an adaptation's output: what is made on the way, and what a later call must agree with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from talkhead.adapting.held_out import hold_out
from talkhead.data.manifest import Entry
from talkhead.media.files import refuse_url, write_whole

JUDGE = "judge of synchrony"
"""Where a report's protocol has the fingerprint of the net that judged."""
LATE = "it could be read only after the training had begun, which went on without it"


def check_place(output: str | Path, clips: str | Path) -> None:
    """Raise a ValueError where a speaker's folder could not take its place when all is done."""
    refuse_url("output", output)
    place = Path(output).resolve()
    for what, taken in (("the current folder", Path.cwd()), ("that of the clips", Path(clips))):
        if taken.resolve().is_relative_to(place):
            raise ValueError(f"output: '{output}' is {what}, or holds it; give the name of a folder to be made")


class Work:
    """The folder beside the output in which everything lies until the speaker is whole.

    Attributes:
        output: as it was given, for what is said; without ``..``, which may lead through a folder that is none.
        place: the same, without links, too.
        settings: of the call.
        folder: ``OUTPUT.work``.
    """

    def __init__(self, output: Path, settings: Mapping[str, Any]) -> None:
        self.place, self.settings = output.resolve(), dict(settings)
        self.output = self.place if ".." in output.parts else output
        self.folder = self.place.with_name(f"{self.place.name}.work")

    def is_done(self) -> bool:
        """Tell whether the same call has made the output; refuse an output that something else has made."""
        if not self.place.exists() or (self.place.is_dir() and not any(self.place.iterdir())):
            return False
        if (self.place / "report.json").is_file() and _read(self.folder / "adapt.json") == self.settings:
            return True
        raise FileExistsError(
            f"output: '{self.output}' exists and was not made of these clips by this command; choose another "
            "--output, or delete it"
        )

    def check_judge(self, judge: str | None) -> None:
        """Refuse a judge of synchrony, by its fingerprint, that the finished report is not of; None: any will do."""
        report = json.loads((self.place / "report.json").read_text(encoding="utf-8"))
        if judge is not None and report["protocol"].get(JUDGE) != judge:
            raise ValueError(
                f"sync: the report in '{self.output}' is not by this judge; delete that folder, but not "
                f"'{self.folder}', and the same call judges anew without training again"
            )

    def begin(self) -> None:
        """Make the folder, or refuse one that belongs to other clips or arguments."""
        recorded = _read(self.folder / "adapt.json")
        if recorded is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            _write(self.folder / "adapt.json", self.settings)
            return
        for name, value in self.settings.items():
            if recorded.get(name) != value:
                raise ValueError(
                    f"output: '{self.folder}' was begun with {name}={recorded.get(name)!r}, not {value!r}; go on "
                    "with the same arguments, choose another --output, or delete it"
                )

    def divided(self, entries: list[Entry], seed: int) -> tuple[list[Entry], list[str], list[tuple[str, str]]]:
        """Return the clips that are used, the names of those held out, and (name, reason) of those that came too late.

        The first call divides, before anything is trained; the later ones keep to it. A clip that failed then and can
        be read now would change which clips are held out, and some of these have been trained on.

        Args:
            entries: the manifest's, of the clips that can be used now.
            seed: of what is held out.

        Raises:
            ValueError: if there are too few, or if one that is divided already is gone or another.
        """
        path = self.folder / "clips.json"
        recorded = _read(path)
        if recorded is None:
            recorded = {"clips": {e["name"]: e["sha256"] for e in entries}, "held_out": hold_out(entries, seed)}
            _write(path, recorded)
        if not recorded:
            raise ValueError(f"output: '{path}' is damaged; choose another --output, or delete '{self.folder}'")
        usable = {entry["name"]: entry for entry in entries}
        for name, checksum in recorded["clips"].items():
            if name not in usable or usable[name]["sha256"] != checksum:
                what = "is another than" if name in usable else "cannot be used, as it could"
                raise ValueError(
                    f"clips: {name!r} {what} when '{self.folder}' was begun; bring back what it was, choose another "
                    "--output, or delete that folder"
                )
        late = [(name, LATE) for name in usable if name not in recorded["clips"]]
        return [usable[name] for name in recorded["clips"]], recorded["held_out"], late


def _read(path: Path) -> dict[str, Any] | None:
    """Return what is recorded; None: nothing is, and nothing in it: it is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    except ValueError:
        return {}


def _write(path: Path, recorded: Mapping[str, Any]) -> None:
    write_whole(path, (json.dumps(recorded, indent=1) + "\n").encode())
