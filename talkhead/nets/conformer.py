"""Speech in, emotion out: log-mel front end, convolutional subsampling, Conformer, attention pooling, head.

Beside the Conformer, statistics of the whole recording lead straight to the head. A pretrained speech encoder can take
the place of the front end, the subsampling and the statistics.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
import torchaudio
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from talkhead.data.clip import EMOTIONS, SAMPLE_RATE
from talkhead.nets.speech_encoder import SpeechStates
from talkhead.nets.speech_frames import LayerMix, SpeechFrames
from talkhead.nets.standardisation import Standardisation
from talkhead.speech.logmel import MEL_BINS, LogMel, length_mask
from talkhead.speech.pitch import PITCH_BINS
from talkhead.speech.statistics import PitchStatistics, SpectralStatistics


class ConformerSize(NamedTuple):
    """Width, number of layers, attention heads, depthwise kernel and subsampling channels of one size."""

    width: int
    layers: int
    heads: int
    kernel: int
    channels: int


SIZES = {
    "XS": ConformerSize(64, 2, 4, 15, 16),
    "S": ConformerSize(144, 16, 4, 31, 144),
    "M": ConformerSize(256, 16, 4, 31, 256),
    "L": ConformerSize(512, 17, 8, 31, 512),
    "XL": ConformerSize(1024, 24, 8, 31, 1024),
}
"""S, M, L: Gulati et al. 2020, Table 1 (their even kernel of 32 made odd, so that it has a centre).
XL: Zhang et al. 2020, "Pushing the limits of semi-supervised learning". XS is ours, for CPUs and small data."""


class Subsampling(nn.Module):
    """Two strided convolutions, each halving time and frequency, and a projection to the Conformer's width.

    With pitch, its frames go through two convolutions of their own, half as wide, to the same projection.
    """

    def __init__(self, channels: int, width: int, dropout: float, pitch: bool = False, batch_norm: bool = False):
        super().__init__()
        self.first = nn.Conv2d(1, channels, 3, stride=2, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, stride=2, padding=1)
        size = channels * MEL_BINS // 4
        if pitch:
            self.pitch_first = nn.Conv2d(1, channels // 2, 3, stride=2, padding=1)
            self.pitch_second = nn.Conv2d(channels // 2, channels // 2, 3, stride=2, padding=1)
            size += channels // 2 * PITCH_BINS // 4
        names = ("first", "second", "pitch_first", "pitch_second")
        widths = {name: getattr(self, name).out_channels for name in names if hasattr(self, name)}
        self.norms = nn.ModuleDict({name: nn.BatchNorm2d(n) for name, n in widths.items()} if batch_norm else {})
        self.pitch = pitch
        self.project = nn.Sequential(nn.Linear(size, width), nn.LayerNorm(width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, frames: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, 80) frames (with pitch: 140) -> (B, ceil(T / 4), width), and (B,) their numbers."""
        parts = [self._stride_twice(frames[..., :MEL_BINS], lengths, "first", "second")]
        if self.pitch:
            parts.append(self._stride_twice(frames[..., MEL_BINS:], lengths, "pitch_first", "pitch_second"))
        return self.dropout(self.project(torch.cat(parts, dim=2))), (lengths + 3) // 4

    def _stride_twice(self, frames: Tensor, lengths: Tensor, *names: str) -> Tensor:
        """(B, T, F) -> (B, ceil(T / 4), C * ceil(F / 4)), 0 beyond each recording's end."""
        x = frames[:, None]
        for name in names:
            # With the channels last, CPUs convolve more than twice as fast.
            x = getattr(self, name)(x).contiguous(memory_format=torch.channels_last)
            if name in self.norms:
                x = self.norms[name](x)
            lengths = (lengths + 1) // 2
            x = nn.functional.silu(x) * length_mask(lengths, x.shape[2])[:, None, :, None]
        return x.transpose(1, 2).flatten(2)


_VALID: ContextVar[Tensor] = ContextVar("valid")
"""(B, 1, T), True where a batch is valid, on its way through torchaudio's layers; each thread has its own."""


class MaskedConv1d(nn.Conv1d):
    """A convolution over time that sees silence, not whatever a batch is padded with, beyond a recording's end."""

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, T) -> (B, C, T)."""
        valid = _VALID.get(None)
        return super().forward(input if valid is None else input * valid)


class AttentionPooling(nn.Module):
    """Mean and standard deviation over time, each frame weighted by a learnt score (Okabe et al. 2018)."""

    def __init__(self, width: int):
        super().__init__()
        self.score = nn.Sequential(nn.Linear(width, width // 2), nn.Tanh(), nn.Linear(width // 2, 1))

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """(B, T, width) frames, (B, T) True where valid -> (B, 2 * width)."""
        weight = self.score(x).float().masked_fill(~valid[..., None], -math.inf).softmax(1)
        mean = (weight * x).sum(1)
        variance = (weight * (x - mean[:, None]) ** 2).sum(1)
        return torch.cat([mean, (variance + 1e-5).sqrt()], dim=-1)


class ConformerClassifier(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """The emotion in a voice, as a probability for each of a list of emotions.

    Loudness, silence before and after the speech, and a batch's padding change nothing. Emotions that were absent from
    training get probability exactly 0: what the classifier never heard, it does not claim to hear.

    Attributes:
        temperature: () float32; logits are divided by it so that probabilities can be believed (Guo et al. 2017).
        seen: (E,) bool, True for the emotions in the training data.
    """

    temperature: Tensor
    seen: Tensor

    @register_to_config
    def __init__(
        self,
        size: str = "S",
        emotions: Sequence[str] = EMOTIONS,
        trained_on: Sequence[str] | None = None,
        dropout: float = 0.1,
        head_dropout: float = 0.2,
        window_seconds: float = 8.0,
        pitch: bool = False,
        frames_per_second: int = 100,
        batch_norm: bool = False,
        encoder: str = "logmel",
        freeze_encoder: bool = True,
        encoder_seconds: float | None = None,
        encoder_config: dict[str, Any] | None = None,
    ):
        """Build the network.

        Args:
            size: "XS", "S", "M", "L" or "XL" (``SIZES``).
            emotions: the classes' names, in the order of the logits.
            trained_on: those of them that occur in the training data; None: all.
            dropout: share of activations dropped in training, everywhere in the Conformer.
            head_dropout: share of the pooled features dropped in training.
            window_seconds: ``probabilities`` cuts longer recordings into equal windows of at most this length.
            pitch: hear the melody beside the log-mel frames (``Pitchgram``, ``PitchStatistics``).
            frames_per_second: of the frames before subsampling, 100 divided by a whole number; 50 costs half.
            batch_norm: normalise the batch between the subsampling's convolutions.
            encoder: ``logmel``, or the name or folder of a pretrained ``transformers`` speech encoder, whose states
                then take the place of log-mel frames and their statistics.
            freeze_encoder: keep a pretrained encoder as it is.
            encoder_seconds: length of the pieces that Whisper hears; None: 30 s (see ``SpeechStates``).
            encoder_config: filled in by the network for a pretrained encoder, so that a saved one needs nothing else to
                load.

        Raises:
            ValueError: if the size is unknown, ``trained_on`` names no or unknown emotions, ``frames_per_second``
                does not divide 100, or an option of log-mel frames is given with a pretrained encoder or
                the other way round.
            FileNotFoundError: if the encoder cannot be found.
        """
        super().__init__()
        if size not in SIZES:
            raise ValueError(f"size must be one of {', '.join(SIZES)}; got {size!r}")
        if frames_per_second < 1 or 100 % frames_per_second:
            raise ValueError(f"frames_per_second must divide 100; got {frames_per_second}")
        shape = SIZES[size]
        pretrained = encoder != "logmel"
        if pretrained and (pitch or batch_norm or frames_per_second != 100):
            raise ValueError("pitch, frames_per_second and batch_norm belong to encoder='logmel'; leave them out")
        if encoder_seconds is not None and not pretrained:
            raise ValueError("encoder_seconds is for Whisper; leave it out with encoder='logmel'")
        if pretrained:
            states = SpeechStates(encoder, encoder_config, freeze_encoder, encoder_seconds)
            self.register_to_config(encoder_config=states.encoder.config.to_dict())
            self.front: nn.Module = SpeechFrames(states)
            self.subsampling: nn.Module = LayerMix(states.layers, states.channels, shape.width, dropout)
        else:
            self.front = LogMel(pitch, 100 // frames_per_second)
            self.subsampling = Subsampling(shape.channels, shape.width, dropout, pitch, batch_norm)
        self.conformer = torchaudio.models.Conformer(
            shape.width, shape.heads, 4 * shape.width, shape.layers, shape.kernel, dropout=dropout
        )
        self._mask_convolutions()
        self.pooling = AttentionPooling(shape.width)
        self.pooled_norm = nn.LayerNorm(2 * shape.width)
        self.statistics = None if pretrained else SpectralStatistics()
        self.pitch_statistics = PitchStatistics() if pitch else None
        whole = 0 if pretrained else SpectralStatistics.SIZE + (PitchStatistics.SIZE if pitch else 0)
        self.statistics_norm = None if pretrained else Standardisation(whole)
        inputs = 2 * shape.width + whole
        self.head = nn.Sequential(nn.Dropout(head_dropout), nn.Linear(inputs, len(emotions)))
        self.register_buffer("temperature", torch.ones(()))
        self.register_buffer("seen", torch.ones(len(emotions), dtype=torch.bool))
        if trained_on is not None:
            self.set_trained_on(trained_on)

    def _mask_convolutions(self) -> None:
        """Give each Conformer layer a depthwise convolution that does not see padding (torchaudio's does)."""
        for layer in self.conformer.conformer_layers:
            layers = layer.conv_module.sequential
            width, kernel = layers[2].in_channels, layers[2].kernel_size[0]
            layers[2] = MaskedConv1d(width, width, kernel, padding=kernel // 2, groups=width)

    @property
    def trained_on(self) -> tuple[str, ...]:
        """Names of the emotions that occur in the training data."""
        return tuple(name for name, seen in zip(self.config["emotions"], self.seen.tolist(), strict=True) if seen)

    def set_trained_on(self, names: Sequence[str]) -> None:
        """Declare which emotions the training data has; all others get probability 0 from now on.

        Args:
            names: at least one of the network's emotions.

        Raises:
            ValueError: if there is no name, or one that the network does not have.
        """
        emotions = list(self.config["emotions"])
        unknown = sorted(set(names) - set(emotions))
        if unknown or not names:
            raise ValueError(f"trained_on must name emotions among {', '.join(emotions)}; got {list(names)}")
        self.seen.copy_(torch.tensor([name in names for name in emotions]))
        self.register_to_config(trained_on=[name for name in emotions if name in names])

    def save_pretrained(self, *args: Any, **kwargs: Any) -> None:
        """Save config and weights; the emotions seen in training are written as the weights know them."""
        self.register_to_config(trained_on=list(self.trained_on))
        super().save_pretrained(*args, **kwargs)

    def features(self, audio: Tensor, samples: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Turn waveforms into the frames that ``classify`` takes.

        Args:
            audio: (B, S) float waveforms at 16 kHz.
            samples: (B,) int64 valid samples, 1..S; None: all of them.

        Returns:
            (B, T, 80) float32 loudness-invariant log-mel frames (with pitch: (B, T, 140), the melody behind them; with
            a pretrained encoder: (B, T, L * C), the states of its L layers), and (B,) int64 their numbers.

        Raises:
            ValueError: if the audio is not (B, S), or a recording is empty or said to be longer than it is.
        """
        if audio.ndim != 2:
            raise ValueError(f"audio must be (batch, samples); got shape {tuple(audio.shape)}")
        if samples is None:
            samples = torch.full(audio.shape[:1], audio.shape[1], device=audio.device)
        if not audio.numel() or samples.min() < 1 or samples.max() > audio.shape[1]:
            raise ValueError(f"samples must lie in 1..{audio.shape[1]}, the audio's length; got {samples.tolist()}")
        return self.front(audio, samples)

    def classify(self, frames: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Turn frames into logits.

        Args:
            frames: (B, T, F) frames from ``features``, 0 beyond ``lengths``.
            lengths: (B,) int64 valid frames, 1..T; None: all of them.

        Returns:
            (B, E) logits, -inf for the emotions that were absent from training.
        """
        if lengths is None:
            lengths = torch.full(frames.shape[:1], frames.shape[1], device=frames.device)
        whole = self._describe(frames, lengths)
        x, lengths = self.subsampling(frames, lengths)
        valid = length_mask(lengths, x.shape[1])
        x = x.transpose(0, 1)
        token = _VALID.set(valid[:, None])
        try:
            for layer in self.conformer.conformer_layers:
                x = layer(x, ~valid)
        finally:
            _VALID.reset(token)
        pooled = self.pooled_norm(self.pooling(x.transpose(0, 1), valid))
        logits = self.head(torch.cat([pooled, *whole], dim=-1))
        return logits.float().masked_fill(~self.seen, -math.inf)

    def _describe(self, frames: Tensor, lengths: Tensor) -> list[Tensor]:
        """Return the standardised (B, N) statistics of whole recordings; a pretrained encoder's states have none."""
        if self.statistics is None or self.statistics_norm is None:
            return []
        whole = [self.statistics(frames[..., :MEL_BINS], lengths)]
        if self.pitch_statistics is not None:
            whole.append(self.pitch_statistics(frames[..., MEL_BINS:], lengths))
        return [self.statistics_norm(torch.cat(whole, dim=1))]

    def forward(self, audio: Tensor, samples: Tensor | None = None) -> Tensor:
        """Return (B, E) logits of (B, S) waveforms of which (B,) ``samples`` are valid (None: all)."""
        return self.classify(*self.features(audio, samples))

    @torch.no_grad()
    def probabilities(self, audio: Tensor, samples: Tensor | None = None) -> Tensor:
        """Return calibrated probabilities, for recordings of any length.

        A recording longer than ``window_seconds`` is cut into equal windows whose probabilities are averaged, so that
        memory does not grow with the square of its length.

        Args:
            audio: (B, S) float waveforms at 16 kHz.
            samples: (B,) int64 valid samples, 1..S; None: all of them.

        Returns:
            (B, E) float32 probabilities, exactly 0 for emotions absent from training.

        Raises:
            ValueError: as ``features``.
        """
        longest = round(self.config["window_seconds"] * SAMPLE_RATE)
        if audio.ndim != 2 or audio.shape[1] <= longest:
            return (self(audio, samples) / self.temperature).softmax(-1)
        if samples is None:
            samples = torch.full(audio.shape[:1], audio.shape[1])
        rows = []
        for recording, count in zip(audio, samples.tolist(), strict=True):
            windows = recording[:count].tensor_split(max(math.ceil(count / longest), 1))
            rows.append(torch.stack([(self(w[None]) / self.temperature).softmax(-1)[0] for w in windows]).mean(0))
        return torch.stack(rows)
