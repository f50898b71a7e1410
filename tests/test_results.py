"""What an evaluation leaves on the disk, and what a broken run finds there again."""

import json
from pathlib import Path

import pytest

from talkhead.evaluate.html_page import write_html
from talkhead.evaluate.named_media import list_media, name_methods
from talkhead.evaluate.report import ClipLog, Report, Table


def test_a_log_that_was_torn_within_a_letter_is_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    ClipLog(path, {}).get("caf\u00e9", lambda: 1)
    line = path.read_bytes()
    path.write_bytes(line + line[: line.index("\u00e9".encode()) + 1])  # the first of the letter's two bytes
    log = ClipLog(path, {})
    assert log.done == {"caf\u00e9": 1}
    log.get("b", lambda: 2)
    assert ClipLog(path, {}).done == {"caf\u00e9": 1, "b": 2}


@pytest.mark.parametrize("name", ["a\u2028b", "a\x85b", "caf\udce9"])
def test_a_log_finds_every_name_again(name: str, tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    ClipLog(path, {}).get(name, lambda: 1)
    assert ClipLog(path, {}).done == {name: 1}


def test_names_that_are_no_utf8_are_written_as_the_manifest_writes_them(tmp_path: Path) -> None:
    report = Report({"one": Table("caf\udce9", {}, {"ours": {}})}, {"label": "caf\udce9"}, {"caf\udce9": {}})
    report.save(tmp_path, "evaluation")
    assert json.loads((tmp_path / "evaluation.json").read_text())["clips"] == {"caf\udce9": {}}
    assert r"label: caf\udce9" in (tmp_path / "evaluation.md").read_text()
    write_html(tmp_path / "page.html", "caf\udce9", "", [])
    assert r"<title>caf\udce9</title>" in (tmp_path / "page.html").read_text()


def test_videos_whose_names_are_no_utf8_can_be_printed(tmp_path: Path) -> None:
    folder = tmp_path / "m\udcff"
    try:
        folder.mkdir()
        (folder / "caf\udce9.mp4").touch()
    except OSError:
        pytest.skip("this file system takes UTF-8 alone")
    assert list_media("videos", folder, {".mp4"}) == {r"caf\udce9": folder / "caf\udce9.mp4"}
    assert name_methods([folder]) == {r"m\udcff": folder}
