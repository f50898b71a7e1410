"""How long a file really is: a header may say nothing of it (a stream that was saved), or too little."""

from __future__ import annotations

from pathlib import Path

from talkhead.data.clip import SAMPLE_RATE
from talkhead.media.container import audio_stream, decoded, need, opened
from talkhead.media.read import iter_audio, iter_frames, probe

PADDING = 1.0
"""Seconds that a decoder may give beyond the sound's own length, which is known only where it has been read."""


def check_seconds(path: str | Path, longest: float, what: str, seen: bool = False) -> None:
    """Refuse a file whose sound, or where it is to be seen whose picture, is longer than some seconds.

    Little more than so many seconds are decoded.

    Args:
        path: a sound or video file.
        longest: seconds.
        what: what to call it in messages.
        seen: its picture counts, too; else its sound alone does, and must be there.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is longer, or cannot be read.
    """
    info = probe(path)
    if info.duration > longest:
        raise ValueError(f"{what} lasts {info.duration:.0f} s; at most {longest:g} s are taken here")
    sounds = info.sample_rate is not None or not seen
    if (sounds and _sounds_longer(path, longest)) or (seen and info.fps and _shows_more(path, longest * info.fps)):
        said = "which its header does not say"
        raise ValueError(f"{what} lasts more than {longest:g} s, {said}; at most {longest:g} s are taken here")


def _sounds_longer(path: str | Path, longest: float) -> bool:
    # Reading begins with a look at the whole sound, so that its end is found first, and then what reading makes of it.
    if _decodes_longer(path, longest + PADDING):
        return True
    left = longest * SAMPLE_RATE
    return any((left := left - len(piece)) < 0 for piece in iter_audio(path, chunk_seconds=1.0))


def _decodes_longer(path: str | Path, longest: float) -> bool:
    with opened(path, "audio") as container:
        stream, seconds = need(audio_stream(container), path, "audio", "sound"), 0.0
        for frame in decoded(container, stream, str(path), check=False):
            seconds += frame.samples / max(frame.sample_rate, 1)
            if seconds > longest:
                return True
    return False


def _shows_more(path: str | Path, most: float) -> bool:
    return any(number > most for number, _ in enumerate(iter_frames(path), 1))
