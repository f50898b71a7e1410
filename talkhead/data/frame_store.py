"""How a clip's file holds its frames: as they are, or as JPEG pictures one behind the other."""

from __future__ import annotations

import itertools
from typing import Any, Literal

import torch
from torch import Tensor

from talkhead.media.jpeg import decode_jpeg, encode_jpeg

Store = Literal["raw", "jpeg"]


def pack_frames(frames: Tensor, store: Store, quality: int) -> dict[str, Tensor]:
    """Return the tensors that hold frames in a clip's file.

    Args:
        frames: (T, 3, S, S) uint8.
        store: ``raw``: ``frames`` as they are; ``jpeg``: ``jpeg``, (N,) uint8, the pictures' bytes, and ``jpeg_ends``,
            (T,) int64, where each of them ends.
        quality: of ``jpeg``.
    """
    if store == "raw":
        return {"frames": frames}
    pictures = [encode_jpeg(frame, quality) for frame in frames]
    ends = torch.tensor(list(itertools.accumulate(map(len, pictures))), dtype=torch.int64)
    return {"jpeg": torch.frombuffer(bytearray(b"".join(pictures)), dtype=torch.uint8), "jpeg_ends": ends}


def read_frames(file: Any, start: int, stop: int) -> Tensor:
    """Read frames of a clip's file, however it holds them; the others stay unread.

    Args:
        file: from `open_clip`.
        start: first frame.
        stop: the frame after the last.

    Returns:
        (stop - start, 3, S, S) uint8.
    """
    if "jpeg" not in file.keys():  # safetensors' handle can be asked for its keys, and for no membership
        return file.get_slice("frames")[start:stop]
    ends = file.get_tensor("jpeg_ends").tolist()
    begins = [0, *ends][start:stop]
    pictures = file.get_slice("jpeg")[begins[0] : ends[stop - 1]].numpy()
    cut = [(a - begins[0], b - begins[0]) for a, b in zip(begins, ends[start:stop], strict=True)]
    return torch.stack([decode_jpeg(pictures[a:b].tobytes()) for a, b in cut])
