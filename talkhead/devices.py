"""Where tensors live, what a name such as ``auto`` means here, how cores are shared, and memory that is free."""

from __future__ import annotations

import ctypes
import functools
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from typing import Literal, TypeVar

import torch

P = TypeVar("P")
R = TypeVar("R")
_OWN = threading.local()
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -2, -3, -8  # of malloc.h


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
    if device.type not in ("cpu", "cuda") and not _works(device):
        raise ValueError(f"device must be one that PyTorch finds here; got {str(name)!r}: give auto, cpu or cuda")
    return device


def _works(device: torch.device) -> bool:
    """Tell whether a device holds numbers; each backend that is missing has an error of its own, and meta has none."""
    try:
        torch.empty(1, device=device)
    except Exception:
        return False
    return device.type != "meta"


def has_fast_bf16(device: torch.device) -> bool:
    """Say whether ``device`` computes bf16 natively: every GPU since Ampere, and CPUs with AVX512-BF16 or AMX."""
    if device.type == "cuda":
        with torch.cuda.device(device):  # it asks of the current card
            return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and bool(torch.cpu.get_capabilities().get("avx512_bf16"))


def fast_precision(device: torch.device) -> Literal["bf16-mixed", "32-true"]:
    """Return what Lightning calls the precision in which ``device`` trains fastest.

    Where bf16 is not computed but emulated, as on CPUs without AVX512-BF16, a step of a training takes many times as
    long as in float32 (``docs/adapt.md`` has one machine's).
    """
    return "bf16-mixed" if has_fast_bf16(device) else "32-true"


def usable_threads() -> int:
    """Return how many of PyTorch's threads the thread that asks may use: those it had before `in_whole_pieces`."""
    return getattr(_OWN, "threads", 0) or torch.get_num_threads()


@contextmanager
def in_whole_pieces() -> Iterator[None]:
    """Share no small step among threads: within it, only `side_by_side` uses more than one.

    Threads that share a step wait for its last, and busily: beside an encoder, or other people's work, frames took up
    to three times the processor time.
    """
    if hasattr(_OWN, "threads"):
        yield
        return
    _OWN.threads = threads = torch.get_num_threads()
    _enter(threads)
    torch.set_num_threads(1)
    try:
        yield
    finally:
        del _OWN.threads
        torch.set_num_threads(threads)
        _leave()


class _Inside:
    """How many threads are within `in_whole_pieces`, and with how many of PyTorch's a new one began before them."""

    lock = threading.Lock()
    count, before = 0, 0


def _enter(threads: int) -> None:
    with _Inside.lock:
        if not _Inside.count:
            _Inside.before = threads
        _Inside.count += 1


def _leave() -> None:
    """Let new threads begin as before once nobody is left: one that began beside others inside began with one."""
    with _Inside.lock:
        _Inside.count -= 1
        if not _Inside.count and torch.get_num_threads() != _Inside.before:
            # In a thread of its own: it is not this one's number.
            other = threading.Thread(target=torch.set_num_threads, args=(_Inside.before,))
            other.start()
            other.join()


def side_by_side(work: Callable[[P], R], parts: Sequence[P]) -> list[R]:
    """Do independent pieces of work for the CPU at once, each with its share of PyTorch's threads.

    Threads that share every small step of one piece wait for each other at its end; those that have a piece of their
    own do not.

    Args:
        work: what is done with each piece; in inference mode where the caller is.
        parts: the pieces.

    Returns:
        The results in the pieces' order.
    """
    threads, own, inference = usable_threads(), torch.get_num_threads(), torch.is_inference_mode_enabled()
    workers = min(threads, len(parts))
    if workers < 2:
        return [work(part) for part in parts]

    def alone(part: P) -> R:
        torch.set_num_threads(threads // workers)  # of this thread, and of those that begin after it
        with torch.inference_mode(inference):
            return work(part)

    try:
        with ThreadPoolExecutor(workers, "part") as pool:
            return list(pool.map(alone, parts))
    finally:
        torch.set_num_threads(own)


def ahead(pieces: Iterator[P]) -> Iterator[P]:
    """Yield pieces that a thread of its own makes while the caller works on those before.

    As many are made ahead as there are threads to use; with one, each is made when it is asked for. Who asks for no
    more waits for the piece that is being made, when the iterator is closed or forgotten.

    Args:
        pieces: makes them, in inference mode where the caller is, sharing no small step among threads.
    """
    threads, inference = usable_threads(), torch.is_inference_mode_enabled()
    if threads < 2:
        yield from pieces
        return

    def made() -> list[P]:
        torch.set_num_threads(threads)
        with in_whole_pieces(), torch.inference_mode(inference):
            return list(islice(pieces, 1))

    with ThreadPoolExecutor(1, "ahead") as pool:
        waiting = deque(pool.submit(made) for _ in range(threads))
        try:
            while piece := waiting.popleft().result():
                waiting.append(pool.submit(made))
                yield piece[0]
        finally:
            pool.shutdown(cancel_futures=True)


@functools.cache
def keep_memory() -> None:
    """Let the C library keep what is freed for what is asked for next, where it can (glibc), until the process ends.

    By default it gives large pieces back to the system at once, which then clears every page of the next: five hundred
    a frame, a tenth of the time of painting. All threads share what is kept: with a heap of its own for each, as many
    times as much would be kept. `give_back_memory` gives it back.
    """
    choose = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if choose is not None:
        mebibyte = 2**20
        choose(_ARENA_MAX, 1)
        choose(_MMAP_THRESHOLD, 32 * mebibyte)
        choose(_TRIM_THRESHOLD, 512 * mebibyte)
        choose(_TOP_PAD, 64 * mebibyte)


def give_back_memory() -> None:
    """Give memory that is free, but lies between what is used, back to the system: where the C library can (glibc).

    In long work many small pieces of different lifetimes leave holes that the library keeps: an hour of speech grew by
    100 MB so, of which nothing was in use.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:
        trim(0)
