"""The tables end to end on a tiny cache, and the pieces against hand-worked numbers and diffusers."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import tiny_face
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from safetensors.torch import load_file
from torch import Tensor

from talkhead import metrics
from talkhead.data.clip import Clip
from talkhead.data.datamodule import MEADDataModule
from talkhead.evaluate import Table, ablate, evaluate
from talkhead.evaluate.motions import apply_mean_motion, mean_motion
from talkhead.evaluate.report import ClipLog, Report, average
from talkhead.evaluate.rows import (
    DETECTOR_FLOOR,
    GENERATOR,
    MEAN_MOTION,
    NO_MOTION,
    PLACED_GENERATOR,
    PREDICTED_LANDMARKS,
    REPEATED,
    TRUE_LANDMARKS,
    TRUTH,
    WARPED,
    make_truth,
    paint_repeated,
    paint_warped,
)
from talkhead.nets.landmark import LandmarkNet
from talkhead.nets.renderer import Renderer
from talkhead.schedulers import MaskNoiseBridgeScheduler, PaperProcess, spaced
from talkhead.tracking.track import Detection


class MouthDetector:
    """Finds the dark mouth of ``tiny_frames`` and opens the tiny face as far; no face where there is none."""

    name = "mouth"

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, image: Tensor, face: str | int = "largest") -> Detection | None:
        self.calls += 1
        rows = (image[2] < 60).any(1).nonzero()
        if not len(rows):
            return None
        return Detection(tiny_face(32, len(rows) / 10), 1.0, (0.0, 0.0, 31.0, 31.0))


def model(scheduler: Any = None, landmarks: bool = True) -> Any:
    torch.manual_seed(0)
    return SimpleNamespace(
        renderer=Renderer(size=32, widths=(8, 16), patch=2).eval(),
        scheduler=scheduler or MaskNoiseBridgeScheduler(),
        landmark_net=LandmarkNet(width=16, heads=2, layers=1, portrait_view="summary").eval() if landmarks else None,
        emotion_net=None,
        info={"window": 8, "overlap": 2, "num_inference_steps": 4},
    )


def test_evaluate_end_to_end(tiny_cache: Path, tmp_path: Path) -> None:
    detector = MouthDetector()
    data = MEADDataModule(str(tiny_cache), test_fraction=0.2)
    report = evaluate(model(), data, tmp_path, detector=detector, num_inference_steps=2)
    pictures, landmarks = report.tables["pictures"].rows, report.tables["landmarks"].rows
    assert set(pictures) == {REPEATED, WARPED, TRUE_LANDMARKS, PREDICTED_LANDMARKS, DETECTOR_FLOOR}
    assert set(landmarks) == {NO_MOTION, MEAN_MOTION, GENERATOR, PLACED_GENERATOR, TRUTH}
    assert pictures[TRUE_LANDMARKS]["calls"] == 2 and pictures[REPEATED]["calls"] == 0
    assert pictures[REPEATED]["detected"] == 1.0 and pictures[TRUE_LANDMARKS]["fps"] > 0
    assert pictures[TRUE_LANDMARKS]["seam"] > 0 and "seam" not in pictures[WARPED]
    assert math.isnan(pictures[REPEATED]["fps"]) and math.isnan(landmarks[NO_MOTION]["opening"])
    text = (tmp_path / "evaluation.md").read_text()
    for word in (WARPED, "PSNR", "seed", "Gaussian 11x11", "torch ", "2 clips", "mouth", "threads"):
        assert word in text
    written = json.loads((tmp_path / "evaluation.json").read_text())  # strict JSON: no NaN in it
    assert written["tables"]["pictures"][REPEATED]["psnr"] == pytest.approx(pictures[REPEATED]["psnr"])
    assert written["tables"]["pictures"][REPEATED]["fps"] is None
    assert sorted(written["clips"]) == data.names("test") and len(data.names("test")) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "clips.jsonl",
        "evaluation.json",
        "evaluation.md",
        "strip.png",
    ]


def test_still_pictures_are_not_judged(tiny_cache: Path, tmp_path: Path) -> None:
    """One of a person would be repeated without a fault; of a pair, one frame is left."""
    cache = shutil.copytree(tiny_cache, tmp_path / "cache")
    entries = [json.loads(line) for line in (cache / "manifest.jsonl").read_text().splitlines()]
    entries[0]["stills"] = True
    (cache / "manifest.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    options: dict[str, Any] = {"detector": None, "num_inference_steps": 1, "verbose": False}
    report = evaluate(model(landmarks=False), cache, tmp_path / "all", part="all", **options)
    assert sorted(report.clips) == sorted(entry["name"] for entry in entries[1:])


def test_do_nothing_rows_are_what_they_say(tiny_cache: Path, tmp_path: Path) -> None:
    report = evaluate(model(landmarks=False), tiny_cache, tmp_path, limit=1, detector=None, verbose=False)
    (name,) = report.clips
    assert set(report.tables["pictures"].rows) == {REPEATED, WARPED, TRUE_LANDMARKS, DETECTOR_FLOOR}
    data = MEADDataModule(str(tiny_cache))
    assert name == data.names("test")[0]
    clip = load_file(tiny_cache / "clips" / f"{name}.safetensors")
    still, after = clip["frames"][:1].expand(11, -1, -1, -1), clip["frames"][1:]
    row = report.tables["pictures"].rows[REPEATED]
    assert row["psnr"] == pytest.approx(
        metrics.psnr(still, after, reduce="none").clamp_max(100).mean().item(), rel=1e-5
    )
    assert row["ssim"] == pytest.approx(metrics.ssim(still, after).item(), rel=1e-5)
    no_motion = report.tables["landmarks"].rows[NO_MOTION]
    distance = (clip["landmarks"][:1] - clip["landmarks"][1:]).norm(dim=-1)[:, 48:].mean() * 8  # 32 px -> 256 px
    assert no_motion["m_ld"] == pytest.approx(distance.item(), rel=1e-5)


def test_a_broken_run_goes_on_and_other_settings_start_anew(tiny_cache: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"part": "all", "num_inference_steps": 1, "verbose": False}
    evaluate(model(), tiny_cache, tmp_path, limit=1, detector=(first := MouthDetector()), **options)
    both = evaluate(model(), tiny_cache, tmp_path, limit=2, detector=(second := MouthDetector()), **options)
    assert second.calls == first.calls > 0  # the first clip came from the log
    log = tmp_path / "clips.jsonl"
    assert len(log.read_text().splitlines()) == 3  # and whose the strip is
    log.write_text(log.read_text() + '{"settings": "torn')
    again = evaluate(model(), tiny_cache, tmp_path, limit=2, detector=(third := MouthDetector()), **options)
    assert third.calls == 0 and again.markdown() == both.markdown()
    evaluate(model(), tiny_cache, tmp_path, limit=1, detector=(fourth := MouthDetector()), seed=1, **options)
    assert fourth.calls == first.calls
    assert all(json.loads(line) for line in log.read_text().splitlines() if "torn" not in line)


def test_another_part_in_the_same_folder_is_as_in_a_folder_of_its_own(tiny_cache: Path, tmp_path: Path) -> None:
    """Only of held-out clips the training clips' mean motion is a row; and the strip is of the clips in hand."""
    data = MEADDataModule(str(tiny_cache), test_fraction=0.2)
    options: dict[str, Any] = {"detector": None, "num_inference_steps": 1, "verbose": False}
    options |= {"limit": 2, "num_frames": 6}
    alone = {part: evaluate(model(), data, tmp_path / part, part=part, **options) for part in ("test", "all")}
    assert next(iter(alone["test"].clips)) != next(iter(alone["all"].clips))
    for part in ("test", "all", "test"):
        found = evaluate(model(), data, tmp_path / "both", part=part, **options)
        assert found.tables["landmarks"].rows.keys() == alone[part].tables["landmarks"].rows.keys()
        assert found.clips.keys() == alone[part].clips.keys() and found.protocol["strip.png"].startswith(
            next(iter(found.clips))
        )
        assert (tmp_path / "both" / "strip.png").read_bytes() == (tmp_path / part / "strip.png").read_bytes()
    (tmp_path / "test" / "strip.png").unlink()
    again = evaluate(model(), data, tmp_path / "test", part="test", **options)
    assert again.tables["landmarks"].rows == alone["test"].tables["landmarks"].rows
    assert (tmp_path / "test" / "strip.png").is_file()


def test_evaluate_is_repeatable(tiny_cache: Path, tmp_path: Path) -> None:
    rows = [
        evaluate(model(), tiny_cache, tmp_path / str(run), limit=1, detector=None, verbose=False)
        .tables["pictures"]
        .rows
        for run in range(2)
    ]
    assert rows[0][TRUE_LANDMARKS]["psnr"] == rows[1][TRUE_LANDMARKS]["psnr"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"part": "holdout"}, "part must be"),
        ({"limit": 0}, "limit must be"),
        ({"num_frames": 2}, "num_frames must be"),
        ({"num_inference_steps": 0}, "num_inference_steps"),
    ],
)
def test_evaluate_refuses(tiny_cache: Path, tmp_path: Path, change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        evaluate(model(), tiny_cache, tmp_path, **{"detector": None, "verbose": False, "limit": 1, **change})


def test_evaluate_refuses_another_size_and_a_missing_cache(tiny_cache: Path, tmp_path: Path) -> None:
    other = model()
    other.renderer = Renderer(size=16, widths=(8, 16), patch=2)
    with pytest.raises(ValueError, match=r"32\] px, this renderer paints 16"):
        evaluate(other, tiny_cache, tmp_path, detector=None)
    with pytest.raises(FileNotFoundError, match="manifest"):
        evaluate(model(), tmp_path / "nowhere", tmp_path, detector=None)


def test_an_undetected_face_shows_as_a_share_and_not_as_an_error(tiny_cache: Path, tmp_path: Path) -> None:
    blind = model()
    blind.renderer.decode = lambda x: torch.full((1, x.shape[2], 3, 32, 32), 255, dtype=torch.uint8)
    rows = (
        evaluate(blind, tiny_cache, tmp_path, limit=1, detector=MouthDetector(), verbose=False).tables["pictures"].rows
    )
    assert rows[TRUE_LANDMARKS]["detected"] == 0 and math.isnan(rows[TRUE_LANDMARKS]["m_ld"])


# Pieces


def one_clip(frames: int, opening: float = 0.0, size: int = 32, shift: float = 0.0) -> Clip:
    landmarks = torch.stack([tiny_face(size, opening * t) for t in range(frames)]) + shift
    pictures = torch.zeros(frames, 3, size, size, dtype=torch.uint8)
    return Clip(
        audio=torch.zeros(640 * frames),
        emotion=torch.tensor(0),
        fps=torch.tensor(25.0),
        samples=torch.tensor(640 * frames),
        frames=pictures,
        landmarks=landmarks,
        reference=pictures[0],
        reference_landmarks=landmarks[0],
    )


def test_mean_motion_by_hand() -> None:
    # two clips whose mouths open by 0.1 and 0.3 a frame; the second twice as large, elsewhere, and shorter
    small, large = one_clip(6, 0.1), one_clip(4, 0.3, size=63, shift=5.0)
    found = mean_motion([small, large])
    assert found is not None
    motion, face = found
    assert motion.shape == (6, 68, 2) and torch.equal(face, tiny_face(32, 0.0))
    expected = torch.stack([tiny_face(32, 0.2 * t) for t in range(4)] + [tiny_face(32, 0.1 * t) for t in (4, 5)])
    torch.testing.assert_close(face + motion, expected, rtol=0, atol=1e-4)  # float32 px up to 63
    truth = make_truth(one_clip(9), None)
    applied = apply_mean_motion(motion, face, truth)
    assert applied.shape == (8, 68, 2)
    torch.testing.assert_close(applied[:5], expected[1:], rtol=0, atol=1e-4)
    torch.testing.assert_close(applied[5:], expected[5:].expand(3, -1, -1), rtol=0, atol=1e-4)
    assert mean_motion([]) is None


def test_truth_starts_after_the_first_frame_with_a_face() -> None:
    clip = one_clip(6, 0.1)
    clip.landmarks[:2] = float("nan")  # type: ignore[index]  # a test's own clip
    truth = make_truth(clip, None)
    assert truth.first == 3 and len(truth.frames) == 3 and len(truth.audio) == 3 * 640
    torch.testing.assert_close(truth.reference_landmarks, tiny_face(32, 0.2))
    with pytest.raises(ValueError, match="clip late must have at least 2 frames"):
        make_truth(replace(one_clip(2), names=("late",)), None)
    clip.landmarks[:] = float("nan")  # type: ignore[index]
    with pytest.raises(ValueError, match="none of its 6 frames has a face"):
        make_truth(clip, None)


def test_the_warp_of_a_still_face_is_the_reference() -> None:
    clip = one_clip(4)
    noisy = torch.randint(256, (4, 3, 32, 32), dtype=torch.uint8)
    truth = make_truth(Clip(**{**vars(clip), "frames": noisy}), None)
    painted = paint_warped(truth).frames.int()
    assert (painted - noisy[:1].int()).abs().max() <= 1  # the spline's own rounding


def test_the_warp_moves_the_picture_with_the_landmarks() -> None:
    clip = one_clip(4)
    drift = torch.arange(4.0)
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    blobs = torch.stack([255 * torch.exp(-((x - 14 - d) ** 2 + (y - 16) ** 2) / 40) for d in drift])
    frames = blobs.to(torch.uint8)[:, None].expand(-1, 3, -1, -1)
    landmarks = clip.landmarks + torch.stack([drift, torch.zeros(4)], -1)[:, None]
    truth = make_truth(Clip(**{**vars(clip), "frames": frames, "landmarks": landmarks}), None)
    warped, repeated = (
        metrics.psnr(paint(truth).frames, truth.frames).item() for paint in (paint_warped, paint_repeated)
    )
    assert warped > repeated + 6  # half the error at least: only the anchored border holds it back


def test_average_leaves_nan_out_and_takes_the_median_lag() -> None:
    clips = [{"a": {"psnr": 1.0, "lag": 0.0}}, {"a": {"psnr": math.nan, "lag": 0.0}}, {"a": {"psnr": 3.0, "lag": 9.0}}]
    assert average(clips) == {"a": {"psnr": 2.0, "lag": 0.0}}


def test_table_shows_a_dash_for_what_has_no_value() -> None:
    table = Table("T", {"x": ("X", 1), "y": ("Y", 0)}, {"r": {"x": math.nan, "y": 2.0}})
    assert table.cells() == [["T", "X", "Y"], ["r", "-", "2"]]


def test_log_ignores_other_settings(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    assert ClipLog(path, {"seed": 0}).get("a", lambda: 1) == 1
    assert ClipLog(path, {"seed": 0}).get("a", lambda: 2) == 1
    assert ClipLog(path, {"seed": 1}).get("a", lambda: 3) == 3


# The paper's process


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("steps", [1, 4, 100, 500, 1000])
def test_spacing_is_that_of_diffusers_where_it_divides(spacing: Any, steps: int) -> None:
    reference = DDPMScheduler(timestep_spacing=spacing)
    reference.set_timesteps(steps)
    process = PaperProcess(timestep_spacing=spacing)
    process.set_timesteps(steps)
    assert process.timesteps.tolist() == reference.timesteps.tolist()


def test_three_hundred_steps_are_three_hundred() -> None:
    leading, trailing = spaced(300, 999, "leading"), spaced(300, 999, "trailing")
    assert len(set(leading)) == len(set(trailing)) == 300
    assert (leading[0], trailing[0]) == (897, 999)
    assert spaced(300, 299, "leading") == spaced(300, 299, "trailing") == list(range(299, -1, -1))
    with pytest.raises(ValueError, match="1..300"):
        spaced(301, 299, "leading")


def test_ancestral_step_is_diffusers_and_deterministic_step_is_ddim() -> None:
    x, clean = torch.randn(2, 1, 3, 4, 4, 4).clamp(-1, 1)  # in the range, where clipping does nothing
    options = {"prediction_type": "sample", "timestep_spacing": "leading"}
    process, ddpm, ddim = (
        PaperProcess(**options),
        DDPMScheduler(**options),
        DDIMScheduler(**options, set_alpha_to_one=True),
    )
    for scheduler in (process, ddpm, ddim):
        scheduler.set_timesteps(10)
    for timestep in (900, 500, 0):
        seeds = [torch.Generator().manual_seed(3) for _ in range(2)]
        ours, theirs = (s.step(clean, timestep, x, generator=g) for s, g in zip((process, ddpm), seeds, strict=True))
        assert torch.equal(ours.prev_sample, theirs.prev_sample)
    process.ancestral = False
    for timestep in (900, 500, 0):
        ours = process.step(clean, timestep, x).prev_sample
        theirs = ddim.step(clean, timestep, x, eta=0.0).prev_sample
        # 1 - a is near 1e-4 at t = 0: float32 loses digits there
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


def test_ablate_end_to_end(tiny_cache: Path, tmp_path: Path) -> None:
    subject = model(DDPMScheduler(prediction_type="sample"), landmarks=False)
    options: dict[str, Any] = {"start_timesteps": (1, 3), "num_inference_steps": (2,), "verbose": False, "limit": 1}
    report = ablate(subject, tiny_cache, tmp_path, detector=MouthDetector(), num_frames=6, **options)
    rows = report.tables["ablation"].rows
    curves = ["start at t", "t steps, leading", "t steps, trailing"]
    expected = {
        f"{c}, {n}, t = {t}"
        for c in curves
        for n in ("ancestral", "deterministic")
        for t in ((1, 3) if c == curves[0] else (2,))
    }
    assert set(rows) == {REPEATED, WARPED, *expected}
    assert rows["start at t, ancestral, t = 3"]["calls"] == 3
    # what has learnt nothing paints its carrier, the warped reference, whichever way it gets there
    for row in expected:
        assert rows[row]["psnr"] == pytest.approx(rows[WARPED]["psnr"], abs=0.5)  # clipped and rounded otherwise
    assert "start at t" in (tmp_path / "ablation.md").read_text() and (tmp_path / "ablation.png").stat().st_size > 1000
    detector = MouthDetector()
    again = ablate(subject, tiny_cache, tmp_path, detector=detector, num_frames=6, **options)
    assert np.array_equal(
        [r["psnr"] for r in again.tables["ablation"].rows.values()], [r["psnr"] for r in rows.values()]
    )
    assert detector.calls == 6  # the truth's own frames, nothing painted again


def test_every_setting_is_another_process(tiny_cache: Path, tmp_path: Path) -> None:
    subject = model(DDPMScheduler(prediction_type="sample"), landmarks=False)
    for weight in subject.renderer.parameters():  # as training would move them
        weight.data += 0.05 * torch.randn_like(weight)
    options: dict[str, Any] = {"start_timesteps": (3,), "num_inference_steps": (3,), "verbose": False, "limit": 1}
    rows = ablate(subject, tiny_cache, tmp_path, detector=None, num_frames=4, **options).tables["ablation"].rows
    assert len({row["psnr"] for row in rows.values()}) == len(rows) == 8


def test_ablate_of_the_bridge_sweeps_its_steps(tiny_cache: Path, tmp_path: Path) -> None:
    report = ablate(model(landmarks=False), tiny_cache, tmp_path, detector=None, limit=1, num_frames=5, verbose=False)
    steps = [f"t steps, even, deterministic, t = {t}" for t in (1, 2, 4, 8, 20)]
    assert list(report.tables["ablation"].rows) == [REPEATED, WARPED, *steps]
    for name, t in (("num_inference_steps", 2000), ("start_timesteps", 0)):
        with pytest.raises(ValueError, match=rf"^{name} must lie in 1\.\.1000; got {t}$"):
            ablate(model(landmarks=False), tiny_cache, tmp_path, detector=None, **{name: (t,)})


@pytest.mark.parametrize(("width", "heads"), [(200, ["Pictures", "measure 0"]), (60, ["Pictures", "ours"])])
def test_a_table_too_wide_for_the_screen_lies_on_its_side(width, heads, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(width))
    columns = {f"m{n}": (f"measure {n}", 2) for n in range(9)}
    Report({"pictures": Table("Pictures", columns, {"ours": {f"m{n}": n + 0.5 for n in range(9)}})}, {}).print()
    lines = [line for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert all(len(line) <= width for line in lines)
    assert all(head in lines[1] for head in heads) and "…" not in "".join(lines)
    assert any("measure 8" in line and ("8.50" in line) == (width == 60) for line in lines)


@pytest.mark.parametrize("name", ["ours [gan]", "[bold]ours", "[/x]", "a\\[b]"])
def test_names_are_shown_as_they_are(name: str, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "100")
    Report({"one": Table(name, {"psnr": (f"{name}!", 2)}, {f"{name}?": {"psnr": 1.0}})}, {}).print()
    shown = capsys.readouterr().out
    assert all(text in shown for text in (f" {name} ", f"{name}!", f"{name}?"))
