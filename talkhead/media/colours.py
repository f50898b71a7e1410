"""Turn a decoded frame of FFmpeg into upright 8-bit RGB with square pixels, HDR into standard range."""

from __future__ import annotations

import functools
import warnings
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import Tensor

from talkhead.media.write import MediaWarning

PQ, HLG = 16, 18
"""The transfer functions of HDR video, by their numbers in ITU-T H.273."""
_UNTOLD = 2
"""The matrix of a video that does not say which it has, by the same table."""

# Linear light of BT.2020's primaries in those of BT.709 (ITU-R BT.2087, the inverse of its matrix M2).
_BT709_OF_BT2020 = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], np.float32
)
_KNEE = 0.9
"""Light above this part of white is compressed instead of cut off."""


def rgb_picture(frame: Any, size: tuple[int, int] | None = None, aspect: Fraction | None = None) -> Tensor:
    """Turn a decoded frame into a picture as a player shows it.

    Args:
        frame: PyAV's frame.
        size: (width, height) to which it is scaled as stored, for files whose frames change their size; None: its own.
        aspect: width of a stored pixel over its height; None: square.

    Returns:
        (3, H, W) uint8 RGB, upright.
    """
    stored = size or (frame.width, frame.height)
    width, height = square_size(stored[0], stored[1], aspect)
    if frame.color_trc in (PQ, HLG):
        array = standard_range(_array(frame, "rgb48le", width, height), frame.color_trc)
    else:
        array = _array(frame, "rgb24", width, height)
    array = np.rot90(array[::-1] if _is_mirrored(frame) else array, k=round(frame.rotation / 90))
    return torch.from_numpy(np.ascontiguousarray(array.transpose(2, 0, 1)))


def _is_mirrored(frame: Any) -> bool:
    """Whether the frame's display matrix mirrors it, as some front cameras write; its angle is that of the mirrored."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return False
    a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5].astype(float)
    return bool(a * d < b * c)


def square_size(width: int, height: int, aspect: Fraction | None) -> tuple[int, int]:
    """Return (width, height) px of a picture whose pixels are made square, by its width as players do.

    Shapes beyond 4:1 are no lens's and taken for a damaged header; within 1 % of square nothing is resampled.

    Example:
        >>> square_size(720, 576, Fraction(16, 15)), square_size(720, 576, Fraction(1))
        ((768, 576), (720, 576))
    """
    if not aspect or not Fraction(1, 4) <= aspect <= 4 or abs(aspect - 1) < Fraction(1, 100):
        return width, height
    return max(round(width * aspect), 1), height


def _array(frame: Any, kind: str, width: int, height: int) -> np.ndarray:
    from av.video.reformatter import Colorspace
    from av.video.reformatter import Interpolation as Flags

    # FFmpeg's fast default darkens every picture by one grey level and halves the chroma resolution.
    exact = Flags.BICUBIC | Flags.ACCURATE_RND | Flags.FULL_CHR_H_INT
    # FFmpeg takes untold colours for BT.601 in every size; mpv and libplacebo, and so other players, guess thus.
    guessed = frame.colorspace == _UNTOLD and (frame.width >= 1280 or frame.height > 576)
    matrix = Colorspace.ITU709 if guessed else None
    return frame.to_ndarray(format=kind, width=width, height=height, src_colorspace=matrix, interpolation=exact)


def say_hdr(name: str, transfer: int | None) -> None:
    """Warn, where a file's transfer function is one of HDR, that its colours are changed."""
    if transfer in (HLG, PQ):
        kind = "HLG" if transfer == HLG else "PQ"
        warnings.warn(f"{name}: its HDR colours ({kind}) are turned into standard range", MediaWarning, stacklevel=3)


def standard_range(array: np.ndarray, transfer: int) -> np.ndarray:
    """Turn HLG or PQ of BT.2020 into BT.709 with BT.2408's reference white (75 % HLG, 203 cd/m2 PQ) as white.

    Args:
        array: (H, W, 3) uint16, the signal.
        transfer: ``PQ`` or ``HLG``.

    Returns:
        (H, W, 3) uint8.
    """
    light = _light(transfer)[array] @ _BT709_OF_BT2020.T
    np.clip(light, 0, None, out=light)
    over = light > _KNEE
    light[over] = 1 - (1 - _KNEE) * np.exp((_KNEE - light[over]) / (1 - _KNEE))
    return _signal(transfer)[(light * 4095).round().astype(np.uint16)]


@functools.cache
def _light(transfer: int) -> np.ndarray:
    """Return (65536,) float32: the light of each 16-bit signal, 1 at reference white."""
    signal = np.linspace(0, 1, 65536)
    if transfer == HLG:  # ITU-R BT.2100, the inverse OETF; 75 % of the signal is 0.265 of its light
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        light = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12) / 0.265
    else:  # SMPTE ST 2084, the EOTF
        m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
        power = signal ** (1 / m2)
        light = (np.clip(power - c1, 0, None) / (c2 - c3 * power)) ** (1 / m1) * 10000 / 203
    return light.astype(np.float32)


@functools.cache
def _signal(transfer: int) -> np.ndarray:
    """Return (4096,) uint8: the signal of light in steps of 1/4095.

    HLG's light is that of the scene, which BT.709's curve of a camera encodes; PQ's is that of the display, which
    BT.1886's curve of a display decodes.
    """
    light = np.linspace(0, 1, 4096)
    camera = np.where(light < 0.018, 4.5 * light, 1.099 * light**0.45 - 0.099)
    signal = camera if transfer == HLG else light ** (1 / 2.4)
    return (signal * 255).round().astype(np.uint8)
