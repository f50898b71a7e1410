"""What the trainings of the three networks share: draws, stages, metrics, logging, optimiser."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import ConfigMixin
from lightning import LightningModule
from torch import nn
from torch.utils.data import DistributedSampler
from torchmetrics import Metric

from talkhead.data.clip import Clip
from talkhead.data.draws import draw_seed
from talkhead.logs.pictures import hand_picture, write_beside_log
from talkhead.modules.optimizers import adam_with_cosine
from talkhead.modules.seen_emotions import remember_emotions

Stage = Literal["val", "test"]
PRECISIONS = ("32-true", "16-mixed", "bf16-mixed")


class TrainingModule(LightningModule):
    """A LightningModule whose every number is the same on one process and on many.

    A subclass keeps its arguments with ``save_hyperparameters`` and reads them from ``hparams``, gives the metrics of a
    stage to ``watch``, and defines ``training_step``, ``measure`` and ``predict_step``.

    * Before each training batch PyTorch's generators are seeded by (seed, epoch, batch, process), before the others by
      (seed, batch, process).
    * Validation and test update the stage's own metrics; they are logged as ``val/...`` and ``test/...`` at its end,
      over all processes. The clips with which Lightning fills processes up to equal numbers do not count.
    * A network that is told the emotion, named by ``conditioned``, remembers which emotions it was trained on.
    """

    meters: nn.ModuleDict
    part: tuple[str, str] = ("net", "net")
    """The network's attribute, and the folder of a speaker that holds it."""
    conditioned: str | None = None
    progress_bar: tuple[str, ...] = ()

    def watch(self, val: Mapping[str, Metric], test: Mapping[str, Metric]) -> None:
        """Register the metrics of the two stages by the names they are logged by."""
        self.meters = nn.ModuleDict({"val": nn.ModuleDict(val), "test": nn.ModuleDict(test)})

    @abstractmethod
    def measure(self, batch: Clip, stage: Stage, first: bool) -> None:
        """Update ``meters[stage]`` with one batch; ``first`` of this process.

        Nothing in here may wait for another process: not all have equally many batches.
        """

    def setup(self, stage: str) -> None:
        """Refuse a precision in which coordinates would not be float32."""
        if self.trainer.precision not in PRECISIONS:
            raise ValueError(
                f"trainer.precision must be one of {', '.join(PRECISIONS)}, which keep weights and landmarks float32; "
                f"got {self.trainer.precision!r}"
            )

    def on_train_start(self) -> None:
        """Let the network remember which emotions the training data have."""
        if self.conditioned:
            remember_emotions(getattr(self, self.conditioned), self.trainer)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep beside the weights what networks they belong to, so that no other file is needed to use them."""
        described = checkpoint.setdefault("hyper_parameters", {})
        described.update(described_parts(self))
        described.setdefault("_class_path", f"{type(self).__module__}.{type(self).__qualname__}")
        described.setdefault("_instantiator", "lightning.pytorch.cli.instantiate_module")
        if self.conditioned:
            checkpoint["trained_on"] = getattr(self, self.conditioned).config["trained_on"]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take over the emotions that the weights were trained on."""
        if self.conditioned and checkpoint.get("trained_on"):
            getattr(self, self.conditioned).register_to_config(trained_on=checkpoint["trained_on"])

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Start the batch from a random state of its own."""
        torch.manual_seed(draw_seed(self.current_epoch, batch_idx, self.global_rank))

    def validation_step(self, batch: Clip, batch_idx: int) -> None:
        """Measure one batch of the validation."""
        self._measure(batch, batch_idx, "val", self.trainer.val_dataloaders)

    def test_step(self, batch: Clip, batch_idx: int) -> None:
        """Measure one batch of the test."""
        self._measure(batch, batch_idx, "test", self.trainer.test_dataloaders)

    def on_validation_epoch_end(self) -> None:
        """Log the validation's metrics."""
        self.conclude("val")

    def on_test_epoch_end(self) -> None:
        """Log the test's metrics."""
        self.conclude("test")

    def conclude(self, stage: Stage) -> None:
        """Log the metrics of a stage, the same numbers in every process, and start them anew."""
        metric: Any
        for name, metric in self.meters[stage].items():  # type: ignore[union-attr,operator]
            # Already of all processes; sync_dist lets Lightning know.
            self.log(f"{stage}/{name}", metric.compute(), prog_bar=name in self.progress_bar, sync_dist=True)
            metric.reset()

    def configure_optimizers(self) -> dict[str, Any]:
        """Return the paper's optimiser and schedule."""
        return adam_with_cosine(self, self.hparams["learning_rate"], self.hparams.get("warmup_steps", 0))

    def log_loss(self, loss: torch.Tensor, clips: int, **also: torch.Tensor) -> None:
        """Log the training loss of a batch, and other means over its clips, over all processes."""
        for name, value in {"loss": loss, **also}.items():
            self.log(f"train/{name}", value, prog_bar=name == "loss", batch_size=clips, sync_dist=True)

    def show(self, tag: str, draw: Callable[[], torch.Tensor | None], file: str) -> None:
        """Write a picture beside the log, and hand it to every logger that takes pictures.

        The first process tells the others where the log lies, and they wait for it: all must call this, or none.

        Args:
            tag: the picture's name in the loggers.
            draw: makes (3, H, W) uint8, or None where there is nothing to show; called in the first process alone, and
                only if there is a logger.
            file: its name below the log's folder.
        """
        folder = self.trainer.log_dir if self.trainer.loggers else None
        if not self.trainer.loggers or not self.trainer.is_global_zero:
            return
        if (picture := draw()) is None:
            return
        if folder:
            write_beside_log(Path(folder), file, picture)
        hand_picture(self.trainer.loggers, tag, picture, self.global_step)

    def _measure(self, batch: Clip, batch_idx: int, stage: Stage, loader: Any) -> None:
        own = without_repeats(batch, batch_idx, loader)
        torch.manual_seed(draw_seed(0, batch_idx, self.global_rank))  # what is drawn in here is so in every epoch
        if own is not None:
            self.measure(own, stage, batch_idx == 0)


def described_parts(module: LightningModule) -> dict[str, Any]:
    """Return class and arguments of a module's networks and scheduler; of ``**options`` diffusers has but a type."""
    parts = {name: getattr(module, name, None) for name in ("net", "renderer", "scheduler")}
    return {
        name: {
            "class_path": f"{type(part).__module__}.{type(part).__qualname__}",
            "init_args": {k: v for k, v in part.config.items() if not (k.startswith("_") or isinstance(v, type))},
        }
        for name, part in parts.items()
        if isinstance(part, ConfigMixin)
    }


def without_repeats(batch: Clip, batch_idx: int, loader: Any) -> Clip | None:
    """Return a batch without the clips that its sampler repeats so that all processes have equally many.

    A ``DistributedSampler`` in order gives process r of R the clips r, r + R, ... and starts over at the end.

    Args:
        batch: of this process.
        batch_idx: which of its batches.
        loader: what the batch is from; any other than a ``DataLoader`` with such a sampler repeats nothing.

    Returns:
        The first clips of the batch; None where none is left.
    """
    sampler = getattr(loader, "sampler", None)
    if not isinstance(sampler, DistributedSampler):
        return batch
    own = len(range(sampler.rank, len(sampler.dataset), sampler.num_replicas))  # type: ignore[arg-type]
    left = own - batch_idx * loader.batch_size
    if left <= 0:
        return None
    return batch if left >= len(batch.emotion) else batch.first(left)
