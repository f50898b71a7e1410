"""The listening parts: clocks, loudness, pretrained encoders without the network, augmentation, the mouth's gate."""

import math

import pytest
import torch

from talkhead.augmentation.speech import (
    add_noise,
    add_reverberation,
    augment_speech,
    change_speed,
    colour_channel,
)
from talkhead.nets.audio import (
    LogMelEncoder,
    RawBranch,
    mask_spectrogram,
)
from talkhead.speech.level import block_rms, frame_centres, sample_at, speech_level


def tone(seconds: float, hertz: float = 300.0, level: float = 0.3) -> torch.Tensor:
    return level * torch.sin(2 * math.pi * hertz * torch.arange(round(16000 * seconds)) / 16000)


def test_frame_centres_tile_the_stretch() -> None:
    # 4 samples, 2 frames: frame 0 covers samples 0 and 1, whose middle is 0.5.
    assert frame_centres(4, 2).tolist() == [0.5, 2.5]


def test_sample_at_is_linear_and_holds_the_ends() -> None:
    ramp = torch.arange(5.0).view(1, 1, 5) * 10
    read = sample_at(ramp, torch.tensor([-3.0, 0.0, 1.25, 4.0, 9.0]))
    assert read.flatten().tolist() == [0, 0, 12.5, 40, 40]
    assert sample_at(ramp[..., :1], torch.tensor([0.0, 2.0])).flatten().tolist() == [0, 0]


def test_speech_level_of_a_tone_is_its_rms_and_ignores_pauses() -> None:
    speech = tone(1.0)
    assert speech_level(speech).item() == pytest.approx(0.3 / 2**0.5, rel=0.02)  # 3 periods a block, to a sample
    with_pause = torch.cat([speech, torch.zeros(5 * 16000)])
    assert speech_level(with_pause).item() == pytest.approx(speech_level(speech).item(), rel=0.02)


def test_silence_has_a_floor_for_its_level() -> None:
    assert speech_level(torch.zeros(16000)).item() == pytest.approx(10 ** (-55 / 20))
    assert block_rms(torch.zeros(3)).shape == (1,)


@pytest.mark.parametrize("branch", [RawBranch, LogMelEncoder])
@pytest.mark.parametrize(("samples", "frames"), [(48000, 75), (12345, 7), (16000, 60), (500, 1), (1, 1)])
def test_any_length_gives_as_many_frames_as_asked(branch: type, samples: int, frames: int) -> None:
    net = branch(32).eval()
    assert net(torch.randn(2, samples), frames).shape == (2, frames, 32)


@pytest.mark.parametrize("branch", [RawBranch, LogMelEncoder])
def test_a_click_is_heard_in_its_own_frame(branch: type) -> None:
    """The answer to a click must be centred on the frame that holds it: no shift between sound and picture."""
    net = branch(32).eval()
    for block in net.frames.mix:
        torch.nn.init.zeros_(block.norm.weight)  # the mixing over time off: what is left is the fold's own reach
    energy = torch.zeros(50)
    for click in (12, 25, 37):
        audio = torch.zeros(1, 32000)
        middle = click * 640 + 320
        audio[0, middle - 40 : middle + 40] = torch.randn(80)
        change = (net(audio, 50) - net(torch.zeros(1, 32000), 50)).norm(dim=-1)[0]
        energy += change.roll(25 - click)
    centre = (energy * torch.arange(50)).sum() / energy.sum()
    assert centre.item() == pytest.approx(25.0, abs=0.5)  # random weights lean to a side by a part of a frame


def test_log_mel_finds_the_tone() -> None:
    mel = LogMelEncoder(32).log_mel(tone(0.5, hertz=1000.0)[None])
    low = LogMelEncoder(32).log_mel(tone(0.5, hertz=300.0)[None])
    assert mel.shape == (1, 64, 51)
    # 64 mel bands between 60 and 8000 Hz: a frequency's band by the formula mel = 2595 log10(1 + f / 700).
    scale = [2595 * math.log10(1 + f / 700) for f in (60, 8000, 1000, 300)]
    for spectrum, hertz in ((mel, scale[2]), (low, scale[3])):
        expected = 65 * (hertz - scale[0]) / (scale[1] - scale[0]) - 1
        assert spectrum[0, :, 25].argmax().item() == pytest.approx(expected, abs=1)


def test_masking_hides_a_rectangle_and_keeps_the_rest() -> None:
    mel = torch.randn(4, 64, 200)
    masked = mask_spectrogram(mel)
    changed = (masked != mel).float().mean(dim=(1, 2))
    assert masked.shape == mel.shape
    assert (changed <= 10 / 64 + 20 / 200 + 0.03).all()
    assert changed.max() > 0


def test_augmentation_keeps_shape_and_finiteness_also_of_silence() -> None:
    for audio in (torch.randn(4, 8000) * 0.1, torch.zeros(4, 8000)):
        out = augment_speech(audio, noise=1, reverberation=1, channel=1)
        assert out.shape == audio.shape
        assert out.isfinite().all()


def test_noise_lies_in_the_asked_range() -> None:
    audio = torch.randn(8, 16000)
    noise = add_noise(audio, quietest=20, loudest=10) - audio
    ratio = 20 * (audio.norm(dim=1) / noise.norm(dim=1)).log10()
    assert ((ratio > 9.9) & (ratio < 20.1)).all()


def test_channel_stays_within_its_bounds() -> None:
    spectrum = torch.fft.rfft(torch.randn(3, 4096))
    audio = torch.fft.irfft(spectrum, n=4096)
    response = 20 * (torch.fft.rfft(colour_channel(audio, decibels=6)).abs() / spectrum.abs()).log10()
    assert response[:, 1:-1].abs().max() < 6.05


def test_reverberation_only_looks_back() -> None:
    audio = torch.zeros(1, 8000)
    audio[0, 4000] = 1
    assert add_reverberation(audio)[0, :3990].abs().max() < 1e-4


def test_speed_changes_length_and_pitch() -> None:
    faster = change_speed(tone(1.0, 200.0)[None], 1.25)
    assert faster.shape == (1, 12800)
    peak = torch.fft.rfft(faster[0]).abs().argmax().item() * 16000 / 12800
    assert peak == pytest.approx(250.0, abs=2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_loud_speech_has_the_same_spectrum_under_autocast(dtype: torch.dtype) -> None:
    """Its power is beyond 65504, float16's largest number."""
    encoder = LogMelEncoder(16)
    audio = 8 * torch.sin(2 * torch.pi * 440 / 16000 * torch.arange(16000.0))[None]  # of the speech level: its peaks
    expected = encoder.log_mel(audio)
    assert (10 ** (2 * expected)).max() > 65504
    with torch.autocast("cpu", dtype):
        torch.testing.assert_close(encoder.log_mel(audio), expected)
