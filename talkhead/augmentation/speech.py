"""Make one speaker's recordings sound like many rooms and microphones: noise, reverberation, channel, speed.

Each function takes and returns (B, S) waveforms at 16 kHz and draws its randomness per sample from PyTorch's default
generator. The level changes, too; loudness is normalised elsewhere.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
import torchaudio
from torch import Tensor

from talkhead.data.clip import SAMPLE_RATE


def augment_speech(
    audio: Tensor, *, noise: float = 0.5, reverberation: float = 0.3, channel: float = 0.5, gain: float = 12.0
) -> Tensor:
    """Disturb a batch of speech; the timing stays.

    Args:
        audio: (B, S) in [-1, 1].
        noise: probability, per sample, of coloured noise 5 to 35 dB below the speech.
        reverberation: probability of a room with a decay of 0.1 to 0.5 s.
        channel: probability of a smooth random frequency response of up to +-9 dB.
        gain: largest change of the level, in dB, both ways.

    Returns:
        (B, S), a new tensor.
    """
    audio = _sometimes(reverberation, audio, add_reverberation)
    audio = _sometimes(channel, audio, colour_channel)
    audio = _sometimes(noise, audio, add_noise)
    decibels = gain * (2 * torch.rand(len(audio), 1, device=audio.device) - 1)
    return audio * 10 ** (decibels / 20)


def add_noise(audio: Tensor, quietest: float = 35.0, loudest: float = 5.0) -> Tensor:
    """Add noise with a random spectral slope, between white and red, at a random signal-to-noise ratio in dB."""
    batch, samples = audio.shape
    frequency = torch.fft.rfftfreq(samples, 1 / SAMPLE_RATE, device=audio.device).clamp_min(50)
    slope = torch.rand(batch, 1, device=audio.device)
    noise = torch.fft.irfft(torch.fft.rfft(torch.randn_like(audio)) * frequency**-slope, n=samples)
    ratio = loudest + (quietest - loudest) * torch.rand(batch, device=audio.device)
    return torchaudio.functional.add_noise(audio, noise, ratio)


def add_reverberation(audio: Tensor) -> Tensor:
    """Convolve with exponentially decaying noise behind a direct sound: a small room. The level is kept."""
    batch, samples = audio.shape
    time = torch.arange(SAMPLE_RATE // 2, device=audio.device) / SAMPLE_RATE
    decay = 0.1 + 0.4 * torch.rand(batch, 1, device=audio.device)
    room = torch.randn(batch, len(time), device=audio.device) * 10 ** (-3 * time / decay)
    wet = 0.2 + 0.5 * torch.rand(batch, 1, device=audio.device)
    room = wet * room / room.norm(dim=1, keepdim=True)
    room[:, 0] = 1.0
    length = samples + len(time)
    echoed = torch.fft.irfft(torch.fft.rfft(audio, n=length) * torch.fft.rfft(room, n=length), n=length)[:, :samples]
    return echoed * audio.norm(dim=1, keepdim=True) / echoed.norm(dim=1, keepdim=True).clamp_min(1e-9)


def colour_channel(audio: Tensor, decibels: float = 9.0) -> Tensor:
    """Filter with a random smooth response, piecewise linear over eight points of a logarithmic frequency axis."""
    batch, samples = audio.shape
    frequency = torch.fft.rfftfreq(samples, 1 / SAMPLE_RATE, device=audio.device).clamp_min(60)
    points = decibels * (2 * torch.rand(batch, 8, device=audio.device) - 1)
    position = 7 * (frequency / 60).log2() / torch.tensor(SAMPLE_RATE / 120).log2()
    left = position.long().clamp(max=6)
    response = torch.lerp(points[:, left], points[:, left + 1], (position - left).clamp(0, 1))
    return torch.fft.irfft(torch.fft.rfft(audio) * 10 ** (response / 20), n=samples)


def change_speed(audio: Tensor, factor: float) -> Tensor:
    """Play faster (factor > 1) or slower; pitch, formants and duration change together.

    Args:
        audio: (B, S).
        factor: S becomes about S / factor.

    Returns:
        (B, round(S / factor)).
    """
    size = max(1, round(audio.shape[1] / factor))
    return F.interpolate(audio.unsqueeze(1), size=size, mode="linear", align_corners=False).squeeze(1)


def _sometimes(probability: float, audio: Tensor, change) -> Tensor:
    """Apply ``change`` to a random part of the batch."""
    chosen = torch.rand(len(audio), 1, device=audio.device) < probability
    return torch.where(chosen, change(audio), audio) if chosen.any() else audio
