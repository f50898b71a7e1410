"""What `talkhead predict` makes of each clip: a file beside the run's log."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter, Callback
from safetensors.torch import save
from torch import Tensor

from talkhead.media.files import write_whole

FOLDER = "predictions"
"""Where they lie below a run's ``default_root_dir``."""


class KeepPredictions(Callback):
    """Writes what ``predict_step`` returns, clip by clip, as ``predictions/CLIP.safetensors``.

    A tensor is called ``prediction`` there, several are ``prediction_0``, ``prediction_1`` and so on, those of a
    dictionary have its names. A callback of the user's own that is a ``BasePredictionWriter`` takes its place.
    """

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Write the clips of a batch, each whole or not at all."""
        if any(isinstance(callback, BasePredictionWriter) for callback in trainer.callbacks):  # type: ignore[attr-defined]
            return
        for place, clip in enumerate(getattr(batch, "names", ())):
            path = Path(trainer.default_root_dir) / FOLDER / f"{clip}.safetensors"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(
                path, save({name: tensor[place].contiguous().cpu() for name, tensor in _named(outputs).items()})
            )


def _named(outputs: Any) -> dict[str, Tensor]:
    """Return the tensors that a step returned, by name."""
    if isinstance(outputs, Tensor):
        return {"prediction": outputs}
    several = (
        outputs if isinstance(outputs, Mapping) else {f"prediction_{i}": one for i, one in enumerate(outputs or ())}
    )
    return {str(name): one for name, one in several.items() if isinstance(one, Tensor)}
