"""The one rule for everything random in training: what is drawn belongs to (seed, epoch, batch, process).

So a resumed run repeats an unbroken one, every batch of an accumulated step has draws of its own, and no two processes
draw alike. The windows of the clips have a rule beside it, (seed, epoch, clip, draw), in which the number of processes
does not occur: see ``ClipDataset``.
"""

from __future__ import annotations

import hashlib
import os


def run_seed() -> int:
    """Return the run's one seed: the command line's ``seed_everything``, in Python Lightning's function of that name.

    Where neither was used it is 0.
    """
    return int(os.environ.get("PL_GLOBAL_SEED", "0"))


def draw_seed(epoch: int, batch: int, process: int) -> int:
    """Return the seed of what one process draws for one batch.

    Args:
        epoch: from 0.
        batch: of the epoch, from 0; with accumulated gradients each of a step's batches counts.
        process: its global rank.

    Returns:
        64 bits that share nothing with those of the neighbouring epochs, batches and processes.
    """
    digest = hashlib.sha256(repr((run_seed(), epoch, batch, process)).encode()).digest()
    return int.from_bytes(digest[:8], "little")
