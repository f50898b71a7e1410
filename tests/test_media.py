"""What is read, of every format: lengths, clocks, colours; what is damaged says so."""

import io
import struct
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from media_files import atom, numbered_frame, tone, transcode, write_clip, write_levels, write_wav

from talkhead.media import read as media
from talkhead.media.read import MediaWarning, VideoWriter

# --- reading video ---


def test_mpeg1_with_mp2_stereo(tmp_path):
    frames = torch.stack([numbered_frame(i) for i in range(25)])
    path = transcode(tmp_path / "a.mpg", frames, 25, tone(1.0, 44100))
    info = media.probe(path)
    assert (info.fps, info.width, info.height, info.sample_rate) == (25, 64, 48, 44100)
    read, fps = media.read_video(path)
    assert fps == 25 and len(read) == 25
    assert (read.float().mean((1, 2, 3)) - frames.float().mean((1, 2, 3))).abs().max() < 3
    assert abs(len(media.read_audio(path)) / 16000 - 1.0) <= 1 / 25


def test_sound_starts_with_the_picture(tmp_path):
    frames = torch.stack([numbered_frame(i) for i in range(25)])
    sound = torch.full((44100,), 0.5)
    late = transcode(tmp_path / "late.mkv", frames, 25, sound, codecs=("mpeg4", "pcm_s16le"), offsets=(0, 0.4))
    early = transcode(tmp_path / "early.mkv", frames, 25, sound, codecs=("mpeg4", "pcm_s16le"), offsets=(0.4, 0))
    audio = media.read_audio(late)
    assert len(audio) == pytest.approx(1.4 * 16000, abs=32)  # Matroska's clock ticks in ms: 16 samples
    assert int((audio > 0.25).nonzero()[0]) == pytest.approx(6400, abs=32)
    assert len(media.read_audio(early)) == pytest.approx(0.6 * 16000, abs=32)
    assert len(media.read_video(early)[0]) == 25


def test_uneven_frames_keep_time(tmp_path):
    # Frames 0-9 at 25 per second, then one every second tick: the reader repeats, so frame t is what shows at t/25.
    path = tmp_path / "a.mkv"
    ticks = [*range(10), *range(10, 30, 2)]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 64, 48, "yuv420p", 4_000_000
        for index, tick in enumerate(ticks):
            frame = av.VideoFrame.from_ndarray(numbered_frame(index).permute(1, 2, 0).numpy().copy(), format="rgb24")
            frame.pts, frame.time_base = tick, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    read, fps = media.read_video(path)
    seen = ((read.float().mean((1, 2, 3)) - 16) / 8).round().int().tolist()
    shown = [max(i for i, tick in enumerate(ticks) if tick <= t) for t in range(29)]
    assert fps == 25 and abs(len(seen) - len(shown)) <= 1
    # A picture may come one tick late; one that lasts two ticks is then still on show one tick after that.
    assert max(abs(t - ticks[i]) for t, i in enumerate(seen)) <= 2 and seen[:10] == shown[:10]


def test_rotation_is_applied(tmp_path):
    image = torch.zeros(3, 48, 64, dtype=torch.uint8)
    image[:, :24, :32] = 250
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.set_display_rotation(90)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(image.permute(1, 2, 0).contiguous().numpy())))
        container.mux(stream.encode(None))
    frame = media.read_video(path)[0][0].float()
    assert frame.shape == (3, 64, 48)
    # Turned by 90 degrees counter-clockwise the bright top-left corner comes to the bottom left.
    assert frame[:, 40:, :16].mean() > 200 and frame[:, :24].mean() < 50
    assert (media.probe(path).width, media.probe(path).height) == (48, 64)


@pytest.mark.parametrize(
    ("a", "b", "c", "d"),
    [
        (1, 0, 0, 1),
        (-1, 0, 0, 1),
        (1, 0, 0, -1),
        (-1, 0, 0, -1),
        (0, 1, -1, 0),
        (0, -1, 1, 0),
        (0, 1, 1, 0),
        (0, -1, -1, 0),
    ],
)
def test_every_way_in_which_a_header_turns_or_mirrors(tmp_path, a, b, c, d):
    """The matrix of ISO/IEC 14496-12, written by hand, takes the point (x, y) to (a x + c y, b x + d y)."""
    path = tmp_path / "a.mp4"
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[:24, :32], picture[:24, 32:], picture[24:, :32] = 240, 160, 80
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"qp": "0"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv444p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    content = bytearray(path.read_bytes())
    start, _ = atom(content, "moov", "trak", "tkhd")
    matrix = [65536 * n for n in (a, b, 0, c, d, 0, 0, 0)] + [1 << 30]
    content[start + 48 : start + 84] = struct.pack(">9i", *matrix)
    path.write_bytes(content)
    shown = media.read_video(path)[0][0, 0].numpy().astype(int)
    size = np.array([64, 48])
    for x, y, level in [(16, 12, 240), (48, 12, 160), (16, 36, 80), (48, 36, 0)]:
        x, y = x - size[0] / 2, y - size[1] / 2
        column, row = a * x + c * y + shown.shape[1] / 2, b * x + d * y + shown.shape[0] / 2
        assert abs(shown[int(row), int(column)] - level) <= 4


@pytest.mark.parametrize("count", [35, 45, 58])
def test_what_an_edit_list_trims_away_stays_away(tmp_path, count):
    path = write_levels(tmp_path / "a.mp4", [16 + 3 * i for i in range(75)], g="30", bf="0")
    content = bytearray(path.read_bytes())
    start, _ = atom(content, "moov", "trak", "edts", "elst")
    clock, _ = atom(content, "moov", "mvhd")
    (unit,) = struct.unpack(">I", content[clock + 20 : clock + 24])
    content[start + 16 : start + 20] = struct.pack(">I", round(count / 25 * unit))
    path.write_bytes(content)
    frames, _ = media.read_video(path)
    seen = ((frames.float().mean((1, 2, 3)) - 16) / 3).round().int().tolist()
    assert seen == list(range(count))


def test_frames_one_by_one_equal_all_at_once(tmp_path):
    path = write_clip(tmp_path / "a.mp4")
    assert torch.equal(torch.stack(list(media.iter_frames(path))), media.read_video(path)[0])
    next(media.iter_frames(path))  # stopping early is fine


def test_video_without_sound(tmp_path):
    path = write_clip(tmp_path / "a.mp4")
    assert media.probe(path).sample_rate is None and media.probe(path).num_frames == 20
    with pytest.raises(ValueError, match="has no sound"):
        media.read_audio(path)


def test_sound_without_picture_even_with_a_cover(tmp_path):
    path = write_wav(tmp_path / "a.wav", np.zeros(1600, np.int16), 16000)
    with pytest.raises(ValueError, match="has no picture"):
        media.read_video(path)
    with pytest.raises(ValueError, match="has no picture"):
        next(media.iter_frames(path))


# --- damaged files ---


def test_a_file_cut_off_is_read_as_far_as_it_goes_and_says_so(tmp_path):
    noise = torch.randint(0, 256, (50, 3, 48, 64), dtype=torch.uint8)
    whole = tmp_path / "whole.mp4"
    with VideoWriter(whole, 25, (48, 64), tone(2.0)) as video:
        for frame in noise:
            video.append(frame)
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(whole.read_bytes()[: round(whole.stat().st_size * 0.6)])
    with pytest.warns(MediaWarning, match="cut off"):
        frames, _ = media.read_video(cut)
    assert 15 < len(frames) < 45
    assert (frames[:15].float() - noise[:15].float()).abs().mean() < (noise[:15].float() - 128).abs().mean()
    with pytest.warns(MediaWarning, match="cut off"):
        assert 0.5 < len(media.read_audio(cut)) / 16000 < 1.9


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_sound_cut_off(tmp_path, suffix):
    whole, cut = tmp_path / f"whole{suffix}", tmp_path / f"cut{suffix}"
    media.write_audio(whole, 0.3 * torch.randn(32000).clamp(-1, 1))
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.warns(MediaWarning, match="cut off"):
        assert 0.7 < len(media.read_audio(cut)) / 16000 < 1.1


def test_mpeg1_cut_off(tmp_path):
    noise = torch.randint(0, 256, (50, 3, 48, 64), dtype=torch.uint8)
    whole = transcode(tmp_path / "whole.mpg", noise, 25, tone(2.0, 44100))
    cut = tmp_path / "cut.mpg"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.warns(MediaWarning):
        frames, _ = media.read_video(cut)
    assert 10 < len(frames) < 40


@pytest.mark.parametrize("content", [b"", b"not a video " * 100, bytes(5000)])
def test_unreadable_files_are_one_sentence(tmp_path, content):
    for reader in (media.read_video, media.read_audio, media.read_image, media.probe):
        path = tmp_path / "a.mp4"
        path.write_bytes(content)
        with pytest.raises(ValueError, match="a.mp4") as error:
            reader(path)
        assert "\n" not in str(error.value)


def test_a_file_cut_inside_its_index_is_unreadable(tmp_path):
    path = write_clip(tmp_path / "a.mp4")
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(ValueError, match="video: .*a.mp4"):
        media.read_video(path)


def test_missing_files_and_folders(tmp_path):
    for reader in (media.read_video, media.read_audio, media.read_image, media.probe):
        with pytest.raises(FileNotFoundError, match="no such file"):
            reader(tmp_path / "none.mp4")
        with pytest.raises(ValueError, match="is a folder"):
            reader(tmp_path)


# --- reading sound ---


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000, 16000])
@pytest.mark.parametrize("channels", [1, 2])
def test_wav_of_every_rate(tmp_path, rate, channels):
    seconds = 1.003
    samples = (tone(seconds, rate).numpy() * 32767).round().astype(np.int16)
    if channels == 2:
        samples = np.stack([samples, np.zeros_like(samples)], 1)  # the mean of the channels is half the tone
    audio = media.read_audio(write_wav(tmp_path / "a.wav", samples, rate))
    assert abs(len(audio) - seconds * 16000) <= 2  # no tail lost, none added
    expected = tone(seconds)[: len(audio)] / channels
    assert (audio[200:-200] - expected[200 : len(audio) - 200]).abs().max() < 1e-3  # filter edges aside; int16 steps


@pytest.mark.parametrize("rate", [44100, 48000])
def test_the_last_sample_survives_resampling(tmp_path, rate):
    samples = np.zeros(rate, np.int16)
    samples[-rate // 1000 :] = 16000  # the last ms
    audio = media.read_audio(write_wav(tmp_path / "a.wav", samples, rate))
    assert audio[-16:].mean() > 0.3 and audio[: 16000 - 100].abs().max() < 0.05


def test_stereo_float_and_integer_are_equally_loud(tmp_path):
    sound = tone(0.5, 44100)
    for suffix, codec in ((".flac", "flac"), (".mka", "pcm_f32le")):
        path = transcode(tmp_path / f"a{suffix}", None, 25, sound, codecs=("", codec))
        audio = media.read_audio(path)
        assert audio.abs().max() == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_write_audio_round_trip(tmp_path, suffix):
    sound = tone(0.777)
    media.write_audio(tmp_path / f"a{suffix}", sound)
    audio = media.read_audio(tmp_path / f"a{suffix}")
    assert len(audio) == len(sound) and (audio - sound).abs().max() < 1 / 16000  # half an int16 step, twice
    assert len(list(tmp_path.iterdir())) == 1


def test_write_audio_refuses(tmp_path):
    with pytest.raises(ValueError, match="path must end"):
        media.write_audio(tmp_path / "a.ogg", tone(0.1))
    with pytest.raises(ValueError, match="audio must be"):
        media.write_audio(tmp_path / "a.wav", tone(0.1)[None])


@pytest.mark.parametrize("chunk", [0.01, 0.1, 0.33, 10.0])
def test_pieces_joined_equal_the_whole(tmp_path, chunk):
    media.write_audio(tmp_path / "a.wav", tone(1.01, 22050), 22050)
    pieces = list(media.iter_audio(tmp_path / "a.wav", chunk))
    assert all(len(p) == round(chunk * 16000) for p in pieces[:-1]) and 0 < len(pieces[-1]) <= round(chunk * 16000)
    assert torch.equal(torch.cat(pieces), media.read_audio(tmp_path / "a.wav"))


def test_empty_sound(tmp_path):
    path = write_wav(tmp_path / "a.wav", np.zeros(0, np.int16), 16000)
    with pytest.raises(ValueError, match="a.wav"):
        media.read_audio(path)
    with pytest.raises(ValueError, match="chunk_seconds"):
        next(media.iter_audio(path, 0))


# --- pictures ---


def test_images(tmp_path):
    y, x = torch.meshgrid(torch.arange(33), torch.arange(47), indexing="ij")
    image = torch.stack([5 * x, 6 * y, 2 * (x + y)]).to(torch.uint8)
    media.write_image(tmp_path / "100%d.png", image)  # a name that FFmpeg could take for a pattern
    assert torch.equal(media.read_image(tmp_path / "100%d.png"), image)
    media.write_image(tmp_path / "a.jpg", image)
    read = media.read_image(tmp_path / "a.jpg")
    assert read.shape == image.shape and (read.float() - image.float()).abs().mean() < 2
    assert len(list(tmp_path.iterdir())) == 2


def test_images_agree_with_pillow(tmp_path):
    pillow = pytest.importorskip("PIL.Image")
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    media.write_image(tmp_path / "a.png", torch.from_numpy(image))
    assert np.array_equal(np.asarray(pillow.open(tmp_path / "a.png").convert("RGB")), image)
    for mode in ("L", "RGBA", "P"):
        pillow.fromarray(image).convert(mode).save(tmp_path / "b.png")
        expected = np.asarray(pillow.open(tmp_path / "b.png").convert("RGB"))
        assert np.array_equal(media.read_image(tmp_path / "b.png").permute(1, 2, 0).numpy(), expected)


def test_photographs_are_upright(tmp_path):
    pillow, ops = pytest.importorskip("PIL.Image"), pytest.importorskip("PIL.ImageOps")
    image = np.zeros((40, 64, 3), np.uint8)
    image[:20, :32] = 250
    for orientation in (1, 3, 6, 8):
        exif = pillow.Exif()
        exif[0x0112] = orientation
        buffer = io.BytesIO()
        pillow.fromarray(image).save(buffer, "jpeg", exif=exif, quality=95)
        (tmp_path / "a.jpg").write_bytes(buffer.getvalue())
        expected = np.asarray(ops.exif_transpose(pillow.open(tmp_path / "a.jpg"))).astype(float)
        read = media.read_image(tmp_path / "a.jpg").permute(1, 2, 0).numpy()
        assert read.shape == expected.shape and np.abs(read - expected).mean() < 2


def test_write_image_refuses(tmp_path):
    with pytest.raises(ValueError, match="path must end"):
        media.write_image(tmp_path / "a.gif", torch.zeros(3, 4, 4, dtype=torch.uint8))
    with pytest.raises(ValueError, match="image must be"):
        media.write_image(tmp_path / "a.png", torch.zeros(3, 4, 4))
    with pytest.raises(OSError, match="cannot be written"):
        media.write_image(tmp_path / "none" / "a.png", torch.zeros(3, 4, 4, dtype=torch.uint8))


def test_exact_fps():
    assert media.exact_fps(23.976) == Fraction(24000, 1001)
    assert media.exact_fps(59.94) == Fraction(60000, 1001)
    assert media.exact_fps(30) == 30 and media.exact_fps(Fraction(7, 3)) == Fraction(7, 3)
    assert media.exact_fps(0.5) == Fraction(1, 2) and media.exact_fps(0.3) == Fraction(3, 10)
    assert media.exact_fps(0.0004) == Fraction(1, 2500) and media.exact_fps(1 / 86400) == Fraction(1, 86400)
    for bad in (0, -1, float("nan"), 1e6, 1e-12, 5e-324, Fraction(1, 2**31), Fraction(2**31 + 1, 2**30)):
        with pytest.raises(ValueError, match="fps"):
            media.exact_fps(bad)


# --- real files ---


@pytest.mark.parametrize(
    ("name", "fps", "num_frames"),
    [
        ("grid_s1/clips/bbaf5a.mpg", Fraction(25), 75),
        ("grid_other/s3_lwwz6n.mp4", Fraction(25), 75),
        ("ravdess_av/01-01-01-01-01-01-01.mp4", Fraction(30000, 1001), 99),
    ],
)
def test_real_videos(shared_data, name, fps, num_frames):
    path = shared_data(name)
    assert media.probe(path).fps == fps
    assert sum(1 for _ in media.iter_frames(path)) == num_frames
    assert abs(len(media.read_audio(path)) / 16000 - num_frames / fps) < 1 / fps


@pytest.mark.parametrize(
    ("folder", "pattern"),
    [("librispeech", "*.mp3"), ("librispeech", "*.ogg"), ("ravdess/Actor_01", "*.flac"), ("emodb", "*.wav")],
)
def test_real_sounds(shared_data, folder, pattern):
    path = sorted(shared_data(folder).glob(pattern))[0]
    audio = media.read_audio(path)
    assert audio.dtype == torch.float32 and audio.ndim == 1 and 0.02 < audio.abs().max() <= 1
    assert len(audio) / 16000 == pytest.approx(media.probe(path).duration, abs=1e-3)


def test_a_real_video_cut_off(shared_data, tmp_path):
    data = shared_data("grid_s1/clips/bbaf5a.mpg").read_bytes()
    (tmp_path / "cut.mpg").write_bytes(data[: len(data) // 2])
    with pytest.warns(MediaWarning):
        frames, _ = media.read_video(tmp_path / "cut.mpg")
    assert 30 < len(frames) < 60
