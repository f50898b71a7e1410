"""What an evaluation leaves on the disk, and what a broken run finds there again."""

import json
from pathlib import Path
from typing import Any

import pytest
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from test_evaluate import MouthDetector, model

from talkhead.evaluate import ablate, evaluate, judge
from talkhead.evaluate.html_page import write_html
from talkhead.evaluate.named_media import list_media, name_methods
from talkhead.evaluate.report import ClipLog, Report, Table
from talkhead.evaluate.rows import TRUE_LANDMARKS


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


@pytest.mark.parametrize("kind", [str, Path])
def test_one_folder_is_no_list_of_folders(kind: Any) -> None:
    with pytest.raises(ValueError, match="^videos must be a list of folders.*; got 'ours'"):
        name_methods(kind("ours"))


def test_videos_whose_names_are_no_utf8_can_be_printed(tmp_path: Path) -> None:
    folder = tmp_path / "m\udcff"
    try:
        folder.mkdir()
        (folder / "caf\udce9.mp4").touch()
    except OSError:
        pytest.skip("this file system takes UTF-8 alone")
    assert list_media("videos", folder, {".mp4"}) == {r"caf\udce9": folder / "caf\udce9.mp4"}
    assert name_methods([folder]) == {r"m\udcff": folder}


@pytest.mark.parametrize("verb", ["evaluate", "judge"])
def test_a_file_in_the_place_of_the_results_is_said(verb: str, tiny_cache: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "a.mp4").touch()
    for place, words in (("file", "is a file"), ("file/in", "cannot be made")):
        with pytest.raises(OSError, match=f"^output: '{tmp_path / place}' {words}"):
            if verb == "judge":
                judge([tmp_path / "m"], tmp_path / place, detector=MouthDetector())
            else:
                evaluate(model(), tiny_cache, tmp_path / place, detector=None)
    with pytest.raises(ValueError, match="^output must be a folder; got the URL s3://here"):
        evaluate(model(), tiny_cache, "s3://here", detector=None)


@pytest.mark.parametrize(("window", "overlap"), [(1, 0), (2, 1)])
def test_windows_that_leave_no_step_between_their_borders_leave_the_seam_empty(
    window: int, overlap: int, tiny_cache: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"num_inference_steps": 1, "num_frames": 5, "limit": 1, "detector": None}
    found = evaluate(
        model(landmarks=False), tiny_cache, tmp_path, window=window, overlap=overlap, verbose=False, **options
    )
    rows = found.tables["pictures"].rows
    assert "seam" not in rows[TRUE_LANDMARKS] and "psnr" in rows[TRUE_LANDMARKS]


@pytest.mark.parametrize(
    ("argument", "given"), [("noises", ["ancestrall"]), ("noises", "ancestral"), ("spacings", ["linspace"])]
)
def test_what_the_sweep_does_not_know_is_refused(argument: str, given: Any, tiny_cache: Path, tmp_path: Path) -> None:
    """A noise of another name was measured as none, in a row of that name."""
    subject = model(DDPMScheduler(prediction_type="sample"), landmarks=False)
    options: dict[str, Any] = {"detector": None, "limit": 1, "num_frames": 4, "start_timesteps": (1,), "verbose": False}
    with pytest.raises(ValueError, match=f"^{argument} must be some of .*; got "):
        ablate(subject, tiny_cache, tmp_path, num_inference_steps=(1,), **options | {argument: given})


def test_scores_of_a_net_that_was_taught_other_emotions_are_not_taken(tiny_cache: Path, tmp_path: Path) -> None:
    """Which it was taught says what it is told: of a face that is not neutral, another thing."""
    options: dict[str, Any] = {"num_inference_steps": 1, "num_frames": 4, "limit": 1, "verbose": False}
    for taught in (["happy", "neutral"], ["neutral", "sad"]):
        speaker = model()
        speaker.landmark_net.register_to_config(trained_on=taught)
        detector = MouthDetector()
        evaluate(speaker, tiny_cache, tmp_path, detector=detector, **options)
        assert detector.calls, taught


def test_the_place_of_a_speaker_is_none_of_its_settings(tiny_cache: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"num_inference_steps": 1, "num_frames": 4, "limit": 1, "verbose": False}
    calls = []
    for place in ("here", "./here"):
        speaker = model()
        speaker.renderer.register_to_config(_name_or_path=place)
        detector = MouthDetector()
        evaluate(speaker, tiny_cache, tmp_path, detector=detector, **options)
        calls.append(detector.calls)
    assert calls[0] > 0 == calls[1]


@pytest.mark.parametrize("width", [60, 40])
def test_no_heading_of_a_narrow_table_is_cut_off(width: int, monkeypatch, capsys) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    rows = {f"t steps, even, deterministic, t = {t}": {"psnr": 31.0} for t in range(5)}
    Report({"one": Table("Ablation", {"psnr": ("opening correlation", 2)}, rows)}, {}).print()
    assert "\N{HORIZONTAL ELLIPSIS}" not in capsys.readouterr().out
