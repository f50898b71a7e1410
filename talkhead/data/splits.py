"""Which clips are for training, validation and test, and whose."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Literal, get_args

Split = Literal["clip", "sentence", "identity"]
Part = Literal["train", "val", "test"]


def keep_people(
    entries: list[dict[str, Any]], identities: Sequence[str] | None, unseen: Sequence[str]
) -> list[dict[str, Any]]:
    """Return the entries of the people that are wanted: ``identities``, or everybody, and those unseen.

    Raises:
        ValueError: if somebody named has no usable clip.
    """
    known = sorted({e["identity"] for e in entries})
    for argument, people in (("identities", identities or ()), ("unseen", unseen)):
        if absent := [person for person in people if person not in known]:
            raise ValueError(
                f"data.{argument}: {absent[0]!r} has no usable clip in data.root, which has {', '.join(known)}; "
                "choose of these"
            )
    wanted = known if identities is None else {*identities, *unseen}
    return [e for e in entries if e["identity"] in wanted]


def split_names(
    entries: list[dict[str, Any]],
    split: Split = "clip",
    test_fraction: float = 0.1,
    val_fraction: float = 0.05,
    seed: int = 0,
    fold: int = 0,
    unseen: Sequence[str] = (),
) -> dict[str, list[str]]:
    """Divide a cache's clips into train, val and test.

    Each key (a clip's take, its sentence, or its speaker) is put in the order of a hash of (seed, key); the first
    ``test_fraction`` of the keys are test, the next ``val_fraction`` val, the rest train. So the split does not depend
    on the order of files, and a clip added later moves few others. Clips are divided person by person: everybody with
    enough of them is in every part, whoever has the most in any case, and who is added with fewer moves nobody else's.
    ``fold`` k takes the k-th ``test_fraction`` of the keys for test instead: with 0.25, the folds 0, 1, 2, 3 test every
    key once.

    A take is a clip's name without its camera: what several cameras saw at once goes to one part, all of a take whose
    cameras have different numbers of pieces. Pieces of a recording have the sentence of the whole where others say it,
    too; where nobody does, each is a sentence of its own. Copies, clips of one checksum, have the key of the first of
    them by name.

    Args:
        entries: the manifest's entries with status ok.
        split: what must not be shared between the parts. The paper splits by ``clip``, which leaks sentences.
        test_fraction: of the keys, in [0, 1); at least one key where it is above 0.
        val_fraction: likewise.
        seed: of the order.
        fold: which test part of a cross-validation; above 0 it takes as many keys as there are folds.
        unseen: people all of whose clips are test; the others are divided as if these were not there.

    Returns:
        ``{"train": names, "val": names, "test": names}``, each sorted.

    Raises:
        ValueError: if an argument is out of its range, or there are too few keys for parts that are not empty.
    """
    if split not in get_args(Split):
        raise ValueError(f"data.split must be one of {', '.join(get_args(Split))}; got {split!r}")
    for name, fraction in (("test_fraction", test_fraction), ("val_fraction", val_fraction)):
        if not 0 <= fraction < 1:
            raise ValueError(f"data.{name} must lie from 0 to below 1; got {fraction}")
    if test_fraction + val_fraction >= 1:
        raise ValueError(
            f"data.val_fraction must leave something to train on beside data.test_fraction={test_fraction}; "
            f"got {val_fraction}"
        )
    if fold < 0 or (fold and (fold + 1) * test_fraction > 1 + 1e-6):
        raise ValueError(
            f"data.fold must satisfy 0 <= (fold + 1) * test_fraction <= 1; got fold={fold} of {test_fraction}"
        )
    plural = {"clip": "clips", "sentence": "sentences", "identity": "speakers"}[split]
    key, first = _keys(entries, split), dict[str, str]()
    for name, content in sorted((e["name"], e.get("sha256") or e["name"]) for e in entries):
        key[name] = key[first.setdefault(content, name)]
    part: dict[str, str] = {}
    groups: dict[str, set[str]] = {}
    for entry in (e for e in entries if e["identity"] not in unseen):
        groups.setdefault(entry["identity"] if split == "clip" else "", set()).add(key[entry["name"]])
    for keys in sorted(groups.values(), key=len, reverse=True):
        if fold and not part and len(keys) * test_fraction < 1 - 1e-6:
            raise ValueError(
                f"data.fold: {len(keys)} {plural} are too few for folds of data.test_fraction={test_fraction}; raise it"
            )
        order = sorted(keys, key=lambda k: (hashlib.sha256(f"{seed}/{k}".encode()).digest(), k))
        part |= _divide(order, test_fraction, val_fraction, fold, alone=not part)
    if "train" not in part.values():
        raise ValueError(
            f"data.split: {len(part)} {plural} are too few to split by {split!r} into train, val and test "
            "(copies count once); add recordings, choose another split, or set data.test_fraction=0 and "
            "data.val_fraction=0"
        )
    names: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for entry in sorted(entries, key=lambda e: e["name"]):
        names["test" if entry["identity"] in unseen else part[key[entry["name"]]]].append(entry["name"])
    return names


def _keys(entries: list[dict[str, Any]], split: Split) -> dict[str, str]:
    """Return what each clip, by its name, must not be divided from."""
    if split == "identity":
        return {entry["name"]: entry["identity"] for entry in entries}
    if split == "clip":
        take = {e["name"]: e["name"].replace(f"-{e['view']}-", "-", 1) if e.get("view") else e["name"] for e in entries}
        pieces: dict[str, set[int]] = {}
        for entry in entries:
            count = (entry.get("segment") or {"count": 1})["count"]
            pieces.setdefault(take[entry["name"]].partition("@")[0], set()).add(count)
        uneven = {start for start, counts in pieces.items() if len(counts) > 1}
        return {name: start if (start := key.partition("@")[0]) in uneven else key for name, key in take.items()}
    whole = {
        e["name"]: e["sentence"] if e.get("segment") is None else e["sentence"].rpartition("@")[0] for e in entries
    }
    sources: dict[str, set[Any]] = {}
    for entry in entries:
        sources.setdefault(whole[entry["name"]], set()).add((entry["identity"], entry.get("source")))
    return {e["name"]: whole[e["name"]] if len(sources[whole[e["name"]]]) > 1 else e["sentence"] for e in entries}


def _divide(keys: list[str], test_fraction: float, val_fraction: float, fold: int, alone: bool) -> dict[str, str]:
    """Return the part of each of a group's keys, in their order; ``alone``: no part may stay empty."""
    first = round(fold * test_fraction * len(keys))
    last = round((fold + 1) * test_fraction * len(keys))
    num_val = round(val_fraction * len(keys))
    if alone:
        last = max(last, first + 1) if test_fraction else 0
        num_val = max(num_val, 1) if val_fraction else 0
    rest = keys[last:] + keys[:first]
    parts = dict.fromkeys(keys, "train") | dict.fromkeys(rest[:num_val], "val")
    return parts | dict.fromkeys(keys[first:last], "test")
