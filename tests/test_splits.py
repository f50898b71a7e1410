"""Which clips are for training, validation and test: exactly divided, stable, and nothing in two parts."""

import random
from collections import Counter
from typing import Any

import pytest

from talkhead.data.splits import split_names


def entries_of(count: int) -> list[dict[str, Any]]:
    return [{"name": f"n{i}", "sentence": f"s{i % 40}", "identity": f"p{i % 10}"} for i in range(count)]


@pytest.mark.parametrize("split", ["clip", "sentence", "identity"])
def test_split_is_exact_disjoint_and_stable_under_order(split: Any) -> None:
    entries = entries_of(200)
    parts = split_names(entries, split, test_fraction=0.1, val_fraction=0.1)
    shuffled = random.Random(0).sample(entries, len(entries))
    assert split_names(shuffled, split, test_fraction=0.1, val_fraction=0.1) == parts
    assert split_names(entries, split, 0.1, 0.1, seed=1) != parts
    assert {p: len(n) for p, n in parts.items()} == {"train": 160, "val": 20, "test": 20}
    field = "name" if split == "clip" else split
    keys = {p: {e[field] for e in entries if e["name"] in names} for p, names in parts.items()}
    assert not keys["train"] & keys["test"] and not keys["train"] & keys["val"] and not keys["val"] & keys["test"]
    assert parts["test"] == sorted(parts["test"])


def test_split_moves_little_when_clips_are_added() -> None:
    before, after = (set(split_names(entries_of(n), "clip", 0.1, 0.0)["test"]) for n in (200, 210))
    assert len(before & after) >= 18


def test_folds_test_every_speaker_once() -> None:
    for count, fraction, folds in ((24, 0.25, 4), (10, 0.1, 10), (9, 0.25, 4)):
        entries = [{"name": f"n{i}", "identity": f"p{i % count}"} for i in range(3 * count)]
        tested = Counter(
            name for fold in range(folds) for name in split_names(entries, "identity", fraction, 0.1, fold=fold)["test"]
        )
        assert tested == Counter(e["name"] for e in entries)


def test_what_several_cameras_saw_at_once_goes_to_one_part() -> None:
    views = ("front", "down", "left_30", "right_60")
    entries = [
        {"name": f"M030-{view}-{mood}-level_1-{n:03d}", "identity": "M030", "sentence": f"{n:03d}", "view": view}
        for view in views
        for mood in ("happy", "sad")
        for n in range(1, 31)
    ]
    parts = split_names(entries, "clip", 0.1, 0.1)
    takes = {part: {tuple(name.rsplit("-", 3)[1:]) for name in names} for part, names in parts.items()}
    assert not takes["train"] & takes["test"] and not takes["train"] & takes["val"]
    assert len(parts["test"]) == len(views) * len(takes["test"]) == 24
    alone = split_names([entry for entry in entries if entry["view"] == "down"], "clip", 0.1, 0.1)
    assert {name.replace("-down-", "-front-") for name in alone["test"]} <= set(parts["test"]), "cameras move no take"


def test_pieces_of_a_recording_have_its_sentence_where_others_say_it_too() -> None:
    def entry(source: str, sentence: str, piece: int | None = None) -> dict[str, Any]:
        mark, segment = ("", None) if piece is None else (f"@{piece:03d}", {"index": piece})
        return {
            "name": source + mark, "source": source, "identity": "a", "sentence": sentence + mark, "segment": segment
        }  # fmt: skip

    takes = [entry(f"{level}-{n:03d}", f"{n:03d}") for n in range(30) for level in (1, 2)]
    cut = [entry(f"3-{n:03d}", f"{n:03d}", piece) for n in range(30) for piece in (0, 1)]
    parts = split_names(takes + cut, "sentence", 0.1, 0.1)
    said = {part: {name.split("-")[1][:3] for name in names} for part, names in parts.items()}
    assert not said["train"] & said["test"] and len(parts["test"]) == 4 * 3
    long = split_names([entry("talk", "talk", piece) for piece in range(60)], "sentence", 0.1, 0.1)
    assert [len(long[part]) for part in ("train", "val", "test")] == [48, 6, 6]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"split": "speaker"}, "data.split must be one of clip, sentence, identity"),
        ({"test_fraction": 0.9, "val_fraction": 0.2}, "leave something to train on .*test_fraction=0.9; got 0.2"),
        ({"test_fraction": 1.0}, "^data.test_fraction must lie from 0 to below 1; got 1.0$"),
        ({"val_fraction": -0.1}, "^data.val_fraction must lie from 0 to below 1; got -0.1$"),
        ({"fold": 10}, "data.fold must satisfy"),
        ({"split": "identity", "entries": [{"name": "a", "identity": "p"}]}, "1 speakers are too few"),
        (
            {"fold": 3, "test_fraction": 0.25, "split": "identity", "entries": entries_of(3)},
            "^data.fold: 3 speakers are too",
        ),
    ],
)
def test_split_refuses_what_it_cannot_do(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        split_names(**({"entries": entries_of(20)} | arguments))


def test_each_person_is_in_every_part_and_moves_nobody_else() -> None:
    def entries(who: str, count: int) -> list[dict[str, Any]]:
        return [{"name": f"{who}{i:03d}", "identity": who, "sentence": "x", "frames": 20} for i in range(count)]

    alone = split_names(entries("a", 40), "clip", 0.1, 0.05)
    both = split_names(entries("a", 40) + entries("b", 20) + entries("c", 2), "clip", 0.1, 0.05)
    for part, names in alone.items():
        assert [n for n in both[part] if n.startswith("a")] == names
    assert sum(n.startswith("b") for n in both["test"]) == 2 and sum(n.startswith("b") for n in both["val"]) == 1
    assert sum(n.startswith("c") for n in both["train"]) == 2


def test_people_whose_recordings_lie_in_alike_places_share_their_sentence() -> None:
    """Two folders of MEAD, one person each, as one cache: that both lie at one place below theirs says nothing."""
    entries = [
        {
            "name": f"{who}-{number:03d}@{index:03d}",
            "identity": who,
            "sentence": f"{number:03d}@{index:03d}",
            "segment": {"index": index, "count": 2, "start": 30 * index},
            "source": f"video/front/neutral/level_1/{number:03d}.mp4",
        }
        for who in ("M030", "W009")
        for number in range(20)
        for index in range(2)
    ]
    parts = split_names(entries, "sentence", 0.3, 0.1)
    where = {name.split("-")[1][:3]: part for part, names in parts.items() for name in names}
    assert all(where[name.split("-")[1][:3]] == part for part, names in parts.items() for name in names)


@pytest.mark.parametrize("split", ["clip", "sentence", "identity"])
def test_copies_of_one_file_go_to_one_part(split: Any) -> None:
    """A file that was downloaded twice has two names, and maybe lies in the folders of two people."""
    entries = entries_of(200)
    copies = [e | {"name": f"{e['name']} (1)", "sentence": "copy", "identity": "q"} for e in entries[:40]]
    with_sums = [e | {"sha256": e["name"].removesuffix(" (1)")} for e in entries + copies]
    where = {name: part for part, names in split_names(with_sums, split, 0.3, 0.1).items() for name in names}
    assert all(where[e["name"]] == where[e["name"].removesuffix(" (1)")] for e in copies)
    alone = [e | {"sha256": e["name"]} for e in entries]
    assert split_names(alone, split, 0.3, 0.1) == split_names(entries, split, 0.3, 0.1)


def test_a_take_whose_cameras_were_cut_into_other_pieces_stays_together() -> None:
    """One camera ran a little longer, and its video has three pieces where the other's has two."""
    entries = [
        {"name": f"M-{view}-sad-{number:03d}@{index:03d}", "identity": "M", "sentence": "x", "view": view,
         "segment": {"index": index, "count": count, "start": 0}}
        for number in range(30)
        for view, count in (("front", 2), ("left_30", 3 if number % 2 else 2))
        for index in range(count)
    ]  # fmt: skip
    where = {name: part for part, names in split_names(entries, "clip", 0.3, 0.1).items() for name in names}
    for number in range(1, 30, 2):
        assert len({part for name, part in where.items() if f"-{number:03d}@" in name}) == 1
    # Of others the pieces are divided, and each moment of both cameras is in one part.
    assert any(where[f"M-front-sad-{n:03d}@000"] != where[f"M-front-sad-{n:03d}@001"] for n in range(0, 30, 2))
    for number in range(0, 30, 2):
        for index in range(2):
            name = f"sad-{number:03d}@{index:03d}"
            assert where[f"M-front-{name}"] == where[f"M-left_30-{name}"]
