"""What every training run keeps, refuses and leaves behind, as Lightning callbacks and checks before the first step."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import (
    Callback,
    Checkpoint,
    LearningRateMonitor,
    ProgressBar,
    WeightAveraging,
)
from lightning.pytorch.cli import SaveConfigCallback
from torch import Tensor

from talkhead.logs.pictures import default_loggers
from talkhead.media.files import write_whole
from talkhead.modules.checkpoint import checkpoints_in, read_checkpoint
from talkhead.modules.run_checkpoint import FOLDER, RunCheckpoint
from talkhead.modules.whole_checkpoints import WholeCheckpoints


class RunGuard(Callback):
    """Watches a run: stops it at the first loss that is not finite, and keeps its promises when it is resumed."""

    def __init__(self) -> None:
        self._batch: Any = None
        self._averaged = False
        self._asked: list[list[Any]] = []
        self._handlers: dict[int, Any] = {}
        self._came: int | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the learning rates that were asked for: a checkpoint brings others."""
        schedulers = (config.scheduler for config in trainer.lr_scheduler_configs)
        self._asked = [[*getattr(scheduler, "base_lrs", ())] for scheduler in schedulers]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let the learning rates that were asked for win over the checkpoint's, on the schedule of this run's length.

        What was limited by steps may go on limited by epochs, or the other way round: then the schedule counts anew.
        """
        step, epoch = trainer.global_step, trainer.current_epoch
        for config, rates in zip(trainer.lr_scheduler_configs, self._asked, strict=True):
            scheduler = config.scheduler
            if not isinstance(scheduler, torch.optim.lr_scheduler.LambdaLR):
                continue
            # A run that is broken off behind an epoch's last batch has counted that epoch already.
            counts = (step,) if config.interval == "step" else (epoch, epoch + 1)
            if pl_module.automatic_optimization and config.frequency == 1 and scheduler.last_epoch not in counts:
                scheduler.last_epoch = counts[0]
            scheduler.base_lrs = rates
            for group, rate, factor in zip(scheduler.optimizer.param_groups, rates, scheduler.lr_lambdas, strict=True):
                group["initial_lr"], group["lr"] = rate, rate * factor(scheduler.last_epoch)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Begin the next epoch after a checkpoint of an epoch's end, and no step in its middle.

        Lightning 2.6 takes every run limited by steps for one that was broken off within an epoch: it would go on in
        the epoch that has ended, with a batch too many, and all epochs after it would have other numbers. Of a step
        that several batches make (``accumulate_grad_batches``) and that was broken off, all batches are seen again:
        their gradients are in no checkpoint.
        """
        loop = checkpoint["loops"]["fit_loop"]
        self._batches_again(loop["epoch_loop.batch_progress"], trainer.accumulate_grad_batches)
        if trainer.max_steps == -1:
            return
        epoch = loop["epoch_progress"]
        now = epoch["current"]
        if not now["ready"] == now["started"] == now["processed"] == now["completed"] + 1:
            return
        for counts in (epoch["current"], epoch["total"]):
            counts["completed"] += 1
        batches = loop["epoch_loop.batch_progress"]
        batches["current"] = dict.fromkeys(batches["current"], 0)
        batches["is_last_batch"] = False

    @staticmethod
    def _batches_again(batches: dict[str, Any], accumulated: int) -> None:
        """Take back the batches of a step that was not made."""
        now = batches["current"]
        half = 0 if now["processed"] == now["ready"] and batches["is_last_batch"] else now["processed"] % accumulated
        for counts in (now, batches["total"]) if half else ():
            counts["processed"] -= half
            counts["completed"] = counts["processed"]
            counts["ready"] = counts["started"] = counts["processed"] + 1

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Hear a signal; keep the batch; number the log's steps, one of which Lightning counts twice at a resume."""
        self._hear()
        self._batch = batch
        trainer.fit_loop.epoch_loop._batches_that_stepped = trainer.global_step

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Refuse a loss that is not finite before it reaches the weights."""
        finite = bool(loss.isfinite().all())
        if not trainer.strategy.reduce_boolean_decision(finite):  # all processes stop, or they wait for one for ever
            clips = "another process's clips, which it names" if finite else _clips_of(self._batch)
            raise ValueError(
                f"train/loss is {'not finite' if finite else loss.item()} in step {trainer.global_step} of epoch "
                f"{trainer.current_epoch}, on {clips}: the run stops with the weights before it; look at them, lower "
                "learning_rate, or set trainer.gradient_clip_val"
            )

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        """Let Ctrl-C and SIGTERM wait until the step is made, counted and averaged: from half a step no run goes on."""
        if self._handlers or threading.current_thread() is not threading.main_thread():
            return
        for number in (signal.SIGINT, signal.SIGTERM):
            if callable(handler := signal.getsignal(number)):
                self._handlers[number] = handler
                signal.signal(number, self._note)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Let signals through again; one that came in the meantime is heard at the next batch."""
        self._let_through()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Hear a signal that came in the last step."""
        self._hear()

    def _note(self, number: int, _: Any) -> None:
        self._came = number

    def _let_through(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}

    def _hear(self) -> None:
        came, self._came = self._came, None
        if came is not None:
            signal.raise_signal(came)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note that the averaged weights are in the module now."""
        self._averaged = trainer.state.fn == "fit"

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note that the weights in training are back."""
        self._averaged = False

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Bring the weights in training back before the checkpoint is written, where a validation was broken off."""
        self._let_through()
        for callback in _of(trainer.callbacks, WeightAveraging):
            if self._averaged:
                callback.on_validation_epoch_end(trainer, pl_module)
        self._averaged = False


def _clips_of(batch: Any) -> str:
    """Name the clips of a batch: those whose sound is not finite, if there are such, else all."""
    names, audio = getattr(batch, "names", ()), getattr(batch, "audio", None)
    if not names or audio is None:
        return "a batch without names"
    spoiled = [name for name, sound in zip(names, audio, strict=True) if not sound.isfinite().all()]
    known = ", ".join(dict.fromkeys(spoiled or names))
    return f"the clips {known}" + (", whose sound is not finite" if spoiled else "")


class SaveConfig(SaveConfigCallback):
    """Writes the run's ``config.yaml`` beside its log, without the run's place: that is where the file lies."""

    def __init__(self, parser: Any, config: Any) -> None:
        super().__init__(parser, config, save_to_log_dir=False)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the folder: the first process tells it to the others, so all must ask."""
        self._folder = Path(trainer.log_dir or trainer.default_root_dir)
        super().setup(trainer, pl_module, stage)

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write the file, whole or not at all."""
        config = self.config.clone()
        config.trainer.default_root_dir = None
        self._folder.mkdir(parents=True, exist_ok=True)
        write_whole(self._folder / self.config_filename, self.parser.dump(config, skip_none=False).encode())


def outputs_of(trainer: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a trainer writes with: checkpoints and log below its ``default_root_dir``, and no more than asked.

    Args:
        trainer: the arguments of the ``Trainer``, its callbacks built.

    Returns:
        The arguments that take their place.
    """
    given, plugins = trainer.get("callbacks") or [], trainer.get("plugins") or []
    callbacks = list(given) if isinstance(given, list) else [given]
    unwanted: list[type] = []
    if trainer.get("enable_progress_bar") is False:
        unwanted.append(ProgressBar)
    if trainer.get("logger") is False:
        unwanted.append(LearningRateMonitor)
    if trainer.get("enable_checkpointing") is False:
        unwanted.append(Checkpoint)
    elif not any(_of(callbacks, Checkpoint)):
        callbacks.append(RunCheckpoint(save_last=True, save_on_train_epoch_end=True, save_on_exception=True))
    logger = trainer.get("logger")
    if logger is None or logger is True:
        logger = default_loggers(trainer.get("default_root_dir") or ".")
    return {
        "logger": logger,
        "callbacks": [callback for callback in callbacks if not isinstance(callback, tuple(unwanted))],
        "plugins": [*(plugins if isinstance(plugins, list) else [plugins]), WholeCheckpoints()],
    }


def check_size(module: LightningModule, facts: Mapping[str, Any]) -> None:
    """Refuse a module that is told another size of the frames than the cache has."""
    renderer = getattr(module, "renderer", None)
    name = "size" if renderer is None else "renderer.init_args.size"
    size = module.hparams.get("size") if renderer is None else renderer.config.size
    if size is not None and facts.get("size", size) != size:
        raise ValueError(
            f"model.{name}: the frames of data.root are {facts['size']} px wide, and the module is told {size}; "
            f"give --model.{name}={facts['size']}, or another cache"
        )


def settle_checkpoint(verb: str, wanted: str | None, trainer: Trainer, module: LightningModule) -> str | None:
    """Return the checkpoint to start from, and refuse what could not be right, before anything is written.

    Args:
        verb: fit, validate, test or predict.
        wanted: a file, "last", or None.
        trainer: about to run.
        module: about to be trained or measured.

    Returns:
        The file; None: ``fit`` starts anew.

    Raises:
        FileNotFoundError: if there is no such checkpoint.
        ValueError: if a run would write over another one's checkpoints, or the checkpoint is of another module, of
            other sizes, torn, or has already gone further than ``trainer.max_epochs``.
    """
    folders = [Path(c.dirpath) if c.dirpath else _home(trainer) for c in _of(trainer.callbacks, RunCheckpoint)]
    path = _found(verb, wanted, folders or [_home(trainer)], trainer)
    if verb == "fit" and not trainer.fast_dev_run:
        _check_unused(folders, path, Path(trainer.default_root_dir))
    if path is None:
        return None
    checkpoint = read_checkpoint(path)
    _check_fits(path, checkpoint, module)
    if verb == "fit":
        _check_goes_on(path, checkpoint, trainer)
    return str(path)


def _home(trainer: Trainer) -> Path:
    return Path(trainer.default_root_dir) / FOLDER


def _of(callbacks: list[Any], kind: type) -> Iterator[Any]:
    return (callback for callback in callbacks if isinstance(callback, kind))


def _found(verb: str, wanted: str | None, folders: list[Path], trainer: Trainer) -> Path | None:
    """Return the file that ``--ckpt_path`` names, or None where ``fit`` may start without."""
    if wanted is None:
        if verb == "fit":
            return None
        raise ValueError(f"{verb} measures a checkpoint: give --ckpt_path last, or --ckpt_path FILE")
    if wanted != "last":
        if not Path(wanted).is_file():
            raise FileNotFoundError(f"ckpt_path: there is no file '{wanted}'; give a checkpoint, or `last`")
        return Path(wanted)
    for folder in folders:
        if found := checkpoints_in(folder, "last*.ckpt"):
            return found[0]
        if others := checkpoints_in(folder):  # the disk was full before the last one could be written
            if trainer.is_global_zero:
                print(f"talkhead: there is no '{folder / 'last.ckpt'}'; taking '{others[0].name}'", file=sys.stderr)
            return others[0]
    if verb != "fit":
        raise FileNotFoundError(
            f"ckpt_path: there is no '{folders[0] / 'last.ckpt'}'; give --trainer.default_root_dir of a run, or "
            "--ckpt_path FILE"
        )
    if trainer.is_global_zero:
        print(f"talkhead: there is no '{folders[0] / 'last.ckpt'}' yet; starting anew", file=sys.stderr)
    return None


def _check_unused(folders: list[Path], path: Path | None, root: Path) -> None:
    """Refuse to write over the checkpoints of a run that is not the one gone on from."""
    if path is None and any(root.glob("hpc_ckpt_*.ckpt")):
        return  # SLURM starts a job again with the same command, and Lightning finds where it was
    for folder in folders:
        own = path is not None and path.resolve().parent == folder.resolve()
        if not own and checkpoints_in(folder):
            raise ValueError(
                f"trainer.default_root_dir: '{folder}' holds the checkpoints of another run; go on with it by "
                "--ckpt_path last, or give another --trainer.default_root_dir"
            )


def _check_fits(path: Path, checkpoint: dict[str, Any], module: LightningModule) -> None:
    """Refuse a checkpoint of another module, or of networks of other sizes, by the names of what differs."""
    described = checkpoint.get("hyper_parameters")
    described = described if isinstance(described, dict) else {}
    theirs, ours = str(described.get("_class_path", "")).rpartition(".")[2], type(module).__name__
    if theirs and theirs != ours:
        raise ValueError(
            f"ckpt_path: '{path}' is a checkpoint of {theirs}, not of {ours}; give another, or its --config"
        )
    saved, own = checkpoint["state_dict"], module.state_dict()
    wrong = [n for n in {**own, **saved} if n not in own or n not in saved or own[n].shape != saved[n].shape]
    if not wrong:
        return
    differing = "; ".join(_differences(described, module)) or f"{len(wrong)} weights differ, {wrong[0]} among them"
    raise ValueError(
        f"ckpt_path: '{path}' does not fit this {ours}: {differing}; give what the checkpoint was trained with"
    )


def _differences(described: dict[str, Any], module: LightningModule) -> Iterator[str]:
    """Yield the arguments of the module's networks in which a checkpoint's description differs from them."""
    for part, network in module.named_children():
        config, said = getattr(network, "config", None), described.get(part)
        arguments = said.get("init_args") if isinstance(said, dict) else None
        if config is None or not isinstance(arguments, dict):
            continue
        for name, theirs in arguments.items():
            mine = tuple(config[name]) if isinstance(config.get(name), list) else config.get(name)
            if isinstance(mine, tuple) and isinstance(theirs, list):
                theirs = tuple(theirs)
            if theirs is not None and mine != theirs:
                yield f"model.{part}.init_args.{name} is {theirs} there and {mine} here"


def _check_goes_on(path: Path, checkpoint: dict[str, Any], trainer: Trainer) -> None:
    """Refuse a checkpoint that a run cannot be gone on from."""
    parts = {"optimizer_states": list, "lr_schedulers": list, "loops": dict, "callbacks": dict, "global_step": int}
    if any(not isinstance(checkpoint.get(name), kind) for name, kind in parts.items()):
        raise ValueError(f"ckpt_path: '{path}' holds weights alone, and a run cannot go on from it; start anew")
    try:
        done = int(checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"])
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"ckpt_path: '{path}' does not say how far its run was; start anew") from None
    if trainer.max_epochs is not None and -1 < trainer.max_epochs < done:
        raise ValueError(
            f"trainer.max_epochs: '{path}' has {done} epochs behind it, and the run is to end after "
            f"{trainer.max_epochs}; give more"
        )
