"""The paper's optimiser and learning-rate schedule, shared by the three LightningModules."""

from __future__ import annotations

import math
from typing import Any

import torch
from lightning import LightningModule


def adam_with_cosine(module: LightningModule, learning_rate: float) -> dict[str, Any]:
    """Return Adam with cosine annealing over the run (paper, Sec. 4: T_max = the number of epochs).

    The rate at epoch n is lr (1 + cos(pi n / T_max)) / 2, and stays at 0 after T_max. A run limited by steps instead of
    epochs anneals over those steps. A run resumed with another length follows the new one.

    Args:
        module: the module to train; its trainer tells how long the run is.
        learning_rate: Adam's initial learning rate; the paper's is 1e-4.

    Returns:
        What ``configure_optimizers`` returns.
    """
    optimizer = torch.optim.Adam((p for p in module.parameters() if p.requires_grad), lr=learning_rate)
    trainer = module.trainer
    by_epoch = trainer.max_steps <= 0
    length = (trainer.max_epochs or 1) if by_epoch else trainer.max_steps
    length = max(length, 1)
    # Not CosineAnnealingLR: it brings the old T_max back from a checkpoint, and rises again after it.
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: (1 + math.cos(math.pi * min(n / length, 1))) / 2)
    return {
        "optimizer": optimizer,
        "lr_scheduler": {"scheduler": schedule, "interval": "epoch" if by_epoch else "step"},
    }
