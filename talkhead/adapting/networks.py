"""A base speaker's networks, ready to be fine-tuned on one person's clips."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch

from talkhead.adapting.fine_tuning import fit_speaker_part
from talkhead.data.datamodule import MEADDataModule
from talkhead.data.dataset import room
from talkhead.devices import fast_precision
from talkhead.modules.landmark import LandmarkGenerator
from talkhead.modules.video import VideoDiffusion
from talkhead.nets.landmark import LandmarkNet
from talkhead.nets.renderer import Renderer
from talkhead.schedulers import Scheduler

WINDOW = 8
"""Frames of a training sample of the renderer."""
_BATCH = 4
EPOCH = 25
"""Steps between two checkpoints: what a kill costs."""
_DECAY = 0.98
"""Of the average of the weights."""
_HEARD = 30
"""How often the landmark net hears each second, where the minutes allow it."""
_LANDMARK_SECONDS = 3.0
"""Of a training sample of the landmark net; less where the clips are shorter."""

VIDEO: dict[str, Any] = {
    "learning_rate": 5e-4, "last_step_share": 1.0, "own_share": 0.0, "mouth_weight": 5.0, "eye_weight": 2.0,
    "detail_weight": 0.05, "change_weight": 0.5, "recolour": 0.0, "mirror": 0.1, "jitter": 0.15,
    "bank_dropout": 0.25, "class_dropout": 0.1,
}  # fmt: skip
"""How the renderer learns one person."""
LANDMARK: dict[str, Any] = {
    "learning_rate": 3e-4, "distance": "euclidean", "velocity_weight": 1.0, "opening_weight": 0.1, "augment": 0.5,
}  # fmt: skip
"""How the landmark net does, as the bundled one did but for the rate."""


def tune_renderer(
    renderer: Renderer,
    scheduler: Scheduler,
    root: Path,
    held_out: list[str],
    folder: Path,
    *,
    device: torch.device,
    **budget: Any,
) -> dict[str, Any]:
    """Fine-tune a renderer on a cache's clips but those held out; see `fit_speaker_part` for the budget.

    Args:
        renderer: to start from.
        scheduler: its process.
        root: the cache.
        held_out: names of clips.
        folder: of the run.
        device: where to train.
        **budget: minutes or steps, seed, verbose.

    Returns:
        What `fit_speaker_part` does.
    """
    data = MEADDataModule(
        str(root),
        batch_size=_BATCH,
        num_frames=WINDOW,
        held_out=held_out,
        bank=4 if renderer.config.bank else 0,
    )
    clips = sum(room(data.entries[name]) >= WINDOW for name in data.names("train"))
    data.samples_per_clip = math.ceil(EPOCH * _BATCH / max(clips, 1))
    module = VideoDiffusion(renderer, scheduler, **VIDEO)  # type: ignore[arg-type]
    return fit_speaker_part(
        module, data, folder, title="renderer ", decay=_DECAY, epoch=EPOCH, device=device,
        precision=fast_precision(device), **budget,
    )  # fmt: skip


def tune_landmark_net(
    net: LandmarkNet,
    root: Path,
    held_out: list[str],
    folder: Path,
    *,
    fps: float,
    size: int,
    device: torch.device,
    **options: Any,
) -> dict[str, Any]:
    """Fine-tune a landmark net on a cache's clips but those held out: seconds to a few minutes.

    Args:
        net: to start from.
        root: the cache.
        held_out: names of clips.
        folder: of the run.
        fps: of the clips.
        size: px of their frames.
        device: where to train.
        **options: minutes (at most), seed, verbose.

    Returns:
        What `fit_speaker_part` does.
    """
    looks = net.config.portrait_view != "none"
    data = MEADDataModule(str(root), modality="landmarks", held_out=held_out, batch_size=_BATCH, reference="first")
    lengths = sorted(data.entries[name]["frames"] for name in data.names("train"))
    window = min(round(_LANDMARK_SECONDS * fps), lengths[len(lengths) // 4])
    data.num_frames = window
    usable = sum(length >= window for length in lengths)
    data.samples_per_clip = math.ceil(EPOCH * _BATCH / usable)
    module = LandmarkGenerator(net, size=size, portrait=0.7 if looks else 0.0, **LANDMARK)
    steps = math.ceil(_HEARD * sum(lengths) / window / _BATCH)
    return fit_speaker_part(
        module, data, folder, title="landmarks", decay=_DECAY, epoch=EPOCH, device=device, steps=steps, **options
    )
