"""Which of a person's clips are kept from the training, to judge it by."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Hashable, Sequence
from fractions import Fraction
from pathlib import Path, PurePath

from talkhead.data.index import list_sources
from talkhead.data.manifest import Entry
from talkhead.media.read import probe

SHARE = 0.2
"""Of the footage, held out."""
MOST_HELD_OUT = 30.0
"""s: more would only take from the training."""
FEW_FILES = 2
"""Up to so many files, stretches of time at their ends are held out instead of whole files."""
_TOO_LONG = 2.0
"""Times the time to be held out: a file longer than that is trained on."""
LONGEST_CLIP = 10.0
"""s: longer recordings are cut into clips of equal length, each with a crop of its own."""


def video_seconds(clips: Path) -> dict[str, float]:
    """Return the length in s of every video of a folder, or of one file; 0 where it does not tell, or is damaged.

    Raises:
        FileNotFoundError: if there is nothing there.
        ValueError: if there is no video.
    """
    if not clips.exists():
        raise FileNotFoundError(f"clips: {str(clips)!r} does not exist; give a folder with videos of a person, or one")
    try:
        sources = list_sources("folder", clips)
    except ValueError:
        sources = []
    found = {str(source.path): _seconds(source.path) for source in sources if source.has_video and not source.skip}
    if not found:
        raise ValueError(f"clips: there is no video in {str(clips)!r}; give videos of one person, speaking")
    return found


def _seconds(path: Path) -> float:
    try:
        return float(probe(path).duration)
    except (ValueError, OSError):
        return 0.0


def clip_seconds(lengths: Sequence[float]) -> float:
    """Return how long the clips are that recordings are cut into: so that a fifth of one or two files is a clip.

    Example:
        >>> clip_seconds([15.0]), clip_seconds([100.0, 80.0]), clip_seconds([3.0, 3.0, 3.0])
        (3.0, 10.0, 10.0)
    """
    if len(lengths) > FEW_FILES:
        return LONGEST_CLIP
    shortest = min((length for length in lengths if length > 0), default=math.inf)
    return min(max(SHARE * shortest, 1.0), LONGEST_CLIP)


def hold_out(entries: Sequence[Entry], seed: int = 0) -> list[str]:
    """Choose the clips that are not trained on: about a fifth of the time, at most half a minute.

    Of three files or more these are whole files, in an order that depends on the seed and the names alone, those passed
    over that are more than twice as long; of one or two files, or where all are, the clips at the files' ends. Files
    that share a clip, byte for byte, or that differ by their suffix alone (``a.mp4`` and ``a.mov``) are one file.

    Args:
        entries: the manifest's, of usable clips with a picture.
        seed: of the order.

    Returns:
        Their names, sorted; at least one, and never all.

    Raises:
        ValueError: if there are fewer than two clips, those with the same in them counted once.
    """
    files = _united(entries, _content, _file)
    parts = [sorted(_without_copies(clips), key=_last_start) for clips in files]
    if sum(map(len, parts)) < 2:
        raise ValueError(
            "clips: one usable clip is too little (copies count once), one is trained on and another judges; give more "
            "video"
        )
    wanted = min(SHARE * sum(map(_seconds_once, files)), MOST_HELD_OUT)
    whole = sorted(files, key=lambda clips: _order(seed, clips[0]["source"]))
    short = [clips for clips in whole if _seconds_once(clips) <= _TOO_LONG * wanted]
    if len(files) > FEW_FILES and short:
        groups = short if len(short) < len(whole) else short[:-1]
    else:
        places = range(1, max(map(len, parts)) + 1)
        groups = [clips[-place] for place in places for clips in parts if place <= len(clips)][:-1]
    held: list[str] = []
    time = 0.0
    for group in groups:
        held += [entry["name"] for entry in group]
        time += _seconds_once(group)
        if time >= 0.9 * wanted:
            break
    return sorted(held)


def _united(entries: Sequence[Entry], *marks: Callable[[Entry], Hashable]) -> list[list[Entry]]:
    """Divide clips so that those with a mark in common, or by way of others, are together; in order of name."""
    groups: list[tuple[set[Hashable], list[Entry]]] = []
    for entry in entries:
        own: set[Hashable] = {mark(entry) for mark in marks}
        near = [group for group in groups if own & group[0]]
        groups = [group for group in groups if not own & group[0]]
        groups.append((own.union(*(seen for seen, _ in near)), [entry, *(e for _, clips in near for e in clips)]))
    united = [sorted(clips, key=lambda e: e["name"]) for _, clips in groups]
    return sorted(united, key=lambda clips: clips[0]["name"])


def _without_copies(clips: Sequence[Entry]) -> list[list[Entry]]:
    """Divide a file's clips into those that show different things, each with its copies."""
    return _united(clips, _content, _stretch)


def _seconds_once(clips: Sequence[Entry]) -> float:
    """Return the length of clips in s, copies counted once."""
    return sum(max(map(seconds_of, same)) for same in _without_copies(clips))


def _content(entry: Entry) -> str:
    return str(entry["sha256"])


def _file(entry: Entry) -> PurePath:
    return PurePath(entry["source"]).with_suffix("")


def _stretch(entry: Entry) -> tuple[PurePath, int]:
    """Return a clip's place in its file, counted from the end, where clips are held out."""
    segment = entry["segment"] or {"index": 0, "count": 1}
    return _file(entry), segment["index"] - segment["count"]


def _last_start(clips: Sequence[Entry]) -> int:
    return max((entry["segment"] or {"start": 0})["start"] for entry in clips)


def seconds_of(entry: Entry) -> float:
    """Return the length of a clip in s."""
    return float(entry["frames"] / Fraction(entry["fps"]))


def _order(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed}/{name}".encode()).digest()
