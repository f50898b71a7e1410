"""The paper's optimiser and learning-rate schedule, shared by the three LightningModules."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Timer

_WARMUP_SHARE = 0.1  # of a run: the most that its warm-up takes


def adam_with_cosine(module: LightningModule, learning_rate: float, warmup_steps: int = 0) -> dict[str, Any]:
    """Return Adam with cosine annealing over the run (paper, Sec. 4: T_max = the number of epochs).

    The rate at epoch n is lr (1 + cos(pi n / T_max)) / 2, and stays at 0 after T_max. A run limited by steps instead of
    epochs anneals over those steps, one limited by ``max_time`` alone over that time. A run resumed with another length
    follows the new one.

    A warm-up of W steps multiplies the rate of step n by (n + 1) / W while that is below 1, in a short run by ten times
    the share that is done where this is more; the cosine then goes down from step to step however the run is limited.

    Args:
        module: the module to train; its trainer tells how long the run is.
        learning_rate: Adam's initial learning rate; the paper's is 1e-4.
        warmup_steps: W, of which a run uses a tenth of its length at most; 0: none (paper).

    Returns:
        What ``configure_optimizers`` returns.

    Raises:
        ValueError: if nothing limits the run, or ``warmup_steps`` is negative.
    """
    if warmup_steps < 0:
        raise ValueError(f"warmup_steps must be 0 or more; got {warmup_steps}")
    optimizer = torch.optim.Adam((p for p in module.parameters() if p.requires_grad), lr=learning_rate)
    share, interval = _share_of_the_run(module.trainer, by_steps=warmup_steps > 0)

    def factor(n: int) -> float:
        done = min(share(n), 1.0)
        risen = min(max((n + 1) / warmup_steps, done / _WARMUP_SHARE), 1.0) if warmup_steps else 1.0
        return risen * (1 + math.cos(math.pi * done)) / 2

    # Not CosineAnnealingLR: it brings the old T_max back from a checkpoint, and rises again after it.
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": interval}}


def _share_of_the_run(trainer: Trainer, by_steps: bool) -> tuple[Callable[[int], float], str]:
    """Return what tells the share of the run that is done after n epochs or steps, and which of the two n counts.

    Epochs are counted where they limit the run, unless it is to go ``by_steps``.
    """
    epochs = trainer.max_epochs
    if trainer.max_steps >= 0:  # asked anew each time: a run may learn how long it is while it runs
        return lambda n: n / max(trainer.max_steps, 1), "step"
    if epochs is not None and epochs >= 0 and by_steps:
        # Not before the first step: it loads the data, and a run that goes on does not yet know from which of them.
        return lambda n: n / max(trainer.estimated_stepping_batches, 1) if n else 0.0, "step"
    if epochs is not None and epochs >= 0:
        return lambda n: n / max(epochs, 1), "epoch"
    timers = [callback for callback in trainer.callbacks if isinstance(callback, Timer)]  # type: ignore[attr-defined]
    if not timers or timers[0].time_remaining() is None:
        raise ValueError(
            "the learning rate is annealed over the run, and nothing limits this one: "
            "set trainer.max_epochs, trainer.max_steps or trainer.max_time"
        )

    def share(n: int) -> float:
        if not n:
            return 0.0
        done, left = timers[0].time_elapsed(), timers[0].time_remaining()
        # The processes' clocks differ, and their weights must not.
        return trainer.strategy.broadcast(done / (done + left))  # type: ignore[operator]

    return share, "step"
