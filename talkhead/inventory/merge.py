"""Several caches as one: parts made by several machines, or people from several datasets."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from talkhead.data.contact_sheet import contact_sheet
from talkhead.data.dataset import read_settings
from talkhead.data.manifest import clip_damage, clip_file, json_lines, read_manifest
from talkhead.data.shards import check_all_shards
from talkhead.media.files import new_folder
from talkhead.media.read import write_image
from talkhead.progress import work_bar

_ALIKE = ("size", "scale")
"""What the settings of the parts must have in common, or their clips could not be in one batch."""


def merge_caches(caches: Sequence[str | Path], output: str | Path) -> int:
    """Put the clips of several caches into a new one, which appears whole or not at all.

    A clip's file is held to its checksum, and linked where the file system allows it, else copied; the parts stay as
    they are. Clips that two parts share (the shards of one run) are taken once.

    Args:
        caches: folders that ``talkhead preprocess`` wrote, with equal ``size`` and ``scale``.
        output: the folder to make.

    Returns:
        The number of usable clips in it.

    Raises:
        FileNotFoundError: if a folder is no cache.
        FileExistsError: if there is something in ``output``.
        ValueError: if they are no list, or do not fit together, shards of a run are missing, two clips that differ have
            one name, or one's file is missing or damaged.
    """
    if isinstance(caches, str | Path) or not caches:
        raise ValueError(f"caches must be a list of folders; got {caches!r}")
    entries: dict[str, dict[str, Any]] = {}
    homes: dict[str, str | Path] = {}
    for cache in caches:
        for entry in read_manifest(cache):
            known = entries.setdefault(entry["name"], entry)
            if known != entry:
                if known["status"] == "ok" and entry["status"] == "ok":
                    raise ValueError(
                        f"caches: '{homes[entry['name']]}' and '{cache}' both have a clip {entry['name']!r}, and they "
                        "differ; rename the recordings of one and preprocess it again"
                    )
                if entry["status"] == "ok":  # another part succeeded where one failed
                    entries[entry["name"]] = entry
            if entries[entry["name"]] is entry:
                homes[entry["name"]] = cache
    settings = _common_settings(caches)
    lines = [entries[name] for name in sorted(entries)]
    with new_folder(output) as made:
        _check_whole(entries, homes)
        (made / "clips").mkdir()
        for name, entry in entries.items():
            if entry["status"] == "ok":
                _link(clip_file(homes[name], name), clip_file(made, name))
        (made / "manifest.jsonl").write_bytes(json_lines(lines))
        (made / "preprocess.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        if (sheet := contact_sheet(made, lines)) is not None:
            write_image(made / "contact_sheet.png", sheet)
    return sum(entry["status"] == "ok" for entry in entries.values())


def _common_settings(caches: Sequence[str | Path]) -> dict[str, Any]:
    """Return the settings that all parts share."""
    parts = [read_settings(cache) for cache in caches]
    check_all_shards(parts)
    for name in _ALIKE:
        if len(values := {str(part[name]) for part in parts if name in part}) > 1:
            raise ValueError(
                f"caches: they were made with different {name} ({', '.join(sorted(values))}); preprocess them alike"
            )
    return {
        key: value
        for key, value in parts[0].items()
        if key != "shard" and all(part.get(key) == value for part in parts)
    }


def _check_whole(entries: dict[str, dict[str, Any]], homes: dict[str, str | Path]) -> None:
    """Refuse a damaged clip now: training would meet it in its midst, in a cache that no `preprocess` mends."""
    usable = sorted(name for name, entry in entries.items() if entry["status"] == "ok")
    with work_bar("checking", "clips", len(usable), True) as bar:  # every byte is read
        for name in usable:
            if fault := clip_damage(homes[name], entries[name]):
                raise ValueError(
                    f"caches: the clip {name!r} of '{homes[name]}' cannot be used, {fault}; run the "
                    "`talkhead preprocess` that made that cache again, which makes it anew, and then merge"
                )
            bar.advance()


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source.resolve(), target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)
