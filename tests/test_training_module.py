"""What the trainings share: precision, stages, clips that count once, the run's length, gradients for everything."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import tiny_encoder, tiny_face
from lightning import Trainer
from test_fit import fit
from torch.utils.data import DataLoader, DistributedSampler

from talkhead.augmentation.pictures import jitter, recolour
from talkhead.data.clip import Clip
from talkhead.data.datamodule import MEADDataModule
from talkhead.data.dataset import collate
from talkhead.face.frame import face_frame, to_face
from talkhead.metrics import landmark_distance, psnr, ssim
from talkhead.modules.emotion import EmotionClassifier
from talkhead.modules.landmark import LandmarkGenerator
from talkhead.modules.training_module import TrainingModule, without_repeats
from talkhead.modules.video import VideoDiffusion
from talkhead.nets.conformer import ConformerClassifier
from talkhead.nets.landmark import LandmarkNet
from talkhead.nets.renderer import Renderer

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers.*",
    "ignore:.*LeafSpec.*:FutureWarning",
    "ignore:.*fp16 is not supported on CPU",
    "ignore:Precision .* is not supported by the model summary",
)


def quiet(**options: Any) -> Trainer:
    return Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, num_sanity_val_steps=0, **options,
    )  # fmt: skip


def video_data(cache: Path) -> MEADDataModule:
    return MEADDataModule(str(cache), batch_size=4, num_frames=4, val_fraction=0.25)


def renderer() -> VideoDiffusion:
    torch.manual_seed(0)
    return VideoDiffusion(Renderer(size=32, widths=(8, 16), patch=2), num_inference_steps=1)


# Precision.


@pytest.mark.parametrize("precision", ["16-mixed", "bf16-mixed"])
@pytest.mark.parametrize("module", ["landmark", "emotion", "video"])
def test_mixed_precision_trains_and_validates(module: str, precision: str, tiny_cache: Path, tmp_path: Path) -> None:
    assert fit(module, tiny_cache, tmp_path, "--trainer.max_epochs=1", f"--trainer.precision={precision}") == 0
    state = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert all(value.isfinite().all() for value in state.values())
    assert {value.dtype for value in state.values() if value.is_floating_point()} == {torch.float32}


@pytest.mark.parametrize("precision", ["16-true", "bf16-true", "64-true"])
@pytest.mark.parametrize("module", ["landmark", "emotion", "video"])
def test_other_precisions_are_refused(
    module: str, precision: str, tiny_cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit(module, tiny_cache, tmp_path, "--trainer.max_epochs=1", f"--trainer.precision={precision}") == 2
    said = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert len(said) == 1 and "must be one of 32-true, 16-mixed, bf16-mixed" in said[0] and repr(precision) in said[0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_coordinates_colours_and_ssim_are_float32_under_autocast(dtype: torch.dtype) -> None:
    frames, face = torch.rand(2, 3, 3, 32, 32), tiny_face(32).expand(2, 3, -1, -1)
    pictures = (255 * frames).to(torch.uint8)

    def everything() -> list[torch.Tensor]:
        generator = torch.Generator().manual_seed(3)
        moved = jitter(frames, face, 1.0, generator)
        frame = face_frame(moved[1])
        return [*moved, recolour(frames, 1.0, generator), to_face(moved[1], frame), ssim(pictures, pictures.flip(0))]

    expected = everything()
    with torch.autocast("cpu", dtype):
        found = everything()
    for value, truth in zip(found, expected, strict=True):
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, truth, atol=1e-5, rtol=1e-5)


def test_the_same_recipe_is_measured_alike_in_float32_and_bf16(tiny_cache: Path) -> None:
    module, (clip,) = renderer(), [collate([video_data(tiny_cache).dataset("val", num_frames=4)[i] for i in range(3)])]
    logged = {}
    for precision in ("32-true", "bf16-mixed"):
        (logged[precision],) = quiet(precision=precision).validate(module, video_data(tiny_cache), verbose=False)
    carrier = [result["val/psnr_carrier"] for result in logged.values()]
    assert carrier[0] == pytest.approx(carrier[1], abs=0.02)  # dB
    with torch.no_grad():
        painted, warped = module._sampled(clip)
    assert clip.frames is not None
    assert logged["32-true"]["val/ssim"] == pytest.approx(ssim(painted, clip.frames).item(), abs=1e-5)
    assert logged["32-true"]["val/psnr"] == pytest.approx(psnr(painted, clip.frames).item(), abs=1e-3)
    assert carrier[0] == pytest.approx(psnr(warped, clip.frames).item(), abs=1e-3)


# Stages.


def test_a_test_is_logged_as_a_test(tiny_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = MEADDataModule(str(tiny_cache), num_frames=4, test_fraction=0.25)
    (result,) = quiet().test(renderer(), data, verbose=False)
    assert set(result) == {"test/psnr", "test/ssim", "test/psnr_carrier"}
    assert not list(tmp_path.iterdir()), "without a log nothing is written"


def test_landmarks_are_validated_blind_and_the_shown_net_has_a_name_of_its_own(tiny_cache: Path) -> None:
    net = LandmarkNet(width=8, heads=2, portrait_view="summary")
    for weight in (net.head[-1].weight, net.habit.weight):
        torch.nn.init.normal_(weight, std=0.3)
    module = LandmarkGenerator(net, portrait=0.5, size=32)
    data = MEADDataModule(str(tiny_cache), batch_size=4, num_frames=8, modality="landmarks", val_fraction=0.25)
    (result,) = quiet().validate(module, data, verbose=False)
    part = data.dataset("val", num_frames=8)
    clip = collate([part[i] for i in range(3)])
    for shown, name in ((False, "val/M-LD"), (True, "val/M-LD_shown")):
        with torch.no_grad():
            made = module.eval()(clip, shown=shown)
        distance = landmark_distance(made, clip.landmarks, "mouth", unit="px256", size=32)  # type: ignore[arg-type]
        assert result[name] == pytest.approx(distance.item(), rel=1e-4)
    assert abs(result["val/M-LD"] - result["val/M-LD_shown"]) > 0.01


@pytest.mark.parametrize(("clips", "batch", "processes"), [(3, 2, 2), (9, 2, 4), (1, 4, 3), (8, 2, 2)])
def test_clips_that_fill_up_processes_do_not_count(clips: int, batch: int, processes: int) -> None:
    def numbered(indices: list[int]) -> Clip:
        index = torch.tensor(indices)
        return Clip(audio=index[:, None].float(), emotion=index, fps=index.float(), samples=index)

    counted = []
    for rank in range(processes):
        sampler: DistributedSampler[int] = DistributedSampler(range(clips), processes, rank, shuffle=False)  # type: ignore[arg-type]
        loader = DataLoader(range(clips), batch, sampler=sampler, collate_fn=numbered)  # type: ignore[arg-type]
        for index, given in enumerate(loader):
            own = without_repeats(given, index, loader)
            counted += [] if own is None else own.emotion.tolist()
    assert sorted(counted) == list(range(clips))


# Length.


def rates(cache: Path, **limits: Any) -> list[float]:
    """Return the learning rate after each step of a landmark training, relative to that of the start."""
    module = LandmarkGenerator(LandmarkNet(width=8, heads=2), size=32)
    found: list[float] = []
    module.on_train_batch_end = lambda *_: found.append(module.optimizers().param_groups[0]["lr"] / 1e-4)  # type: ignore
    data = MEADDataModule(str(cache), batch_size=2, num_frames=8, modality="landmarks", val_fraction=0)
    quiet(**limits).fit(module, data)
    return found


@pytest.mark.filterwarnings("ignore:.*no `val_dataloader`", "ignore:Total length of `list`")
def test_without_a_number_of_epochs_the_rate_follows_steps_or_time(tiny_cache: Path) -> None:
    steps = rates(tiny_cache, max_epochs=-1, max_steps=12)
    assert len(steps) == 12 and 0.3 < steps[6] < 0.7 and steps[-1] < 0.1
    seconds = rates(tiny_cache, max_epochs=-1, max_time={"seconds": 2})
    assert seconds == sorted(seconds, reverse=True) and seconds[0] > 0.5 and seconds[-1] < 0.1


def test_a_run_without_an_end_is_refused(tiny_cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fit("landmark", tiny_cache, tmp_path, "--trainer.max_epochs=-1") == 2
    assert "set trainer.max_epochs, trainer.max_steps or trainer.max_time" in capsys.readouterr().err


# Gradients: a process group waits for every parameter's.


def landmark(**options: Any) -> Callable[[Path], TrainingModule]:
    portrait = options.pop("portrait", 0.0)
    return lambda folder: LandmarkGenerator(LandmarkNet(width=8, heads=2, **options), portrait=portrait, size=32)


def encoded(module: str, kind: str) -> Callable[[Path], TrainingModule]:
    def make(folder: Path) -> TrainingModule:
        encoder = {"encoder": tiny_encoder(kind, folder), "freeze_encoder": False}
        if module == "emotion":
            return EmotionClassifier(ConformerClassifier("XS", **encoder))
        return LandmarkGenerator(LandmarkNet(width=8, heads=2, **encoder), size=32)

    return make


MODULES: dict[str, Callable[[Path], TrainingModule]] = {
    "landmark": landmark(),
    "landmark, portrait never shown": landmark(portrait_view="points"),
    "landmark, portrait shown": landmark(portrait_view="summary", portrait=0.5, habits=2),
    "landmark, raw": landmark(branches=("raw",), fusion="concat", recurrent="gru"),
    "landmark, wav2vec": encoded("landmark", "wav2vec2"),
    "landmark, whisper": encoded("landmark", "whisper"),
    "emotion": lambda folder: EmotionClassifier(ConformerClassifier("XS", pitch=True, batch_norm=True)),
    "emotion, hubert": encoded("emotion", "hubert"),
    "emotion, wavlm": encoded("emotion", "wavlm"),
    "video": lambda folder: renderer(),
    "video, bank": lambda folder: VideoDiffusion(Renderer(size=32, widths=(8, 16), bank=2), detail_weight=1.0),
    "video, own answers": lambda folder: VideoDiffusion(Renderer(size=32, widths=(8, 16)), own_share=1.0),
}


@pytest.mark.parametrize("name", MODULES)
def test_every_trained_parameter_gets_a_gradient(name: str, tiny_cache: Path, tmp_path: Path) -> None:
    module = MODULES[name](tmp_path / "encoder")
    module.train().log = lambda *args, **kwargs: None  # type: ignore[method-assign,assignment]
    kind = {"l": "landmarks", "e": "audio", "v": "video"}[name[0]]
    data = MEADDataModule(str(tiny_cache), batch_size=4, num_frames=8, modality=kind, audio_seconds=0.48)  # type: ignore[arg-type]
    batch = next(iter(data.train_dataloader()))
    module.training_step(batch, 0).backward()
    assert not [n for n, p in module.named_parameters() if p.requires_grad and p.grad is None]


@pytest.mark.parametrize("kind", ["landmarks", "video"])
def test_the_gradient_of_a_batch_is_the_mean_of_its_parts(kind: Any, tiny_cache: Path) -> None:
    """So accumulated batches, and processes that share a batch, train as one; nothing is drawn here."""
    still = {"last_step_share": 1.0, "class_dropout": 0.0, "mouth_weight": 2.0, "eye_weight": 1.0}
    module: TrainingModule = (
        VideoDiffusion(Renderer(size=32, widths=(8, 16), threshold=1e6), **still)  # type: ignore[arg-type]
        if kind == "video"
        else LandmarkGenerator(LandmarkNet(width=8, heads=2, dropout=0.0, spec_augment=False), velocity_weight=1.0)
    )
    module.log = lambda *args, **kwargs: None  # type: ignore[method-assign,assignment]
    part = MEADDataModule(str(tiny_cache), num_frames=8, modality=kind).dataset("train", True, 8)
    clips = [part[i] for i in range(4)]
    for weight in module.parameters():
        torch.nn.init.normal_(weight, std=0.1)

    def gradient(batches: list[list[Clip]]) -> torch.Tensor:
        module.zero_grad()
        for batch in batches:
            (module.training_step(collate(batch), 0) / len(batches)).backward()
        return torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None])

    whole, parts = gradient([clips]), gradient([clips[:1], clips[1:2], clips[2:3], clips[3:]])
    assert (whole - parts).norm() < 1e-4 * whole.norm()
