"""A pretrained speech encoder from ``transformers``: the states of all its layers, and the landmark net's branch."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from talkhead.data.clip import SAMPLE_RATE
from talkhead.speech.level import frame_centres, sample_at

HOP = 160
"""Samples from one frame of Whisper's mel spectrogram to the next; one of its states spans two."""

WHISPER_LEVEL = 0.1
"""Speech level at which Whisper listens: it does not normalise, and recordings lie about 20 dB below full scale."""


class SpeechStates(nn.Module):
    """A pretrained speech encoder: wav2vec 2.0, HuBERT, WavLM and relatives, or the encoder of Whisper.

    Each layer's states are normalised over the channels, so that layers can be averaged whatever their scales.

    Args:
        name: model name on the Hugging Face hub, or a folder written by ``save_pretrained``.
        config: the encoder's configuration as a dictionary. Given, the architecture is built from it with random
            weights, to be filled from a state dict; nothing is looked up or downloaded.
        frozen: keep the encoder as it is (no gradients). Trained or not, it drops nothing: other processes would wait
            for the gradients of layers left out at random.
        seconds: Whisper hears pieces of this length, shorter ones filled up with silence; None: the 30 s it was made
            for. Short recordings cost as much as a whole piece. Encoders of waveforms hear everything at once.

    Raises:
        FileNotFoundError: if the encoder is neither a folder nor in the cache nor to be had from the hub.
        ValueError: if ``seconds`` is longer than Whisper was made for, or given for another encoder.
    """

    def __init__(
        self, name: str, config: dict[str, Any] | None = None, frozen: bool = True, seconds: float | None = None
    ) -> None:
        super().__init__()
        # Any: transformers' models take and tell more than nn.Module promises.
        self.encoder: Any = _load_encoder(name) if config is None else _build_encoder(config)
        self.whisper = self.encoder.config.model_type == "whisper"
        if seconds is not None:
            self._shorten(seconds)
        self.extract = _whisper_spectrogram(self.encoder.config) if self.whisper else None
        self.frozen = frozen
        self.encoder.eval()
        if frozen:
            self.encoder.requires_grad_(False)
        if hasattr(self.encoder, "masked_spec_embed"):
            self.encoder.masked_spec_embed.requires_grad_(False)  # stands for what is masked in training: nothing is
        self.layers: int = self.encoder.config.num_hidden_layers + 1
        self.channels: int = self.encoder.config.hidden_size

    def train(self, mode: bool = True) -> SpeechStates:
        """Switch the mode; the encoder stays in evaluation mode."""
        super().train(mode)
        self.encoder.eval()
        return self

    def forward(self, audio: Tensor) -> tuple[Tensor, float, int]:
        """Encode.

        Args:
            audio: (B, S) waveform at 16 kHz divided by its speech level.

        Returns:
            (L, B, N, C) states of the L layers, the first one's input among them; the sample at the centre of the
            first of the N; the number of samples from one to the next.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            states, first, step = self._whisper_states(audio) if self.whisper else self._waveform_states(audio)
            return F.layer_norm(states, states.shape[-1:]), first, step

    def _shorten(self, seconds: float) -> None:
        """Keep the first positions alone, so that pieces are shorter."""
        if not self.whisper:
            raise ValueError(f"encoder_seconds is for Whisper; {self.encoder.config.model_type} hears any length")
        places = round(seconds * SAMPLE_RATE / (2 * HOP))
        if not 1 <= places <= self.encoder.config.max_source_positions:
            longest = self.encoder.config.max_source_positions * 2 * HOP / SAMPLE_RATE
            raise ValueError(f"encoder_seconds must lie in 0.02..{longest:g}, what the encoder knows; got {seconds}")
        kept = self.encoder.embed_positions.weight[:places].clone()
        self.encoder.embed_positions = nn.Embedding.from_pretrained(kept)
        self.encoder.config.max_source_positions = places

    def _waveform_states(self, audio: Tensor) -> tuple[Tensor, float, int]:
        """Return all hidden states, the sample at the centre of the first, and the samples between two."""
        step, reach = 1, 1
        for kernel, stride in zip(self.encoder.config.conv_kernel, self.encoder.config.conv_stride, strict=True):
            reach += (kernel - 1) * step
            step *= stride
        # Half a reach of silence at both ends, so that the first and the last frame have features of their own.
        side = reach // 2
        padded = F.pad(audio, (side, side + max(0, reach - audio.shape[-1])))
        states = self.encoder(padded, output_hidden_states=True).hidden_states
        return torch.stack(states), (reach - 1) / 2 - side, step

    def _whisper_states(self, audio: Tensor) -> tuple[Tensor, float, int]:
        """Return the states of Whisper's encoder, run over pieces as long as the model hears at once."""
        assert self.extract is not None
        collected = []
        for part in (WHISPER_LEVEL * audio).split(self.extract.n_samples, dim=-1):
            heard = self.extract(list(part.cpu().numpy()), sampling_rate=SAMPLE_RATE, return_tensors="pt")
            states = self.encoder(heard.input_features.to(audio), output_hidden_states=True).hidden_states
            collected.append(torch.stack(states)[:, :, : -(-part.shape[-1] // (2 * HOP))])
        return torch.cat(collected, dim=2), 0.0, 2 * HOP


class SpeechEncoder(nn.Module):
    """The content branch on a pretrained speech encoder from ``transformers`` (``SpeechStates``).

    The states of all layers are averaged with learnt weights (Yang et al. 2021, SUPERB), normalised, and projected.

    Args:
        name: see ``SpeechStates``.
        width: C, channels of the result.
        config: see ``SpeechStates``.
        frozen: see ``SpeechStates``.
        seconds: see ``SpeechStates``.
    """

    def __init__(
        self,
        name: str,
        width: int,
        config: dict[str, Any] | None = None,
        frozen: bool = True,
        seconds: float | None = None,
    ) -> None:
        super().__init__()
        self.states = SpeechStates(name, config, frozen, seconds)
        self.layer_weights = nn.Parameter(torch.zeros(self.states.layers))
        hidden = self.states.channels
        self.project = nn.Sequential(nn.LayerNorm(hidden), nn.Linear(hidden, width), nn.GELU())

    def forward(self, audio: Tensor, num_frames: int) -> Tensor:
        """Encode.

        Args:
            audio: (B, S) waveform divided by its speech level.
            num_frames: T.

        Returns:
            (B, T, C).
        """
        states, first, step = self.states(audio)
        mixed = torch.einsum("lbnc,l->bcn", states, self.layer_weights.softmax(0))
        positions = (frame_centres(audio.shape[-1], num_frames, audio.device) - first) / step
        return self.project(sample_at(mixed, positions).transpose(1, 2))


def _whisper_spectrogram(config: Any) -> Any:
    """Return what makes a mel spectrogram of a piece as long as the encoder hears at once."""
    from transformers import WhisperFeatureExtractor

    frames = 2 * config.max_source_positions
    extract = WhisperFeatureExtractor(feature_size=config.num_mel_bins)
    # From its own argument, a length in seconds, it would round.
    extract.n_samples, extract.nb_max_frames = frames * HOP, frames
    return extract


def _load_encoder(name: str) -> Any:
    """Load a pretrained encoder by name or folder, or say in one sentence where to put it."""
    from transformers import AutoModel

    try:
        # Many are stored in half precision, in which CPUs are slow and training is unstable.
        model = AutoModel.from_pretrained(name, dtype=torch.float32)
    except (OSError, ValueError) as error:
        raise FileNotFoundError(
            f"encoder: {name!r} is no folder with a speech encoder, is not in the Hugging Face cache and could not be "
            "fetched; place its config.json and model.safetensors in a folder and pass that folder, or use 'logmel'"
        ) from error
    return _encoder_part(model)


def _build_encoder(config: dict[str, Any]) -> Any:
    """Build an encoder's architecture from the dictionary of its configuration."""
    from transformers import AutoConfig, AutoModel

    options = {k: v for k, v in config.items() if k != "model_type"}
    return _encoder_part(AutoModel.from_config(AutoConfig.for_model(config["model_type"], **options)))


def _encoder_part(model: Any) -> Any:
    """Return the part of a ``transformers`` model that listens; Whisper's decoder is dropped."""
    return model.encoder if model.config.model_type == "whisper" else model
