"""The paper's optimiser and learning-rate schedule, shared by the three LightningModules."""

from __future__ import annotations

from typing import Any

import torch
from lightning import LightningModule


def adam_with_cosine(module: LightningModule, learning_rate: float) -> dict[str, Any]:
    """Return Adam with cosine annealing over the run (paper, Sec. 4: T_max = the number of epochs).

    A run limited by steps instead of epochs anneals over those steps.

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
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=max(length, 1))
    return {
        "optimizer": optimizer,
        "lr_scheduler": {"scheduler": schedule, "interval": "epoch" if by_epoch else "step"},
    }
