"""Which of a person's clips judge the training: whole files, or the ends of few, and with each its copies."""

import pytest

from talkhead.adapting.held_out import clip_seconds, hold_out


@pytest.mark.parametrize(
    ("lengths", "seconds"), [([15.0], 3.0), ([100.0, 60.0], 10.0), ([3.0] * 5, 10.0), ([4.0, 90.0], 1.0), ([0.0], 10.0)]
)
def test_one_or_two_files_are_cut_so_that_a_fifth_can_be_held_out(lengths: list[float], seconds: float) -> None:
    assert clip_seconds(lengths) == pytest.approx(seconds)


def entry(stem: str, part: int | None = None, frames: int = 75, count: int = 5, **more: str) -> dict[str, object]:
    """Return an entry of a manifest: a file's only clip, or one of several."""
    name = stem if part is None else f"{stem}@{part:03d}"
    segment = None if part is None else {"index": part, "count": count, "start": part * frames}
    facts = {"source": f"{stem}.mp4", "sha256": f"of {name}", "segment": segment, "frames": frames, "fps": "25"}
    return {"name": name, **facts, **more}


def test_whole_files_are_held_out_and_of_few_files_their_ends() -> None:
    five = [entry(f"take{n}") for n in range(5)]
    assert len(hold_out(five)) == 1 and hold_out(five) == hold_out(five[::-1])
    assert len({tuple(hold_out(five, seed)) for seed in range(20)}) > 1
    assert hold_out([entry("talk", n) for n in range(5)]) == ["talk@004"]
    two = [entry(name, n, 250) for name in "ab" for n in range(5)]
    assert hold_out(two) == ["a@004", "b@004"]  # a fifth of 100 s
    hour = [entry("talk", n, 250, 360) for n in range(360)]
    assert len(hold_out(hour)) == 3  # half a minute
    with pytest.raises(ValueError, match="one usable clip is too little"):
        hold_out(five[:1])


@pytest.mark.parametrize("seed", range(4))
def test_no_more_than_twice_the_share_is_held_out_of_files_of_unequal_length(seed: int) -> None:
    """Ten minutes and two short files: the short ones. Three times five minutes: 30 s at the ends of files."""
    long = [entry("long", n, 250, 60) for n in range(60)]
    assert hold_out([*long, entry("a", None, 250), entry("b", None, 250)], seed) == ["a", "b"]
    three = [entry(name, n, 250, 30) for name in "abc" for n in range(30)]
    assert hold_out(three, seed) == ["a@029", "b@029", "c@029"]


def test_a_copy_of_what_is_held_out_is_not_trained_on() -> None:
    """Of three files, one of them copied, that one with its copy or another: never one of the two alone."""
    copied = [entry("a"), entry("a (copy)", sha256="of a"), entry("b"), entry("c")]
    every = {tuple(hold_out(copied, seed)) for seed in range(20)}
    assert every == {("a", "a (copy)"), ("b",), ("c",)}
    assert all(hold_out(copied, seed) == hold_out(copied[::-1], seed) for seed in range(20))


def test_a_file_in_two_formats_is_one() -> None:
    twice = [entry("day/a"), entry("day/a-2", source="day/a.mov"), entry("night/a"), entry("night/b")]
    every = {tuple(hold_out(twice, seed)) for seed in range(20)}
    assert every == {("day/a", "day/a-2"), ("night/a",), ("night/b",)}


def test_of_a_copied_file_the_ends_of_both_are_held_out() -> None:
    """Copied, or in another format; and of a file that shows the same twice, both places."""
    copies = [entry("copy", n, sha256=f"of talk@{n:03d}") for n in range(5)]
    talk = [entry("talk", n) for n in range(5)]
    assert hold_out([*talk, *copies]) == ["copy@004", "talk@004"]
    film = [entry("film", n, source="talk.mov") for n in range(5)]
    assert hold_out([*talk, *film]) == ["film@004", "talk@004"]
    still = [entry("talk", n, sha256="a still picture" if n in (1, 4) else f"of {n}") for n in range(5)]
    assert hold_out(still) == ["talk@001", "talk@004"]


def test_a_clip_and_its_copy_are_one_clip_which_is_too_little() -> None:
    with pytest.raises(ValueError, match=r"one usable clip is too little \(copies count once\)"):
        hold_out([entry("a"), entry("b", sha256="of a")])
