"""Pretrained speech encoders: time, scale, precision, and what the classifier makes of their states."""

import importlib.util
import struct
import sys
from pathlib import Path

import pytest
import torch
import transformers
from conftest import tiny_encoder
from torch.nn.functional import layer_norm, pad

from talkhead.augmentation.spectrum import FrameAugmentation
from talkhead.modules.emotion import EmotionClassifier
from talkhead.nets.conformer import ConformerClassifier
from talkhead.nets.landmark import LandmarkNet
from talkhead.nets.speech_encoder import WHISPER_LEVEL, SpeechEncoder, SpeechStates
from talkhead.speech.level import speech_level


@pytest.mark.parametrize("kind", ["wav2vec2", "hubert", "wavlm", "whisper"])
def test_pretrained_encoders(kind: str, tmp_path) -> None:
    net = SpeechEncoder(tiny_encoder(kind, tmp_path / kind), 12).train()
    assert not any(p.requires_grad for p in net.states.encoder.parameters())
    assert not net.states.encoder.training
    for samples, frames in ((24000, 38), (100, 1)):
        features = net(torch.randn(2, samples), frames)
        assert features.shape == (2, frames, 12)
    features.sum().backward()
    assert net.layer_weights.grad is not None
    assert all(p.grad is None for p in net.states.encoder.parameters())


def test_features_of_the_waveform_are_read_at_the_frames_own_centres(tmp_path) -> None:
    """An encoder that answers with the mean of what it hears (as an angle) tells each frame's centre of a ramp."""
    net = SpeechEncoder(tiny_encoder("wav2vec2", tmp_path), 12).eval()
    step, reach = 80, 10 + (8 - 1) * 10  # kernels 10 and 8, strides 10 and 8

    class Listener(torch.nn.Module):
        config = net.states.encoder.config

        def forward(self, audio: torch.Tensor, output_hidden_states: bool) -> object:
            angle = audio.unfold(1, reach, step).mean(-1) / 16000
            # The states are normalised over the channels, which leaves the ratio of two of three that add up to zero.
            heard = torch.stack([angle.sin(), angle.cos(), -angle.sin() - angle.cos()], dim=-1)
            return type("Answer", (), {"hidden_states": (heard, heard, heard)})

    net.states.encoder, net.project = Listener(), torch.nn.Identity()
    told = net(torch.arange(16000.0)[None], 25)[0]
    told = 16000 * torch.atan2(told[:, 0], told[:, 1])
    expected = (torch.arange(25) + 0.5) * 640 - 0.5
    torch.testing.assert_close(told[1:-1], expected[1:-1], rtol=0, atol=0.05)  # float32 means of 80 numbers near 1e4


def test_whisper_keeps_the_time(tmp_path) -> None:
    """A burst in the last fifth changes the last frames most; a second piece follows the first."""
    net = SpeechEncoder(tiny_encoder("whisper", tmp_path), 12).eval()
    quiet = 0.01 * torch.randn(1, 24000)  # the tiny model's pieces are one second long
    burst = quiet.clone()
    burst[:, 20000:] += torch.randn(4000)
    with torch.no_grad():
        change = (net(burst, 30) - net(quiet, 30)).norm(dim=-1)[0]
    assert change[:19].max() == 0  # of the piece before nothing changes
    assert change[25:].mean() > change[20:24].mean()


def test_a_missing_encoder_says_what_to_place_where() -> None:
    with pytest.raises(FileNotFoundError, match="config.json and model.safetensors"):
        SpeechEncoder("nobody/no-such-model", 8)


def test_states_are_those_of_transformers_normalised(tmp_path: Path) -> None:
    name = tiny_encoder("whisper", tmp_path)
    audio = torch.randn(1, 16000)
    states, first, step = SpeechStates(name)(audio)
    extract = transformers.WhisperFeatureExtractor(feature_size=20, chunk_length=1)
    mel = extract((WHISPER_LEVEL * audio[0]).numpy(), sampling_rate=16000, return_tensors="pt").input_features
    model = transformers.AutoModel.from_pretrained(name).encoder.eval()
    expected = torch.stack(model(mel, output_hidden_states=True).hidden_states)
    torch.testing.assert_close(states, layer_norm(expected, (16,)))
    assert (first, step) == (0.0, 320)


def test_encoders_stored_in_half_precision_are_heard_in_full(tmp_path: Path) -> None:
    name = tiny_encoder("whisper", tmp_path / "full")
    transformers.AutoModel.from_pretrained(name).half().save_pretrained(tmp_path / "half")
    states = SpeechStates(str(tmp_path / "half"))
    assert {p.dtype for p in states.parameters()} == {torch.float32}
    assert states(torch.randn(1, 4000))[0].dtype == torch.float32


def test_short_pieces_are_what_a_shorter_model_hears(tmp_path: Path) -> None:
    name = tiny_encoder("whisper", tmp_path)
    states = SpeechStates(name, seconds=0.4)
    assert states.encoder.config.max_source_positions == 20
    audio = torch.randn(2, 6400)
    both = states(torch.cat([audio, 2 * audio], dim=1))[0]
    assert both.shape == (3, 2, 40, 16)
    torch.testing.assert_close(both[:, :, :20], states(audio)[0])
    rebuilt = SpeechStates(name, states.encoder.config.to_dict())
    rebuilt.load_state_dict(states.state_dict())
    torch.testing.assert_close(rebuilt(audio)[0], states(audio)[0])


def test_pieces_that_cannot_be_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must lie in 0.02..1, what the encoder knows; got 2"):
        SpeechStates(tiny_encoder("whisper", tmp_path / "a"), seconds=2)
    with pytest.raises(ValueError, match="encoder_seconds is for Whisper; wavlm hears any length"):
        SpeechStates(tiny_encoder("wavlm", tmp_path / "b"), seconds=0.5)


def classifier(folder: Path, kind: str = "whisper") -> ConformerClassifier:
    return ConformerClassifier("XS", encoder=tiny_encoder(kind, folder), trained_on=["happy", "sad"]).eval()


def test_frames_are_means_of_four_states(tmp_path: Path) -> None:
    net = classifier(tmp_path)
    audio = torch.randn(1, 8000 - 320)  # 24 states
    frames, lengths = net.features(audio, torch.tensor([8000 - 960]))  # 22 states: five times four, and two
    assert frames.shape == (1, 6, 3 * 16) and lengths.tolist() == [6]
    heard = audio[:, : 8000 - 960]
    states = net.front.states(heard / speech_level(heard[0]))[0][:, 0]
    torch.testing.assert_close(frames[0, 1], states[:, 4:8].mean(1).flatten())
    torch.testing.assert_close(frames[0, 5], states[:, 20:22].mean(1).flatten())


@pytest.mark.parametrize("kind", ["whisper", "wav2vec2"])
def test_loudness_and_padding_change_nothing(kind: str, tmp_path: Path) -> None:
    net = classifier(tmp_path, kind)
    torch.nn.init.normal_(net.head[1].weight)
    one, two = 0.1 * torch.randn(7000), 0.1 * torch.randn(12000)
    both = torch.stack([pad(one, (0, 5000), value=9.0), two])
    logits = net(both, torch.tensor([7000, 12000]))
    assert logits[:, net.seen].isfinite().all() and (logits[0] - logits[1])[net.seen].abs().min() > 1e-3
    torch.testing.assert_close(logits[:1], net(one[None]))
    torch.testing.assert_close(logits[1:], net(0.2 * two[None]), rtol=1e-3, atol=1e-3)


def test_saved_classifier_brings_its_encoder(tmp_path: Path) -> None:
    net = classifier(tmp_path / "encoder")
    net.save_pretrained(tmp_path / "net")
    for file in (tmp_path / "encoder").iterdir():
        file.unlink()
    loaded = ConformerClassifier.from_pretrained(tmp_path / "net").eval()
    audio = torch.randn(2, 9000)
    torch.testing.assert_close(loaded.probabilities(audio), net.probabilities(audio))
    assert (loaded.probabilities(audio) > 0).sum(1).tolist() == [2, 2]


def test_options_of_log_mel_frames_are_refused_beside_an_encoder(tmp_path: Path) -> None:
    name = tiny_encoder("whisper", tmp_path)
    with pytest.raises(ValueError, match="belong to encoder='logmel'"):
        ConformerClassifier("XS", encoder=name, pitch=True)
    with pytest.raises(ValueError, match="augmentation changes log-mel frames"):
        EmotionClassifier(ConformerClassifier("XS", encoder=name), augmentation=FrameAugmentation())
    for net in (ConformerClassifier, LandmarkNet):
        with pytest.raises(ValueError, match="encoder_seconds is for Whisper; leave it out"):
            net(encoder_seconds=6)


def test_a_classifier_learns_through_a_frozen_encoder(tmp_path: Path) -> None:
    module = EmotionClassifier(ConformerClassifier("XS", encoder=tiny_encoder("whisper", tmp_path)), mixup=0.0)
    module.log = lambda *args, **kwargs: None
    frames, lengths = module.net.features(torch.randn(4, 8000))
    module.learn(frames, lengths, torch.arange(4)).backward()
    learnt = {name for name, p in module.net.named_parameters() if p.grad is not None}
    assert "subsampling.weights" in learnt and not any(name.startswith("front") for name in learnt)


def converter():
    path = Path(__file__).resolve().parents[1] / "examples" / "convert_whisper.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def ctranslate2_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Name a Whisper's weights as CTranslate2 does, queries, keys and values stacked."""
    out = {"decoder/embeddings/weight": state["decoder.embed_tokens.weight"]}
    for part in ("weight", "bias"):
        out |= {f"encoder/conv{i}/{part}": state[f"encoder.conv{i}.{part}"] for i in (1, 2)}
    gains = {"gamma": "weight", "beta": "bias"}
    for side, layers in (("encoder", 2), ("decoder", 1)):
        out[f"{side}/position_encodings/encodings"] = state[f"{side}.embed_positions.weight"]
        out |= {f"{side}/layer_norm/{g}": state[f"{side}.layer_norm.{w}"] for g, w in gains.items()}
        for i in range(layers):
            at, to = f"{side}/layer_{i}", f"{side}.layers.{i}"
            out |= {f"{at}/ffn/layer_norm/{g}": state[f"{to}.final_layer_norm.{w}"] for g, w in gains.items()}
            for part in ("weight", "bias"):
                out |= {f"{at}/ffn/linear_{n}/{part}": state[f"{to}.fc{n + 1}.{part}"] for n in (0, 1)}
            for kind, name in (("self_attention", "self_attn"), ("attention", "encoder_attn"))[
                : 1 + (side == "decoder")
            ]:
                norm = f"{to}.{name}_layer_norm"
                out |= {f"{at}/{kind}/layer_norm/{g}": state[f"{norm}.{w}"] for g, w in gains.items()}
                q, k, v = (state[f"{to}.{name}.{x}_proj.weight"] for x in "qkv")
                bq, bv = (state[f"{to}.{name}.{x}_proj.bias"] for x in "qv")
                stacks = (
                    [([q, k, v], [bq, 0 * bq, bv])] if name == "self_attn" else [([q], [bq]), ([k, v], [0 * bq, bv])]
                )
                for n, (weight, bias) in enumerate(stacks):
                    out[f"{at}/{kind}/linear_{n}/weight"], out[f"{at}/{kind}/linear_{n}/bias"] = map(
                        torch.cat, (weight, bias)
                    )
                for part in ("weight", "bias"):
                    out[f"{at}/{kind}/linear_{len(stacks)}/{part}"] = state[f"{to}.{name}.out_proj.{part}"]
    return out


def test_a_whisper_of_ctranslate2_is_converted_exactly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sides = {"layers": 2, "attention_heads": 2, "ffn_dim": 512}
    options = {f"encoder_{k}": v for k, v in sides.items()} | {f"decoder_{k}": v for k, v in sides.items()}
    options |= {"decoder_layers": 1, "d_model": 128, "num_mel_bins": 80, "vocab_size": 51865}
    model = transformers.WhisperModel(transformers.WhisperConfig(**options)).half().eval()
    data = struct.pack("<I", 6) + struct.pack("<H", 12) + b"WhisperSpec\0" + struct.pack("<I", 3)
    variables = ctranslate2_names(model.state_dict())
    data += struct.pack("<I", len(variables))
    for name, value in variables.items():
        data += struct.pack("<H", len(name) + 1) + name.encode() + b"\0" + struct.pack("<B", value.ndim)
        data += struct.pack(f"<{value.ndim}I", *value.shape) + struct.pack("<BI", 4, 2 * value.numel())
        data += value.numpy().tobytes()
    folder = tmp_path / "faster-whisper"
    folder.mkdir()
    (folder / "model.bin.part1").write_bytes(data[:1000])
    (folder / "model.bin.part2").write_bytes(data[1000:])
    monkeypatch.setattr(sys, "argv", ["x", "--model", str(folder), "--output", str(tmp_path / "out")])
    converter().main()
    loaded = transformers.WhisperModel.from_pretrained(tmp_path / "out", dtype=torch.float16)
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name
    (folder / "model.bin.part2").unlink()
    with pytest.raises(SystemExit):  # nothing that is there is overwritten
        converter().main()
    monkeypatch.setattr(sys, "argv", ["x", "--model", str(folder), "--output", str(tmp_path / "other")])
    with pytest.raises(SystemExit, match="ends too early"):
        converter().main()
