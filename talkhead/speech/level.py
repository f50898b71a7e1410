"""How loud speech is, and its features at the video frames' instants.

A stretch of S samples spans T frames uniformly; frame t is centred at sample (t + 1/2) S / T - 1/2.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from talkhead.data.clip import SAMPLE_RATE
from talkhead.speech.recording import Recording

BLOCK = 160
"""Samples per block of the energy envelope: 10 ms."""

_PIECE = 1000 * BLOCK

QUIETEST = 10 ** (-55 / 20)
"""Speech level below which a recording counts as silent (-55 dB of full scale), and is not amplified further."""


def block_rms(audio: Tensor | Recording) -> Tensor:
    """Return the (..., max(1, S // 160)) root mean square of each 10-ms block of (..., S) audio."""
    if isinstance(audio, Recording):
        # One piece of memory: small ones that are kept between large ones that are freed would scatter the heap.
        rms, done = torch.empty(max(1, len(audio) // BLOCK), device=audio.device), 0
        for piece in audio.split(_PIECE):
            if len(piece) >= BLOCK or len(audio) < BLOCK:
                part = block_rms(piece)
                rms[done : done + len(part)] = part
                done += len(part)
        return rms
    if audio.shape[-1] < BLOCK:
        audio = F.pad(audio, (0, BLOCK - audio.shape[-1]))
    blocks = audio.shape[-1] // BLOCK
    return audio[..., : blocks * BLOCK].unflatten(-1, (blocks, BLOCK)).norm(dim=-1) / BLOCK**0.5


def speech_level(audio: Tensor | Recording) -> Tensor:
    """Measure how loud the speech in a recording is: the 95th percentile of the 10-ms RMS.

    Pauses, however long (up to 95%), hardly move it, and neither does a single click.

    Args:
        audio: (..., S) waveform in [-1, 1], or a recording.

    Returns:
        (...) level, at least ``QUIETEST``: silence has no speech level of its own.
    """
    rms = block_rms(audio if isinstance(audio, Recording) else audio.float())
    return rms.quantile(0.95, dim=-1).clamp_min(QUIETEST)


def sample_at(features: Tensor, positions: Tensor) -> Tensor:
    """Read (B, C, N) features at fractional indices, linearly interpolated and held at the ends.

    Args:
        features: (B, C, N).
        positions: (M,) indices into the last axis; 0 is the first entry.

    Returns:
        (B, C, M).
    """
    last = features.shape[-1] - 1
    positions = positions.clamp(0, last)
    left = positions.floor().long().clamp(max=max(last - 1, 0))
    right = (left + 1).clamp(max=last)
    weight = (positions - left).to(features.dtype)
    return torch.lerp(features[..., left], features[..., right], weight)


def frame_centres(samples: int, num_frames: int, device: torch.device | None = None) -> Tensor:
    """Return the (T,) float32 sample positions of the frames' centres; a sample's own centre is its index."""
    return (torch.arange(num_frames, device=device) + 0.5) * (samples / num_frames) - 0.5


def frame_decibels(audio: Tensor | Recording, level: Tensor, num_frames: int) -> Tensor:
    """Return the (T,) loudness of (S,) audio at the frames' centres, in dB relative to the speech level."""
    rms = block_rms(audio)
    smooth = F.avg_pool1d(F.pad(rms[None, None], (2, 2), mode="replicate"), 5, 1)
    positions = (frame_centres(len(audio), num_frames, audio.device) - (BLOCK - 1) / 2) / BLOCK
    return 20 * torch.log10(sample_at(smooth, positions)[0, 0] / level + 1e-6)


def num_frames_of(samples: int, fps: float) -> int:
    """Return how many frames show ``samples`` of sound at 16 kHz: the last may be shown in part, never dropped.

    Example:
        >>> num_frames_of(48_000, 25.0), num_frames_of(48_400, 25.0)
        (75, 76)
    """
    # Whole frames come in whole samples, rounded; half a sample more is not another frame.
    return max(1, -int(-(samples - 0.5) * fps / SAMPLE_RATE // 1))
