"""Checkpoints that are there whole or not at all, for Lightning's Trainer."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.plugins.io import TorchCheckpointIO

from talkhead.modules.checkpoint import read_checkpoint, write_checkpoint


class WholeCheckpoints(TorchCheckpointIO):
    """Lightning's way to checkpoints through ``read_checkpoint`` and ``write_checkpoint``."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint; there are no ``storage_options``."""
        write_checkpoint(path, checkpoint)

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = None) -> dict[str, Any]:
        """Read a checkpoint; it is always read as weights alone."""
        return read_checkpoint(path, map_location or "cpu")
