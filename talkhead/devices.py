"""Where tensors live: what a name such as ``auto`` or ``cuda:1`` means on this machine, and memory that is free."""

from __future__ import annotations

import ctypes
import os

import torch


def chosen_device(name: str | torch.device = "auto") -> torch.device:
    """Return the device that a name means.

    Args:
        name: ``auto``: the first CUDA GPU where there is one, else the CPU; or a device of PyTorch: ``cpu``, ``cuda``,
            ``cuda:1`` ...

    Raises:
        ValueError: if the name is unknown, or this machine has no such device.

    Example:
        >>> chosen_device("cpu")
        device(type='cpu')
    """
    if isinstance(name, str) and name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device must be auto, cpu, cuda, cuda:1 ...; got {name!r}") from None
    count = torch.cuda.device_count() if device.type == "cuda" else 0
    if device.type == "cuda" and (device.index or 0) >= count:
        raise ValueError(
            f"device must be one that PyTorch finds here; got {str(name)!r}, and there are {count} CUDA devices: "
            "give auto or cpu, or see `talkhead doctor`"
        )
    return device


def has_fast_bf16(device: torch.device) -> bool:
    """Say whether ``device`` computes bf16 natively: every GPU since Ampere, and CPUs with AVX512-BF16 or AMX."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and bool(torch.cpu.get_capabilities().get("avx512_bf16"))


def give_back_memory() -> None:
    """Give memory that is free, but lies between what is used, back to the system: where the C library can (glibc).

    In long work many small pieces of different lifetimes leave holes that the library keeps: an hour of speech grew by
    100 MB so, of which nothing was in use.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:
        trim(0)
