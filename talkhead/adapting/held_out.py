"""Which of a person's clips are kept from the training, to judge it by."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from talkhead.data.index import list_sources
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


def hold_out(entries: Sequence[dict[str, Any]], seed: int = 0) -> list[str]:
    """Choose the clips that are not trained on: about a fifth of the time, at most half a minute.

    Of three files or more these are whole files, in an order that depends on the seed and the names alone, those passed
    over that are more than twice as long; of one or two files, or where all are, the clips at the files' ends.

    Args:
        entries: the manifest's, of usable clips with a picture.
        seed: of the order.

    Returns:
        Their names, sorted; at least one, and never all.

    Raises:
        ValueError: if there are fewer than two clips.
    """
    if len(entries) < 2:
        raise ValueError("clips: one usable clip is too little, one is trained on and another judges; give more video")
    files: dict[str, list[dict[str, Any]]] = {}
    for entry in sorted(entries, key=lambda e: e["name"]):
        files.setdefault(entry["source"], []).append(entry)
    wanted = min(SHARE * sum(map(seconds_of, entries)), MOST_HELD_OUT)
    whole = [files[name] for name in sorted(files, key=lambda name: _order(seed, name))]
    short = [clips for clips in whole if sum(map(seconds_of, clips)) <= _TOO_LONG * wanted]
    if len(files) > FEW_FILES and short:
        groups = short if len(short) < len(whole) else short[:-1]
    else:
        places = range(1, max(map(len, files.values())) + 1)
        groups = [[clips[-place]] for place in places for clips in files.values() if place <= len(clips)][:-1]
    held: list[str] = []
    time = 0.0
    for group in groups:
        held += [entry["name"] for entry in group]
        time += sum(map(seconds_of, group))
        if time >= 0.9 * wanted:
            break
    return sorted(held)


def seconds_of(entry: dict[str, Any]) -> float:
    """Return the length of a clip in s."""
    return float(entry["frames"] / Fraction(entry["fps"]))


def _order(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed}/{name}".encode()).digest()
