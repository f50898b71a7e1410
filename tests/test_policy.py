"""What training is meant to do, however it is written: who draws what, in which share, and where the loss looks."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from conftest import tiny_face
from lightning import LightningModule, Trainer
from skimage.metrics import structural_similarity
from test_fit import fit
from test_video import SMALL, batch_of
from torch.utils._python_dispatch import TorchDispatchMode

from talkhead import training
from talkhead.augmentation.pictures import mirror
from talkhead.augmentation.spectrum import FrameAugmentation
from talkhead.data.clip import EMOTIONS, Clip
from talkhead.data.datamodule import EpochSampler, MEADDataModule
from talkhead.data.dataset import ClipDataset
from talkhead.metrics import ssim
from talkhead.modules.averaging import EMA
from talkhead.modules.emotion import EmotionClassifier
from talkhead.modules.landmark import LandmarkGenerator
from talkhead.modules.video import VideoDiffusion
from talkhead.nets.conformer import ConformerClassifier
from talkhead.nets.landmark import LandmarkNet
from talkhead.nets.renderer import Renderer
from talkhead.ops.landmark_mask import UNIT, disc_limit
from talkhead.ops.mask_noise import mask_noise
from talkhead.pipeline import export_pipeline

LIGHTNING = (
    "ignore:.*does not have many workers.*",
    "ignore:.*LeafSpec.*:FutureWarning",
    "ignore:.*no `validation_step`",
    "ignore:.*no `val_dataloader`",
)
QUIET: dict[str, Any] = {
    "accelerator": "cpu",
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "enable_checkpointing": False,
    "num_sanity_val_steps": 0,
}


# Who draws what.


class Windows(LightningModule):
    """Keeps what identifies each window that it is shown, epoch by epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: dict[int, set[bytes]] = {}

    def training_step(self, batch: Clip, index: int) -> torch.Tensor:
        assert batch.landmarks is not None
        shown = {window.numpy().tobytes() for window in batch.landmarks}
        self.seen.setdefault(self.current_epoch, set()).update(shown)
        return self.weight * batch.audio.mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.filterwarnings(*LIGHTNING)
def test_the_epoch_reaches_the_windows(tiny_cache: Path) -> None:
    data = MEADDataModule(str(tiny_cache), batch_size=4, num_frames=3, modality="landmarks")
    module = Windows()
    Trainer(max_epochs=3, **QUIET).fit(module, data)
    windows = ClipDataset(tiny_cache, data.names("train"), 3, random=True, modality="landmarks")
    for epoch in range(3):
        drawn = {windows[epoch, i].landmarks.numpy().tobytes() for i in range(len(windows))}  # type: ignore[union-attr]
        assert module.seen[epoch] == drawn
    assert len(module.seen[0] & module.seen[1]) < len(module.seen[0]) / 2


def test_ranks_see_different_clips(tiny_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = ClipDataset(tiny_cache, [f"clip{i:02d}" for i in range(12)], 3, random=True)
    shares = []
    for rank in range(3):
        monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
        monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 3)
        monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
        shares.append([index for _, index in EpochSampler(dataset)])
    assert [len(share) for share in shares] == [4, 4, 4]
    assert sorted(sum(shares, [])) == list(range(12))


def trained_at(module: Any, epoch: int, batch: int, rank: int, clip: Clip) -> None:
    """Do one training step as a trainer at that place would."""
    module._trainer = SimpleNamespace(current_epoch=epoch, global_rank=rank, barebones=True)
    module.on_train_batch_start(clip, batch)
    module.training_step(clip, batch)


PLACES = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]


def test_rank_batch_and_epoch_reach_the_renderers_draws() -> None:
    module = VideoDiffusion(Renderer(**SMALL), jitter=1.0)
    prepared: list[tuple[Any, ...]] = []
    prepare = module.renderer.prepare

    def spy(reference: torch.Tensor, source: torch.Tensor, target: torch.Tensor, **options: Any) -> Any:
        prepared.append((*options["seed"].tolist(), *source[:, 0, 0].tolist()))
        return prepare(reference, source, target, **options)

    module.renderer.prepare, module.log = spy, lambda *args, **kwargs: None  # type: ignore[method-assign,assignment]
    clip = batch_of()
    for place in [*PLACES, PLACES[0]]:
        trained_at(module, *place, clip)
    assert prepared[0] == prepared[4]
    for draws in zip(*prepared[:4], strict=True):
        assert len(set(draws)) == 4, "a mask's seed or a clip's jitter stays the same"


@pytest.mark.filterwarnings(*LIGHTNING)
def test_every_batch_of_an_accumulated_step_has_its_own_draws() -> None:
    module = VideoDiffusion(Renderer(**SMALL))
    seeds: list[int] = []
    prepare = module.renderer.prepare

    def spy(*places: Any, **options: Any) -> Any:
        seeds.extend(options["seed"].tolist())
        return prepare(*places, **options)

    module.renderer.prepare = spy  # type: ignore[method-assign]
    loader = torch.utils.data.DataLoader([batch_of(2)] * 6, batch_size=None)
    Trainer(max_epochs=2, accumulate_grad_batches=3, **QUIET).fit(module, loader)
    assert len(seeds) == len(set(seeds)) == 24


def test_rank_batch_and_epoch_reach_dropout_and_augmentation() -> None:
    class Drawing(LandmarkGenerator):
        def training_step(self, clip: Any, batch_idx: int) -> torch.Tensor:
            drawn.append(torch.rand(()).item())
            return torch.zeros(())

    drawn: list[float] = []
    module = Drawing(LandmarkNet(width=8, heads=2))
    for place in [*PLACES, PLACES[0]]:
        trained_at(module, *place, batch_of())
    assert drawn[0] == drawn[4] and len(set(drawn)) == 4


# In which share.


def test_class_dropout_last_step_and_own_answers_happen_in_their_share() -> None:
    module = VideoDiffusion(Renderer(**SMALL), class_dropout=0.3, last_step_share=0.6, own_share=0.25)
    module.log = lambda *args, **kwargs: None  # type: ignore[method-assign,assignment]
    calls: list[tuple[Any, ...]] = []
    module.renderer.register_forward_pre_hook(lambda _, given: calls.append(given))
    clip, without, last, own = batch_of(), [], [], []
    for batch in range(100):
        calls.clear()
        with torch.no_grad():
            trained_at(module, 0, batch, 0, clip)
        _, timesteps, _, emotion = calls[-1]
        without += (emotion.sum(-1) == 0).tolist()
        own.append(len(calls) > 1)
        last += [] if len(calls) > 1 else (timesteps == 999).tolist()
    for found, share in ((without, 0.3), (last, 0.6), (own, 0.25)):
        deviation = math.sqrt(share * (1 - share) / len(found))
        assert abs(sum(found) / len(found) - share) < 4 * deviation


# Where the loss looks.


def test_eye_weight_lies_on_the_eyes() -> None:
    landmarks = tiny_face(64).expand(1, 2, -1, -1)
    weight = VideoDiffusion(Renderer(**{**SMALL, "size": 64}), eye_weight=3.0)._weight(landmarks)
    x, y = landmarks[0, 0].round().long().unbind(-1)
    at_points = weight[0, 0, 0, y, x]
    assert at_points[36:48].min() > 3.5 and weight.max() <= 4
    assert at_points[48:].max() < 1.01 and at_points[:17].max() < 1.5 and weight[..., -1, -1].max() < 1.01


def test_class_weights_are_in_the_loss() -> None:
    net = ConformerClassifier("XS", dropout=0.0, head_dropout=0.0)
    off = FrameAugmentation(0, 0, 0, 0, 0, masks=0)
    module = EmotionClassifier(net, augmentation=off, mixup=0.0, label_smoothing=0.0).eval()
    module.log = lambda *args, **kwargs: None  # type: ignore[method-assign,assignment]
    frames, lengths, emotion = torch.randn(3, 40, 80), torch.full((3,), 40), torch.tensor([0, 4, 4])
    alone = torch.nn.functional.cross_entropy(net.classify(frames, lengths), emotion, reduction="none")
    module.class_weights.copy_(torch.arange(1.0, 1 + len(EMOTIONS)))
    expected = (alone * torch.tensor([1.0, 5.0, 5.0])).mean()
    torch.testing.assert_close(module.learn(frames, lengths, emotion), expected)


@pytest.mark.parametrize(("low", "high", "shift"), [(0, 6, 3), (0, 40, 12), (120, 160, 40)])
def test_ssim_of_dark_and_of_shifted_pictures(low: int, high: int, shift: int) -> None:
    """In the dark and for a constant difference K1 decides, which bright noise does not show."""
    target = torch.randint(low, high, (3, 24, 24)).to(torch.uint8)
    options: dict[str, Any] = {"channel_axis": 0, "data_range": 255, "gaussian_weights": True, "sigma": 1.5}
    pred = target + shift
    expected = structural_similarity(target.numpy(), pred.numpy(), use_sample_covariance=False, **options)
    assert ssim(pred, target).item() == pytest.approx(expected, abs=1e-4)


def test_mirror_renames_every_point() -> None:
    """A symmetric face in the middle of its picture is its own mirror image, point by point."""
    face = tiny_face(32).expand(1, 2, -1, -1)
    assert (face[..., 0] - 15.5).abs().max() > 5
    _, mirrored = mirror(torch.zeros(1, 2, 3, 32, 32), face, 1.0, torch.Generator())
    torch.testing.assert_close(mirrored, face, atol=1e-4, rtol=0)


def two_squares(number: int) -> tuple[int, int] | None:
    """Return integers whose squares add up to the number, the larger first."""
    for x in range(math.isqrt(number), 0, -1):
        y = math.isqrt(number - x * x)
        if x * x + y * y == number:
            return x, y
    return None


def test_the_discs_edge() -> None:
    """A pixel at the last distance inside is masked, one a 65536th of a squared pixel further is not."""
    tried = 0
    for sigma in torch.linspace(1.2, 2.8, 300).tolist():
        radius_squared = -2 * sigma**2 * math.log(2 * math.pi * sigma * 0.01)
        edge = math.ceil(radius_squared * UNIT**2)  # the first integer that is not below
        inside, outside = two_squares(edge - 1), two_squares(edge)
        if inside is None or outside is None:
            continue
        tried += 1
        for (x, y), hit in ((inside, True), (outside, False)):
            landmark = torch.tensor([16 + x / UNIT, 16 + y / UNIT]).view(1, 1, 1, 2)
            frames = torch.zeros(1, 1, 33, 33)
            mask = mask_noise(frames, landmark, sigma=sigma, kernel_size=31, threshold=0.01, return_mask=True)[1]
            assert bool(mask[0, 0, 16, 16]) == hit, (sigma, disc_limit(sigma, 0.01) - edge)
    assert tried > 3


# What is shipped.


@pytest.mark.parametrize("name", ["landmark", "video"])
def test_the_shipped_recipe_averages_its_weights(name: str) -> None:
    recipe = yaml.safe_load((training.CONFIGS / f"{name}.yaml").read_text())["trainer"]
    averages = [c for c in recipe["callbacks"] if c["class_path"].endswith(".EMA")]
    assert len(averages) == 1 and 0.9 < averages[0]["init_args"]["decay"] < 1 and averages[0]["init_args"]["warmup"]


@pytest.mark.filterwarnings(*LIGHTNING)
def test_the_averaged_weights_are_exported(tiny_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of every step's average is the one before (decay 0.5): by hand, from the weights after each step."""
    name, raw = "unet.head.weight", []

    def keep(self: VideoDiffusion, *args: Any) -> None:
        raw.append(self.renderer.state_dict()[name].clone())

    monkeypatch.setattr(VideoDiffusion, "on_train_batch_end", keep)
    half = "--trainer.callbacks=[{class_path: talkhead.modules.averaging.EMA, init_args: {decay: 0.5}}]"
    keeping = "--trainer.callbacks+={class_path: ModelCheckpoint, init_args: {save_last: true}}"
    assert fit("video", tiny_cache, tmp_path / "run", "--trainer.max_epochs=2", half, keeping) == 0
    average = raw[0]
    for weights in raw[1:]:
        average = (average + weights) / 2
    LandmarkNet(width=8, heads=2).save_pretrained(tmp_path / "landmark")
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    speaker = export_pipeline(tmp_path / "speaker", landmark=tmp_path / "landmark", emotion=None, video=last)
    exported = Renderer.from_pretrained(speaker / "renderer").state_dict()[name]
    torch.testing.assert_close(exported, average)
    assert (exported - raw[-1]).abs().max() > 1e-6


@pytest.mark.parametrize("together", [True, False])  # all weights in one call, or one by one as between two devices
def test_a_short_run_s_average_forgets_what_it_began_with(together: bool) -> None:
    """By hand: 1, then (2 of 11 parts of 1 and 9 of 2), a quarter of that and three of 4, 4 of 13 and 9 of 8."""
    module, average = LightningModule(), EMA(decay=0.999, warmup=True)
    module.line = torch.nn.Linear(1, 1)
    average.setup(Trainer(logger=False, enable_checkpointing=False), module, "fit")
    assert (mean := average._average_model) is not None
    for step, (weight, expected) in enumerate([(1, 1), (2, 20 / 11), (4, 38 / 11), (8, (4 * 38 / 11 + 72) / 13)], 1):
        torch.nn.init.constant_(module.line.weight, weight)
        if together:
            average.on_train_batch_end(SimpleNamespace(global_step=step), module, None, None, 0)  # type: ignore[arg-type]
        else:
            mean.update_parameters(module)
        assert mean.module.line.weight.item() == pytest.approx(expected)  # type: ignore[union-attr]
    assert average._kept(torch.tensor(8990)) == 8991 / 9000 == 0.999
    assert average._kept(torch.tensor(9000)) == EMA(decay=0.999)._kept(torch.tensor(1)) == 0.999


def test_the_average_follows_the_network_to_its_device() -> None:
    """On a CPU's copy each step would wait for the card and fetch every weight; `meta` stands for the card."""
    module, average = VideoDiffusion(Renderer(**SMALL)), EMA(decay=0.5)
    average.setup(Trainer(logger=False, enable_checkpointing=False), module, "fit")
    average.on_fit_start(Trainer(logger=False, enable_checkpointing=False), module.to("meta"))
    assert average._average_model is not None
    assert {p.device.type for p in average._average_model.module.parameters()} == {"meta"}
    assert average._average_model.n_averaged.device.type == "cpu"  # read in every step

    class Copies(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, given: Any = (), named: Any = None) -> Any:
            assert steps.global_step == 1 or function is not torch.ops.aten._to_copy.default
            return function(*given, **(named or {}))

    for step in (1, 2, 3):  # the first takes the weights over
        steps = SimpleNamespace(global_step=step)
        with Copies():
            average.on_train_batch_end(steps, module, None, None, 0)  # type: ignore[arg-type]
    assert average._average_model.n_averaged == 3 and average._latest_update_step == 3
