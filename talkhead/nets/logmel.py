"""What the emotion classifier hears: loudness-invariant log-mel frames, and statistics of a whole recording."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext

import torch
import torchaudio
from torch import Tensor, nn

from talkhead.data.clip import SAMPLE_RATE

MEL_BINS = 80
HOP = 160
"""Samples from one log-mel frame to the next: 100 frames per second."""


class LogMel(nn.Module):
    """Loudness-invariant log-mel frames, with the quiet edges of the recording cut off.

    With P the mel power of a frame and L its mean over all frames and bins of the recording, a feature is
    (ln(P / L + 1e-5) + 4) / 4: multiplying the recording by a constant changes nothing.
    """

    def __init__(self, edge_level: float = 1e-3, edge_frames: int = 10):
        """Make the front end.

        Args:
            edge_level: frames before the first and after the last one above this share of the mean power are cut.
            edge_frames: how many of those frames are kept on either side, in units of 10 ms.
        """
        super().__init__()
        self.edge_level, self.edge_frames = edge_level, edge_frames
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
            (B, T, 80) float32 frames, 0 beyond each recording's end, and (B,) int64 their number.
        """
        # The Fourier transform and the logarithm lose too much in half precision.
        with _full_precision(audio):
            audio = audio.float() * length_mask(samples, audio.shape[-1])
            power = self.mel(audio).transpose(1, 2)
            lengths = samples // HOP + 1
            mask = length_mask(lengths, power.shape[1])[..., None]
            power = power * mask
            level = power.sum((1, 2), keepdim=True) / (lengths[:, None, None] * MEL_BINS)
            power = power / level.clamp(min=1e-20)
            frames = ((power + 1e-5).log() + 4) / 4
            return self._cut_edges(frames * mask, power.mean(2), lengths)

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
        index = torch.arange(int(lengths.max()), device=frames.device)
        place = (start[:, None] + index).clamp(max=frames.shape[1] - 1)
        frames = frames.gather(1, place[..., None].expand(-1, -1, frames.shape[2]))
        return frames * length_mask(lengths, frames.shape[1])[..., None], lengths


class SpectralStatistics(nn.Module):
    """What a whole recording sounds like: statistics over time of its cepstrum, as openSMILE-like features know it.

    With c the first 30 cosine coefficients of each frame: their mean and quantiles over the loud frames, the spread of
    c and of its first and second differences, and the modulation spectrum (0.4 to 15 Hz) of loudness and of c_0..c_7.
    A few hundred recordings suffice to learn from these, long before they suffice for a Conformer.
    """

    SIZE = 30 * 8 + 13 * 9 + 1

    cosines: Tensor

    def __init__(self) -> None:
        super().__init__()
        order, place = torch.arange(30.0), torch.arange(MEL_BINS) + 0.5
        cosines = torch.cos(torch.pi / MEL_BINS * order[:, None] * place) * 2 / MEL_BINS
        self.register_buffer("cosines", cosines, persistent=False)

    @torch.no_grad()
    def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:
        """(B, T, 80) frames, (B,) valid ones -> (B, SIZE) float32."""
        with _full_precision(frames):
            frames = frames.float()
            valid = length_mask(lengths, frames.shape[1])
            loudness = ((4 * frames - 4).exp().mean(2) + 1e-4).log()
            loud = valid & (loudness > -2)
            loud = torch.where(loud.any(1, keepdim=True), loud, valid)
            c = frames @ self.cosines.T
            first = c[:, 2:] - c[:, :-2]
            second = first[:, 2:] - first[:, :-2]
            steps = valid[:, 2:]
            parts = [_moments(c, loud)[0], *_quantiles(c, loud), _moments(c, valid)[1], _moments(first, steps)[1]]
            parts += [_moments(second, valid[:, 4:])[1], _moments(first.abs(), steps)[0]]
            tracks = torch.cat([loudness[..., None], c[..., :8]], dim=-1)
            tracks = (tracks - _moments(tracks, valid)[0][:, None]) * valid[..., None]
            spectrum = torch.fft.rfft(tracks, n=256, dim=1).abs()[:, 1:40].unflatten(1, (13, 3)).mean(2)
            parts += [(spectrum + 1e-3).log().flatten(1), (loud.sum(1, keepdim=True) / lengths[:, None])]
            return torch.cat(parts, dim=1)


class Standardisation(nn.BatchNorm1d):
    """Subtract the training data's mean and divide by its standard deviation, in training as in use.

    Unlike batch normalisation it normalises by the running statistics alone, so that a batch's other recordings do not
    matter; they are averages over the whole training.
    """

    def __init__(self, size: int):
        super().__init__(size, affine=False, momentum=None)

    def forward(self, input: Tensor) -> Tensor:
        """(B, N) -> (B, N), within 5 standard deviations."""
        if self.training and len(input) > 1:
            super().forward(input.detach())
        assert self.running_mean is not None and self.running_var is not None  # they are tracked
        scale = (self.running_var + self.eps).rsqrt()
        return ((input - self.running_mean) * scale).clamp(-5, 5)


def _full_precision(x: Tensor) -> AbstractContextManager[object]:
    """Switch automatic mixed precision off where ``x`` lies; the meta device does not know it."""
    return nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False)


def _moments(x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """(B, T, C), (B, T) True where valid -> mean and standard deviation over the valid places, each (B, C)."""
    weight = mask[..., None] / mask.sum(1)[:, None, None].clamp(min=1)
    mean = (weight * x).sum(1)
    return mean, (weight * (x - mean[:, None]) ** 2).sum(1).clamp(min=1e-8).sqrt()


def _quantiles(x: Tensor, mask: Tensor) -> list[Tensor]:
    """(B, T, C), (B, T) True where valid -> the 10%, 50% and 90% quantiles over the valid places, each (B, C)."""
    ordered = x.masked_fill(~mask[..., None], math.inf).sort(dim=1).values
    last = (mask.sum(1) - 1).clamp(min=0)
    places = [(share * last).round().long()[:, None, None].expand(-1, 1, x.shape[2]) for share in (0.1, 0.5, 0.9)]
    return [ordered.gather(1, place)[:, 0] for place in places]


def length_mask(lengths: Tensor, size: int) -> Tensor:
    """Return (B, size) bool, True at the first ``lengths`` places of each row.

    Example:
        >>> length_mask(torch.tensor([1, 3]), 3).tolist()
        [[True, False, False], [True, True, True]]
    """
    return torch.arange(size, device=lengths.device) < lengths[:, None]
