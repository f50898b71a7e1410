"""From a person's clips to a speaker: budget, held-out clips, resumption, and what the report says."""

import json
from pathlib import Path

import pytest
import torch
from conftest import tiny_face, tiny_frames
from safetensors.torch import load_file
from test_preprocess import SIDE, SkinDetector

from talkhead import metrics
from talkhead.adapting.adapt import adapt
from talkhead.adapting.adaptation_report import Adaptation
from talkhead.adapting.comparison import AFTER, AFTER_ONE, BEFORE, NET_AFTER, NET_BEFORE
from talkhead.adapting.fine_tuning import steps_within
from talkhead.adapting.footage import pixel_noise, remarks
from talkhead.adapting.held_out import clip_seconds, hold_out
from talkhead.adapting.person import Shots, choose_portrait
from talkhead.data.dataset import ClipDataset
from talkhead.evaluate.rows import REPEATED, WARPED
from talkhead.media.read import VideoWriter
from talkhead.nets.landmark import LandmarkNet
from talkhead.nets.renderer import Renderer
from talkhead.pipeline import TalkingHeadPipeline
from talkhead.schedulers import MaskNoiseBridgeScheduler
from talkhead.speaker.folder import export_pipeline


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
