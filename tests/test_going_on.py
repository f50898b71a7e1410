"""What a run of many jobs knows of earlier ones, and of its speakers."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from talkhead.pipeline import TalkingHeadPipeline
from talkhead.scale import videos
from talkhead.scale.jobs import RESULTS
from talkhead.scale.results import output_checksum, speaker_checksum
from talkhead.scale.videos import Tally, generate_jobs


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


class Studio:
    """Two jobs, their files, and an engine that makes videos of a sound's bytes."""

    def __init__(self, home: Path) -> None:
        self.home, self.output, self.made = home, home / "videos", 0
        self.stops = False
        (home / "speaker").mkdir()
        (home / "speaker/pipeline.json").write_text("{}")
        (home / "drive").mkdir()
        for name in ("face.png", "drive/a.wav", "drive/b.wav"):
            (home / name).write_bytes(name.encode())
        lines = [{"image": "face.png", "audio": f"drive/{n}.wav", "output": f"{n}.mp4"} for n in "ab"]
        (home / "jobs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    def engine(self, task: Any, groups: Any, run: Any, workers: int) -> Iterator[tuple[Any, Any]]:
        for (job,) in groups:
            if self.stops:
                raise KeyboardInterrupt
            sound, target = Path(job.options["audio"]), self.output / job.output
            if not sound.is_file():
                yield (job,), [("failed", "no sound", None)]
                continue
            target.write_bytes(sound.read_bytes())
            self.made += 1
            yield (job,), [("ok", f"a remark on {job.output}", output_checksum(target))]

    def run(self) -> Tally:
        options: dict[str, Any] = {"speaker": str(self.home / "speaker"), "device": "cpu", "progress": False}
        return generate_jobs(self.home / "jobs.jsonl", self.output, engine=self.engine, **options)

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.output / RESULTS).read_text().splitlines()]


@pytest.fixture
def studio(tmp_path: Path) -> Studio:
    """A studio whose two videos are made."""
    made = Studio(tmp_path)
    assert made.run() == Tally(2, 0, [])
    return made


@pytest.mark.parametrize("stops", [False, True])
def test_videos_are_known_again_when_a_drive_that_was_away_is_back(studio: Studio, stops: bool) -> None:
    """Whether the run without the drive came to its end, or was stopped before any job's turn."""
    before = (studio.output / RESULTS).read_bytes()
    known = [(line["key"], line["sha256"]) for line in studio.lines()]
    drive, away = studio.home / "drive", studio.home / "away"
    drive.rename(away)
    studio.stops = stops
    for _ in range(2):
        if stops:
            with pytest.raises(KeyboardInterrupt):
                studio.run()
        else:
            assert [reason for _, _, reason in studio.run().failed] == [
                "no sound; the video of an earlier run lies there"
            ] * 2
        assert [(line["key"], line["sha256"]) for line in studio.lines()] == known
        assert {line["status"] for line in studio.lines()} == {"failed"}
    away.rename(drive)
    studio.stops = False
    assert studio.run() == Tally(2, 2, []) and studio.made == 2
    assert (studio.output / RESULTS).read_bytes() == before


def test_a_failed_job_s_video_is_known_only_as_it_was_written(studio: Studio) -> None:
    """A video that is no longer the one of then, and a sound that came back as another one."""
    sounds = [studio.home / "drive" / name for name in ("a.wav", "b.wav")]
    for sound in sounds:
        sound.unlink()
    (studio.output / "a.mp4").write_bytes(b"cut by its owner")
    assert len(studio.run().failed) == 2
    assert [(line["reason"], bool(line["sha256"])) for line in studio.lines()] == [
        ("no sound", False),
        ("no sound; the video of an earlier run lies there", True),
    ]
    for sound in sounds:
        sound.write_bytes(b"another sound")
    assert studio.run() == Tally(2, 0, []) and studio.made == 4


def test_the_video_of_a_failed_line_that_has_gone_keeps_its_line(studio: Studio) -> None:
    before = studio.lines()
    (studio.home / "drive/b.wav").unlink()
    assert len(studio.run().failed) == 1
    jobs = studio.home / "jobs.jsonl"
    jobs.write_text(jobs.read_text().splitlines()[0] + "\n")
    assert studio.run() == Tally(1, 1, [])
    assert studio.lines() == [before[0], before[1] | {"line": None}]
