"""The running mean of a run's weights, kept where the weights are."""

from __future__ import annotations

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch.optim.swa_utils import get_ema_multi_avg_fn


class EMA(EMAWeightAveraging):
    """Lightning's exponential moving average of the weights, on the network's device and in one call for all of them.

    Lightning copies the module before it is on the card: its average stays on the CPU, each step waits for the card and
    fetches every weight by itself. Checkpoints are those of Lightning's own, either way.

    Args:
        decay: share of the mean that each step keeps, in [0, 1].
        device: where the mean is; default: where the network is. ``cpu`` where the card's memory is short.
    """

    def __init__(self, decay: float = 0.999, device: torch.device | str | int | None = None) -> None:
        super().__init__(device=device, decay=decay)
        self._together = get_ema_multi_avg_fn(decay)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Follow the module to its device; the count of steps stays on the CPU, where reading it waits for nothing."""
        mean = self._average_model
        assert mean is not None
        mean.module.to(self._device or pl_module.device)
        mean.avg_fn, mean.multi_avg_fn = None, self._together
