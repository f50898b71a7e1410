"""Pictures for the log: a file beside it, and handed to every logger that takes pictures."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from talkhead.face.points import PARTS
from talkhead.media.read import write_image


def hand_picture(loggers: Iterable[Any], tag: str, picture: Tensor, step: int) -> None:
    """Give a picture to each logger in its own way; those that take none are passed over.

    Known are TensorBoard's way (``logger.experiment.add_image``), and that of Weights & Biases and others in Lightning
    (``logger.log_image``).

    Args:
        loggers: Lightning's.
        tag: the picture's name, such as ``val/pictures``.
        picture: (3, H, W) uint8.
        step: of the training.
    """
    for logger in loggers:
        if hasattr(logger, "log_image"):
            logger.log_image(key=tag, images=[picture.permute(1, 2, 0).contiguous().numpy()], step=step)
        elif hasattr(getattr(logger, "experiment", None), "add_image"):  # Lightning asks no logger for an experiment
            logger.experiment.add_image(tag, picture, step)


def write_beside_log(folder: Path, name: str, picture: Tensor) -> None:
    """Write (3, H, W) uint8 as a PNG below the log's folder, whole or not at all."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, picture)


def picture_of(figure: Any) -> Tensor:
    """Return a matplotlib figure as (3, H, W) uint8."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return torch.from_numpy(np.asarray(canvas.buffer_rgba())[..., :3].copy()).permute(2, 0, 1)


def landmark_plot(truth: Tensor, predicted: Tensor, frames: int = 6) -> Tensor:
    """Draw the true landmarks, grey, under predicted ones, at evenly spaced frames.

    Args:
        truth: (T, 68, 2) px.
        predicted: (T, 68, 2) px.
        frames: how many at most.

    Returns:
        (3, H, W) uint8.
    """
    from matplotlib.figure import Figure

    pick = torch.linspace(0, len(truth) - 1, min(frames, len(truth))).round().long().tolist()
    figure = Figure(figsize=(2.2 * len(pick), 2.4), layout="constrained", dpi=100)
    for axes, t in zip(figure.subplots(1, len(pick), squeeze=False)[0], pick, strict=True):
        for part in PARTS:
            for points, colour in ((truth, "0.6"), (predicted, "tab:red")):
                axes.plot(*points[t, part].T.float().cpu().numpy(), color=colour, linewidth=1, marker=".", markersize=2)
        axes.set(title=f"frame {t}", aspect="equal")
        axes.invert_yaxis()
        axes.axis("off")
    return picture_of(figure)


def default_loggers(root: str) -> list[Any]:
    """Return what a run logs with that is told no logger: a CSV file, and TensorBoard where it is installed.

    Both write below ``root``/logs/version_N.

    Args:
        root: the run's folder.
    """
    from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

    table = CSVLogger(root, name="logs")
    if importlib.util.find_spec("tensorboard") is None:
        return [table]
    return [table, TensorBoardLogger(root, name="logs", version=table.version, default_hp_metric=False)]
