"""The tracked face of a video that is being dubbed, kept on the disk until the dubbing is done."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from talkhead.dubbing.face_track import FaceTrack
from talkhead.media.files import write_whole

_LONGEST = 200
"""Bytes of the output's name that are taken as they are; a file's name has 255."""


@contextmanager
def kept_track(
    video: str | Path, output: str | Path, **how: object
) -> Iterator[Callable[[Callable[[], FaceTrack]], FaceTrack]]:
    """Give a function that tracks a face, or returns what an interrupted call beside ``output`` has tracked.

    Args:
        video: the file that is tracked; changed since, it is tracked again.
        output: what is being made of it.
        how: the settings that the track depends on.
    """
    path = _beside(Path(output))

    def keep(make: Callable[[], FaceTrack]) -> FaceTrack:
        state = Path(video).stat()
        key = json.dumps([str(Path(video).resolve()), state.st_size, state.st_mtime_ns, sorted(map(str, how.items()))])
        kept = _read(path, key)
        if kept is None:
            kept = make()
            tensors = {"landmarks": kept.landmarks, "shots": torch.tensor(kept.shots)}
            write_whole(path, save(tensors, metadata={"key": key}))
        return kept

    yield keep
    path.unlink(missing_ok=True)  # not after an error: the next call goes on from it


def _beside(output: Path) -> Path:
    """Return where the track lies: a hidden name, which a long one of the output does not make too long."""
    stem = output.stem
    if len(os.fsencode(stem)) > _LONGEST:
        stem = f"{stem[:40]}.{hashlib.sha256(os.fsencode(stem)).hexdigest()[:16]}"
    return output.with_name(f".{stem}.track.safetensors")


def _read(path: Path, key: str) -> FaceTrack | None:
    """Return the kept track, or None where there is none, or one of something else."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            if (file.metadata() or {}).get("key") != key:
                return None
            return FaceTrack(file.get_tensor("landmarks"), tuple(file.get_tensor("shots").tolist()))
    except (SafetensorError, OSError):
        return None
