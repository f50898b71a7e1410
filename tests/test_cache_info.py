"""What `talkhead cache info` counts, says and draws."""

import json
import re
from pathlib import Path

import pytest
from conftest import tiny_entry

from talkhead.cli import main
from talkhead.inventory.cache_info import cache_info, table_of


@pytest.fixture
def mixed(tiny_cache: Path, tmp_path: Path) -> Path:
    """Return a cache of two people, levels, two rates, two cameras, a recording of sound, and three that failed."""
    entries = [tiny_entry(i) | {"level": i % 3 + 1, "view": "front"} for i in range(12)]
    for entry in entries[8:]:
        entry |= {"identity": "ben", "fps": "30", "view": "left_30"}
    entries[0]["reason"] = "cut off"
    sound = tiny_entry(20) | {"identity": "ben", "emotion": "fear", "frames": 0, "fps": None, "size": None}
    failed = [
        tiny_entry(30 + i) | {"status": "failed", "source": f"x/v{i}.mp4", "reason": f"v{i}.mp4: no face"}
        for i in range(2)
    ]
    skipped = tiny_entry(40) | {"status": "skipped", "reason": "calm has no MEAD label"}
    (tmp_path / "clips").symlink_to(tiny_cache / "clips")
    lines = [json.dumps(e) for e in [*entries, sound, *failed, skipped]]
    (tmp_path / "manifest.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_it_counts_people_emotions_levels_hours_and_failures(mixed: Path) -> None:
    info = cache_info(mixed)
    assert info.clips == {"ok": 13, "failed": 2, "skipped": 1} and info.remarks == 1
    # Clips 0 to 7 are anna's: happy, sad, neutral in turn, each emotion always of one level.
    assert info.counts["anna"] == {"happy": {1: 3}, "sad": {2: 3}, "neutral": {3: 2}}
    assert info.counts["ben"] == {"neutral": {3: 2}, "happy": {1: 1}, "sad": {2: 1}, "fear": {0: 1}}
    assert info.seconds == pytest.approx({"anna": 8 * 12 / 25, "ben": 4 * 12 / 30 + 7680 / 16000})
    assert info.hours == pytest.approx((96 / 25 + 1.6 + 0.48) / 3600)
    assert (info.rates, info.views) == ({"25": 8, "30": 4}, {"front": 8, "left_30": 4})
    assert info.reasons == [
        ("failed", "no face", ["clip30", "clip31"]),
        ("skipped", "calm has no MEAD label", ["clip40"]),
    ]
    assert info.bytes == sum(f.stat().st_size for f in (mixed / "clips").iterdir())


def test_the_table_has_a_row_for_each_person_and_their_sum(mixed: Path) -> None:
    head, body = table_of(cache_info(mixed))
    assert head == ["identity", "fear", "happy", "neutral", "sad", "clips", "minutes"]
    assert body[0] == ["anna", "-", "0/3/0/0", "0/0/0/2", "0/0/3/0", "8", "0.1"]
    assert body[-1] == ["all", "1/0/0/0", "0/4/0/0", "0/0/0/4", "0/0/4/0", "13", "0.1"]


def test_the_verb_prints_and_writes(mixed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page, sheet = tmp_path / "info.html", tmp_path / "faces.png"
    assert main(["cache", "info", str(mixed), "--html", str(page), "--sheet", str(sheet)]) == 0
    said = capsys.readouterr().out
    assert "2 failed: no face (clip30, clip31)" in said and "25 fps (8), 30 fps (4)" in said
    text = page.read_text()
    assert text.count("data:image/jpeg") == 2 and "<h3>ben</h3>" in text and "0/0/4/0" in text
    assert not re.findall(r"(?:src|href)='(?!data:)", text)  # it needs no other file
    assert sheet.read_bytes().startswith(b"\x89PNG")
    assert main(["cache", "info", str(mixed), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["counts"]["ben"]["sad"] == {"2": 1}


def test_a_narrow_screen_hides_no_count(
    mixed: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "36")
    assert main(["cache", "info", str(mixed)]) == 0
    assert "\N{HORIZONTAL ELLIPSIS}" not in capsys.readouterr().out


@pytest.mark.parametrize("person", ["anna [left]", "[bold]ben", "[/x]"])
def test_people_are_called_as_they_are(
    person: str, mixed: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    (mixed / "manifest.jsonl").write_text(json.dumps(tiny_entry(0) | {"identity": person}) + "\n")
    assert main(["cache", "info", str(mixed)]) == 0
    assert f" {person} " in capsys.readouterr().out


def test_no_cache_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache", "info", str(tmp_path)]) == 2
    assert "has no manifest.jsonl" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--html", "--sheet"])
def test_what_cannot_be_written_is_refused_before_anything_is_said(
    option: str, mixed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["cache", "info", str(mixed), option, str(tmp_path / "none" / "x.png")]) == 2
    said = capsys.readouterr()
    assert said.out == "" and "its folder does not exist; make it first" in said.err
