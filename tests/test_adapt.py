"""From a person's clips to a speaker: budget, held-out clips, resumption, and what the report says."""

import json
import math
import os
import shlex
import shutil
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import tiny_face, tiny_frames
from safetensors.torch import load_file
from test_fit import losses
from test_footage import GOOD
from test_preprocess import SIDE, SkinDetector
from torch import Tensor

from talkhead import metrics
from talkhead.adapting.adapt import _base, adapt
from talkhead.adapting.adaptation_report import Adaptation
from talkhead.adapting.comparison import AFTER, AFTER_ONE, BEFORE, NET_AFTER, NET_BEFORE
from talkhead.adapting.fine_tuning import fit_speaker_part, steps_within
from talkhead.adapting.held_out import hold_out
from talkhead.adapting.person import Shots, choose_portrait
from talkhead.cli import main, terminable
from talkhead.data.datamodule import MEADDataModule
from talkhead.data.manifest import read_manifest
from talkhead.data.preprocess import preprocess, process_source
from talkhead.evaluate.rows import REPEATED, WARPED
from talkhead.media.read import VideoWriter
from talkhead.modules.checkpoint import read_checkpoint
from talkhead.modules.landmark import LandmarkGenerator
from talkhead.modules.video import VideoDiffusion
from talkhead.nets.landmark import LandmarkNet
from talkhead.nets.renderer import Renderer
from talkhead.nets.sync import SyncNet
from talkhead.pipeline import TalkingHeadPipeline
from talkhead.schedulers import MaskNoiseBridgeScheduler
from talkhead.speaker.folder import BUNDLED, FINE, export_pipeline
from talkhead.tracking.track import Detection


class Finder(SkinDetector):
    """Finds the rendered face under a name that a speaker may have."""

    name = "dlib"


def talk(path: Path, frames: int, seed: int) -> None:
    """Write a 25-fps video, 64 x 64 px, of a face whose mouth opens as the sound gets loud."""
    generator = torch.Generator().manual_seed(seed)
    opening = torch.rand(frames, generator=generator)
    audio = 0.5 * opening.repeat_interleave(640) * (torch.arange(frames * 640) * 0.2).sin()
    faces = tiny_frames(torch.stack([tiny_face(SIDE, float(o)) for o in opening]), SIDE)
    with VideoWriter(path, 25, (64, 64), audio, preset="ultrafast") as video:
        for picture in faces:
            canvas = torch.tensor([60, 90, 200], dtype=torch.uint8)[:, None, None].repeat(1, 64, 64)
            canvas[:, 16 : 16 + SIDE, 16 : 16 + SIDE] = picture
            video.append(canvas)


@pytest.fixture(scope="module", autouse=True)
def short_epochs() -> Iterator[None]:
    """Save after every two steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("talkhead.adapting.networks.EPOCH", 2)
        yield


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("clips")
    for index in range(3):
        talk(root / f"take{index}.mp4", 45, index)
    return root


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A speaker of untrained networks of 32 px, whose renderer takes further pictures."""
    torch.manual_seed(1)
    parts = tmp_path_factory.mktemp("base")
    LandmarkNet(width=16, layers=1, heads=2).save_pretrained(parts / "landmark")
    Renderer(size=32, widths=(8, 16), patch=2, bank=2).save_pretrained(parts / "video" / "renderer")
    MaskNoiseBridgeScheduler().save_pretrained(parts / "video" / "scheduler")
    return export_pipeline(
        parts / "speaker", landmark=parts / "landmark", emotion=None, video=parts / "video",
        window=8, overlap=2, num_inference_steps=1,
    )  # fmt: skip


def make(clips: Path, output: Path, base: Path, **more: object) -> Path:
    arguments = {"base": base, "minutes": None, "steps": 4, "detector": Finder(), "device": "cpu", "verbose": False}
    return adapt(clips, output, **{**arguments, **more})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def adapted(clips: Path, base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(clips, tmp_path_factory.mktemp("speakers") / "anna", base)


def test_a_folder_of_clips_becomes_a_speaker_with_a_report(adapted: Path) -> None:
    speaker = TalkingHeadPipeline.from_pretrained(adapted, device="cpu")
    result = speaker(adapted / "portrait.png", adapted / "speech.flac", emotion="neutral", detector=Finder(), size=32)
    assert len(result.frames) == 45
    report = json.loads((adapted / "report.json").read_text())
    assert report["training"]["video"].startswith("4 steps in ")
    assert report["footage"]["clips"] == 3 and report["footage"]["seconds"] == pytest.approx(5.4)
    page = (adapted / "report.html").read_text()
    assert "data:image/jpeg;base64," in page and "http" not in page.replace("http-equiv", "")
    assert report["verdict"][0] in page


def test_a_base_whose_windows_overlap_too_far_is_read_as_the_pipeline_reads_it(base: Path, tmp_path: Path) -> None:
    """Such were exported; adapting one failed when the training had been done."""
    shutil.copytree(base, tmp_path / "base")
    info = json.loads((base / "pipeline.json").read_text())
    (tmp_path / "base" / "pipeline.json").write_text(json.dumps(info | {"window": 6, "overlap": 4}))
    assert _base(tmp_path / "base", torch.device("cpu")).info["overlap"] == 3


def test_the_reports_numbers_are_those_of_the_held_out_clip(adapted: Path) -> None:
    report = json.loads((adapted / "report.json").read_text())
    cache = adapted.with_name("anna.work") / "cache"
    (name,) = hold_out([json.loads(line) for line in (cache / "manifest.jsonl").read_text().splitlines()])
    assert report["held_out"]["held out"].startswith(f"{name}: 1 of 3 clips, 1.8 s")
    tensors = load_file(cache / "clips" / f"{name}.safetensors")
    truth, points = tensors["frames"][1:], tensors["landmarks"][1:]
    error = (tensors["frames"][:1].double() - truth.double()).square()
    psnr = 10 * torch.log10(255**2 / error.flatten(1).mean(1))
    assert report["tables"]["pictures"][REPEATED]["psnr"] == pytest.approx(psnr.clamp_max(100).mean().item(), abs=1e-3)
    x0, y0, x1, y1 = metrics.mouth_box(points, 32)
    mouth = 10 * torch.log10(255**2 / error[..., y0:y1, x0:x1].flatten(1).mean(1))
    assert report["tables"]["pictures"][REPEATED]["mouth_psnr"] == pytest.approx(
        mouth.clamp_max(100).mean().item(), abs=1e-3
    )


def test_stopped_at_any_moment_the_same_call_goes_on(
    adapted: Path, clips: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGTERM when the renderer's third step has moved the weights, then a failure while judging: the third call ends
    with the same weights."""
    step, made = VideoDiffusion.optimizer_step, []

    def terminated(module: VideoDiffusion, *arguments: Any, **options: Any) -> None:
        step(module, *arguments, **options)
        made.append(1)
        if len(made) == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(VideoDiffusion, "optimizer_step", terminated)
        with terminable(), pytest.raises(KeyboardInterrupt):
            make(clips, tmp_path / "anna", base)
    assert read_checkpoint(tmp_path / "anna.work" / "video" / "checkpoints" / "last.ckpt")["global_step"] == 3
    with monkeypatch.context() as patch:
        patch.setattr("talkhead.adapting.adapt.choose_portrait", lambda shots: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            make(clips, tmp_path / "anna", base)
    assert not (tmp_path / "anna").exists()
    monkeypatch.setattr("talkhead.adapting.networks.fit_speaker_part", no_more_training(fit_speaker_part))
    anna = make(clips, tmp_path / "anna", base)
    weights, unbroken = (load_file(next((path / "renderer").glob("*.safetensors"))) for path in (anna, adapted))
    for name, weight in unbroken.items():
        torch.testing.assert_close(weights[name], weight)
    broken = losses(anna.with_name("anna.work") / "video")
    assert broken == pytest.approx(losses(adapted.with_name("anna.work") / "video"), rel=1e-5) and len(broken) == 4
    before = (anna / "report.html").read_bytes()
    assert make(clips, tmp_path / "anna", base) == anna and (anna / "report.html").read_bytes() == before


def no_more_training(fit: Any) -> Any:
    """Return a fit that must find its run ended."""

    def ended(module: Any, data: Any, folder: Path, **options: Any) -> Any:
        assert (folder / "done.json").is_file()
        return fit(module, data, folder, **options)

    return ended


def test_a_clip_that_can_be_read_only_later_changes_nothing(
    clips: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker dies of a clip in the first call; the second, which can read it, keeps it from the training, too."""
    kept_out: list[list[str]] = []

    def stopped(net: Any, root: Path, untaught: list[str], folder: Path, **options: Any) -> Any:
        kept_out.append(untaught)
        raise KeyboardInterrupt

    def dying(task: Any, sources: Any, job: Any, workers: int) -> Iterator[Any]:
        for source in sources:
            yield source, "it died" if source.name == "take1" else process_source(source, job, lambda: False)

    monkeypatch.setattr("talkhead.adapting.adapt.tune_landmark_net", stopped)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("talkhead.adapting.adapt.LEAST_SECONDS", 1.0)
        patch.setattr("talkhead.adapting.adapt.preprocess", partial(preprocess, engine=dying))
        make(clips, tmp_path / "anna", base)
    with pytest.raises(KeyboardInterrupt):
        make(clips, tmp_path / "anna", base)
    assert kept_out == [["take0"], ["take0", "take1"]]


def test_a_finished_report_is_of_the_judge_that_is_given(
    adapted: Path, clips: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what the refusal advises judges anew without training again."""
    with pytest.raises(FileNotFoundError, match="sync: no checkpoint or folder"):
        make(clips, adapted, base, sync=tmp_path / "nothing.ckpt")
    for name in ("judge", "other"):
        SyncNet(width=8, dimensions=8).save_pretrained(tmp_path / name)
    with pytest.raises(ValueError, match="^sync: the report in '.*anna' is not by this judge; delete that folder, but"):
        make(clips, adapted, base, sync=tmp_path / "judge")
    shutil.copytree(adapted.with_name("anna.work"), tmp_path / "anna.work")
    monkeypatch.setattr("talkhead.adapting.networks.fit_speaker_part", no_more_training(fit_speaker_part))
    for _ in range(2):
        anna = make(clips, tmp_path / "anna", base, sync=tmp_path / "judge")
    assert json.loads((anna / "report.json").read_text())["footage"]["sync_by"] == "expert"
    assert make(clips, anna, base) == anna
    with pytest.raises(ValueError, match="is not by this judge"):
        make(clips, anna, base, sync=tmp_path / "other")


def test_what_cannot_be_is_refused_in_one_sentence(clips: Path, base: Path, adapted: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="clips: .* does not exist"):
        make(tmp_path / "nowhere", tmp_path / "a", base)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="clips: there is no video"):
        make(tmp_path / "empty", tmp_path / "a", base)
    with pytest.raises(ValueError, match="has no pipeline.json"):
        make(clips, tmp_path / "a", tmp_path / "empty")
    with pytest.raises(FileExistsError, match="exists and was not made of these clips"):
        make(clips, adapted, base, seed=1)
    with pytest.raises(ValueError, match="seed must be a whole number from 0"):
        make(clips, tmp_path / "a", base, seed=-1)
    with pytest.raises(ValueError, match="minutes must be above 0"):
        make(clips, tmp_path / "a", base, minutes=0.0, steps=None)
    with pytest.raises(ValueError, match="give minutes or steps"):
        make(clips, tmp_path / "a", base, minutes=1.0)
    with pytest.raises(ValueError, match="workers must be at least 1; got 0"):
        make(clips, tmp_path / "a", base, workers=0)
    with pytest.raises(ValueError, match="size must be 32, what the base 'speaker' paints; got 64"):
        make(clips, tmp_path / "a", base, size=64)
    with pytest.raises(FileNotFoundError, match="sync: no checkpoint or folder"):
        make(clips, tmp_path / "a", base, sync=tmp_path / "nothing.ckpt")
    assert not (tmp_path / "a").exists() and not (tmp_path / "a.work").exists()


def test_a_base_is_completed_or_refused_before_the_work(clips: Path, base: Path, tmp_path: Path) -> None:
    shutil.copytree(base, tmp_path / "old")
    info = json.loads((tmp_path / "old" / "pipeline.json").read_text())
    for name in ("fps", "crop_scale", "window", "overlap", "num_inference_steps"):
        del info[name]
    (tmp_path / "old" / "pipeline.json").write_text(json.dumps(info))
    found = _base(tmp_path / "old", torch.device("cpu")).info
    assert found == {**info, **TalkingHeadPipeline.from_pretrained(tmp_path / "old", device="cpu").info}
    shutil.copytree(BUNDLED / "head", tmp_path / "old" / "head")
    (tmp_path / "old" / "head" / "diffusion_pytorch_model.safetensors").write_bytes(b"cut off")
    with pytest.raises(ValueError, match="^pipeline: '.*old' is damaged or incomplete .*head.*export it again$"):
        make(clips, tmp_path / "a", tmp_path / "old")
    with pytest.raises(ValueError, match="^output: '.*' is that of the clips, or holds it"):
        make(clips, clips / "a" / "..", base)
    assert not (tmp_path / "a.work").exists()


@pytest.fixture
def finer_base(base: Path, tmp_path: Path) -> Path:
    """The base, with a renderer of 36 px for large faces."""
    torch.manual_seed(2)
    shutil.copytree(base, tmp_path / "finer")
    Renderer(size=36, widths=(8, 16), patch=3, bank=2).save_pretrained(tmp_path / "finer" / FINE)
    return tmp_path / "finer"


@pytest.mark.parametrize(("size", "painted"), [(36, 36), (None, 32)])
def test_the_size_chooses_the_renderer_that_learns(
    clips: Path, finer_base: Path, tmp_path: Path, size: int | None, painted: int
) -> None:
    made = make(clips, tmp_path / "anna", finer_base, size=size, steps=2)
    speaker = TalkingHeadPipeline.from_pretrained(made, device="cpu")
    assert speaker.renderer.config.size == painted and speaker.fine_renderer is None
    start = Renderer.from_pretrained(finer_base / (FINE if painted == 36 else "renderer")).state_dict()
    moved = [(start[name] - weight).abs().max().item() for name, weight in speaker.renderer.state_dict().items()]
    assert 0 < max(moved) < 0.01  # taught from those weights, two steps long
    assert all(entry["size"] == painted for entry in read_manifest(tmp_path / "anna.work" / "cache"))


def test_the_card_names_the_base_as_it_was_named(adapted: Path, base: Path) -> None:
    assert "Adapted from the speaker 'speaker' " in (adapted / "README.md").read_text()
    assert _base("bundled", torch.device("cpu")).name == "bundled"


def test_the_last_line_can_be_copied_into_a_shell(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("talkhead.adapting.adapt.adapt", lambda clips, output, **options: Path(output))
    assert main(["adapt", "clips", "--output", "my speakers/anna"]) == 0
    assert shlex.split(capsys.readouterr().out)[4] == "my speakers/anna"


def test_clips_without_a_face_or_too_short_are_refused(base: Path, tmp_path: Path) -> None:
    (tmp_path / "short").mkdir()
    for index in range(3):
        talk(tmp_path / "short" / f"take{index}.mp4", 20, index)
    with pytest.raises(ValueError, match=r"clips: 2\.4 s of usable video .* are too little; give at least 5 s"):
        make(tmp_path / "short", tmp_path / "a", base)
    with pytest.raises(ValueError, match=r"was begun with seed=0, not 1; go on with the same arguments"):
        make(tmp_path / "short", tmp_path / "a", base, seed=1)
    talk(tmp_path / "short" / "take3.mp4", 20, 3)
    with pytest.raises(ValueError, match=r"was begun with videos='3 videos, 2\.40 s', not '4 videos, 3\.20 s'"):
        make(tmp_path / "short", tmp_path / "a", base)

    class Blind(Finder):
        def __call__(self, image: Tensor, face: str | int = "largest") -> Detection | None:
            return None

    with pytest.raises(ValueError, match=r"clips: none of .* can be used \(take0: .*face"):
        make(tmp_path / "short", tmp_path / "b", base, detector=Blind())


def test_a_budget_of_minutes_becomes_steps() -> None:
    """Two minutes, 11 steps made in 15 s, the others take 0.7 s each: 11 + floor(105 / 0.7)."""
    assert steps_within(2.0, [0.7, 0.6, 0.8], made=11, spent=15.0) == 11 + 150
    assert steps_within(0.01, [1.0], made=11, spent=15.0) == 20


def test_the_first_steps_tell_how_many_there_are(clips: Path, base: Path, tmp_path: Path, adapted: Path) -> None:
    """The plan is made once; the rate's cosine reaches 0 at its end, and never rises again. That of a run that was
    killed before its first checkpoint is forgotten: its cosine would begin with the first step."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "plan.json").write_text('{"steps": 23}')
    cache = adapted.with_name("anna.work") / "cache"
    rates: list[float] = []
    data = MEADDataModule(str(cache), modality="landmarks", num_frames=10, samples_per_clip=8, held_out=["take0"])
    module = LandmarkGenerator(LandmarkNet(width=16, layers=1, heads=2), size=32)
    module.on_before_zero_grad = lambda optimizer: rates.append(optimizer.param_groups[0]["lr"])  # type: ignore[method-assign]
    told = fit_speaker_part(module, data, tmp_path / "run", title="", minutes=1e-6, decay=0.5, verbose=False)
    assert told["steps"] == 20 and json.loads((tmp_path / "run" / "plan.json").read_text())["steps"] == 20
    assert rates[5] == pytest.approx(1e-4) and rates[-1] == pytest.approx(
        1e-4 * (1 + math.cos(math.pi * 19 / 20)) / 2, rel=1e-3
    )


def told(after: float, bank: float, net: float = 2.0, psnr: float = 31.0) -> Adaptation:
    """Return an adaptation whose mouths were at 30 dB before."""
    pictures = {
        REPEATED: {"psnr": 25.0, "mouth_psnr": 24.0}, WARPED: {"psnr": 29.0, "mouth_psnr": 31.0},
        BEFORE: {"psnr": 30.0, "mouth_psnr": 30.0}, AFTER_ONE: {"psnr": 30.5, "mouth_psnr": after},
        AFTER: {"psnr": psnr, "mouth_psnr": bank},
    }  # fmt: skip
    landmarks = {NET_BEFORE: {"m_ld_centred": 2.5}, NET_AFTER: {"m_ld_centred": net}}
    return Adaptation("anna", GOOD, [], {}, {}, {"pictures": pictures, "landmarks": landmarks}, {})


def test_the_verdict_follows_from_the_held_out_clips() -> None:
    helped = told(31.0, 32.5)
    assert helped.gain() == pytest.approx({"psnr": 1.0, "mouth_psnr": 2.5, "mouth_over_warp": 1.5})
    assert helped.keeps_bank() and helped.keeps_net() and "The adaptation helped" in helped.verdict()[0]
    harmed = told(29.0, 28.0, net=3.0)
    assert not harmed.keeps_bank() and not harmed.keeps_net() and harmed.gain()["psnr"] == 0.5
    assert "did harm in another" in harmed.verdict()[0]
    assert "mouth 1.00 dB further from the truth" in harmed.verdict()[0]
    assert "The adaptation changed little" in told(30.2, 30.2, psnr=30.1).verdict()[0]
    assert "The adaptation did harm" in told(29.0, 29.0, psnr=30.1).verdict()[0]
    assert [word in " ".join(harmed.verdict()) for word in ("were left out", "which was kept", "good enough")] == [
        True
    ] * 3


def test_the_portrait_looks_ahead_with_the_mouth_shut() -> None:
    faces = torch.stack([tiny_face(32, opening) for opening in (0.9, 0.1, 0.6)])
    faces[2, 30, 0] += 4  # the nose aside: turned
    shots = Shots(tiny_frames(faces), faces, [(0, 0), (0, 1), (0, 2)])
    assert choose_portrait(shots) == 1
