"""What a later call of an adaptation must agree with."""

from pathlib import Path

import pytest
from test_held_out import entry

from talkhead.adapting.work import LATE, Work, check_place


def begun(tmp_path: Path) -> Work:
    work = Work(tmp_path / "anna", {})
    work.begin()
    return work


def test_a_later_call_holds_out_what_the_first_did(tmp_path: Path) -> None:
    """Whatever the clip that failed at first would change: for every seed there is a name that comes first."""
    first = [entry(name) for name in ("a", "b", "c")]
    for seed in range(8):
        folder = tmp_path / str(seed)
        used, held, late = begun(folder).divided(first, seed)
        assert (used, late) == (first, []) and len(held) == 1
        more = [entry("0", frames=75), *first[::-1], entry("d"), entry("e")]
        assert begun(folder).divided(more, seed) == (first, held, [(name, LATE) for name in "0de"])


def test_a_clip_that_is_gone_or_another_is_refused(tmp_path: Path) -> None:
    first = [entry(name) for name in ("a", "b", "c")]
    begun(tmp_path).divided(first, 0)
    with pytest.raises(ValueError, match="^clips: 'b' cannot be used, as it could when '.*anna.work' was begun; bring"):
        begun(tmp_path).divided([first[0], first[2]], 0)
    with pytest.raises(ValueError, match="^clips: 'b' is another than when '.*anna.work' was begun; bring back"):
        begun(tmp_path).divided([first[0], entry("b", sha256="other"), first[2]], 0)
    (tmp_path / "anna.work" / "clips.json").write_text("{")
    with pytest.raises(ValueError, match="clips.json' is damaged; choose another --output, or delete"):
        begun(tmp_path).divided(first, 0)


def test_too_few_clips_decide_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="one usable clip is too little"):
        begun(tmp_path).divided([entry("a")], 0)
    assert len(begun(tmp_path).divided([entry("a"), entry("b")], 0)[1]) == 1


@pytest.mark.parametrize(
    ("output", "what"),
    [
        (".", "the current folder"), ("", "the current folder"), ("here/..", "the current folder"),
        ("..", "the current folder"), ("/", "the current folder"), ("clips", "that of the clips"),
        ("clips/..", "the current folder"), ("s3://bucket/anna", "the URL s3://bucket/anna"),
    ],
)  # fmt: skip
def test_an_output_that_could_not_take_its_place_is_refused(
    output: str, what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "clips").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=f"^output.* {what}"):
        check_place(output, "clips/talk.mp4")
    check_place("clips/anna", "clips")
    check_place(tmp_path / "clip", "clips")


def test_a_name_that_leads_up_and_down_is_that_of_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    work = Work(Path("nowhere/../anna"), {})
    assert work.output == tmp_path / "anna" and work.folder == tmp_path / "anna.work"
    assert Work(Path("anna"), {}).output == Path("anna")
