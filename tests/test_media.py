import io
import os
import stat
import struct
import wave
from fractions import Fraction

import av
import numpy as np
import pytest
import torch

from talkhead.media import read as media
from talkhead.media.read import MediaWarning, VideoWriter


def tone(seconds, rate=16000, hz=440.0):
    return 0.5 * torch.sin(2 * torch.pi * hz * torch.arange(round(seconds * rate), dtype=torch.float64) / rate).float()


def numbered_frame(index, height=48, width=64):
    """A grey frame whose level tells its index."""
    return torch.full((3, height, width), 16 + 8 * index, dtype=torch.uint8)


def write_clip(path, num_frames=20, fps=Fraction(25), audio=None, **kwargs):
    with VideoWriter(path, fps, (48, 64), audio, **kwargs) as video:
        for index in range(num_frames):
            video.append(numbered_frame(index))
    return path


def write_wav(path, samples, rate):
    """Write WAV with the standard library: (S,) or (S, 2) int16."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1 if samples.ndim == 1 else samples.shape[1])
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.astype("<i2").tobytes())
    return path


def transcode(path, frames=None, rate=25, audio=None, audio_rate=44100, codecs=("mpeg1video", "mp2"), offsets=(0, 0)):
    """Write a file with PyAV alone: a second writer for the reader's tests. Offsets are seconds of start time."""
    with av.open(str(path), "w") as container:
        video = container.add_stream(codecs[0], rate=rate) if frames is not None else None
        sound = container.add_stream(codecs[1], rate=audio_rate, layout="stereo") if audio is not None else None
        if video is not None:
            video.width, video.height, video.pix_fmt = frames.shape[3], frames.shape[2], "yuv420p"
            video.bit_rate = 4_000_000
        for index, frame in enumerate(frames if frames is not None else []):
            picture = av.VideoFrame.from_ndarray(frame.permute(1, 2, 0).contiguous().numpy(), format="rgb24")
            picture.pts, picture.time_base = index + round(offsets[0] * rate), 1 / Fraction(rate)
            container.mux(video.encode(picture))
        if audio is not None:
            samples = (audio.expand(2, -1) * 32767).to(torch.int16).T.reshape(1, -1).contiguous().numpy()
            frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="stereo")
            frame.sample_rate, frame.pts = audio_rate, round(offsets[1] * audio_rate)
            frame.time_base = Fraction(1, audio_rate)
            container.mux(sound.encode(frame))
            container.mux(sound.encode(None))
        if video is not None:
            container.mux(video.encode(None))
    return path


def top_level_atoms(path):
    data, at, names = path.read_bytes(), 0, []
    while at < len(data):
        size, name = struct.unpack(">I4s", data[at : at + 8])
        names.append(name.decode())
        at += size
    return names


# --- writing ---


def test_browser_playable(tmp_path):
    path = write_clip(tmp_path / "a.mp4", audio=tone(0.8))
    atoms = top_level_atoms(path)
    assert atoms.index("moov") < atoms.index("mdat")
    with av.open(str(path)) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        assert (video.codec_context.name, video.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert video.codec_context.colorspace == 1 and audio.codec_context.name == "aac"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.mp4"]


@pytest.mark.parametrize("fps", [Fraction(25), Fraction(30000, 1001), Fraction(24000, 1001), Fraction(25, 2)])
def test_round_trip_keeps_rate_frames_and_sound(tmp_path, fps):
    num_frames = 29
    seconds = num_frames / fps
    sound = tone(float(seconds))
    path = write_clip(tmp_path / "a.mp4", num_frames, fps, sound)
    frames, read_fps = media.read_video(path)
    audio = media.read_audio(path)
    assert read_fps == fps and frames.shape == (num_frames, 3, 48, 64)
    levels = frames.float().mean((1, 2, 3))
    assert (levels - (16 + 8 * torch.arange(num_frames)).float()).abs().max() < 2  # every frame in its place
    assert abs(len(audio) / 16000 - seconds) < 0.5 / fps
    middle = slice(2000, len(sound) - 2000)
    assert (audio[middle] - sound[middle]).abs().max() < 0.02  # AAC noise; a shift by one sample would give 0.09


def test_colours_and_detail_survive(tmp_path):
    skimage = pytest.importorskip("skimage")
    image = torch.from_numpy(skimage.data.astronaut()).permute(2, 0, 1)[:, :256, 100:356].contiguous()
    with VideoWriter(tmp_path / "a.mp4", 25, (256, 256)) as video:
        for _ in range(3):
            video.append(image)
    read = media.read_video(tmp_path / "a.mp4")[0][1]
    psnr = 10 * torch.log10(255**2 / (read.float() - image.float()).square().mean())
    assert psnr > 36  # yuv420p alone gives 43 dB on this picture
    assert (read.float() - image.float()).mean(
        (1, 2)
    ).abs().max() < 0.5  # a wrong matrix shifts colours by several levels


@pytest.mark.parametrize(("height", "width"), [(47, 63), (47, 64), (48, 63)])
def test_odd_sizes_repeat_the_last_row_and_column(tmp_path, height, width):
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    image[:, -1], image[:, :, -1] = 200, 200
    with VideoWriter(tmp_path / "a.mp4", 25, (height, width)) as video:
        video.append(image.permute(1, 2, 0))  # (H, W, 3) is accepted too
    # A black last row or column would be 200 away; the corner of a hard edge rings by some levels.
    frame = media.read_video(tmp_path / "a.mp4")[0][0].float()
    assert frame.shape == (3, height + height % 2, width + width % 2)
    assert (frame[:, -1] - 200).abs().max() < 25 and (frame[:, :, -1] - 200).abs().max() < 25


def test_sound_may_come_in_pieces(tmp_path):
    sound = tone(0.8)
    whole = media.read_audio(write_clip(tmp_path / "a.mp4", audio=sound))
    drawn = []

    def pieces():
        for piece in sound.split(1000):
            drawn.append(len(piece))
            yield piece

    with VideoWriter(tmp_path / "b.mp4", 25, (48, 64), pieces()) as video:
        video.append(numbered_frame(0))
        assert sum(drawn) == 1000  # no more is drawn than the first frame's 640 samples need
        for index in range(1, 20):
            video.append(numbered_frame(index))
    parts = media.read_audio(tmp_path / "b.mp4")
    assert len(parts) == len(whole) and (parts - whole).abs().max() < 0.02


@pytest.mark.parametrize("seconds", [0.5, 1.2])
def test_unequal_lengths_are_said_and_nothing_is_cut(tmp_path, seconds):
    with pytest.warns(MediaWarning, match="of picture beside"):
        path = write_clip(tmp_path / "a.mp4", audio=tone(seconds))
    assert len(media.read_video(path)[0]) == 20
    assert abs(len(media.read_audio(path)) - seconds * 16000) < 2


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_leaves_the_old_file_and_no_other(tmp_path, error):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"old")
    with pytest.raises(error), VideoWriter(path, 25, (48, 64), tone(1)) as video:
        video.append(numbered_frame(0))
        assert len(list(tmp_path.iterdir())) == 2  # the temporary file lies beside its target
        raise error
    assert path.read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1


def test_no_frames_and_wrong_frames_leave_nothing(tmp_path):
    with pytest.raises(ValueError, match="no frame"), VideoWriter(tmp_path / "a.mp4", 25, (48, 64)):
        pass
    with pytest.raises(ValueError, match="as the writer's size"):
        write = VideoWriter(tmp_path / "a.mp4", 25, (40, 64))
        with write:
            write.append(numbered_frame(0))
    assert not list(tmp_path.iterdir())


def test_unwritable_outputs_are_refused_before_work(tmp_path, monkeypatch):
    for path in (tmp_path / "none" / "a.mp4", tmp_path / "file" / "a.mp4"):
        (tmp_path / "file").write_text("")
        with pytest.raises(OSError, match="cannot be written"):
            VideoWriter(path, 25, (48, 64))
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(IsADirectoryError, match="is a folder"):
        VideoWriter(tmp_path / "folder.mp4", 25, (48, 64))
    if os.geteuid():
        tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
        with pytest.raises(PermissionError, match="cannot be written"):
            VideoWriter(tmp_path / "a.mp4", 25, (48, 64))
        tmp_path.chmod(stat.S_IRWXU)
    # The superuser may write everywhere but into the kernel's own file systems.
    with pytest.raises(OSError, match="cannot be written"):
        VideoWriter("/proc/a.mp4", 25, (48, 64))


def test_a_slower_preset_makes_a_smaller_file(tmp_path):
    y, x = torch.meshgrid(torch.arange(96), torch.arange(96), indexing="ij")
    for preset in ("ultrafast", "slow"):
        with VideoWriter(tmp_path / f"{preset}.mp4", 25, (96, 96), preset=preset) as video:
            for frame in range(20):
                wave = 128 + 100 * torch.sin((x + 3 * frame) / 7) * torch.cos((y - frame) / 5)
                video.append(wave.to(torch.uint8).expand(3, -1, -1))
    assert (tmp_path / "slow.mp4").stat().st_size < (tmp_path / "ultrafast.mp4").stat().st_size


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        ({"fps": 0}, "fps"),
        ({"size": (0, 4)}, "size"),
        ({"path": "a.avi"}, "path must end"),
        ({"audio": torch.zeros(2, 100)}, "audio must be"),
        ({"audio": torch.zeros(100), "sample_rate": 12345}, "sample_rate"),
        ({"preset": "quick"}, "preset must be one of"),
    ],
)
def test_writer_refuses(tmp_path, kwargs, match):
    arguments = {"path": "a.mp4", "fps": 25, "size": (48, 64), **kwargs}
    with pytest.raises(ValueError, match=match):
        VideoWriter(**{**arguments, "path": tmp_path / arguments["path"]})


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
    for bad in (0, -1, float("nan"), 1e6):
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
