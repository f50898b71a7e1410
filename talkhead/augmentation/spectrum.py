"""Another speaker, another room, another microphone: random changes of the emotion classifier's training frames."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchaudio.functional import mask_along_axis_iid

from talkhead.data.clip import SAMPLE_RATE
from talkhead.speech.logmel import MEL_BINS, length_mask
from talkhead.speech.pitch import OCTAVES

MEL_TOP = math.log(1 + SAMPLE_RATE / 2 / 700)
"""The mel scale's upper end, in units in which it is ln(1 + Hz / 700)."""


class FrameAugmentation(nn.Module):
    """Another speaker, another room, another microphone: random changes of log-mel frames, in training only.

    Each recording is played at another tape speed (tempo and pitch together), and with a tempo and a vocal-tract length
    of its own, through a smooth random equaliser; coloured noise is added in the power domain; and it gets
    SpecAugment's stripes (Park et al. 2019). The melody, where frames have it, follows the tape speed, is raised or
    lowered further by a factor drawn like the vocal tract's, and gets the stripes in time.
    """

    def __init__(
        self,
        tape_speed: float = 0.12,
        time_warp: float = 0.05,
        frequency_warp: float = 0.05,
        equalizer: float = 0.3,
        noise: float = 0.3,
        masks: int = 1,
        mask_bins: int = 8,
        mask_frames: int = 25,
    ):
        """Set how strong the changes are; 0 switches one off.

        Args:
            tape_speed: largest change of ln speed and ln pitch together.
            time_warp: largest further change of ln speed alone.
            frequency_warp: largest further change of ln frequency alone, and of ln pitch alone.
            equalizer: standard deviation of the equaliser's five gains, in nepers of power (1 is 4.3 dB).
            noise: share of recordings that get noise, 9 to 37 dB below the mean power of the speech.
            masks: number of stripes in time, and as many in frequency.
            mask_bins: widest stripe in mel bins.
            mask_frames: widest stripe in frames.
        """
        super().__init__()
        self.tape_speed, self.time_warp, self.frequency_warp = tape_speed, time_warp, frequency_warp
        self.equalizer, self.noise = equalizer, noise
        self.masks, self.mask_bins, self.mask_frames = masks, mask_bins, mask_frames

    def forward(self, frames: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Change (B, T, 80 or 140) frames of which (B,) are valid; the speed changes T and the lengths."""
        if not self.training:
            return frames, lengths
        mel, pitch, lengths = self._stretch(frames[..., :MEL_BINS], frames[..., MEL_BINS:], lengths)
        mel = self._add_noise(mel + self.equalizer / 4 * _smooth_noise(mel))
        frames = self._stripes(torch.cat([mel, pitch], dim=2), lengths)
        return frames * length_mask(lengths, frames.shape[1])[..., None], lengths

    def _stretch(self, mel: Tensor, pitch: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Resample time and frequency of each recording by factors of its own, bilinearly."""
        device = mel.device
        tape, tempo, tract = torch.rand(3, len(mel), device=device) * 2 - 1
        speed = (self.tape_speed * tape + self.time_warp * tempo).exp()
        scale = (-self.tape_speed * tape + self.frequency_warp * tract).exp()
        lengths = (lengths / speed).long().clamp(min=1)
        time = torch.arange(int(lengths.max()), device=device) * speed[:, None]
        # Bin i lies at (i + 1) / (bins + 1) of the mel scale, and frequencies are scaled in Hz.
        frequency = torch.arange(1, MEL_BINS + 1, device=device) * MEL_TOP / (MEL_BINS + 1)
        place = (1 + scale[:, None] * (frequency.exp() - 1)).log() / MEL_TOP * (MEL_BINS + 1) - 1
        mel = _resample(mel, time, place)
        if pitch.shape[2]:
            voice = torch.rand(len(mel), device=device) * 2 - 1
            octaves = (-self.tape_speed * tape + self.frequency_warp * voice) / math.log(2)
            place = torch.arange(pitch.shape[2], device=device) + octaves[:, None] / OCTAVES
            pitch = _resample(pitch, time, place)
        else:
            pitch = mel[..., :0]
        return mel, pitch, lengths

    def _add_noise(self, frames: Tensor) -> Tensor:
        """Add noise of random level and colour in the power domain (``LogMel`` says how frames encode power)."""
        batch, device = len(frames), frames.device
        chosen = torch.rand(batch, 1, 1, device=device) < self.noise
        level = torch.rand(batch, 1, 1, device=device) * 6.5 - 8.5
        draw = -torch.rand_like(frames).clamp(min=1e-6).log()  # the power of Gaussian noise in one bin
        noise = (level + _smooth_noise(frames)).exp() * draw * chosen
        return (((4 * frames - 4).exp() + noise).log() + 4) / 4

    def _stripes(self, frames: Tensor, lengths: Tensor) -> Tensor:
        """Set random stripes of time, and of the mel bins' frequencies, to 0, about the frames' mean."""
        mel, pitch = frames[..., :MEL_BINS], frames[..., MEL_BINS:]
        for _ in range(self.masks):
            mel = mask_along_axis_iid(mel, self.mask_bins, 0.0, axis=2)
        frames = torch.cat([mel, pitch], dim=2)
        for _ in range(self.masks):  # torchaudio's knows no lengths: most stripes would fall on padding
            frames = frames * ~_stripe(lengths, frames.shape[1], self.mask_frames)[:, :, None]
        return frames


def _resample(x: Tensor, time: Tensor, place: Tensor) -> Tensor:
    """Read (B, T, F) bilinearly at (B, S) times and (B, G) places, in frames and bins -> (B, S, G)."""
    down = time / max(x.shape[1] - 1, 1) * 2 - 1
    across = place / (x.shape[2] - 1) * 2 - 1
    size = (len(x), time.shape[1], place.shape[1])
    grid = torch.stack([across[:, None, :].expand(size), down[:, :, None].expand(size)], dim=-1)
    return F.grid_sample(x[:, None], grid, align_corners=True, padding_mode="border")[:, 0]


def _smooth_noise(frames: Tensor) -> Tensor:
    """Return (B, 1, M): for each recording a random curve over frequency through five standard normal knots."""
    knots = torch.randn(len(frames), 1, 5, device=frames.device)
    return F.interpolate(knots, size=frames.shape[2], mode="linear", align_corners=True)


def _stripe(lengths: Tensor, size: int, widest: int) -> Tensor:
    """Return (B, size) bool, True in one random stripe of at most ``widest`` places, within each row's length."""
    width = (
        torch.rand(len(lengths), 1, device=lengths.device)
        * torch.minimum(lengths / 2, lengths.new_tensor(widest))[:, None]
    )
    start = torch.rand(len(lengths), 1, device=lengths.device) * (lengths[:, None] - width)
    place = torch.arange(size, device=lengths.device)
    return (place >= start) & (place < start + width)
