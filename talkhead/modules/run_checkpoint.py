"""A run's checkpoints: in a folder that belongs to it alone, kept when it is broken off."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy

from talkhead.media.files import sweep
from talkhead.modules.checkpoint import spoiled_weights

FOLDER = "checkpoints"
"""Where a run's checkpoints lie below its ``default_root_dir``."""


class RunCheckpoint(ModelCheckpoint):
    """Lightning's ``ModelCheckpoint`` for a folder that belongs to one run, wherever it now lies.

    Without ``dirpath`` the folder is ``checkpoints`` below ``trainer.default_root_dir``. A run that has not made a
    step, or whose weights are not finite, leaves the folder as it is.
    """

    dirpath: Any
    _begun: int | None = None

    @property
    def state_key(self) -> str:
        """The key of Lightning's own class, so that either can go on from the other's checkpoints."""
        return super().state_key.replace(type(self).__qualname__, ModelCheckpoint.__qualname__)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the folder, and delete what killed processes left half-written in it."""
        if self.dirpath is None:
            self.dirpath = os.path.realpath(os.path.join(trainer.default_root_dir, FOLDER))
        if trainer.is_global_zero and stage == "fit" and Path(self.dirpath).is_dir():
            sweep(self.dirpath)
        super().setup(trainer, pl_module, stage)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what is known of the files, by the names that they have in this folder."""

        def here(path: str) -> str:
            moved = Path(str(self.dirpath)) / Path(path).name
            return str(moved) if path and moved.is_file() else ""

        known = {name: here(state_dict.get(name, "")) for name in ("best_model_path", "kth_best_model_path")}
        best = {here(path): score for path, score in state_dict.get("best_k_models", {}).items() if here(path)}
        last = here(state_dict.get("last_model_path", ""))
        moved = {"dirpath": self.dirpath, "best_k_models": best, "last_model_path": last}
        super().load_state_dict({**state_dict, **known, **moved})

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember where this run begins."""
        super().on_train_start(trainer, pl_module)
        self._begun = self._last_global_step_saved = trainer.global_step

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save as Lightning does, and where ``save_last`` is wanted the run's end, whatever its checkpoints' interval.

        Not when all has ended: then the averaged weights are in the module, and those in training are gone.
        """
        super().on_train_epoch_end(trainer, pl_module)
        spent = 0 <= trainer.max_steps <= trainer.global_step or trainer.current_epoch + 1 == trainer.max_epochs
        if self.save_last and (spent or trainer.should_stop) and not self._should_skip_saving_checkpoint(trainer):
            self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the end of a run that has made a step."""
        if trainer.global_step != self._begun:
            super().on_train_end(trainer, pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save what was learnt, if there is something, and where it is sound and the disk takes it."""
        if self._begun is None or trainer.global_step == self._begun or spoiled_weights(pl_module.state_dict()):
            return
        try:
            if trainer.world_size == 1:
                super().on_exception(trainer, pl_module, exception)
            elif self._should_save_on_exception(trainer) and trainer.is_global_zero:
                self._save_alone(trainer)
        except OSError:
            if not isinstance(exception, OSError):  # else the first fault is the one to tell: a full disk is full still
                raise

    def _save_alone(self, trainer: Trainer) -> None:
        """Write what this process has without a word to the others: they wait elsewhere, or are gone.

        Where each process has a part of the weights, nothing: the parts cannot be asked for.
        """
        if isinstance(trainer.strategy, DDPStrategy):
            name = self.CHECKPOINT_NAME_LAST if self.save_last else None
            path = self.format_checkpoint_name(self._monitor_candidates(trainer), name)
            checkpoint = trainer._checkpoint_connector.dump_checkpoint(self.save_weights_only)
            trainer.strategy.checkpoint_io.save_checkpoint(checkpoint, path)
