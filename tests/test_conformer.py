"""The emotion network: published sizes, what must not change its answer, what it must not claim, saving and loading."""

import pytest
import torch
from torch.nn.functional import pad

from talkhead.data.clip import EMOTIONS
from talkhead.nets.conformer import SIZES, ConformerClassifier
from talkhead.speech.logmel import LogMel
from talkhead.speech.pitch import HIGHEST, LOWEST, PITCH_BINS, Pitchgram, melody
from talkhead.speech.statistics import PitchStatistics


@pytest.fixture(
    scope="module", params=[{}, {"pitch": True, "frames_per_second": 50, "batch_norm": True}], ids=["mel", "pitch"]
)
def net(request: pytest.FixtureRequest) -> ConformerClassifier:
    torch.manual_seed(0)
    return ConformerClassifier("XS", trained_on=["sad", "angry", "happy", "neutral"], **request.param).eval()


def speech(seconds: float, seed: int = 0) -> torch.Tensor:
    """Noise with a syllable rhythm, loud from end to end."""
    generator = torch.Generator().manual_seed(seed)
    time = torch.arange(round(seconds * 16000)) / 16000
    return 0.1 * torch.randn(len(time), generator=generator) * (1.2 + torch.sin(2 * torch.pi * 4 * time))


# Gulati et al. 2020, Table 1 counts 10.3, 30.7 and 118.8 M parameters with an LSTM decoder and relative positions,
# which a classifier does not have; Zhang et al. 2020 say 0.6 B for XL.
@pytest.mark.parametrize(
    ("size", "width", "layers", "heads", "millions"),
    [("S", 144, 16, 4, 10.3), ("M", 256, 16, 4, 30.7), ("L", 512, 17, 8, 118.8), ("XL", 1024, 24, 8, 600)],
)
def test_published_sizes(size: str, width: int, layers: int, heads: int, millions: float) -> None:
    with torch.device("meta"):
        net = ConformerClassifier(size)
        logits = net.eval().classify(torch.empty(2, 101, 80))
    assert logits.shape == (2, 8)
    assert len(net.conformer.conformer_layers) == layers
    assert net.conformer.conformer_layers[0].self_attn.num_heads == heads
    # Two feed-forward modules of 4 x width, four attention and three pointwise projections: 23 width^2 per layer.
    count = sum(p.numel() for p in net.conformer.parameters())
    assert count == pytest.approx(23 * width**2 * layers, rel=0.03)  # biases, norms, depthwise kernels: < 3%
    total = sum(p.numel() for p in net.parameters())
    assert 0.75 * millions < total / 1e6 < 1.1 * millions


def test_small_size_fits_the_wheel() -> None:
    assert sum(p.numel() for p in ConformerClassifier("XS").parameters()) * 4 < 6e6


@pytest.mark.parametrize("seconds", [0.3, 1.0, 1.017])
def test_padding_changes_nothing(net: ConformerClassifier, seconds: float) -> None:
    short, long = speech(seconds), speech(2.0, seed=1)
    alone = net(short[None])
    garbage = torch.cat([short, torch.randn(len(long) - len(short))])  # what lies beyond `samples` is not to be read
    for padded in (pad(short, (0, len(long) - len(short))), garbage):
        together = net(torch.stack([padded, long]), torch.tensor([len(short), len(long)]))
        torch.testing.assert_close(together[:1], alone, atol=2e-5, rtol=1e-5)  # float32 sums in another order
        torch.testing.assert_close(together[1:], net(long[None]), atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("bins", [80, 140])
def test_padding_changes_no_gradient(bins: int) -> None:
    # Batch statistics aside, training sees no padding either.
    net = ConformerClassifier("XS", dropout=0.0, pitch=bins == 140).eval()
    frames = torch.randn(1, 50, bins, requires_grad=True)
    padded = pad(frames, (0, 0, 0, 30)).detach().requires_grad_()
    net.classify(frames).sum().backward()
    net.classify(padded, torch.tensor([50])).sum().backward()
    assert frames.grad is not None and padded.grad is not None
    torch.testing.assert_close(padded.grad[:, :50], frames.grad, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("gain", [1e-3, 0.1, 10.0])
def test_loudness_changes_nothing(net: ConformerClassifier, gain: float) -> None:
    audio = speech(1.0)[None]
    torch.testing.assert_close(net(gain * audio), net(audio), atol=1e-4, rtol=1e-4)  # float32 rounding, magnified by ln


def test_silence_around_speech_changes_nothing(net: ConformerClassifier) -> None:
    audio = speech(1.0)
    # A tenth of a second is kept on either side, so recordings with more than that around the speech look alike.
    few, many = pad(audio, (4800, 4800)), pad(audio, (16000, 8000))
    few_frames, few_lengths = net.features(few[None])
    many_frames, many_lengths = net.features(many[None])
    assert few_lengths.tolist() == many_lengths.tolist()
    # The mean power is over more frames: everything above the floor shifts by the same constant, nothing else moves.
    shift = (many_frames - few_frames)[..., :80][few_frames[..., :80] > 0.5]
    assert shift.std() < 1e-3
    # The melody's floor falls with the mean energy; 40 dB down, it hardly matters.
    assert (many_frames - few_frames)[..., 80:].abs().max() < 0.01 if few_frames.shape[2] > 80 else True


@pytest.mark.parametrize("audio", [torch.zeros(1, 16000), torch.zeros(1, 1), torch.full((1, 400), 0.5)])
def test_silence_and_shortest_input_are_finite(net: ConformerClassifier, audio: torch.Tensor) -> None:
    probabilities = net.probabilities(audio)
    assert probabilities.isfinite().all()
    assert probabilities.sum().item() == pytest.approx(1)


def test_unseen_emotions_get_probability_zero(net: ConformerClassifier) -> None:
    probabilities = net.probabilities(speech(1.0)[None])[0]
    for name, value in zip(EMOTIONS, probabilities.tolist(), strict=True):
        assert (value > 0) == (name in ("angry", "happy", "neutral", "sad"))
    assert net.trained_on == ("angry", "happy", "neutral", "sad")


def test_temperature_divides_the_logits(net: ConformerClassifier) -> None:
    audio = speech(1.0)[None]
    net.temperature.fill_(2.0)
    expected = (net(audio) / 2).softmax(-1)
    probabilities = net.probabilities(audio)
    net.temperature.fill_(1.0)
    torch.testing.assert_close(probabilities, expected)


def test_long_recordings_average_their_windows() -> None:
    net = ConformerClassifier("XS", window_seconds=1.0).eval()
    first, second = speech(0.9), speech(0.9, seed=1)
    together = net.probabilities(torch.cat([first, second])[None])
    expected = (net.probabilities(first[None]) + net.probabilities(second[None])) / 2
    torch.testing.assert_close(together, expected)
    batch = torch.stack([torch.cat([first, second]), pad(first, (0, len(second)))])
    both = net.probabilities(batch, torch.tensor([len(batch[0]), len(first)]))
    torch.testing.assert_close(both, torch.cat([expected, net.probabilities(first[None])]), atol=1e-5, rtol=1e-4)


def test_save_and_load(net: ConformerClassifier, tmp_path) -> None:
    net.temperature.fill_(1.7)
    net.save_pretrained(tmp_path)
    loaded = ConformerClassifier.from_pretrained(tmp_path).eval()
    audio = speech(0.5)[None]
    torch.testing.assert_close(loaded.probabilities(audio), net.probabilities(audio), atol=1e-6, rtol=1e-5)
    assert loaded.temperature.item() == pytest.approx(1.7)
    assert loaded.trained_on == net.trained_on
    net.temperature.fill_(1.0)


def test_own_class_names() -> None:
    net = ConformerClassifier("XS", emotions=["calm", "loud", "odd"]).eval()
    assert net.probabilities(speech(0.5)[None]).shape == (1, 3)
    assert net.trained_on == ("calm", "loud", "odd")


def test_wrong_arguments_are_told(net: ConformerClassifier) -> None:
    with pytest.raises(ValueError, match="size must be one of XS, S, M, L, XL; got 'XXL'"):
        ConformerClassifier("XXL")
    with pytest.raises(ValueError, match="trained_on must name emotions"):
        ConformerClassifier("XS", trained_on=["bored"])
    with pytest.raises(ValueError, match="frames_per_second must divide 100; got 40"):
        ConformerClassifier("XS", frames_per_second=40)
    with pytest.raises(ValueError, match="audio must be"):
        net(torch.zeros(100))
    with pytest.raises(ValueError, match="samples must lie in 1..100"):
        net(torch.zeros(1, 100), torch.tensor([101]))
    with pytest.raises(ValueError, match="samples must lie in"):
        net(torch.zeros(1, 0))


def test_widths_are_the_published_ones() -> None:
    assert [SIZES[s].width for s in ("S", "M", "L", "XL")] == [144, 256, 512, 1024]
    assert all(size.kernel % 2 for size in SIZES.values())


@pytest.mark.parametrize("hertz", [82.0, 120.0, 233.0, 400.0])
def test_pitch_of_a_voice_is_found(hertz: float) -> None:
    time = torch.arange(16000) / 16000
    buzz = sum(torch.cos(2 * torch.pi * hertz * k * time) / k for k in range(1, 20))
    frames = Pitchgram(160)(buzz[None], torch.ones(1, 101, 1, dtype=torch.bool))
    place, height = (x[0, 10:90] for x in melody(frames))
    found = LOWEST * (HIGHEST / LOWEST) ** (place / (PITCH_BINS - 1))
    assert (found.log2() - torch.tensor(hertz).log2()).abs().max() < 0.04  # half of a bin is 0.028 octaves
    # A period that lies between two bins is missed by at most that half, and the harmonics to 4 kHz fall out of step.
    assert height.min() > 0.8


def test_noise_has_no_pitch() -> None:
    noise = torch.randn(1, 16000, generator=torch.Generator().manual_seed(0))
    frames = Pitchgram(160)(noise, torch.ones(1, 101, 1, dtype=torch.bool))
    # The correlation of 64 ms of noise below 4 kHz, some 250 independent values, spreads by about 1 / 16.
    assert frames.std() < 0.15 and frames.max() < 0.6


def test_pitch_statistics_by_hand() -> None:
    frames = torch.zeros(1, 10, PITCH_BINS)
    frames[0, :4, 20], frames[0, 4:8, 24] = 0.9, 0.7  # eight voiced frames of ten
    histogram, rest = PitchStatistics()(frames, torch.tensor([10]))[0].split([PITCH_BINS, 9])
    # Half of the voiced frames at 20, smoothed over five bins: 0.1 on 18..22, and the same about 24.
    assert histogram[[17, 18, 20, 22, 26, 27]].exp().tolist() == pytest.approx([0.01, 0.11, 0.11, 0.21, 0.11, 0.01])
    mean, spread, _, _, _, change, leap, height, voiced = rest.tolist()
    assert (mean, spread, height, voiced) == pytest.approx((22, 2, 0.8, 0.8))
    assert change == pytest.approx(4 / 7)  # seven steps between voiced frames, one of them by 4 bins
    assert leap == pytest.approx((16 / 7 - (4 / 7) ** 2) ** 0.5)


def test_averaged_frames_are_the_mean_of_two() -> None:
    audio, samples = torch.stack([speech(0.5), pad(speech(0.35), (0, 2400))]), torch.tensor([8000, 5600])
    fine, lengths = LogMel(pitch=True)(audio, samples)
    coarse, halves = LogMel(pitch=True, average=2)(audio, samples)
    assert halves.tolist() == [-(-n // 2) for n in lengths.tolist()]
    for row, mean, length in zip(fine, coarse, lengths.tolist(), strict=True):
        torch.testing.assert_close(mean[: length // 2], row[: length // 2 * 2].unflatten(0, (-1, 2)).mean(1))
        if length % 2:
            torch.testing.assert_close(mean[length // 2], row[length - 1])
        assert not mean[(length + 1) // 2 :].any()
