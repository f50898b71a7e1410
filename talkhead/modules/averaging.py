"""The running mean of a run's weights, kept where the weights are."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_avg_fn, get_ema_multi_avg_fn


class EMA(EMAWeightAveraging):
    """Lightning's exponential moving average of the weights, on the network's device and in one call for all of them.

    Lightning copies the module before it is on the card: its average stays on the CPU, each step waits for the card and
    fetches every weight by itself. Checkpoints are those of Lightning's own, either way.

    Args:
        decay: share of the mean that each step keeps, in [0, 1].
        device: where the mean is; default: where the network is. ``cpu`` where the card's memory is short.
        warmup: whether step n keeps at most (1 + n) / (10 + n), n steps being in the mean: so a short run from nothing
            has none of the weights that it began with. Without it their share is decay to the power of n.
    """

    def __init__(
        self, decay: float = 0.999, device: torch.device | str | int | None = None, warmup: bool = False
    ) -> None:
        super().__init__(device=device, decay=decay)
        self._decay, self._warmup = decay, warmup
        self._kwargs["avg_fn"] = self._averaged  # Lightning's
        self._latest_update_step = 0  # Lightning's

    def _averaged(self, own: Tensor, new: Tensor, count: Tensor) -> Tensor:
        """Average one weight, as AveragedModel asks for it."""
        return get_ema_avg_fn(self._kept(count))(own, new, count)

    def _kept(self, count: Tensor) -> float:
        """Return the share of the mean of ``count`` steps that the next one keeps."""
        return min(self._decay, (1 + int(count)) / (10 + int(count))) if self._warmup else self._decay

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Follow the module to its device; the count of steps stays on the CPU, where reading it waits for nothing."""
        assert self._average_model is not None
        self._average_model.module.to(self._device or pl_module.device)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Average as Lightning does, all weights of a type at once; PyTorch would copy the count to the card first."""
        mean, step = self._average_model, trainer.global_step
        assert mean is not None
        pairs = [*zip(_tensors(mean.module), _tensors(pl_module), strict=True)]
        if not mean.n_averaged or any(own.device != new.device for own, new in pairs):
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        elif step > self._latest_update_step and self.should_update(step_idx=step - 1):
            together = get_ema_multi_avg_fn(self._kept(mean.n_averaged))
            for kind in {own.dtype for own, _ in pairs}:
                alike = [pair for pair in pairs if pair[0].dtype == kind]
                together([own for own, _ in alike], [new for _, new in alike], mean.n_averaged)
            mean.n_averaged += 1
            self._latest_update_step = step


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    """Return the weights and buffers that are averaged."""
    return (tensor.detach() for tensor in itertools.chain(module.parameters(), module.buffers()))
