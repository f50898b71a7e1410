"""Frames as JPEG, in memory (Pillow)."""

from __future__ import annotations

import io

import numpy as np
import torch
from torch import Tensor


def encode_jpeg(picture: Tensor, quality: int) -> bytes:
    """Return a picture as JPEG, its colours as finely sampled as its brightness (4:4:4).

    Args:
        picture: (3, H, W) uint8 RGB.
        quality: 1 to 95, as Pillow counts.
    """
    from PIL import Image, ImageFile

    # Optimized, a picture must fit into Pillow's buffer whole; a noisy one outgrows what Pillow provides by itself.
    ImageFile.MAXBLOCK = max(ImageFile.MAXBLOCK, 4096 + 8 * picture[0].numel())
    file = io.BytesIO()
    image = Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy())
    image.save(file, format="JPEG", quality=quality, subsampling=0, optimize=True)
    return file.getvalue()


def decode_jpeg(content: bytes) -> Tensor:
    """Return what `encode_jpeg` wrote as (3, H, W) uint8 RGB; strangers' files are for `media.pictures`."""
    from PIL import Image

    with Image.open(io.BytesIO(content), formats=["JPEG"]) as image:
        pixels = np.array(image.convert("RGB"))
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()
