"""Fine-tuning of a speaker's networks on one person's clips, within a budget of minutes or steps, and resumable."""

from __future__ import annotations

import json
import signal
import statistics
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning import LightningDataModule, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import Callback

from talkhead.logs.silence import only_errors
from talkhead.media.files import write_whole
from talkhead.modules.averaging import EMA
from talkhead.modules.checkpoint import checkpoints_in
from talkhead.modules.run import RunGuard, outputs_of, settle_checkpoint
from talkhead.modules.run_checkpoint import FOLDER
from talkhead.progress import work_bar

_WARM, _TIMED = 3, 8
"""Steps before the clock starts (memory, kernels), and steps that it then times."""
_UNPLANNED = 10**7
"""More steps than anybody makes: the length of a run until it knows its own."""
FEWEST = 20
"""Steps that are made however little time there is: fewer would not even fill the average of the weights."""


def steps_within(minutes: float, seconds: list[float], made: int = 0, spent: float = 0.0) -> int:
    """Return how many steps a training has room for.

    Args:
        minutes: all of the training's time.
        seconds: what single steps took; their median is what the others will take.
        made: steps made already.
        spent: s that these took.

    Returns:
        The number of steps, those made among them; at least `FEWEST`.

    Example:
        >>> steps_within(1.0, [0.5, 0.4, 9.0], made=11, spent=10.0)  # 11, and (60 s - 10 s) / 0.5 s
        111
    """
    left = max(60 * minutes - spent, 0.0)
    return max(made + int(left / statistics.median(seconds)), FEWEST)


def fit_speaker_part(
    module: LightningModule,
    data: LightningDataModule,
    folder: Path,
    *,
    title: str,
    minutes: float | None = None,
    steps: int | None = None,
    decay: float,
    epoch: int = 25,
    seed: int = 0,
    device: torch.device | None = None,
    precision: Any = "32-true",
    verbose: bool = True,
) -> dict[str, Any]:
    """Train a module until its budget is spent, going on from where an earlier call was stopped.

    A budget in minutes becomes a number of steps, ``steps`` at most, once: the first steps are timed, and the learning
    rate's cosine is laid over as many as there is room for. The number is kept, so that a run that is stopped and
    gone on with makes the steps of an unbroken one; without a checkpoint it begins anew, and measures anew.

    Args:
        module: with the weights to start from.
        data: the person's clips.
        folder: of the run: checkpoints, log, ``plan.json`` and at its end ``done.json``.
        title: stands before the progress bar.
        minutes: time of this training; None: ``steps`` alone says how long it is.
        steps: optimiser steps, at most; None: ``minutes`` alone.
        decay: of the weights' moving average, which is what is kept.
        epoch: steps between two checkpoints.
        seed: of the order, the windows and the noise.
        device: None: the CPU.
        precision: Lightning's.
        verbose: show a progress bar with the time left.

    Returns:
        ``steps``, ``seconds`` (of training, over all calls), ``seconds_per_step`` and ``checkpoint``.

    Raises:
        ValueError: if the loss is not finite, or the folder's checkpoints are another network's.
    """
    ended = folder / "done.json"
    if ended.is_file():
        return _read(ended) | {"checkpoint": str(folder / FOLDER / "last.ckpt")}
    folder.mkdir(parents=True, exist_ok=True)
    timed = minutes is not None and (steps is None or steps > _WARM + _TIMED)
    made = checkpoints_in(folder / FOLDER, "last*.ckpt")
    if timed and not made:  # the steps that were timed are lost, and a plan without them is another run's
        (folder / "plan.json").unlink(missing_ok=True)
    planned = _read(folder / "plan.json").get("steps") if timed else steps
    seed_everything(seed, verbose=False)
    module.train()  # networks are loaded to be used, not to be trained
    budget = _Budget(folder, minutes, steps)
    callbacks = [EMA(decay=decay), budget, RunGuard(), *([_Bar(title)] if verbose else [])]
    with _quiet():
        trainer = _trainer(folder, callbacks, planned or _UNPLANNED, epoch, device or torch.device("cpu"), precision)
        begun = "last" if made and planned else None
        if begun is None:
            _forget(folder / FOLDER)
        checkpoint = settle_checkpoint("fit", begun, trainer, module)
        _run(trainer, module, data, checkpoint)
    told = {"steps": trainer.global_step, "seconds": round(budget.seconds, 1)}
    told["seconds_per_step"] = round(budget.seconds / max(trainer.global_step, 1), 4)
    write_whole(ended, (json.dumps(told) + "\n").encode())
    return told | {"checkpoint": str(folder / FOLDER / "last.ckpt")}


def _trainer(
    folder: Path, callbacks: list[Callback], steps: int, epoch: int, device: torch.device, precision: Any
) -> Trainer:
    """Return what makes so many steps, with a checkpoint after each epoch and at a stop, and without validation."""
    given = {"callbacks": list(callbacks), "default_root_dir": str(folder)}
    return Trainer(
        **{**given, **outputs_of(given)},
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=[device.index or 0] if device.type == "cuda" else 1,
        max_steps=steps,
        max_epochs=-1,
        limit_train_batches=epoch,
        precision=precision,
        gradient_clip_val=1.0,
        limit_val_batches=0,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def _run(trainer: Trainer, module: LightningModule, data: LightningDataModule, checkpoint: str | None) -> None:
    """Fit; Ctrl-C, for which Lightning saves a checkpoint and exits, is Ctrl-C again, and its handler stays."""
    main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGINT)
    try:
        trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    except SystemExit as stop:
        if isinstance(stop.__context__, KeyboardInterrupt):
            raise stop.__context__ from None
        raise
    finally:
        if main:
            signal.signal(signal.SIGINT, handler)


def _forget(folder: Path) -> None:
    """Delete the checkpoints of a run that was stopped before it knew its length: it starts anew."""
    for path in checkpoints_in(folder):
        path.unlink()


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


class _Budget(Callback):
    """Times a run's first steps, decides how many there will be, and adds up what all of them took."""

    def __init__(self, folder: Path, minutes: float | None, most: int | None) -> None:
        self.folder, self.minutes, self.most = folder, minutes, most
        self.seconds = 0.0
        self._last: float | None = None
        self._timed: list[float] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._last = time.monotonic()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        now = time.monotonic()
        assert self._last is not None
        self._timed.append(now - self._last)
        self.seconds, self._last = self.seconds + self._timed[-1], now
        if trainer.max_steps == _UNPLANNED and self.minutes is not None and len(self._timed) == _WARM + _TIMED:
            steps = steps_within(self.minutes, self._timed[_WARM:], len(self._timed), self.seconds)
            steps = steps if self.most is None else min(steps, self.most)
            plan = {"steps": steps, "seconds_per_step": statistics.median(self._timed[_WARM:])}
            write_whole(self.folder / "plan.json", (json.dumps(plan) + "\n").encode())
            trainer.fit_loop.epoch_loop.max_steps = steps

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seconds = state_dict["seconds"]


class _Bar(Callback):
    """A progress bar over the whole run, with the time left."""

    def __init__(self, title: str) -> None:
        self.title = title
        self._shown = ExitStack()
        self._step = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._bar = self._shown.enter_context(work_bar(self.title, "steps", None, True))
        self._step = 0

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if trainer.max_steps != _UNPLANNED:
            self._bar.plan(trainer.max_steps)
        made, self._step = trainer.global_step - self._step, trainer.global_step
        self._bar.advance(made, made)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._shown.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._shown.close()


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep remarks about hardware, worker processes and clips of less than a window from the screen."""
    with only_errors("lightning.pytorch"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not have many workers")
        warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")
        warnings.filterwarnings("ignore", message="data: .* train clips are left out")  # the shortest of them
        warnings.filterwarnings("ignore", category=FutureWarning)
        yield
