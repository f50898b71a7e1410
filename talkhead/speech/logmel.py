"""What the emotion classifier hears: loudness-invariant log-mel frames, and if asked for the melody beside them."""

from __future__ import annotations

from contextlib import nullcontext

import torch
import torchaudio
from torch import Tensor, nn

from talkhead.data.clip import SAMPLE_RATE
from talkhead.ops.precision import full_precision
from talkhead.speech.pitch import Pitchgram

MEL_BINS = 80
HOP = 160
"""Samples from one log-mel frame to the next: 100 frames per second, before any are averaged."""


class LogMel(nn.Module):
    """Loudness-invariant log-mel frames, with the quiet edges of the recording cut off.

    With P the mel power of a frame and L its mean over all frames and bins of the recording, a feature is
    (ln(P / L + 1e-5) + 4) / 4: multiplying the recording by a constant changes nothing.
    """

    def __init__(self, pitch: bool = False, average: int = 1, edge_level: float = 1e-3, edge_frames: int = 10):
        """Make the front end.

        Args:
            pitch: put the 60 features of ``Pitchgram`` behind the 80 log-mel bins of every frame.
            average: how many neighbouring frames are averaged into one.
            edge_level: frames before the first and after the last one above this share of the mean power are cut.
            edge_frames: how many of those frames are kept on either side, in units of 10 ms.
        """
        super().__init__()
        self.average, self.edge_level, self.edge_frames = average, edge_level, edge_frames
        self.pitch = Pitchgram(HOP) if pitch else None
        # 1024 rather than 512 points: with 512 the lowest of 80 mel filters fall between two Fourier bins.
        # The filters are looked at as they are made, which the meta device does not allow.
        with torch.device("cpu") if torch.get_default_device().type == "meta" else nullcontext():
            self.mel = torchaudio.transforms.MelSpectrogram(
                SAMPLE_RATE, n_fft=1024, win_length=400, hop_length=HOP, n_mels=MEL_BINS, pad_mode="constant"
            )

    def forward(self, audio: Tensor, samples: Tensor) -> tuple[Tensor, Tensor]:
        """Turn waveforms into frames.

        Args:
            audio: (B, S) float waveforms at 16 kHz.
            samples: (B,) int64, how many samples of each are valid.

        Returns:
            (B, T, 80) float32 frames (with pitch: 140), 0 beyond each recording's end, and (B,) int64 their number.
        """
        # The Fourier transform and the logarithm lose too much in half precision.
        with full_precision(audio):
            audio = audio.float() * length_mask(samples, audio.shape[-1])
            power = self.mel(audio).transpose(1, 2)
            lengths = samples // HOP + 1
            mask = length_mask(lengths, power.shape[1])[..., None]
            power = power * mask
            level = power.sum((1, 2), keepdim=True) / (lengths[:, None, None] * MEL_BINS)
            power = power / level.clamp(min=1e-20)
            frames = ((power + 1e-5).log() + 4) / 4 * mask
            if self.pitch is not None:
                frames = torch.cat([frames, self.pitch(audio, mask)], dim=2)
            return self._average(*self._cut_edges(frames, power.mean(2), lengths))

    def _cut_edges(self, frames: Tensor, loudness: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        index = torch.arange(frames.shape[1], device=frames.device)
        loud = loudness > self.edge_level
        first = torch.where(loud, index, frames.shape[1]).amin(1)
        last = torch.where(loud, index, -1).amax(1)
        start = (first - self.edge_frames).clamp(min=0)
        stop = torch.minimum(last + 1 + self.edge_frames, lengths)
        silent = last < 0  # nothing to cut by: keep everything
        start, stop = start.masked_fill(silent, 0), torch.where(silent, lengths, stop)
        lengths = stop - start
        # A graph has one shape, whatever a recording holds: nothing is cut off its end.
        longest = frames.shape[1] if torch.compiler.is_exporting() else int(lengths.max())
        index = torch.arange(longest, device=frames.device)
        place = (start[:, None] + index).clamp(max=frames.shape[1] - 1)
        frames = frames.gather(1, place[..., None].expand(-1, -1, frames.shape[2]))
        return frames * length_mask(lengths, frames.shape[1])[..., None], lengths

    def _average(self, frames: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Average neighbouring frames; the last average of a recording is over what is left of it."""
        if self.average == 1:
            return frames, lengths
        valid = length_mask(lengths, frames.shape[1])[..., None].to(frames)
        both = nn.functional.pad(torch.cat([frames, valid], dim=2), (0, 0, 0, -frames.shape[1] % self.average))
        total = both.unflatten(1, (-1, self.average)).sum(2)
        return total[..., :-1] / total[..., -1:].clamp(min=1), -(-lengths // self.average)


def length_mask(lengths: Tensor, size: int) -> Tensor:
    """Return (B, size) bool, True at the first ``lengths`` places of each row.

    Example:
        >>> length_mask(torch.tensor([1, 3]), 3).tolist()
        [[True, False, False], [True, True, True]]
    """
    return torch.arange(size, device=lengths.device) < lengths[:, None]
