"""What `talkhead predict` makes of each clip: a file beside the run's log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from safetensors.torch import save
from torch import Tensor

from talkhead.media.files import write_whole

FOLDER = "predictions"
"""Where they lie below a run's ``default_root_dir``."""


class KeepPredictions(BasePredictionWriter):
    """Writes what ``predict_step`` returns, clip by clip, as ``predictions/CLIP.safetensors``.

    A tensor is called ``prediction`` there, several are ``prediction_0``, ``prediction_1`` and so on, those of a
    dictionary have its names. Another ``BasePredictionWriter``, the user's own, takes its place.
    """

    def __init__(self) -> None:
        super().__init__("batch")

    def write_on_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        prediction: Any,
        batch_indices: Sequence[int] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Write the clips of a batch, each whole or not at all."""
        if any(isinstance(one, BasePredictionWriter) and one is not self for one in trainer.callbacks):  # type: ignore[attr-defined]
            return
        tensors = _named(prediction)
        for place, clip in enumerate(getattr(batch, "names", ())):
            path = Path(trainer.default_root_dir) / FOLDER / f"{clip}.safetensors"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, save({name: tensor[place].contiguous().cpu() for name, tensor in tensors.items()}))


def _named(outputs: Any) -> dict[str, Tensor]:
    """Return the tensors that a step returned, by name."""
    if isinstance(outputs, Tensor):
        return {"prediction": outputs}
    several = (
        outputs if isinstance(outputs, Mapping) else {f"prediction_{i}": one for i, one in enumerate(outputs or ())}
    )
    return {str(name): one for name, one in several.items() if isinstance(one, Tensor)}
