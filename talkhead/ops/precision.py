"""Where automatic mixed precision has no place: coordinates, spectra, measures."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def full_precision(x: Tensor) -> AbstractContextManager[object]:
    """Switch automatic mixed precision off where ``x`` lies; the meta device does not know it."""
    return nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False)
