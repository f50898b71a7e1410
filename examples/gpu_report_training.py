"""The section `training` of `gpu_report.py`: steps per second of the shipped recipes, on made-up clips."""

from __future__ import annotations

import json
import logging
import time
import warnings
from importlib import import_module
from importlib.resources import files
from typing import Any

import torch
import yaml
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch.utils.data import DataLoader

from talkhead.data.clip import EMOTIONS, SAMPLE_RATE, Clip
from talkhead.devices import fast_precision

BATCHES = (4, 16, 64)
WARM = 15
"""Steps before the clock starts."""


def measure(log: Any, device: str) -> None:
    """Train each module for a few steps at several batch sizes."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    batches = BATCHES if device == "cuda" else (1,)
    for batch in sorted(batches, key=lambda size: size != 16):  # the middle first, should the time run out
        for name in ("video", "landmark", "emotion"):
            job = lambda name=name, batch=batch: timed(name, batch, device)  # noqa: E731
            log.attempt("Training", f"{name}, batch {batch}", job, needs=5)
    if device == "cuda":
        log.attempt("Training", "video, batch 16, graphs", lambda: timed("video", 16, device, graphs=True), needs=15)
        log.attempt("Training", "video, batch 16, compile", lambda: timed("video", 16, device, compile=True), needs=45)
        log.attempt("Training", "paper/video, batch 4", lambda: timed("paper/video", 4, device), needs=10)
    log.say(
        f"shipped configurations under {fast_precision(torch.device(device))}, the same pinned batch again and again, "
        "so no reading from disk, and without the averaged weights; forward, backward, clipping and Adam through "
        "Lightning's trainer; windows of 8 "
        "(video), 75 (landmark) and 16 (paper/video) frames, 2.5 s of sound (emotion)"
    )


def timed(name: str, batch: int, device: str, **options: Any) -> dict[str, float]:
    """Return a row: steps and clips per second, memory."""
    config = yaml.safe_load((files("talkhead") / "configs" / f"{name}.yaml").read_text())
    module = built(config["model"], **options)
    data, steps = config["data"], (40 if device == "cuda" else 1)
    clock = Clock(WARM if device == "cuda" else 1, steps)
    loader = DataLoader(Batches([made_up(data, batch, device)] * (clock.warm + steps)), batch_size=None)
    trainer = Trainer(
        accelerator="gpu" if device == "cuda" else "cpu",
        devices=1,
        max_steps=clock.warm + steps,
        precision=fast_precision(torch.device(device)),
        gradient_clip_val=config["trainer"].get("gradient_clip_val"),
        callbacks=[clock],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=0,
    )
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    trainer.fit(module, loader)
    row = {"steps/s": steps / clock.seconds, "clips/s": batch * steps / clock.seconds}
    if device == "cuda":
        row["peak memory (MiB)"] = torch.cuda.max_memory_allocated() / 2**20
    return row


class Clock(Callback):
    """The time of ``steps`` steps after ``warm`` others."""

    def __init__(self, warm: int, steps: int) -> None:
        self.warm, self.steps, self.start, self.seconds = warm, steps, 0.0, float("nan")

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch: Any, batch_idx: int) -> None:
        if batch_idx == self.warm:
            self.start = now()

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, out: Any, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx == self.warm + self.steps - 1:
            self.seconds = now() - self.start


class Batches(list[Clip]):
    """Ready batches; ``entries`` names the emotions, as the cache's manifest does."""

    entries = tuple({"emotion": emotion} for emotion in EMOTIONS)


def made_up(data: dict[str, Any], batch: int, device: str) -> Clip:
    """Return a batch of the recipe's shapes: the bundled face, moving, before noise."""
    sizes = {"emotion": torch.arange(batch) % len(EMOTIONS), "fps": torch.full((batch,), 25.0)}
    if data["modality"] == "audio":
        samples = round(data["audio_seconds"] * SAMPLE_RATE)
        clip = Clip(0.1 * torch.randn(batch, samples), samples=torch.full((batch,), samples), **sizes)
    else:
        frames, side = data["num_frames"], 128
        samples = round(frames * SAMPLE_RATE / 25)
        info = json.loads((files("talkhead") / "assets" / "speaker" / "pipeline.json").read_text())
        face = torch.tensor(info["reference_landmarks"])
        moved = face + torch.randn(batch, frames, 1, 2) + 0.5 * torch.randn(batch, frames, 68, 2)
        pictures = data["modality"] == "video"
        clip = Clip(
            0.1 * torch.randn(batch, samples),
            samples=torch.full((batch,), samples),
            frames=torch.randint(0, 256, (batch, frames, 3, side, side), dtype=torch.uint8) if pictures else None,
            landmarks=moved,
            reference=torch.randint(0, 256, (batch, 3, side, side), dtype=torch.uint8) if pictures else None,
            reference_landmarks=face.expand(batch, -1, -1).clone(),
            **sizes,
        )
    return clip.pin_memory() if device == "cuda" else clip


def built(entry: Any, **options: Any) -> Any:
    """Build what a configuration names by class path and arguments; ``options`` are added to the outermost's."""
    if not isinstance(entry, dict) or "class_path" not in entry:
        return entry
    home, _, name = entry["class_path"].rpartition(".")
    arguments = {key: built(value) for key, value in entry.get("init_args", {}).items()}
    return getattr(import_module(home), name)(**arguments, **options)


def now() -> float:
    """Return the time in s, with everything asked of the card done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()
