"""What the landmark net hears: a raw-waveform branch and a log-mel content branch, brought to the frames' own clock.

A stretch of S samples spans T frames uniformly; frame t is centred at sample (t + 1/2) S / T - 1/2. Every branch
returns features at exactly those instants, whatever its own frame rate, so that S and T are free.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from talkhead.data.clip import SAMPLE_RATE
from talkhead.ops.precision import full_precision
from talkhead.speech.level import BLOCK, block_rms, frame_centres, sample_at

FFT = 512
"""Points of the Fourier transform under the mel spectrogram."""


class ConvBlock(nn.Module):
    """A stride-1 convolution that keeps the length, layer norm over the channels, and GELU.

    The norm looks at one instant alone, so that what a window holds elsewhere does not matter.
    """

    def __init__(self, channels_in: int, channels_out: int, kernel: int = 5, dilation: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv1d(channels_in, channels_out, kernel, padding=dilation * (kernel // 2), dilation=dilation)
        self.norm = nn.LayerNorm(channels_out)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C_in, N) to (B, C_out, N)."""
        return F.gelu(self.norm(self.conv(x).transpose(1, 2))).transpose(1, 2)


class FrameFold(nn.Module):
    """Bring features to the frames' clock: read them at four instants per frame, fold the four into one, mix in time.

    Args:
        channels: of the features.
        width: C, channels of the result.
        dilations: of the mixing convolutions (kernel 5), each added to what it reads.
        dropout: probability of dropping a whole channel before each.
    """

    PER_FRAME = 4

    def __init__(self, channels: int, width: int, dilations: Sequence[int], dropout: float) -> None:
        super().__init__()
        self.fold = nn.Sequential(nn.Conv1d(channels, width, 2 * self.PER_FRAME, self.PER_FRAME, padding=2), nn.GELU())
        self.mix = nn.ModuleList(ConvBlock(width, width, dilation=d) for d in dilations)
        self.dropout = nn.Dropout1d(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C', 4 T) to (B, T, C)."""
        x = self.fold(x)
        for layer in self.mix:
            x = x + layer(self.dropout(x))
        return x.transpose(1, 2)


class RawBranch(nn.Module):
    """The global branch: volume and rhythm straight from the waveform (paper, Sec. 2).

    Four strided convolutions take 16 kHz to 100 Hz (5 * 4 * 4 * 2 = 160). The log envelope of the volume joins them
    there, and dilated convolutions with a reach of over a second read the rhythm.

    Args:
        width: C, channels of the result.
        dropout: probability of dropping a whole channel.
    """

    def __init__(self, width: int, dropout: float = 0.1) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 1
        for out, stride in ((width // 8, 5), (width // 4, 4), (width // 4, 4), (width // 2, 2)):
            # With kernel 2s (+ 1 if s is odd) and this padding the outputs are centred on blocks of s inputs.
            kernel = 2 * stride + stride % 2
            layers += [nn.Conv1d(channels, out, kernel, stride, padding=(kernel - stride) // 2), nn.GELU()]
            channels = out
        self.strided = nn.Sequential(*layers)
        self.frames = FrameFold(channels + 1, width, (1, 2, 4), dropout)

    def forward(self, audio: Tensor, num_frames: int) -> Tensor:
        """Encode.

        Args:
            audio: (B, S) waveform divided by its speech level.
            num_frames: T.

        Returns:
            (B, T, C).
        """
        samples = audio.shape[-1]
        audio = F.pad(audio, (0, -samples % BLOCK))
        volume = torch.log10(block_rms(audio) + 1e-3).unsqueeze(1)
        x = torch.cat([self.strided(audio.unsqueeze(1)), volume], dim=1)
        centres = frame_centres(samples, FrameFold.PER_FRAME * num_frames, audio.device)
        return self.frames(sample_at(x, (centres - (BLOCK - 1) / 2) / BLOCK))


class LogMelEncoder(nn.Module):
    """The content branch where no pretrained encoder is at hand: a log-mel spectrogram and convolutions.

    Four spectra per video frame (25-ms windows) are folded into one by a strided convolution, then mixed over 0.5 s.

    Args:
        width: C, channels of the result.
        mels: number of mel bands up to 8 kHz.
        dropout: probability of dropping a whole channel.
        spec_augment: in training, hide a random band of frequencies and a random stretch of time (SpecAugment).
    """

    def __init__(self, width: int, mels: int = 64, dropout: float = 0.1, spec_augment: bool = True) -> None:
        super().__init__()
        from torchaudio.transforms import MelSpectrogram

        self.spec_augment = spec_augment
        self.spectrogram = MelSpectrogram(
            SAMPLE_RATE, n_fft=FFT, win_length=400, hop_length=BLOCK, f_min=60.0, n_mels=mels, power=2.0
        )
        self.entry = nn.Sequential(nn.Conv1d(mels, width // 2, 5, padding=2), nn.GELU())
        self.frames = FrameFold(width // 2, width, (1, 2), dropout)

    def log_mel(self, audio: Tensor) -> Tensor:
        """Return the (B, mels, S // 160 + 1) log10 spectrum of level-normalised audio, floored 60 dB below speech."""
        audio = F.pad(audio, (0, max(0, FFT - audio.shape[-1])))  # half a transform is reflected at its ends
        with full_precision(audio):  # the power of ordinary speech is beyond what float16 holds
            return 0.5 * torch.log10(self.spectrogram(audio.float()) + 1e-3)

    def forward(self, audio: Tensor, num_frames: int) -> Tensor:
        """Encode.

        Args:
            audio: (B, S) waveform divided by its speech level.
            num_frames: T.

        Returns:
            (B, T, C).
        """
        mel = self.log_mel(audio)
        mel = sample_at(mel, frame_centres(audio.shape[-1], FrameFold.PER_FRAME * num_frames, audio.device) / BLOCK)
        if self.training and self.spec_augment:
            mel = mask_spectrogram(mel)
        return self.frames(self.entry(mel))


def mask_spectrogram(mel: Tensor, bands: int = 10, steps: int = 20) -> Tensor:
    """Replace one random band and one random stretch per sample by the sample's mean (SpecAugment, Park et al. 2019).

    Args:
        mel: (B, F, N).
        bands: widest band hidden.
        steps: longest stretch hidden.

    Returns:
        (B, F, N), a new tensor.
    """
    from torchaudio.functional import mask_along_axis_iid

    kept = torch.ones_like(mel)
    for axis, widest in ((1, bands), (2, steps)):
        kept = mask_along_axis_iid(kept, min(widest, mel.shape[axis]), 0.0, axis)
    return torch.where(kept > 0, mel, mel.mean(dim=(1, 2), keepdim=True))
