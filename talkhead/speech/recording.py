"""A recording of any length in constant memory: kept on disk, read where it is asked for."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from talkhead.data.clip import SAMPLE_RATE
from talkhead.media.read import iter_audio

_SCALE = 2**15


class _Descriptor:
    """An open file that is closed with the last that holds it."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __del__(self) -> None:
        os.close(self.number)


class Recording:
    """Sound as 16-bit samples in a temporary file, sliced like a (S,) float32 tensor.

    An hour takes 115 MB of the folder for temporary files (``TMPDIR``), and none of the memory. The file has no name:
    it goes with the process, however that ends. Several threads may read at once.

    Args:
        pieces: (s,) float in [-1, 1] at 16 kHz, in order.

    Raises:
        OSError: if the temporary file cannot be written.

    Example:
        >>> sound = Recording([torch.zeros(3), torch.tensor([0.5, -1.0])])
        >>> len(sound), sound[2:].tolist()
        (5, [0.0, 0.5, -1.0])
    """

    ndim = 1

    def __init__(self, pieces: Iterable[Tensor]) -> None:
        self.device = torch.device("cpu")
        self._length = 0
        with tempfile.TemporaryFile() as file:
            for piece in pieces:
                try:
                    file.write(_whole_numbers(piece).tobytes())
                    file.flush()
                except OSError as error:
                    reason = f"{error.strerror}; make room, or set TMPDIR to another folder"
                    raise OSError(f"audio: cannot be kept in {tempfile.gettempdir()!r} ({reason})") from error
                self._length += len(piece)
            self._file = _Descriptor(os.dup(file.fileno()))

    @classmethod
    def open(cls, path: str | Path) -> Recording:
        """Read a sound or video file; raises as ``iter_audio``."""
        return cls(iter_audio(path))

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, part: slice) -> Tensor:
        """Return (s,) float32 of a slice without steps."""
        start, stop, step = part.indices(self._length)
        if step != 1:
            raise ValueError(f"a recording is sliced without steps; got {part}")
        content = bytearray()
        while len(content) < 2 * (stop - start):
            content += os.pread(self._file.number, 2 * (stop - start) - len(content), 2 * start + len(content))
        samples = torch.from_numpy(np.frombuffer(content, np.int16).astype(np.float32)) if content else torch.empty(0)
        return (samples / _SCALE).to(self.device)

    def __iter__(self) -> Iterator[Tensor]:
        """Yield the sound in pieces of ten seconds."""
        return self.split(10 * SAMPLE_RATE)

    def split(self, length: int) -> Iterator[Tensor]:
        """Yield (length,) pieces; the last is shorter."""
        return (self[start : start + length] for start in range(0, self._length, length))

    def to(self, device: torch.device | str) -> Recording:
        """Return the same recording, whose slices lie on ``device``."""
        other = object.__new__(Recording)
        other.__dict__.update(self.__dict__, device=torch.device(device))
        return other

    def cpu(self) -> Recording:
        """Return the same recording, whose slices lie on the CPU."""
        return self.to("cpu")


def _whole_numbers(piece: Tensor) -> np.ndarray:
    """Return the samples as 16-bit files hold them: those of such a file come back to the bit."""
    return (piece.cpu() * _SCALE).round().clamp(-_SCALE, _SCALE - 1).to(torch.int16).numpy()
