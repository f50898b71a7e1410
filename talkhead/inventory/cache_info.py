"""``talkhead cache info``: who, which emotions, how much, and what failed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from talkhead.data.clip import EMOTIONS, SAMPLE_RATE
from talkhead.data.dataset import read_settings
from talkhead.data.manifest import Entry, clip_file, read_manifest

Counts = dict[str, dict[str, dict[int, int]]]
"""Identity -> emotion -> level -> number of clips."""

ALL = "all"


@dataclass(frozen=True)
class CacheInfo:
    """What a cache holds.

    Attributes:
        root: the folder.
        settings: what ``preprocess`` was told; empty where a cache does not say.
        clips: number of clips by status: ok, failed, skipped.
        counts: usable clips by identity, emotion and level; level 0: the data do not say.
        seconds: of usable clips by identity: of the picture where there is one, else of the sound.
        views, rates, sizes: usable clips by camera, by frames per second (a fraction as text), by px of the frames.
        remarks: usable clips with a remark in the manifest's ``reason``.
        reasons: (status, reason, names) of what cannot be used, the most frequent first.
        bytes: of the usable clips' files.
    """

    root: str
    settings: dict[str, Any]
    clips: dict[str, int]
    counts: Counts
    seconds: dict[str, float]
    views: dict[str, int]
    rates: dict[str, int]
    sizes: dict[str, int]
    remarks: int
    reasons: list[tuple[str, str, list[str]]]
    bytes: int

    @property
    def hours(self) -> float:
        """Hours of usable clips."""
        return sum(self.seconds.values()) / 3600

    def as_json(self) -> dict[str, Any]:
        """Return everything as plain JSON values."""
        reasons = [{"status": s, "reason": r, "clips": names} for s, r, names in self.reasons]
        return {**vars(self), "reasons": reasons, "hours": self.hours}


def cache_info(root: str | Path) -> CacheInfo:
    """Count what a cache holds; only its manifest is read, and the sizes of its files.

    Args:
        root: the cache folder that ``talkhead preprocess`` or ``talkhead merge`` wrote.

    Raises:
        FileNotFoundError: if the folder is no cache.
        ValueError: if its manifest is none.
    """
    entries = read_manifest(root)
    usable = [e for e in entries if e["status"] == "ok"]
    counts: Counts = {}
    seconds: dict[str, float] = {}
    for entry in sorted(usable, key=lambda e: e["identity"]):
        levels = counts.setdefault(entry["identity"], {}).setdefault(entry["emotion"], {})
        levels[entry.get("level", 0)] = levels.get(entry.get("level", 0), 0) + 1
        seconds[entry["identity"]] = seconds.get(entry["identity"], 0.0) + clip_seconds(entry)
    files = [clip_file(root, e["name"]) for e in usable]
    return CacheInfo(
        root=str(root),
        settings=read_settings(root),
        clips=dict(Counter(e["status"] for e in entries)),
        counts=counts,
        seconds=seconds,
        views=_tally(e.get("view") for e in usable),
        rates=_tally(e["fps"] for e in usable),
        sizes=_tally(e.get("size") for e in usable),
        remarks=sum(bool(e.get("reason")) for e in usable),
        reasons=_reasons(entries),
        bytes=sum(file.stat().st_size for file in files if file.is_file()),
    )


def clip_seconds(entry: Entry) -> float:
    """Return how long a clip is; pictures that do not move last no time."""
    if entry.get("stills"):
        return 0.0
    return float(entry["frames"] / Fraction(entry["fps"])) if entry["frames"] else entry["samples"] / SAMPLE_RATE


def _tally(values: Any) -> dict[str, int]:
    return dict(sorted(Counter(str(v) for v in values if v).items()))


def _reasons(entries: Sequence[Entry]) -> list[tuple[str, str, list[str]]]:
    """Put the clips that failed for one reason together, whatever their files are called."""
    groups: dict[tuple[str, str], list[str]] = {}
    for entry in entries:
        if entry["status"] != "ok":
            reason = str(entry.get("reason") or "not said")
            if file := Path(str(entry.get("source", ""))).name:
                reason = reason.replace(f"{file}: ", "").replace(file, "its file")
            groups.setdefault((entry["status"], reason), []).append(entry["name"])
    ordered = sorted(groups.items(), key=lambda item: (item[0][0] != "failed", -len(item[1]), item[0]))
    return [(status, reason, sorted(names)) for (status, reason), names in ordered]


def levels_of(info: CacheInfo) -> list[int]:
    """Return the levels that occur, in order; one alone where the data have none."""
    return sorted({level for emotions in info.counts.values() for levels in emotions.values() for level in levels})


def table_of(info: CacheInfo) -> tuple[list[str], list[list[str]]]:
    """Return heading and rows: people by emotions, in each cell the clips of each level, ``12/9/0``; then the sum.

    A cell without a clip is a dash. Emotions that nobody has are left out.
    """
    levels = levels_of(info)
    emotions = [e for e in EMOTIONS if any(e in has for has in info.counts.values())]
    total: dict[str, dict[int, int]] = {e: {} for e in emotions}
    for has in info.counts.values():
        for emotion, count in has.items():
            for level, number in count.items():
                total[emotion][level] = total[emotion].get(level, 0) + number
    head = ["identity", *emotions, "clips", "minutes"]
    rows = [(name, has, info.seconds[name]) for name, has in info.counts.items()]
    rows.append((ALL, total, sum(info.seconds.values())))
    return head, [
        [
            name,
            *(_cell(has.get(emotion, {}), levels) for emotion in emotions),
            str(sum(sum(count.values()) for count in has.values())),
            f"{seconds / 60:.1f}",
        ]
        for name, has, seconds in rows
    ]


def _cell(count: dict[int, int], levels: Sequence[int]) -> str:
    return "/".join(str(count.get(level, 0)) for level in levels) if count else "-"


def facts_of(info: CacheInfo) -> dict[str, str]:
    """Return what is said beside the table, each fact in one line."""

    def several(count: dict[str, int], unit: str) -> str:
        return ", ".join(f"{value}{unit}" + (f" ({n})" if len(count) > 1 else "") for value, n in count.items())

    levels = levels_of(info)
    facts = {
        "clips": ", ".join(f"{info.clips.get(s, 0)} {s}" for s in ("ok", "failed", "skipped"))
        + (f"; {info.remarks} with remarks in the manifest" if info.remarks else ""),
        "people": str(len(info.counts)),
        "length": f"{info.hours:.3f} hours",
        "frames": several(info.sizes, " px"),
        "rates": several(info.rates, " fps"),
        "views": several(info.views, ""),
        "levels": "in each cell: " + "/".join(map(str, levels)) if levels not in ([], [0]) else "",
        "detector": str(info.settings.get("detector") or ""),
        "disk": f"{info.bytes / 1e9:.3f} GB",
    }
    return {name: text for name, text in facts.items() if text}
