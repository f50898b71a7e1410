"""What is written: videos that browsers play, whole or not at all."""

import os
import stat
import struct
import threading
import time
from fractions import Fraction

import av
import pytest
import torch
from media_files import numbered_frame, tone, write_clip

from talkhead.media import read as media
from talkhead.media.formats import GIFWriter, WebMWriter, open_writer
from talkhead.media.read import MediaWarning, VideoWriter
from talkhead.media.write import WAITING_FRAMES, write_audio


def top_level_atoms(path):
    data, at, names = path.read_bytes(), 0, []
    while at < len(data):
        size, name = struct.unpack(">I4s", data[at : at + 8])
        names.append(name.decode())
        at += size
    return names


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
        assert sum(drawn) <= 1000  # no more is drawn than the first frame's 640 samples need
        for index in range(1, 20):
            video.append(numbered_frame(index))
    assert sum(drawn) == len(sound)
    parts = media.read_audio(tmp_path / "b.mp4")
    assert len(parts) == len(whole) and (parts - whole).abs().max() < 0.02


def test_a_sound_without_a_sample_is_refused_and_an_empty_piece_is_none(tmp_path):
    with pytest.raises(ValueError, match="^audio must have at least one sample; got none"):
        write_audio(tmp_path / "a.wav", torch.zeros(0))
    assert not list(tmp_path.iterdir())
    write_clip(tmp_path / "a.mp4", 5, audio=[torch.zeros(0), tone(0.1), torch.zeros(0), tone(0.1)])
    write_clip(tmp_path / "b.mp4", 5, audio=[tone(0.1), tone(0.1)])
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


def test_an_error_beside_the_work_reaches_who_appends(tmp_path):
    """Frames are encoded in another thread: a reader of sound that fails there stops the work here."""

    def pieces():
        yield tone(0.1)
        raise OSError("the microphone is gone")

    begun = []
    with pytest.raises(OSError, match="microphone"), VideoWriter(tmp_path / "a.mp4", 25, (48, 64), pieces()) as video:
        for index in range(200):
            begun.append(index)
            video.append(numbered_frame(index % 20))
    assert len(begun) <= 5 + WAITING_FRAMES and not list(tmp_path.iterdir())


@pytest.mark.parametrize(("pictures", "waiting"), [(0.5, 2), (3, 3), (1000, WAITING_FRAMES)])
def test_what_waits_for_the_encoder_is_bounded_in_bytes(tmp_path, monkeypatch, pictures, waiting):
    """An encoder that stands still takes one frame after the other; room for so many pictures lets so many wait."""
    monkeypatch.setattr("talkhead.media.write.WAITING_BYTES", int(pictures * numbered_frame(0).nbytes))
    going, appended = threading.Event(), []
    encode = VideoWriter._encode
    monkeypatch.setattr(VideoWriter, "_encode", lambda *work: going.wait(60) and encode(*work))

    def work():
        with VideoWriter(tmp_path / "a.mp4", 25, (48, 64)) as video:
            for index in range(40):
                video.append(numbered_frame(index % 20))
                appended.append(index)

    thread = threading.Thread(target=work)
    thread.start()
    started = time.monotonic()
    while len(appended) < waiting and time.monotonic() < started + 30:
        time.sleep(0.01)
    time.sleep(0.2)
    held = len(appended)
    going.set()
    thread.join()
    assert held == waiting and len(media.read_video(tmp_path / "a.mp4")[0]) == 40


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
        started = time.monotonic()
        while len(list(tmp_path.iterdir())) < 2:  # the temporary file lies beside its target
            assert time.monotonic() < started + 30
            time.sleep(0.01)
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


@pytest.mark.parametrize(("ending", "longest"), [(".mp4", 16384), (".webm", 65536), (".gif", 65534)])
def test_sides_that_no_encoder_takes_are_refused_before_work(tmp_path, ending, longest, monkeypatch):
    """What is allowed is written and read again; what is refused, FFmpeg itself would refuse, and is told of, too."""
    path = tmp_path / f"a{ending}"
    with open_writer(path, 25, (longest, 2)) as video:
        video.append(torch.full((longest, 2, 3), 128, dtype=torch.uint8))
    assert media.read_video(path)[0].shape == (1, 3, longest, 2)
    path.unlink()
    size = (2, longest + 1)
    with pytest.raises(
        ValueError, match=rf"^output: '.*a{ending}' takes at most {longest} px a side; got {size[1]}x2 px"
    ):
        open_writer(path, 25, size)
    for writer in VideoWriter, WebMWriter, GIFWriter:
        monkeypatch.setattr(writer, "longest", 10**6)
    with (
        pytest.raises(ValueError, match=rf"^output: '.*a{ending}' cannot be encoded \("),
        open_writer(path, 25, size) as video,
    ):
        video.append(torch.full((*size, 3), 128, dtype=torch.uint8))
    assert not list(tmp_path.iterdir())


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


def test_the_same_frames_make_the_same_file(tmp_path):
    """Where other sums are done between the frames, too: x264's AVX-512 code made another file each time."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(0, 255, (24, 3, 12, 12), generator=generator).float()
    frames = torch.nn.functional.interpolate(drawn, size=(192, 192), mode="bilinear").byte()
    files = set()
    for _ in range(3):
        with VideoWriter(tmp_path / "a.mp4", 25, (192, 192)) as video:
            for frame in frames:
                video.append(frame)
                _ = torch.rand(300, 300) @ torch.rand(300, 300)  # as a painter would between frames
        files.add((tmp_path / "a.mp4").read_bytes())
    assert len(files) == 1


def test_the_same_frames_make_the_same_webm(tmp_path):
    """As they make the same MP4; Matroska would give each file a random number."""
    for name in ("a.webm", "b.webm"):
        with open_writer(tmp_path / name, 25, (48, 64)) as video:
            for number in range(3):
                video.append(numbered_frame(number))
    assert (tmp_path / "a.webm").read_bytes() == (tmp_path / "b.webm").read_bytes()


def test_a_row_that_cannot_be_moved_leaves_the_old_one_whole(tmp_path):
    (tmp_path / "002.png").mkdir()
    (tmp_path / "000.png").write_bytes(b"old")
    row = open_writer(tmp_path / "%03d.png", 25, (48, 64))
    with pytest.raises(IsADirectoryError, match="'002.png' is a folder"), row:
        for number in range(4):
            row.append(numbered_frame(number).permute(1, 2, 0))
    assert (tmp_path / "000.png").read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 2
