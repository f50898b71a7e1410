"""Pictures at a constant rate, beside their sound: dropped, repeated, joined, anamorphic and HDR."""

from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from media_files import write_levels

from talkhead.media import read as media
from talkhead.media.colours import HLG, PQ, standard_range
from talkhead.media.read import MediaWarning

HEIGHT, WIDTH, RATE = 48, 64, 16000
# How much red, green and blue count in a picture's luma.
BT601, BT709 = np.array([0.299, 0.587, 0.114]), np.array([0.2126, 0.7152, 0.0722])


def write_frames(path, times, fps=25, codec="mpeg4", sound=None, tick=Fraction(1, 1000), **options):
    """Write a video whose frame i has grey level 16 + 3 i and starts at times[i] s; ``sound`` is (S,) at 16 kHz."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = WIDTH, HEIGHT, "yuv420p", 4_000_000
        stream.codec_context.time_base = stream.time_base = tick
        for name, value in options.items():
            setattr(stream.codec_context, name, value)
        voice = None if sound is None else container.add_stream("mp2", rate=RATE, layout="mono")
        for index, time in enumerate(times):
            level = np.full((HEIGHT, WIDTH, 3), 16 + 3 * index, np.uint8)
            frame = av.VideoFrame.from_ndarray(level, format="rgb24")
            frame.pts, frame.time_base = round(time / tick), tick
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if voice is not None:
            samples = (np.asarray(sound) * 32767).astype(np.int16)[None]
            frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
            frame.sample_rate, frame.pts = RATE, 0
            container.mux(voice.encode(frame))
            container.mux(voice.encode(None))
    return path


def shown(path, **options):
    """Return which stored frame each frame read is, and the rate."""
    frames, fps = media.read_video(path, **options)
    return ((frames.float().mean((1, 2, 3)) - 16) / 3).round().int().tolist(), fps


def check(path, times, fps):
    """Every stored frame is shown, in order, within half a frame of its time."""
    seen, rate = shown(path)
    assert rate == fps and sorted(set(seen)) == list(range(len(times))) and seen == sorted(seen)
    for index, time in enumerate(times):
        assert abs(seen.index(index) / rate - time) <= 0.5 / rate + Fraction(1, 1000), index
    return seen


def test_frames_that_a_phone_dropped(tmp_path):
    times = [Fraction(i, 30) for i in range(60) if i not in (7, 31, 32)]
    seen = check(write_frames(tmp_path / "a.mkv", times, 30), times, 30)
    assert len(seen) == 60 and (seen[7], seen[31], seen[32]) == (6, 29, 29)


def test_frames_that_a_recorder_left_out(tmp_path):
    times = [Fraction(i, 25) for i in (0, 25, 27, 44)]
    assert len(check(write_frames(tmp_path / "a.mkv", times, 25), times, 25)) == 45


def test_frames_that_come_twice_as_often_for_a_while(tmp_path):
    times = [Fraction(i, 30) for i in range(15)] + [Fraction(1, 2) + Fraction(i, 60) for i in range(30)]
    check(write_frames(tmp_path / "a.mkv", times, 60), times, 60)


@pytest.mark.parametrize(("slow", "fast"), [(15, 30), (10, 20)])
def test_frames_that_come_faster_later(tmp_path, monkeypatch, slow, fast):
    """Also where the frames by which the rate is told are all slow ones."""
    times = [Fraction(i, slow) for i in range(40)]
    times += [times[-1] + Fraction(i, fast) for i in range(1, 39)]
    monkeypatch.setattr("talkhead.media.clock._FEW", 30, raising=False)
    path = write_frames(tmp_path / "a.mkv", times, slow)
    check(path, times, fast)


def test_frames_at_once_after_a_hiccup_are_no_rate(tmp_path):
    times = [Fraction(i, 30) for i in range(20)]
    times += [Fraction(24, 30) + Fraction(i, 500) for i in range(4)] + [Fraction(i, 30) for i in range(25, 60)]
    seen, rate = shown(write_frames(tmp_path / "a.mkv", times, 30))
    assert rate == 30 and sorted(set(seen)) == list(range(59))


@pytest.mark.parametrize("suffix", ["mp4", "mov"])
@pytest.mark.parametrize("levels", [[40, 90], [40, 90, 140]])
def test_a_last_picture_that_stands_is_shown_as_long(tmp_path, suffix, levels, recwarn):
    path = write_levels(tmp_path / f"a.{suffix}", levels, last=2, bf="0")
    frames, rate = media.read_video(path)
    seen = frames.float().mean((1, 2, 3)).round().int().tolist()
    assert rate == 25 and seen == pytest.approx([*levels[:-1], *levels[-1:] * 50], abs=2)
    assert not [warning for warning in recwarn if issubclass(warning.category, MediaWarning)]


def test_a_picture_alone_is_one_unless_it_stands(tmp_path):
    lengths = {}
    for seconds in (0.04, 0.4, 3):
        path = write_levels(tmp_path / "a.mkv", [90], last=seconds)
        lengths[seconds] = len(media.read_video(path)[0])
    assert lengths == {0.04: 1, 0.4: 1, 3: 75}


def test_jitter_is_not_followed(tmp_path):
    late = np.random.default_rng(0).uniform(-0.009, 0.009, 60)
    times = [Fraction(i, 30) + Fraction(float(x)).limit_denominator(1000) for i, x in enumerate(late)]
    times[0] = Fraction(0)
    seen, rate = shown(write_frames(tmp_path / "a.mkv", times, 30))
    assert rate == 30 and seen == list(range(60))


def test_one_wrong_time_is_not_followed(tmp_path):
    times = [Fraction(i, 25) for i in range(40)]
    times[20] += Fraction(39, 1000)
    seen, rate = shown(write_frames(tmp_path / "a.mkv", times, 25))
    assert rate == 25 and seen == list(range(40))


@pytest.mark.parametrize("parts", [2, 3])
def test_joined_files_give_all_frames_beside_their_sound(tmp_path, parts):
    moment = (np.arange(RATE) // 160 == 60) * np.sin(2 * np.pi * 1000 * np.arange(RATE) / RATE)  # 10 ms at 0.60 s
    times = [Fraction(i, 25) for i in range(25)]
    one = write_frames(tmp_path / "one.mpg", times, 25, "mpeg1video", moment, Fraction(1, 25)).read_bytes()
    joined = tmp_path / "joined.mpg"
    joined.write_bytes(one * parts)
    with pytest.warns(MediaWarning, match="timestamps jump"):
        seen, rate = shown(joined)
    assert rate == 25 and len([i for i in seen if i == 15]) == parts and set(seen) == set(range(25))
    audio = media.read_audio(joined).abs()
    start = 0
    for _ in range(parts):
        picture = seen.index(15, start)  # the frame that starts at 0.60 s
        window = audio[(picture - 3) * 640 : (picture + 4) * 640]
        assert abs(int(window.argmax()) / RATE - 3 / 25 - 0.005) < 0.02
        start = picture + 1


def write_pause(path, frames, sounds):
    """Write frames of 40 ms, number i of level 16 + 3 (i % 50), and a click at the begin of each second of sound."""
    click = np.zeros((1, RATE), np.int16)
    click[0, :160] = 20000
    with av.open(str(path), "w") as container:
        stream, voice = container.add_stream("mpeg4", rate=25), container.add_stream("pcm_s16le", rate=RATE)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = WIDTH, HEIGHT, "yuv420p", 4_000_000
        stream.codec_context.time_base = stream.time_base = Fraction(1, 1000)
        voice.layout = "mono"
        packets = []
        for number, time in enumerate(frames):
            grey = np.full((HEIGHT, WIDTH, 3), 16 + 3 * (number % 50), np.uint8)
            frame = av.VideoFrame.from_ndarray(grey, format="rgb24")
            frame.pts, frame.time_base = round(time * 1000), Fraction(1, 1000)
            packets += stream.encode(frame)
        packets += stream.encode(None)
        for second in sounds:
            frame = av.AudioFrame.from_ndarray(click, format="s16", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = RATE, round(second * RATE), Fraction(1, RATE)
            packets += voice.encode(frame)
        container.mux(sorted(packets, key=lambda packet: packet.dts * packet.time_base))
    return path


TWICE = [Fraction(i, 25) + start for start in (0, 14) for i in range(50)]  # 2 s, 12 s of nothing, 2 s


@pytest.mark.parametrize("suffix", ["mkv", "mov"])
def test_a_picture_that_stands_still_while_the_sound_runs_on_stays_beside_it(tmp_path, suffix, recwarn):
    path = write_pause(tmp_path / f"a.{suffix}", TWICE, range(16))
    seen, rate = shown(path)
    assert rate == 25 and seen == [*range(50), *[49] * 300, *range(50)]
    assert len(media.read_audio(path)) == 16 * RATE
    assert not [warning for warning in recwarn if issubclass(warning.category, MediaWarning)]


@pytest.mark.parametrize(
    ("frames", "sounds", "picture", "sound"),
    [
        (TWICE, [0, 1, 14, 15], 100, 4),  # both jump: two recordings, joined
        (TWICE, [0, 1, 15], 100, 3),  # not by quite as much
        (TWICE, [], 100, None),
        (TWICE, [0, 1], 100, 2),  # nothing that could be out of time
        ([t if t < 14 else t + 18000 for t in TWICE], range(16), 100, 16),  # five hours: the clock is damaged
        (TWICE + [t + 40 for t in TWICE], [*range(16), *range(40, 56)], 800, 32),  # pause, join, pause
    ],
)
def test_what_is_a_pause_and_what_a_clock_that_starts_again(tmp_path, frames, sounds, picture, sound):
    path = write_pause(tmp_path / "a.mkv", frames, sounds)
    with pytest.warns(MediaWarning, match="timestamps jump"):
        seen, _ = shown(path)
    assert len(seen) == picture
    if sound:
        heard = media.read_audio(path)
        clicks = (heard.abs() > 0.3).nonzero().flatten() // RATE
        assert len(heard) == pytest.approx(sound * RATE, abs=RATE) and len(clicks.unique()) == len(sounds)


def test_a_long_hole_in_the_sound_is_no_restart(tmp_path):
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=RATE, layout="mono")
        for start in (0, 20):
            samples = np.full((1, RATE), 8000, np.int16)
            frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = RATE, start * RATE, Fraction(1, RATE)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    audio = media.read_audio(path)
    assert len(audio) == pytest.approx(21 * RATE, abs=32)
    assert audio[RATE + 100 : 20 * RATE - 100].abs().max() == 0 and audio[-RATE // 2] > 0.2


@pytest.mark.parametrize(("fps", "wanted"), [(30, 25), (25, 30), (Fraction(30000, 1001), 25), (60, 25), (25, 25)])
def test_another_rate_by_the_nearest_frame(tmp_path, fps, wanted):
    times = [i / Fraction(fps) for i in range(50)]
    path = write_frames(tmp_path / "a.mkv", times, fps)
    seen, rate = shown(path, fps=wanted)
    assert rate == wanted and abs(len(seen) / Fraction(wanted) - 50 / Fraction(fps)) <= 1 / Fraction(wanted)
    assert all(abs(times[i] - tick / Fraction(wanted)) <= 0.5 / Fraction(fps) for tick, i in enumerate(seen))


def test_anamorphic_pixels_are_made_square(tmp_path):
    path = write_frames(tmp_path / "a.mkv", [0, Fraction(1, 25)], sample_aspect_ratio=Fraction(3, 2))
    info = media.probe(path)
    assert (info.width, info.height) == (96, 48) and media.read_video(path)[0].shape == (2, 3, 48, 96)


def test_high_dynamic_range_by_the_standards():
    """BT.2408: diffuse white is 75 % of HLG's signal and 58 % of PQ's; 38 % of either is 18 % grey, to a hundredth."""
    white = {HLG: 0.75, PQ: 0.5807}
    for transfer, level in white.items():
        signal = np.array([0, level, 1.0])[:, None, None].repeat(3, 2)
        black, middle, peak = standard_range((signal * 65535).round().astype(np.uint16), transfer)[:, 0, 0]
        assert black == 0 and 240 <= middle <= 255 and middle <= peak == 255
    ramp = np.linspace(0, 65535, 200).round().astype(np.uint16)[:, None, None].repeat(3, 2)
    for transfer in white:
        assert (np.diff(standard_range(ramp, transfer)[:, 0, 0].astype(int)) >= 0).all()
    # 18 % grey is 0.265 * 0.18 of HLG's light, whose square root of 3 times it is the signal; in BT.709 it is 0.409.
    grey = np.full((1, 1, 3), round((3 * 0.18 * 0.265) ** 0.5 * 65535), np.uint16)
    assert abs(int(standard_range(grey, HLG)[0, 0, 0]) / 255 - (1.099 * 0.18**0.45 - 0.099)) < 0.01


@pytest.mark.parametrize(
    ("size", "codec", "told", "luma"),
    [
        ((1280, 64), "ffv1", 2, BT709),
        ((64, 578), "ffv1", 2, BT709),
        ((1278, 576), "ffv1", 2, BT601),
        ((1280, 720), "ffv1", 6, BT601),
        ((64, 48), "libx264", 1, BT709),
        ((1280, 720), "mjpeg", 2, BT601),
    ],
)
def test_untold_colours_are_told_by_the_size_as_players_do(tmp_path, size, codec, told, luma):
    """The stored numbers are made by the standards' own formulas, ITU-R BT.601 and BT.709."""
    red, green, blue = colour = np.array([200, 40, 60])
    bright = luma @ colour
    stored = np.array([bright, (blue - bright) / (2 - 2 * luma[2]), (red - bright) / (2 - 2 * luma[0])])
    scale, black = (1, 0) if codec == "mjpeg" else (np.array([219, 224, 224]) / 255, 16)
    stored = np.round(stored * scale + [black, 128, 128]).astype(np.uint8)
    kind = "yuvj444p" if codec == "mjpeg" else "yuv444p"
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options={"qp": "0"} if codec == "libx264" else {})
        (stream.width, stream.height), stream.pix_fmt = size, kind
        stream.codec_context.colorspace = told
        picture = np.broadcast_to(stored[:, None, None], (3, size[1], size[0]))
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format=kind)))
        container.mux(stream.encode(None))
    read = media.read_video(path)[0][0].flatten(1).T.numpy().astype(int)
    assert np.abs(read - colour).max() <= 3  # the other matrix is 14 to 20 away


@pytest.mark.parametrize(("transfer", "name"), [(HLG, "HLG"), (PQ, "PQ")])
def test_hdr_video_is_said(tmp_path, transfer, name):
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p10le"
        context = stream.codec_context
        context.colorspace, context.color_primaries, context.color_trc, context.color_range = 9, 9, transfer, 1
        frame = av.VideoFrame.from_ndarray(np.full((HEIGHT, WIDTH, 3), 120, np.uint8), format="rgb24")
        container.mux(stream.encode(frame.reformat(format="yuv420p10le")))
        container.mux(stream.encode(None))
    with pytest.warns(MediaWarning, match=name):
        frames, _ = media.read_video(path)
    assert frames.shape == (1, 3, HEIGHT, WIDTH) and frames.float().std() < 2


def test_frames_too_large_are_refused_at_once(tmp_path, monkeypatch):
    path = write_frames(tmp_path / "a.mkv", [0, Fraction(1, 25)])
    assert len(media.read_video(path)[0]) == 2
    monkeypatch.setattr("talkhead.media.container.MAX_FRAME_PIXELS", HEIGHT * WIDTH - 1)
    for reader in (media.probe, media.read_video, media.read_image):
        with pytest.raises(ValueError, match=r"a\.mkv.*64x48 px"):
            reader(path)


def test_a_webm_cut_off_is_said(tmp_path):
    path = tmp_path / "a.webm"
    noise = torch.randint(0, 256, (25, HEIGHT, WIDTH, 3), dtype=torch.uint8).numpy()
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libvpx", rate=25)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = WIDTH, HEIGHT, "yuv420p", 4_000_000
        for picture in noise:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    assert len(media.read_video(path)[0]) == 25
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.warns(MediaWarning, match="cut off"):
        media.read_video(path)
