"""Runs whose length, or what limits it, changes; and runs whose checkpoints have an interval of their own."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from talkhead.modules.averaging import EMA
from talkhead.modules.optimizers import adam_with_cosine
from talkhead.modules.run import RunGuard
from talkhead.modules.run_checkpoint import RunCheckpoint

BATCHES = 4


class Line(LightningModule):
    """A line to fit: the smallest module with our schedule."""

    def __init__(self, warmup_steps: int = 0) -> None:
        super().__init__()
        self.save_hyperparameters({"learning_rate": 1e-3})
        self.net, self.warmup_steps = nn.Linear(1, 1), warmup_steps
        self.rates: list[float] = []
        self.loaded: list[int] = []

    def train_dataloader(self) -> DataLoader[Tensor]:
        self.loaded.append(self.trainer.fit_loop.epoch_progress.current.processed)
        return DataLoader(torch.ones(BATCHES, 1))  # type: ignore[arg-type]

    def training_step(self, batch: Tensor, index: int) -> Tensor:
        self.rates.append(self.trainer.optimizers[0].param_groups[0]["lr"])
        return (self.net(batch) - 3).square().mean()

    def configure_optimizers(self) -> Any:
        return adam_with_cosine(self, 1e-3, self.warmup_steps)


def fit(module: Line, folder: Path, callbacks: list[Any] | None = None, ckpt: Path | None = None, **limit: Any) -> None:
    trainer = Trainer(
        default_root_dir=folder, accelerator="cpu", logger=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[RunGuard(), *(callbacks or [RunCheckpoint(save_last=True)])], **limit,
    )  # fmt: skip
    trainer.fit(module, ckpt_path=ckpt, weights_only=True)


def last(folder: Path) -> Path:
    return folder / "checkpoints" / "last.ckpt"


STEPS, EPOCHS = {"max_steps": 12, "max_epochs": -1}, {"max_epochs": 3}  # the same length


@pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers")
class TestLengths:
    """What is trained for a moment, with one worker."""

    @pytest.mark.parametrize(("first", "then"), [(STEPS, EPOCHS), (EPOCHS, STEPS)])
    def test_a_run_gone_on_with_by_another_limit_follows_that_one_s_schedule(self, first, then, tmp_path: Path):
        """Twelve steps' count taken for epochs made the rate 0 to the end, three epochs' taken for steps began anew."""
        length = {name: 2 * limit if limit > 0 else limit for name, limit in then.items()}
        fit(Line(), tmp_path / "run", **first)
        fit(further := Line(), tmp_path / "run", ckpt=last(tmp_path / "run"), **length)
        fit(whole := Line(), tmp_path / "whole", **length)
        assert further.rates == pytest.approx(whole.rates[12:], abs=1e-12) and max(further.rates) > 4e-4

    def test_groups_keep_rates_of_their_own(self, tmp_path: Path):
        class Grouped(Line):
            def configure_optimizers(self) -> Any:
                groups = [{"params": [self.net.weight], "lr": 1e-3}, {"params": [self.net.bias], "lr": 1e-5}]
                optimizer = torch.optim.Adam(groups)
                return [optimizer], [torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 0.5**epoch)]

            def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
                self.kept = [group["lr"] for group in self.trainer.optimizers[0].param_groups]

        fit(module := Grouped(), tmp_path, max_epochs=2)
        assert module.kept == pytest.approx([5e-4, 5e-6])
        fit(module := Grouped(), tmp_path, ckpt=last(tmp_path), max_epochs=3)
        assert module.kept == pytest.approx([2.5e-4, 2.5e-6])

    def test_a_warmed_up_run_limited_by_epochs_loads_its_data_when_it_knows_where_it_goes_on(self, tmp_path: Path):
        """Loaded while the optimiser was made, they began at the first epoch's first batch again."""
        fit(module := Line(warmup_steps=4), tmp_path, max_epochs=2)
        assert module.loaded == [0] and module.rates[0] == pytest.approx(2.5e-4)
        fit(further := Line(warmup_steps=4), tmp_path, ckpt=last(tmp_path), max_epochs=4)
        assert further.loaded == [2]

    @pytest.mark.parametrize("interval", [{"every_n_epochs": 2}, {"every_n_epochs": 9}, {"every_n_train_steps": 5}])
    @pytest.mark.parametrize("limit", [{"max_epochs": 3}, {"max_steps": 11}])
    def test_the_run_s_end_is_kept_whatever_the_interval(self, interval: Any, limit: Any, tmp_path: Path):
        """With the weights in training beside the averaged ones, where a run goes on from."""
        raw: dict[str, Tensor] = {}

        class Kept(Line):
            def on_train_epoch_end(self) -> None:
                raw.update({name: weight.clone() for name, weight in self.state_dict().items()})

        callbacks = [EMA(decay=0.9), RunCheckpoint(save_last=True, **interval)]
        fit(Kept(), tmp_path, callbacks, **limit)
        kept = torch.load(last(tmp_path), weights_only=True)
        assert kept["global_step"] == limit.get("max_steps", 12)
        for name, weight in raw.items():
            assert torch.equal(kept["current_model_state"][name], weight)
            assert not torch.equal(kept["state_dict"][name], weight)
