"""Which part of the recordings a run takes, and whether parts make a whole."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Shard = tuple[int, int]


def check_shard(shard: Shard | None) -> None:
    """Raise a ValueError unless ``shard`` is (i, n) with 1 <= i <= n, or None."""
    if shard is not None and not 1 <= shard[0] <= shard[1]:
        raise ValueError(f"shard must be i/n with i from 1 to n; got {shard[0]}/{shard[1]}")


def in_shard(place: str, shard: Shard | None) -> bool:
    """Tell whether a recording belongs to a part; a new recording moves no other.

    Args:
        place: where it lies below the input folder.
        shard: (i, n), i from 1 on; None: everything.

    Example:
        >>> [[place for place in "abcdefgh" if in_shard(place, (i, 2))] for i in (1, 2)]
        [['a', 'b', 'c', 'e', 'f'], ['d', 'g', 'h']]
    """
    if shard is None:
        return True
    index, count = shard
    return int.from_bytes(hashlib.sha256(place.encode()).digest()[:8]) % count == index - 1


def check_all_shards(settings: Sequence[Mapping[str, Any]]) -> None:
    """Raise a ValueError where caches are parts of one run and some of its parts are missing.

    Parts of as many belong to one run where they were made alike, from folders of one name; of folders named
    differently, where together they are each part once, for another machine may call the folder otherwise.

    Args:
        settings: each cache's ``preprocess.json``.
    """
    runs: dict[Any, dict[str, list[int]]] = {}
    for part in settings:
        if part.get("shard"):
            index, count = part["shard"]
            made = count, *(str(part.get(key)) for key in ("layout", "identity", "emotion", "view"))
            runs.setdefault(made, {}).setdefault(Path(str(part.get("input"))).name, []).append(index)
    for (count, *_), folders in runs.items():
        every = set(range(1, count + 1))
        if sorted(index for given in folders.values() for index in given) == sorted(every):
            continue
        for folder, given in folders.items():
            if missing := sorted(every - set(given)):
                named = ", ".join(f"{index}/{count}" for index in missing)
                raise ValueError(f"caches: the shard {named} of {folder!r} is missing; make it, or give it, too")
