"""Pictures reach every logger that takes them, and the file beside the log."""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import tiny_face
from lightning.pytorch.loggers import CSVLogger, Logger
from lightning.pytorch.loggers.logger import DummyLogger

from talkhead.cli import main
from talkhead.logs.pictures import default_loggers, hand_picture, landmark_plot
from talkhead.media.read import read_image


class Board:
    """TensorBoard's way to take a picture."""

    def __init__(self) -> None:
        self.shown: dict[str, tuple[torch.Tensor, int]] = {}

    def add_image(self, tag: str, picture: torch.Tensor, step: int) -> None:
        self.shown[tag] = picture, step


class BiasesLogger:
    """Weights & Biases' way, as Lightning's `WandbLogger.log_image` has it."""

    shown: dict[str, Any] = {}
    experiment = None

    def log_image(self, key: str, images: list[Any], step: int | None = None, **kwargs: Any) -> None:
        self.shown[key] = images, step


def test_each_logger_is_given_the_picture_in_its_own_way(tmp_path: Path) -> None:
    picture = torch.randint(0, 256, (3, 4, 6), dtype=torch.uint8)
    board, biases = type("Logger", (), {"experiment": Board()})(), BiasesLogger()
    hand_picture([CSVLogger(tmp_path), board, biases], "val/pictures", picture, 7)
    assert board.experiment.shown["val/pictures"][0] is picture and board.experiment.shown["val/pictures"][1] == 7
    (image,), step = biases.shown["val/pictures"]
    assert step == 7 and np.array_equal(image, picture.permute(1, 2, 0).numpy())


def test_a_logger_of_ones_own_without_an_experiment_is_passed_over() -> None:
    class Lines(Logger):
        """No more than Lightning asks for."""

        name, version = "lines", 0

        def log_metrics(self, *args: Any, **kwargs: Any) -> None: ...

        def log_hyperparams(self, *args: Any, **kwargs: Any) -> None: ...

    hand_picture([Lines()], "val/pictures", torch.zeros(3, 4, 6, dtype=torch.uint8), 7)


def test_a_landmark_plot_shows_truth_and_prediction_where_they_are() -> None:
    truth = torch.stack([tiny_face(32)] * 3)
    plot = landmark_plot(truth, truth + torch.tensor([40.0, 0.0]))
    red = (plot[0].int() - plot[2].int() > 60).nonzero()[:, 1].float()
    grey = ((plot[0] == plot[1]) & (plot[1] == plot[2]) & (plot[0] < 200)).nonzero()[:, 1].float()
    assert len(red) > 100 and len(grey) > 100
    assert red.min() > grey.min()  # the prediction lies to the right of the truth


def test_the_default_is_a_table_and_tensorboard_where_it_is_installed(tmp_path: Path) -> None:
    found = default_loggers(str(tmp_path))
    assert isinstance(found[0], CSVLogger)
    assert len(found) == 1 + (importlib.util.find_spec("tensorboard") is not None)
    assert len({logger.log_dir for logger in found}) == 1


TINY = {
    "landmark": [
        *("--model.net.init_args.width=8", "--model.size=32", "--data.num_frames=8", "--data.batch_size=4"),
        "--trainer.check_val_every_n_epoch=1",
    ],
    "emotion": ["--data.split=clip", "--trainer.check_val_every_n_epoch=1"],
    "video": [
        *("--model.renderer.init_args.size=32", "--model.renderer.init_args.widths=[8,16]", "--data.num_frames=4"),
        *("--data.samples_per_clip=1", "--trainer.max_steps=-1", "--model.num_inference_steps=1", "--data.bank=0"),
        "--trainer.precision=32-true",
    ],
}
TAGS = {"landmark": "val/landmarks", "emotion": "val/confusion_matrix", "video": "val/pictures"}


@pytest.mark.parametrize("module", TAGS)
def test_a_fit_shows_its_pictures_in_a_logger_of_somebodys_own(
    module: str, tiny_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--trainer.logger CLASS` alone, as for W&B: no table, no TensorBoard."""
    monkeypatch.setattr(BiasesLogger, "shown", {})
    command = [
        *("fit", f"--config={module}", f"--data.root={tiny_cache}", f"--trainer.default_root_dir={tmp_path}"),
        *("--trainer.max_epochs=1", "--data.val_fraction=0.25", "--trainer.accelerator=cpu"),
        *("--trainer.enable_progress_bar=false", "--trainer.logger=test_logs.OwnLogger"),
        "--trainer.log_every_n_steps=1",
        *TINY[module],
    ]
    assert main(command) == 0
    (image,), step = OwnLogger.shown[TAGS[module]]
    assert image.dtype == np.uint8 and image.shape[-1] == 3 and step > 0


class OwnLogger(BiasesLogger, DummyLogger):  # type: ignore[misc]
    """A logger that keeps what it is given, and has no folder."""

    def __init__(self) -> None:
        DummyLogger.__init__(self)


@pytest.mark.skipif(importlib.util.find_spec("tensorboard") is None, reason="tensorboard is not installed")
@pytest.mark.parametrize("module", TAGS)
def test_tensorboard_holds_curves_and_pictures(module: str, tiny_cache: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    command = [
        *("fit", f"--config={module}", f"--data.root={tiny_cache}", f"--trainer.default_root_dir={tmp_path}"),
        *("--trainer.max_epochs=1", "--data.val_fraction=0.25", "--trainer.accelerator=cpu", *TINY[module]),
    ]
    assert main([*command, "--trainer.enable_progress_bar=false", "--trainer.log_every_n_steps=1"]) == 0
    (folder,) = (tmp_path / "logs").iterdir()
    events = EventAccumulator(str(folder)).Reload()
    assert "train/loss" in events.Tags()["scalars"] and events.Tags()["images"] == [TAGS[module]]
    assert (folder / "metrics.csv").is_file()
    (picture,) = (path for path in folder.rglob("*.png"))
    shown, kept = events.Images(TAGS[module])[0], read_image(picture)
    assert (shown.height, shown.width) == tuple(kept.shape[-2:])
