"""What the emotion classifier hears through a pretrained speech encoder, in place of log-mel frames."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from talkhead.data.clip import SAMPLE_RATE
from talkhead.nets.speech_encoder import SpeechStates
from talkhead.speech.level import speech_level

FRAMES_PER_SECOND = 12.5
"""An emotion changes more slowly than sounds: fifty states a second are averaged by fours."""


class SpeechFrames(nn.Module):
    """Averages of a pretrained encoder's states over 80 ms, all layers side by side.

    Each recording is divided by its speech level and heard by itself, so that neither its loudness nor what a batch is
    padded with changes anything.
    """

    def __init__(self, states: SpeechStates) -> None:
        super().__init__()
        self.states = states

    def forward(self, audio: Tensor, samples: Tensor) -> tuple[Tensor, Tensor]:
        """Turn waveforms into frames.

        Args:
            audio: (B, S) float waveforms at 16 kHz.
            samples: (B,) int64, how many samples of each are valid.

        Returns:
            (B, T, L * C) float32 frames of the L layers' C channels, 0 beyond each recording's end, and (B,) int64
            their number.
        """
        rows = [self._frames(x[:count]) for x, count in zip(audio.float(), samples.tolist(), strict=True)]
        lengths = torch.tensor([len(row) for row in rows], device=audio.device)
        return pad_sequence(rows, batch_first=True), lengths

    def _frames(self, audio: Tensor) -> Tensor:
        states, _, step = self.states((audio / speech_level(audio))[None])
        together = max(1, round(SAMPLE_RATE / step / FRAMES_PER_SECOND))
        rows = states[:, 0].transpose(1, 2).flatten(0, 1)
        # The last average is over what is left.
        return nn.functional.avg_pool1d(rows[None], together, ceil_mode=True)[0].T


class LayerMix(nn.Module):
    """The layers' states averaged with learnt weights (Yang et al. 2021, SUPERB), and a projection."""

    def __init__(self, layers: int, channels: int, width: int, dropout: float) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(layers))
        self.project = nn.Sequential(
            nn.LayerNorm(channels), nn.Dropout(dropout), nn.Linear(channels, width), nn.GELU(), nn.LayerNorm(width)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, frames: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, L * C) frames -> (B, T, width), and (B,) their numbers."""
        states = frames.unflatten(2, (len(self.weights), -1))
        mixed = torch.einsum("btlc,l->btc", states, self.weights.softmax(0))
        return self.dropout(self.project(mixed)), lengths
