"""A run's checkpoint: written whole, read with nothing run that it names, and what it says it is made of.

Beside Lightning's own entries a checkpoint holds, under ``hyper_parameters``, the module's arguments with the networks
among them as ``{"class_path": ..., "init_args": ...}``: with them and the weights a network can be built again, and no
other file is needed.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from talkhead.media.files import write_whole
from talkhead.one_line import one_line


def read_checkpoint(path: str | Path, map_location: Any = "cpu") -> dict[str, Any]:
    """Read a checkpoint: tensors, numbers and texts alone, every byte checked; nothing in it is run.

    Args:
        path: a file that a run of this library, or another with Lightning, wrote.
        map_location: where the tensors go, see ``torch.load``.

    Returns:
        Lightning's dictionary; ``state_dict`` is in it.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is torn or no checkpoint; the newest whole one beside it is named.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint: there is no file '{path}'")
    try:
        _check_whole(path)
        checkpoint = torch.load(path, map_location=map_location, weights_only=True)
    except PermissionError:
        raise
    except Exception as error:  # zip, pickle and torch have errors of their own, and each means the same here
        reason = one_line(error, 160)
        raise ValueError(f"checkpoint: '{path}' is torn or no checkpoint ({reason}); {_other(path)}") from error
    weights = checkpoint.get("state_dict") if isinstance(checkpoint, dict) else None
    if not isinstance(weights, dict) or not all(isinstance(weight, Tensor) for weight in weights.values()):
        raise ValueError(f"checkpoint: '{path}' is no checkpoint of a training run; {_other(path)}")
    return checkpoint


def write_checkpoint(path: str | Path, checkpoint: dict[str, Any]) -> None:
    """Write a checkpoint so that it is there whole or not at all; what was there before stays until then.

    Args:
        path: the file; its folder is made.
        checkpoint: Lightning's dictionary.

    Raises:
        ValueError: if its weights are not finite: nobody could go on from them.
        OSError: if it cannot be written.
    """
    if lost := spoiled_weights(checkpoint["state_dict"]):
        raise ValueError(
            f"checkpoint: '{path}' is not written, {len(lost)} of its weights are not finite ({lost[0]}, ...): "
            "go on from an older one, with a lower learning_rate or trainer.gradient_clip_val"
        )
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, lambda file: torch.save(checkpoint, file))
    except (OSError, RuntimeError) as error:  # torch has a RuntimeError of its own for a disk that is full
        cause = error if isinstance(error, OSError) else error.__context__ or error
        reason = getattr(cause, "strerror", None) or one_line(cause, 160)
        raise OSError(
            f"checkpoint: '{path}' cannot be written ({reason}); what was there is untouched: make room, or choose "
            "another folder"
        ) from error


def spoiled_weights(weights: dict[str, Tensor]) -> list[str]:
    """Return the names of the weights that hold NaN or infinity."""
    return [name for name, w in weights.items() if w.is_floating_point() and not w.isfinite().all()]


def checkpoints_in(folder: str | Path, pattern: str = "*.ckpt") -> list[Path]:
    """Return the checkpoints in a folder, the newest first, without what killed processes left half-written."""
    found = [path for path in Path(folder).glob(pattern) if not path.name.startswith(".")]
    return sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)


def newest_whole(folder: str | Path, but: Path | None = None) -> Path | None:
    """Return the newest checkpoint in ``folder`` that is whole, other than ``but``; None where there is none."""
    for path in checkpoints_in(folder):
        try:
            if path != but:
                _check_whole(path)
                return path
        except (OSError, ValueError, zipfile.BadZipFile):
            continue
    return None


def _check_whole(path: Path) -> None:
    """Raise unless ``path`` is what ``torch.save`` writes, to the last byte: an archive of uncompressed records."""
    if not path.stat().st_size:
        raise ValueError("the file is empty")
    with zipfile.ZipFile(path) as archive:
        if any(record.compress_type != zipfile.ZIP_STORED for record in archive.infolist()):
            raise ValueError("its records are compressed")
        if sum(record.file_size for record in archive.infolist()) > path.stat().st_size:
            raise ValueError("its records are larger than the file")
        if damaged := archive.testzip():
            raise ValueError(f"its record {damaged} is damaged")


def _other(path: Path) -> str:
    whole = newest_whole(path.parent, path)
    return "there is no whole one beside it" if whole is None else f"the newest whole one beside it is '{whole}'"
