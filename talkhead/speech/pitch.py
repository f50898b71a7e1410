"""The melody of a voice, and how much voice there is: the autocorrelation of each frame over the pitches of speech."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor, nn

from talkhead.data.clip import SAMPLE_RATE
from talkhead.ops.precision import full_precision

PITCH_BINS = 60
LOWEST, HIGHEST = 70.0, 700.0
"""Hz of the first and the last pitch."""
OCTAVES = math.log2(HIGHEST / LOWEST) / (PITCH_BINS - 1)
"""From one pitch to the next, in octaves."""


class Pitchgram(nn.Module):
    """Normalised autocorrelation of 64 ms of sound at the periods of 60 pitches from 70 to 700 Hz, evenly on log Hz.

    With S(f) the power spectrum of a frame under a Hann window and p a period, a feature is
    r(p) / (r(0) + e) / w(p) where r(p) is the sum over f of S(f) cos(2 pi f p), w the window's own autocorrelation and
    e 40 dB below the mean of r(0): about 1 at the period of a voice and its multiples, about 0 for noise and silence.
    A 400-sample window of 80 mel bins does not resolve the harmonics of a low voice; this does (Boersma 1993).
    """

    SIZE = 1024

    window: Tensor
    cosines: Tensor

    def __init__(self, hop: int):
        """Make the transform, with ``hop`` samples from one frame to the next."""
        super().__init__()
        self.hop = hop
        with torch.device("cpu"):
            window = torch.hann_window(self.SIZE, dtype=torch.float64)
            period = 1 / LOWEST * 2 ** (-OCTAVES * torch.arange(PITCH_BINS, dtype=torch.float64))
            own = torch.fft.irfft(torch.fft.rfft(window, 2 * self.SIZE).abs() ** 2)[: self.SIZE] / window.square().sum()
            place = period * SAMPLE_RATE
            own = torch.lerp(own[place.long()], own[place.long() + 1], place.frac())
            frequency = torch.arange(self.SIZE // 2 + 1) * SAMPLE_RATE / self.SIZE
            cosines = torch.cos(2 * torch.pi * frequency[:, None].double() * period) / own
        self.register_buffer("window", window.float(), persistent=False)
        self.register_buffer("cosines", cosines.float(), persistent=False)

    def forward(self, audio: Tensor, mask: Tensor) -> Tensor:
        """Turn waveforms into frames.

        Args:
            audio: (B, S) float32 waveforms at 16 kHz, 0 where they are not valid.
            mask: (B, S // hop + 1, 1) bool, True where frames are valid; frame t lies about sample hop * t.

        Returns:
            (B, S // hop + 1, 60) float32, 0 where not valid.
        """
        heard = self._heard(nn.functional.pad(audio, (self.SIZE // 2, self.SIZE // 2))) * mask
        energy = heard[..., PITCH_BINS:]
        # A floor relative to the recording itself: how loud it is changes nothing.
        floor = 1e-4 * energy.sum(1, keepdim=True) / mask.sum(1, keepdim=True)
        return heard[..., :PITCH_BINS] / (energy + floor).clamp(min=1e-20)

    def _heard(self, padded: Tensor) -> Tensor:
        """Return (B, T, 61): r(p) at the 60 periods and r(0) of each frame of sound that has its margins."""
        power = torch.fft.rfft(padded.unfold(1, self.SIZE, self.hop) * self.window).abs().square()
        with full_precision(power):
            return torch.cat((power @ self.cosines, power.sum(2, keepdim=True)), 2)


@lru_cache(maxsize=4)
def pitchgram(hop: int, device: torch.device) -> Pitchgram:
    """Return the transform on a device; to make it takes as long as to use it on a clip."""
    return Pitchgram(hop).to(device)


class GrowingPitchgram(Pitchgram):
    """The same of a recording that grows at its end and is forgotten at its start: a frame is transformed once.

    Attributes:
        first: number, since the beginning, of the first frame of the sound that is heard next.
    """

    first = 0

    def __init__(self, hop: int):
        """Make the transform, with ``hop`` samples from one frame to the next."""
        super().__init__(hop)
        self._kept, self._from = torch.empty(1, 0, PITCH_BINS + 1), 0

    def _heard(self, padded: Tensor) -> Tensor:
        """Return the frames; all but the first and the last, whose margins are no sound, are kept for the next call."""
        kept = (
            self._kept[:, max(0, self.first + 1 - self._from) :] if self._from <= self.first + 1 else self._kept[:, :0]
        )
        new = padded[:, (1 + kept.shape[1]) * self.hop :]
        parts = [super()._heard(padded[:, : self.SIZE]), kept]
        frames = torch.cat(parts + ([super()._heard(new)] if new.shape[1] >= self.SIZE else []), 1)
        self._kept, self._from = frames[:, 1:-1], self.first + 1
        return frames


def melody(frames: Tensor) -> tuple[Tensor, Tensor]:
    """Find the pitch of each frame: the highest value's place, when every octave less costs 0.05.

    A voice's period comes again at its multiples, so half the pitch, or a third, would do nearly as well.

    Args:
        frames: (B, T, 60) from ``Pitchgram``.

    Returns:
        (B, T) int64 bins, and (B, T) the values there.
    """
    cost = 0.05 * OCTAVES * torch.arange(PITCH_BINS, device=frames.device)
    place = (frames + cost).argmax(2)
    return place, frames.gather(2, place[..., None])[..., 0]
