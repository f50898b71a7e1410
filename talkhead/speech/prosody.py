"""How something is said, frame by frame: loudness, voicing and melody, the same for a deep voice as for a high one."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from talkhead.data.clip import SAMPLE_RATE
from talkhead.speech.level import block_rms, frame_centres, sample_at
from talkhead.speech.pitch import OCTAVES, GrowingPitchgram, Pitchgram, melody, pitchgram
from talkhead.speech.recording import Recording

PROSODY = 10
"""Numbers per frame."""

PITCH_HOP = SAMPLE_RATE // 25
"""Samples from one look at the pitch to the next."""

_CHUNK = 60 * SAMPLE_RATE


def prosody(audio: Tensor | Recording, level: Tensor, num_frames: int, gram: GrowingPitchgram | None = None) -> Tensor:
    """Describe how a recording is spoken.

    Args:
        audio: (S,) waveform at 16 kHz that spans the frames.
        level: () its speech level (``speech_level``).
        num_frames: T, 25 per second: what follows counts them.
        gram: of a recording of less than a minute that is heard again and again as it grows, 25 frames per second.

    Returns:
        (10, T): loudness in units of 20 dB, 1 at the speech level and 0 where it is 20 dB below and quieter; how voiced
        the frame is; the pitch in octaves from the recording's median, 0 where nothing is voiced; the changes of
        loudness and pitch per tenth of a second; then loudness over half a second and two seconds, voicing over half a
        second, and the loudness of the half second before and after.
    """
    rms = block_rms(audio)
    smooth = F.avg_pool1d(F.pad(rms[None, None], (2, 2), mode="replicate"), 5, 1)
    place = (frame_centres(len(audio), num_frames, audio.device) - 79.5) / 160
    loud = (20 * torch.log10(sample_at(smooth, place)[0, 0] / level + 1e-6) / 20 + 1).clamp(0, 1.5)
    voiced, pitch = _melody(audio, num_frames, gram or pitchgram(PITCH_HOP, audio.device))
    voiced = voiced * (loud > 0).float()
    pitch = pitch * (voiced > 0.5)
    rows = [loud, voiced, pitch, _slope(loud), _slope(pitch), _over(loud, 13), _over(loud, 51), _over(voiced, 13)]
    rows += [_over(loud, 13, -6), _over(loud, 13, 6)]
    return torch.stack(rows)


def _melody(audio: Tensor | Recording, num_frames: int, gram: Pitchgram) -> tuple[Tensor, Tensor]:
    """Return (T,) how voiced and (T,) octaves from the median pitch."""
    heard = []
    for chunk in audio.split(_CHUNK):  # an hour's Fourier transforms do not fit into memory
        mask = torch.ones(1, len(chunk) // gram.hop + 1, 1, dtype=torch.bool, device=audio.device)
        frames = gram(chunk[None], mask)
        heard.append(torch.stack(melody(frames)).squeeze(1)[:, : max(1, round(len(chunk) / gram.hop))])
    place, value = torch.cat(heard, dim=1)
    positions = frame_centres(len(audio), num_frames, audio.device) / gram.hop
    voiced = sample_at(value.clamp(0, 1)[None, None], positions)[0, 0]
    octaves = sample_at(place.float()[None, None] * OCTAVES, positions)[0, 0]
    sure = voiced > 0.5
    return voiced, (octaves - (octaves[sure].median() if sure.any() else 0)).clamp(-1, 1)


def _slope(x: Tensor) -> Tensor:
    padded = F.pad(x[None, None], (1, 1), mode="replicate")[0, 0] if len(x) > 1 else x.expand(3)
    return 1.25 * (padded[2:] - padded[:-2])


def _over(x: Tensor, window: int, later: int = 0) -> Tensor:
    """Average over an odd window, shifted into the future by ``later`` frames; the ends are held."""
    half = window // 2
    padded = F.pad(x[None, None], (half - min(later, 0), half + max(later, 0)), mode="replicate")
    mean = F.avg_pool1d(padded, window, 1)[0, 0]
    return mean[max(later, 0) : max(later, 0) + len(x)]
