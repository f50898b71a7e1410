"""What a run of many jobs knows of earlier ones, and of its speakers."""

from pathlib import Path
from typing import Any

import pytest

from talkhead.pipeline import TalkingHeadPipeline
from talkhead.scale import videos
from talkhead.scale.results import speaker_checksum


def test_speakers_without_a_checksum_are_not_taken_for_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(name: str, **_: Any) -> str:
        return f"pipeline of {name}"

    monkeypatch.setattr(TalkingHeadPipeline, "from_pretrained", load)
    monkeypatch.setattr(videos, "_pipelines", type(videos._pipelines)())
    run = videos._Run(tmp_path, tmp_path, "cpu", False, None, {})
    assert [videos._loaded(name, run) for name in ("anna", "ben")] == ["pipeline of anna", "pipeline of ben"]


def test_a_speaker_s_checksum_is_of_its_own_files(tmp_path: Path) -> None:
    (tmp_path / "renderer").mkdir()
    for name in ("pipeline.json", "renderer/config.json"):
        (tmp_path / name).write_text("{}")
    before = speaker_checksum(str(tmp_path))
    (tmp_path / "notes.txt").write_text("somebody's own")
    assert speaker_checksum(str(tmp_path)) == before
    (tmp_path / "renderer/config.json").write_text("{ }")
    assert speaker_checksum(str(tmp_path)) != before
