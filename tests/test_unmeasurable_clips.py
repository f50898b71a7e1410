"""Clips in which there is nothing to measure are named and counted, and end no run."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from test_evaluate import model

from talkhead.data.datamodule import MEADDataModule
from talkhead.data.dataset import ClipDataset
from talkhead.evaluate import ablate, evaluate
from talkhead.evaluate.bench import read_clip
from talkhead.evaluate.motions import apply_mean_motion, mean_motion
from talkhead.evaluate.report import Report
from talkhead.evaluate.rows import MEAN_MOTION, REPEATED, TRUE_LANDMARKS, make_truth, score_landmarks


def spoilt(cache: Path, faceless: str, torn: str) -> Path:
    """Take every face from one clip of a cache and the end from another."""
    tensors = load_file(cache / "clips" / f"{faceless}.safetensors")
    tensors["landmarks"][:] = math.nan
    save_file(tensors, cache / "clips" / f"{faceless}.safetensors")
    path = cache / "clips" / f"{torn}.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    return cache


def test_clips_that_cannot_be_measured_are_named_and_counted_and_the_others_measured(
    tiny_cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options: dict[str, Any] = {"part": "all", "num_inference_steps": 1, "limit": 4, "detector": None}
    whole = evaluate(model(), tiny_cache, tmp_path / "whole", verbose=False, **options)
    cache = spoilt(shutil.copytree(tiny_cache, tmp_path / "cache"), "clip00", "clip02")
    report = evaluate(model(), cache, tmp_path / "out", **options)
    assert list(report.failed) == ["clip00", "clip02"]
    assert report.clips.keys() == {"clip01", "clip03"}
    for row in (TRUE_LANDMARKS, REPEATED):
        mean = sum(whole.clips[name]["pictures"][row]["psnr"] for name in report.clips) / 2
        assert report.tables["pictures"].rows[row]["psnr"] == pytest.approx(mean)
    said = "2 of 4 clips could not be measured: data: 'clip00' has no frame with landmarks"
    assert said in report.markdown() and "Pictures (2 of 4 clips)" in report.markdown()
    assert said in " ".join(capsys.readouterr().out.split())
    saved = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert saved["failed"] == report.failed and "'clip02'" in saved["failed"]["clip02"]
    assert report.protocol["strip.png"].startswith("clip01,")
    drawn = (tmp_path / "out" / "strip.png").stat().st_mtime_ns
    again = evaluate(model(), cache, tmp_path / "out", verbose=False, **options)
    assert again.markdown() == report.markdown()
    assert (tmp_path / "out" / "strip.png").stat().st_mtime_ns == drawn, "nothing is drawn again"


def test_training_clips_that_cannot_be_read_are_named_and_left_out_of_the_mean_motion(
    tiny_cache: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"num_inference_steps": 1, "limit": 1, "detector": None, "verbose": False}
    split = {"split": "clip", "test_fraction": 0.1, "val_fraction": 0.1}
    torn, faceless = MEADDataModule(str(tiny_cache), **split).names("train")[:2]
    cache = spoilt(shutil.copytree(tiny_cache, tmp_path / "cache"), faceless, torn)
    report = evaluate(model(), MEADDataModule(str(cache), **split), tmp_path / "out", **options)
    said = report.protocol["left out of the mean motion"]
    assert not report.failed and said.startswith("2 of 10 training clips: ")
    assert f"the clip '{torn}'" in said and "damaged" in said and f"'{faceless}' has no frame with landmarks" in said
    clips = ClipDataset(cache, MEADDataModule(str(cache), **split).names("train"), reference="first")
    truth = make_truth(read_clip(cache, next(iter(report.clips)), None), None)
    others = [clips[i] for i, entry in enumerate(clips.entries) if entry["name"] not in (torn, faceless)]
    mean = mean_motion(others)
    assert mean is not None
    by_hand = score_landmarks(apply_mean_motion(*mean, truth), truth)["m_ld"]
    assert report.tables["landmarks"].rows[MEAN_MOTION]["m_ld"] == pytest.approx(by_hand)
    again = evaluate(model(), MEADDataModule(str(cache), **split), tmp_path / "out", **options)
    assert again.markdown() == report.markdown()
    for name in (torn, faceless):  # as `preprocess` makes them again
        shutil.copy(tiny_cache / "clips" / f"{name}.safetensors", cache / "clips")
    mended = evaluate(model(), MEADDataModule(str(cache), **split), tmp_path / "out", **options)
    whole = evaluate(model(), MEADDataModule(str(tiny_cache), **split), tmp_path / "whole", **options)
    assert mended.tables["landmarks"].rows[MEAN_MOTION] == whole.tables["landmarks"].rows[MEAN_MOTION]
    assert "left out of the mean motion" not in mended.protocol


def test_a_run_in_which_no_clip_can_be_measured_is_an_error(tiny_cache: Path, tmp_path: Path) -> None:
    cache = spoilt(shutil.copytree(tiny_cache, tmp_path / "cache"), "clip00", "clip01")
    options: dict[str, Any] = {"part": "all", "limit": 2, "detector": None, "verbose": False}
    with pytest.raises(ValueError, match="none of 2 clips could be measured: data: 'clip00'"):
        evaluate(model(), cache, tmp_path / "out", **options)
    with pytest.raises(ValueError, match="none of 2 clips could be measured: data: 'clip00'"):
        ablate(model(landmarks=False), cache, tmp_path / "sweep", **options)


def test_the_sweep_goes_on_past_a_clip_without_a_face(tiny_cache: Path, tmp_path: Path) -> None:
    cache = spoilt(shutil.copytree(tiny_cache, tmp_path / "cache"), "clip00", "clip01")
    options: dict[str, Any] = {"part": "all", "limit": 3, "num_inference_steps": (1,), "detector": None}
    report = ablate(model(landmarks=False), cache, tmp_path / "sweep", num_frames=4, verbose=False, **options)
    assert list(report.clips) == ["clip02"] and list(report.failed) == ["clip00", "clip01"]
    assert "2 of 3 clips could not be measured" in (tmp_path / "sweep" / "ablation.md").read_text()


def test_many_failures_are_counted_and_ten_of_them_named() -> None:
    report = Report({}, {}, {"good": {}}, {f"c{n:02d}": "no face" for n in range(25)})
    assert report.failures().startswith("25 of 26 clips could not be measured: c00: no face; c01: no face; ")
    assert report.failures().endswith("c09: no face; and 15 more, which the JSON file names")
    assert Report({}, {}, {"good": {}}).failures() == ""
