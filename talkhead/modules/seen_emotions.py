"""Which emotions the training data have: counted once, kept with the network, so that nobody asks it for another."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from diffusers import ConfigMixin
from lightning import Trainer
from torch import Tensor

from talkhead.data.clip import EMOTIONS, Clip


def count_emotions(loader: Iterable[Clip], emotions: Sequence[str]) -> Tensor:
    """Count how often each emotion is seen in training, from the cache's manifest where there is one.

    Where recordings are drawn with weights (``data.balance``) it is how often they are drawn in an epoch, on average.

    Args:
        loader: batches of ``Clip``.
        emotions: the classes' names.

    Returns:
        (E,) counts.

    Raises:
        ValueError: if a recording's emotion is not among the classes, or not at its place in ``EMOTIONS``.
    """
    entries = getattr(getattr(loader, "dataset", None), "entries", None)
    if entries is None:
        return sum((torch.bincount(b.emotion.cpu(), minlength=len(emotions)) for b in loader), torch.zeros(1).long())
    names = [entry["emotion"] for entry in entries]
    if wrong := sorted(set(names) - {one for one, own in zip(EMOTIONS, emotions, strict=False) if one == own}):
        raise ValueError(
            f"net.emotions must begin with {', '.join(EMOTIONS)}, whose places are clips' labels; {', '.join(wrong)}"
            " not at its place: leave net.emotions out, what the data lack gets probability 0"
        )
    weights = getattr(getattr(loader, "sampler", None), "weights", None)
    drawn = torch.ones(len(names)) if weights is None else weights * (len(names) / weights.sum())
    places = torch.tensor([list(emotions).index(name) for name in names], dtype=torch.long)
    return torch.zeros(len(emotions), dtype=drawn.dtype).index_add_(0, places, drawn)


def count_everywhere(trainer: Trainer, emotions: Sequence[str]) -> Tensor:
    """Count the emotions of a trainer's training data, over all of its processes."""
    counts = count_emotions(trainer.train_dataloader or [], emotions)
    if trainer.world_size > 1:  # without a manifest each process has counted its own share
        counts = trainer.strategy.reduce(counts.to(trainer.strategy.root_device), reduce_op="sum").cpu()  # type: ignore[union-attr]
    return counts


def remember_emotions(net: ConfigMixin, trainer: Trainer) -> None:
    """Write into a network's configuration, as ``trained_on``, which emotions it is being trained on.

    Those of an earlier training stay: what was learnt once is known.
    """
    counts = zip(EMOTIONS, count_everywhere(trainer, EMOTIONS).tolist(), strict=True)
    net.register_to_config(trained_on=sorted({name for name, n in counts if n} | set(net.config["trained_on"] or ())))
