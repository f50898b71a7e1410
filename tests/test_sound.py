"""Sound of every make: tracks, channels, offsets, numbers that are none, headers that are lies."""

import struct
import time
import wave
from fractions import Fraction

import av
import numpy as np
import pytest
import torch

from talkhead.media import read as media
from talkhead.media import sound
from talkhead.media.read import MediaWarning

RATE = 16000
VOICE = (
    0.3
    * np.sin(2 * np.pi * 220 * np.arange(2 * RATE) / RATE)
    * (1 + np.sin(2 * np.pi * 3 * np.arange(2 * RATE) / RATE))
    / 2
)


def rms(samples):
    return float(torch.as_tensor(samples).double().square().mean().sqrt())


def write_floats(path, samples, rate=RATE, kind="<f4", mask=None):
    """Write a WAV of floats by hand: (S, C)."""
    samples = np.atleast_2d(np.asarray(samples).T).T
    channels, size = samples.shape[1], np.dtype(kind).itemsize
    data = samples.astype(kind).tobytes()
    tag = 3 if kind[1] == "f" else 1
    form = struct.pack("<HHIIHH", tag, channels, rate, (rate * channels * size) % 2**32, channels * size, 8 * size)
    if mask is not None:  # WAVEFORMATEXTENSIBLE, with the places of the loudspeakers
        guid = struct.pack("<H", tag) + bytes.fromhex("000000001000800000aa00389b71")
        form = struct.pack("<H", 0xFFFE) + form[2:] + struct.pack("<HHI", 22, 8 * size, mask) + guid
    chunks = b"fmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", len(data)) + data
    path.write_bytes(b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks)
    return path


def test_opposite_channels_do_not_cancel(tmp_path):
    noise = 0.001 * np.random.default_rng(0).standard_normal(len(VOICE))
    for left, right in [(VOICE, -VOICE), (VOICE + 0.1, -VOICE + 0.1), (VOICE, -0.8 * VOICE + noise)]:
        with pytest.warns(MediaWarning, match="cancel|offset") as said:
            audio = media.read_audio(write_floats(tmp_path / "a.wav", np.stack([left, right], 1)))
        assert "cancel" in str(said[-1].message)
        assert rms(audio) == pytest.approx(rms(VOICE), rel=0.02)


def test_ordinary_stereo_is_averaged(tmp_path):
    other = 0.3 * np.sin(2 * np.pi * 331 * np.arange(2 * RATE) / RATE)
    for left, right in [(VOICE, VOICE), (VOICE, other), (VOICE, 0 * VOICE)]:
        audio = media.read_audio(write_floats(tmp_path / "a.wav", np.stack([left, right], 1)))
        assert np.abs(audio.numpy() - (left + right) / 2).max() < 1e-4


# ITU-R BS.775: the centre at -3 dB in each of two channels, the surrounds at -3 dB in one; both channels averaged.
@pytest.mark.parametrize(("mask", "layout"), [(0x3F, "FL FR FC LFE BL BR"), (0x63F, "FL FR FC LFE BL BR SL SR")])
def test_surround(tmp_path, mask, layout):
    names = layout.split()
    gains = {"FL": 0.5, "FR": 0.5, "FC": 0.7071, "LFE": 0, "BL": 0.3536, "BR": 0.3536, "SL": 0.3536, "SR": 0.3536}
    for index, name in enumerate(names):
        samples = 1e-3 * np.ones((len(VOICE), len(names))) * VOICE[:, None]
        samples[:, index] = VOICE
        if name != "LFE":  # alone it is taken for want of anything else
            audio = media.read_audio(write_floats(tmp_path / "a.wav", samples, mask=mask))
            assert rms(audio) / rms(VOICE) == pytest.approx(gains[name], abs=0.01), name


@pytest.mark.parametrize("channels", [8, 9, 64])
def test_many_channels(tmp_path, channels):
    """One microphone of many is heard at its own loudness; PyAV's arrays of such frames end the process."""
    samples = np.zeros((len(VOICE), channels))
    samples[:, channels // 2] = VOICE
    with pytest.warns(MediaWarning, match=f"channel {channels // 2 + 1} of {channels}"):
        audio = media.read_audio(write_floats(tmp_path / "a.wav", samples * 32767, kind="<i2"))
    assert rms(audio) == pytest.approx(rms(VOICE), rel=0.01)


def test_many_planes(tmp_path):
    path, samples = tmp_path / "a.wv", np.zeros((16, 4800), np.int16)
    samples[15] = 9000
    with av.open(str(path), "w") as container:
        stream = container.add_stream("wavpack", rate=48000, layout="hexadecagonal")
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples.T.reshape(1, -1)), "s16", "hexadecagonal")
        frame.sample_rate, frame.pts = 48000, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert len(media.read_audio(path)) == 1600


def test_a_constant_offset_is_removed(tmp_path):
    for offset in (0.2, -0.05):
        with pytest.warns(MediaWarning, match="offset"):
            audio = media.read_audio(write_floats(tmp_path / "a.wav", VOICE + offset))
        assert np.abs(audio.numpy() - VOICE).max() < 0.01
    left = np.stack([VOICE + 0.2, VOICE], 1)  # of one channel alone
    with pytest.warns(MediaWarning, match="offset"):
        assert np.abs(media.read_audio(write_floats(tmp_path / "a.wav", left)).numpy() - VOICE).max() < 0.01


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("channels", [1, 2])
def test_samples_that_are_no_numbers(tmp_path, value, channels):
    samples = np.repeat(VOICE[:, None], channels, 1)
    samples[8000, 0] = value
    path = write_floats(tmp_path / "broken.wav", samples)
    with pytest.raises(ValueError, match=r"broken\.wav.*not finite.*0\.500 s"):
        media.read_audio(path, strict=True)
    with pytest.warns(MediaWarning, match=r"broken\.wav.*not finite.*0\.500 s"):
        audio = media.read_audio(path)
    # One sample is missing, and its neighbours in no filter know of it.
    assert audio.isfinite().all() and np.delete(np.abs(audio.numpy() - VOICE), 8000).max() < 1e-4


@pytest.mark.parametrize(("scale", "match"), [(32768, "divide them by 32768"), (8, "beyond full scale")])
def test_floats_beyond_full_scale(tmp_path, scale, match):
    with pytest.warns(MediaWarning, match=match):
        audio = media.read_audio(write_floats(tmp_path / "a.wav", VOICE * scale))
    assert audio.abs().max() == 1


def test_a_second_of_sound_is_one_block_and_the_same_sound(tmp_path, monkeypatch):
    path = tmp_path / "long.mkv"  # its clock counts milliseconds, its packets 1024 samples
    media.write_audio(tmp_path / "long.wav", 0.3 * torch.randn(20 * RATE, generator=torch.manual_seed(0)))
    with av.open(str(tmp_path / "long.wav")) as given, av.open(str(path), "w") as made:
        stream = made.add_stream("aac", rate=44_100)
        resampler = av.AudioResampler("fltp", "mono", 44_100, frame_size=1024)
        for frame in [piece for whole in given.decode(audio=0) for piece in resampler.resample(whole)]:
            made.mux([packet for packet in stream.encode(frame) if not 3.0 < frame.time < 3.5])  # and has a hole
        made.mux(stream.encode(None))
    joined = list(sound.sound_blocks(path))
    monkeypatch.setattr(sound, "_goes_on", lambda *_: False)
    single = list(sound.sound_blocks(path))
    assert torch.equal(torch.cat(joined), torch.cat(single))
    assert len(joined) < 50 and len(single) > 500


def test_the_default_track(tmp_path):
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("pcm_s16le", rate=RATE, layout="mono") for _ in range(3)]
        for stream, flag in zip(streams, (0, 1, 0), strict=True):
            stream.disposition = av.stream.Disposition(flag)
        for level, stream in zip((0, 8000, 16000), streams, strict=True):
            frame = av.AudioFrame.from_ndarray(np.full((1, RATE), level, np.int16), "s16", "mono")
            frame.sample_rate, frame.pts = RATE, 0
            container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    assert float(media.read_audio(path).mean()) == pytest.approx(8000 / 32768, abs=1e-3)


@pytest.mark.parametrize("rate", [1, 100, 2_000_000, 2_147_483_647])
def test_absurd_rates_are_refused_at_once(tmp_path, rate):
    path = write_floats(tmp_path / "lie.wav", VOICE, rate)
    for reader in (media.read_audio, media.probe):
        start = time.perf_counter()
        with pytest.raises(ValueError, match=r"lie\.wav.*samples per second"):
            reader(path)
        assert time.perf_counter() - start < 2


def write_pieces(path, pieces):
    """Write a constant sound in pieces, (start in s, length in s), with their times."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=RATE, layout="mono")
        for start, seconds in pieces:
            samples = np.full((1, round(seconds * RATE)), 8000, np.int16)
            frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = RATE, round(start * RATE), Fraction(1, RATE)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("step", [1.08, 0.95, 0.7, 1.002, 0.998])
def test_small_holes_and_overlaps_do_not_add_up(tmp_path, step):
    """Sixty pieces of a second, each a little too late or too early: the last one ends where its time says."""
    audio = media.read_audio(write_pieces(tmp_path / "a.mkv", [(i * step, 1) for i in range(60)]))
    assert abs(len(audio) / RATE - (59 * step + 1)) < 0.11
    assert int((audio > 0.2).sum()) / RATE == pytest.approx(60 if step > 1 else 59 * step + 1, abs=0.11)


def test_a_hole_of_more_than_ten_minutes_stays_one(tmp_path):
    audio = media.read_audio(write_pieces(tmp_path / "a.mkv", [(0, 10), (710, 1)]))
    assert len(audio) == pytest.approx(711 * RATE, abs=32)
    assert audio[10 * RATE + 100 : 710 * RATE - 100].abs().max() == 0 and audio[-RATE // 2] > 0.2
    with pytest.raises(ValueError, match=r"b\.mkv.*minutes or hours between"):
        media.read_audio(write_pieces(tmp_path / "b.mkv", [(0, 1), (700, 1)]))


def test_pieces_of_sound_with_hours_between_them_are_refused(tmp_path):
    """A damaged table of 10 kB may put its packets so far apart that the silence between them fills any memory."""
    with av.open(str(tmp_path / "apart.mkv"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=RATE, layout="mono")
        for index in range(40):
            frame = av.AudioFrame.from_ndarray(np.ones((1, RATE // 10), np.int16), format="s16", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = RATE, 300 * RATE * index, Fraction(1, RATE)
            container.mux(stream.encode(frame))
    with pytest.raises(ValueError, match=r"apart\.mkv.*hours between"):
        list(media.iter_audio(tmp_path / "apart.mkv"))


def test_a_format_that_names_other_files_is_refused(tmp_path):
    with wave.open(str(tmp_path / "inner.wav"), "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))
        file.writeframes(bytes(RATE))
    for name, content in {
        "list.wav": "ffconcat version 1.0\nfile inner.wav\n",
        "list.mp4": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\ninner.wav\n#EXT-X-ENDLIST\n",
        "session.wav": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 5004 RTP/AVP 0\n",
        "dash.mp4": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><Period/></MPD>',
        "drawing.mp4": '<svg xmlns="http://www.w3.org/2000/svg" width="64" height="64"><rect/></svg>',
    }.items():
        (tmp_path / name).write_text(content)
        for reader in (media.read_audio, media.read_video, media.probe, media.read_image):
            start = time.perf_counter()
            with pytest.raises(ValueError, match=name.replace(".", r"\.")):
                reader(tmp_path / name)
            assert time.perf_counter() - start < 2


def test_a_pipe_is_not_waited_for(tmp_path):
    import os

    os.mkfifo(tmp_path / "pipe.wav")
    with pytest.raises(ValueError, match="pipe or device"):
        media.read_audio(tmp_path / "pipe.wav")
