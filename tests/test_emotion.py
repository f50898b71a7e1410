"""The emotion classifier's training: calibration against closed forms, augmentation, logs, and a fit that learns."""

import math
from pathlib import Path

import pytest
import torch
from lightning import Trainer
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader
from torchmetrics.functional.classification import multiclass_recall

from talkhead.augmentation.spectrum import FrameAugmentation
from talkhead.data.clip import EMOTIONS, Clip
from talkhead.data.datamodule import collate
from talkhead.modules.calibration import fit_temperature
from talkhead.modules.emotion import (
    EmotionClassifier,
    average_recall,
    save_confusion,
)
from talkhead.modules.seen_emotions import count_emotions
from talkhead.nets.conformer import ConformerClassifier

# Lightning's own: its tree utilities against a newer torch, and its advice on workers for a few tones in memory.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
]

SAD, HAPPY = EMOTIONS.index("sad"), EMOTIONS.index("happy")


def tone(pitch: float, seconds: float = 0.5) -> torch.Tensor:
    time = torch.arange(round(seconds * 16000)) / 16000
    return 0.3 * torch.sin(2 * torch.pi * pitch * time) + 0.01 * torch.randn(len(time))


def clip(emotion: int, seconds: float = 0.5) -> Clip:
    audio = tone(200.0 if emotion == SAD else 1600.0, seconds)
    return Clip(audio, torch.tensor(emotion), torch.tensor(0.0), torch.tensor(len(audio)))


def loader(count: int, batch_size: int = 8) -> DataLoader[Clip]:
    clips = [clip(HAPPY if i % 4 == 0 else SAD, 0.4 + 0.05 * (i % 3)) for i in range(count)]
    return DataLoader(clips, batch_size=batch_size, collate_fn=collate)  # type: ignore[arg-type]


def trainer(tmp_path: Path, epochs: int) -> Trainer:
    return Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=CSVLogger(tmp_path),
        log_every_n_steps=1,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def test_temperature_is_found_again() -> None:
    logits = 2 * torch.randn(8000, 5)
    target = torch.distributions.Categorical(logits=logits).sample()
    # Answers drawn from softmax(logits) make 1 the best temperature; logits three times too big make it 3.
    assert fit_temperature(3 * logits, target).item() == pytest.approx(3, rel=0.05)  # sampling error of 8000 draws
    assert fit_temperature(logits / 4, target).item() == pytest.approx(1 / 4, rel=0.05)


def test_temperature_ignores_what_is_never_predicted() -> None:
    logits = torch.tensor([[8.0, 0.0, -math.inf]] * 5)
    target = torch.tensor([0, 0, 0, 1, 2])
    assert fit_temperature(logits, target).item() == pytest.approx(8 / math.log(3), rel=1e-3)
    assert fit_temperature(logits[4:], target[4:]).item() == 1


def test_average_recall_agrees_with_torchmetrics() -> None:
    choice, target = torch.randint(3, (50,)), torch.randint(3, (50,))
    confusion = torch.zeros(3, 3, dtype=torch.int64)
    for true, heard in zip(target.tolist(), choice.tolist(), strict=True):
        confusion[true, heard] += 1
    torch.testing.assert_close(average_recall(confusion), multiclass_recall(choice, target, 3, average="macro"))


def test_average_recall_leaves_out_absent_classes() -> None:
    assert average_recall(torch.tensor([[3, 1, 0], [0, 0, 0], [0, 2, 2]])).item() == pytest.approx((0.75 + 0.5) / 2)


def test_augmentation_switched_off_is_identity() -> None:
    frames, lengths = torch.randn(3, 40, 80), torch.tensor([40, 30, 20])
    frames = frames * (torch.arange(40) < lengths[:, None])[..., None]
    off = FrameAugmentation(0, 0, 0, 0, 0, masks=0)
    for augment in (off, FrameAugmentation().eval()):
        changed, same = augment(frames, lengths)
        torch.testing.assert_close(changed, frames, atol=1e-4, rtol=1e-4)  # bilinear weights of nearly 0 and 1
        assert torch.equal(same, lengths)


def test_time_warp_changes_speed_alone() -> None:
    frames = torch.linspace(0, 1, 200)[None, :, None].expand(8, -1, 80)  # the value tells the time
    warped, lengths = FrameAugmentation(0, 0.2, 0, 0, 0, masks=0)(frames, torch.full((8,), 200))
    assert lengths.unique().numel() > 4
    assert lengths.min() >= math.floor(200 * math.exp(-0.2)) and lengths.max() <= 200 * math.exp(0.2)
    for row, length in zip(warped, lengths.tolist(), strict=True):
        torch.testing.assert_close(row[:length, 0], torch.arange(length) / length, atol=0.02, rtol=0)
        assert not row[length:].any()


def test_melody_follows_the_tape() -> None:
    frames = torch.zeros(16, 100, 140)
    frames[:, :50, 110] = 1  # a voice at bin 30 of the melody that falls silent half-way
    warped, lengths = FrameAugmentation(0.12, 0, 0, 0, 0, masks=0)(frames, torch.full((16,), 100))
    for row, length in zip(warped, lengths.tolist(), strict=True):
        slower = math.log(length / 100)  # played so much longer, it lies so much lower
        melody = row[:, 80:].sum(0)
        centre = (melody * torch.arange(60)).sum() / melody.sum()
        # 59 bins are ln 10; one frame of the length is 1%, a quarter of a bin.
        assert centre.item() == pytest.approx(30 - slower / math.log(10) * 59, abs=0.3)
        assert (row[:, 80:].sum(1) > 0.5).sum().item() == pytest.approx(length / 2, abs=1)


def test_stripes_cover_no_more_than_asked() -> None:
    frames = torch.ones(50, 100, 80)
    masked, _ = FrameAugmentation(0, 0, 0, 0, 0, masks=1, mask_bins=10, mask_frames=20)(frames, torch.full((50,), 100))
    gone = masked == 0
    assert gone.all(2).sum(1).max() <= 20 and gone.all(1).sum(1).max() <= 10
    assert gone.any(2).any(1).all()


def test_noise_only_adds_power() -> None:
    frames = torch.zeros(20, 50, 80)
    noisy, _ = FrameAugmentation(0, 0, 0, 0, 1.0, masks=0)(frames, torch.full((20,), 50))
    assert (noisy >= -1e-6).all() and noisy.max() > 0.1


def test_mixup_and_smoothing_by_hand() -> None:
    module = EmotionClassifier(ConformerClassifier("XS", trained_on=["sad", "happy"]), label_smoothing=0.2)
    logits = torch.full((1, 8), -math.inf)
    logits[0, SAD], logits[0, HAPPY] = math.log(3), 0.0  # probabilities 3/4 and 1/4
    target = torch.nn.functional.one_hot(torch.tensor([SAD]), 8).float()
    expected = -(0.9 * math.log(3 / 4) + 0.1 * math.log(1 / 4))
    assert module._cross_entropy(logits, target).item() == pytest.approx(expected, rel=1e-5)
    frames = torch.arange(4.0)[:, None, None].expand(4, 10, 80)
    mixed, lengths, mixed_target = module._mix(frames, torch.tensor([10, 8, 6, 4]), torch.eye(4))
    assert torch.allclose(mixed[:, 0, 0], mixed_target @ torch.arange(4.0))  # sound and target get the same shares
    assert (mixed_target.diagonal() >= 0.5).all() and (lengths >= torch.tensor([10, 8, 6, 4])).all()


def test_fit_learns_calibrates_and_draws(tmp_path: Path) -> None:
    module = EmotionClassifier(ConformerClassifier("XS"), learning_rate=1e-3, mixup=0.1)
    fit = trainer(tmp_path, 10)
    fit.fit(module, loader(24, 4), loader(12, 5))
    assert module.net.trained_on == ("happy", "sad")
    # 6 happy and 18 sad: weights 24 / (2 * 6) and 24 / (2 * 18), others never needed.
    weights = module.class_weights
    assert (weights[HAPPY].item(), weights[SAD].item()) == pytest.approx((2, 2 / 3))
    assert weights.sum().item() == pytest.approx(2 + 2 / 3)
    metrics = {name: value.item() for name, value in fit.callback_metrics.items()}
    assert metrics["val/uar"] > 0.9  # two tones three octaves apart; one mistake of twelve is forgiven
    assert 0 <= metrics["val/ece"] <= 1
    assert module.net.temperature.item() != 1
    assert (Path(fit.log_dir or "") / "confusion_matrix_val.png").stat().st_size > 1000
    test = fit.test(module, loader(8), verbose=False)
    assert test[0]["test/uar"] > 0.9
    assert "test/uar" in fit.test(module, loader(1), verbose=False)[0]  # one recording alone is measured, too
    path = fit.checkpoint_callback.best_model_path  # type: ignore[union-attr]
    loaded = EmotionClassifier.load_from_checkpoint(path, net=ConformerClassifier("XS"))
    assert loaded.net.trained_on == ("happy", "sad") and loaded.net.temperature == module.net.temperature
    audio = tone(200.0)[None]
    torch.testing.assert_close(loaded.eval()(audio), module.eval()(audio))
    assert loaded(audio)[0].argmax() == SAD


def test_emotions_are_counted_from_the_manifest_or_the_batches() -> None:
    batches = loader(8)
    counts = count_emotions(batches, EMOTIONS)
    assert counts[HAPPY] == 2 and counts[SAD] == 6 and counts.sum() == 8

    class Manifest:
        class dataset:  # noqa: N801
            entries = [{"emotion": "sad"}, {"emotion": "happy"}, {"emotion": "sad"}]

    assert count_emotions(Manifest(), EMOTIONS)[SAD] == 2  # type: ignore[arg-type]
    assert count_emotions(Manifest(), [*EMOTIONS, "calm"]).tolist()[SAD:] == [2, 0, 0]  # type: ignore[arg-type]
    # A label is an emotion's place in EMOTIONS: with other places all of them would be taken for others.
    for own, wrong in ((["happy"], "happy, sad"), (EMOTIONS[:SAD], "sad"), (sorted(EMOTIONS, reverse=True), "happy")):
        with pytest.raises(ValueError, match=rf"net\.emotions must begin with angry, .*; {wrong}"):
            count_emotions(Manifest(), own)  # type: ignore[arg-type]


def test_declared_emotions_must_cover_the_data(tmp_path: Path) -> None:
    module = EmotionClassifier(ConformerClassifier("XS", trained_on=["happy"]))
    with pytest.raises(ValueError, match="it lacks sad"):
        trainer(tmp_path, 1).fit(module, loader(8), loader(4))


def test_confusion_matrix_is_written_whole(tmp_path: Path) -> None:
    save_confusion(torch.tensor([[3, 1], [0, 4]]), ["happy", "sad"], tmp_path / "new" / "matrix.png")
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["matrix.png"]
    assert (tmp_path / "new" / "matrix.png").read_bytes()[:4] == b"\x89PNG"


def test_wrong_arguments_are_told() -> None:
    net = ConformerClassifier("XS")
    with pytest.raises(ValueError, match="mixup must be >= 0"):
        EmotionClassifier(net, mixup=-1)
    with pytest.raises(ValueError, match=r"label_smoothing must lie in \[0, 1\)"):
        EmotionClassifier(net, label_smoothing=1)
