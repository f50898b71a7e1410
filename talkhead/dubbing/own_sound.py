"""What the video that is dubbed says itself."""

from __future__ import annotations

import warnings
from fractions import Fraction
from pathlib import Path

import torch
from torch import Tensor

from talkhead.data.clip import SAMPLE_RATE
from talkhead.media.container import audio_stream, named, opened
from talkhead.media.read import MediaWarning, read_audio


def own_sound(video: str | Path, frames: int, fps: Fraction) -> Tensor | None:
    """Return a video's own sound, exactly as long as its pictures; None where it has none that can be read.

    A video dubbed as if it were mute has the mouth at rest under the new words, whatever it was seen to do: so where
    there is a track that cannot be read, a ``MediaWarning`` says so.

    Args:
        video: the file.
        frames: how many it has.
        fps: how many a second.
    """
    with opened(video, "video") as container:
        if audio_stream(container) is None:
            return None
    try:
        sound = read_audio(video)
    except ValueError as error:
        unknown = "how the person holds the mouth is not known"
        message = f"video: {named(video)} is dubbed as one without sound, {unknown} ({error})"
        warnings.warn(message, MediaWarning, stacklevel=3)
        return None
    samples = round(frames / fps * SAMPLE_RATE)
    return torch.nn.functional.pad(sound, (0, max(0, samples - len(sound))))[:samples]
