"""Statistics of a whole recording: how its sound and its melody are spread over time."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from talkhead.ops.precision import full_precision
from talkhead.speech.logmel import MEL_BINS, length_mask
from talkhead.speech.pitch import PITCH_BINS, melody


class SpectralStatistics(nn.Module):
    """What a whole recording sounds like: statistics over time of its cepstrum, as openSMILE-like features know it.

    With c the first 30 cosine coefficients of each frame: their mean and quantiles over the loud frames, the spread of
    c and of its first and second differences, and of its first 256 frames (2.56 s) the modulation spectrum (0.4 to 15
    Hz, at 50 frames per second of 5.12 s 0.2 to 7.6 Hz) of loudness and of c_0..c_7.
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
        with full_precision(frames):
            frames = frames.float()
            valid = length_mask(lengths, frames.shape[1])
            loudness = ((4 * frames - 4).exp().mean(2) + 1e-4).log()
            loud = valid & (loudness > -2)
            loud = loud | (valid & ~loud.any(1, keepdim=True))  # of a silent recording everything
            c = frames @ self.cosines.T
            first = c[:, 2:] - c[:, :-2]
            second = first[:, 2:] - first[:, :-2]
            steps = valid[:, 2:]
            parts = [moments(c, loud)[0], *quantiles(c, loud), moments(c, valid)[1], moments(first, steps)[1]]
            parts += [moments(second, valid[:, 4:])[1], moments(first.abs(), steps)[0]]
            tracks = torch.cat([loudness[..., None], c[..., :8]], dim=-1)
            tracks = (tracks - moments(tracks, valid)[0][:, None]) * valid[..., None]
            spectrum = torch.fft.rfft(tracks, n=256, dim=1).abs()[:, 1:40].unflatten(1, (13, 3)).mean(2)
            parts += [(spectrum + 1e-3).log().flatten(1), (loud.sum(1, keepdim=True) / lengths[:, None])]
            return torch.cat(parts, dim=1)


class PitchStatistics(nn.Module):
    """How high a whole recording is spoken, how lively, and how much of it is voiced.

    A frame is voiced where its pitch (``melody``) has a height above 0.5. Over the voiced frames: a smoothed histogram
    of the pitch, its mean, spread and quantiles, mean and spread of its change from frame to frame, the mean height;
    and the share of voiced frames.
    """

    SIZE = PITCH_BINS + 9

    @torch.no_grad()
    def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:
        """(B, T, 60) frames, (B,) valid ones -> (B, SIZE) float32."""
        with full_precision(frames):
            valid = length_mask(lengths, frames.shape[1])
            place, height = melody(frames.float())
            voiced = valid & (height > 0.5)
            voiced = torch.where(voiced.any(1, keepdim=True), voiced, valid)
            share = voiced / voiced.sum(1, keepdim=True).clamp(min=1)
            count = torch.zeros(len(frames), PITCH_BINS, device=frames.device).scatter_add(1, place, share)
            histogram = nn.functional.avg_pool1d(count[:, None], 5, stride=1, padding=2)[:, 0]
            pitch = place[..., None].float()
            change = (pitch[:, 1:] - pitch[:, :-1]).clamp(-6, 6)  # beyond, the place has leapt to another octave
            parts = [(histogram + 0.01).log(), *moments(pitch, voiced), *quantiles(pitch, voiced)]
            parts += [*moments(change, voiced[:, 1:] & voiced[:, :-1]), moments(height[..., None], voiced)[0]]
            return torch.cat([*parts, voiced.sum(1, keepdim=True) / lengths[:, None]], dim=1)


def moments(x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """(B, T, C), (B, T) True where valid -> mean and standard deviation over the valid places, each (B, C)."""
    weight = mask[..., None] / mask.sum(1)[:, None, None].clamp(min=1)
    mean = (weight * x).sum(1)
    return mean, (weight * (x - mean[:, None]) ** 2).sum(1).clamp(min=1e-8).sqrt()


def quantiles(x: Tensor, mask: Tensor) -> list[Tensor]:
    """(B, T, C), (B, T) True where valid -> the 10%, 50% and 90% quantiles over the valid places, each (B, C)."""
    ordered = x.masked_fill(~mask[..., None], math.inf).sort(dim=1).values
    last = (mask.sum(1) - 1).clamp(min=0)
    places = [(share * last).round().long()[:, None, None].expand(-1, 1, x.shape[2]) for share in (0.1, 0.5, 0.9)]
    return [ordered.gather(1, place)[:, 0] for place in places]
