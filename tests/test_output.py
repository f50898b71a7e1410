"""What people get: the crop as large as the portrait has it, formats by name, opacity, borders that do not show."""

import errno
import math
import os

import av
import numpy as np
import pytest
import torch
from conftest import POINTS, speech, tiny_face, tiny_portrait
from PIL import Image

from talkhead.face.crop import Crop, crop_frames
from talkhead.finishing.detail import DetailRestorer, fading
from talkhead.finishing.placing import fitting_size
from talkhead.media.formats import open_writer
from talkhead.media.read import read_video
from talkhead.nets.renderer import Renderer
from talkhead.pipeline import Portrait, TalkingHeadPipeline

LARGE = tiny_face(200) + 20


@pytest.fixture(scope="module")
def copyist(pipe) -> TalkingHeadPipeline:
    """A renderer that paints the warped portrait as it is: its last layer starts at zero."""
    renderer = Renderer(size=32, widths=(8, 16), patch=2, output="residual")
    return TalkingHeadPipeline(pipe.landmark_net, None, renderer, pipe.scheduler, pipe.info)


@pytest.mark.parametrize(("side", "renderer", "shown"), [(100, 128, 128), (301, 128, 300), (1000, 128, 512)])
def test_the_crop_is_as_large_as_the_portrait_has_it(side, renderer, shown):
    face = torch.zeros(3, renderer, renderer, dtype=torch.uint8)
    portrait = Portrait(torch.zeros(3, 9, 9, dtype=torch.uint8), POINTS, Crop(0, 0, side), face, POINTS)
    assert fitting_size(portrait) == shown


def test_the_crop_keeps_the_portraits_own_detail(copyist):
    picture = torch.randint(0, 255, (3, 240, 250), dtype=torch.uint8)  # all fine detail
    options = {"landmarks": LARGE.expand(2, 68, 2), "reference_landmarks": LARGE, "emotion": "neutral"}
    crop = copyist.stream(picture, **options)._portrait.crop
    x, y, side = int(crop.x), int(crop.y), int(crop.side)
    result = copyist(picture, size=side, **options)
    inside = slice(max(-y, 0), min(side, 240 - y)), slice(max(-x, 0), min(side, 250 - x))
    whole = picture.permute(1, 2, 0)[max(y, 0) : y + side, max(x, 0) : x + side].int()
    assert (result.frames[0][inside].int() - whole).abs().max() <= 2  # rounded to 8 bits at 32 px


def test_a_crop_smaller_than_painted_is_as_sharp_as_the_portrait_shrunk(copyist):
    """Painted at 32 px and shrunk to 24, it would have lost what 24 px can hold."""
    picture = torch.randint(0, 255, (3, 240, 250), dtype=torch.uint8)
    options = {"landmarks": LARGE.expand(2, 68, 2), "reference_landmarks": LARGE, "emotion": "neutral", "size": 24}
    shrunk = crop_frames(picture, copyist.stream(picture, **options)._portrait.crop, 24).permute(1, 2, 0)
    assert (copyist(picture, **options).frames[0].int() - shrunk.int()).abs().max() <= 2


def test_what_the_renderer_changed_shrinks_with_the_frame():
    """A face twice as bright, at three quarters of its size."""
    face, points = torch.full((3, 32, 32), 60, dtype=torch.uint8), tiny_face(32)
    restore = DetailRestorer(torch.full((3, 24, 24), 60, dtype=torch.uint8), face, points)
    assert (restore(face[None] * 2, points[None]) == 120).all()


def test_landmarks_lie_in_the_frames_that_are_returned(pipe):
    options = {"reference_landmarks": POINTS, "emotion": "sad"}
    small, large = (pipe(tiny_portrait(), speech(0.2), size=size, **options) for size in (32, 96))
    assert large.frames.shape[1:3] == (96, 96)
    assert torch.allclose((large.landmarks + 0.5) / 3, small.landmarks + 0.5, atol=1e-4)
    assert torch.allclose(large.motion.landmarks, small.motion.landmarks)


def test_motion_fades_towards_the_border_of_a_square_that_stays(copyist):
    """Stripes that meet the border are stretched across it: no pixel there is a mixture of two stripes' places."""
    picture = torch.zeros(3, 240, 250, dtype=torch.uint8)
    picture[:, :, ::2] = 200
    moving = torch.stack([LARGE, LARGE + torch.tensor([0.0, 8.0])])  # along the stripes: they must not change at all
    frames = copyist(picture, landmarks=moving, reference_landmarks=LARGE, emotion="neutral", frame="full").frames
    assert (frames[1].int() - picture.permute(1, 2, 0).int()).abs().float().mean() < 2


def test_fading_is_whole_inside_and_nothing_at_the_border():
    weight = fading(40, 0.25)
    assert (weight[10:30, 10:30] == 1).all() and weight[0].max() == weight[:, 39].max() == 0
    assert (fading(40, 0) == 1).all()


def test_what_the_renderer_moved_is_enlarged_where_it_moved_it():
    """A wall's edge three px further than the landmarks say: bent by them and corrected, it would be there twice."""
    square = torch.zeros(3, 128, 128, dtype=torch.uint8)
    square[:, :, 40:] = 200
    face = torch.nn.functional.avg_pool2d(square.float(), 4).round().to(torch.uint8)
    painted = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    painted[..., 13:] = 200  # 10 + 3
    displacement = torch.zeros(1, 32, 32, 2)
    displacement[..., 0] = -3.0
    restore, points = DetailRestorer(square, face, tiny_face(32)), tiny_face(32)[None]
    expected = square.roll(12, 2)
    expected[:, :, :12] = 0
    told = restore(painted, points, displacement)[0]
    assert (told.int() - expected.int()).abs().max() <= 1
    guessed = restore(painted, points)[0]
    assert (guessed.int() - expected.int()).abs().max() > 50, "a blurred edge stands beside the sharp one"


@pytest.mark.parametrize(("largest", "left"), [(640, 1.0), (64, 0.97)], ids=["made finer once", "too large for that"])
def test_the_portraits_detail_stays_sharp_between_its_pixels(monkeypatch, largest: int, left: float):
    """Waves of four px, moved by half of one: a mean of neighbours leaves 71% of them, a bicubic sample 97%."""
    monkeypatch.setattr("talkhead.finishing.detail._ENLARGED", largest)
    wave = 128 + 80 * torch.cos(torch.arange(128) * math.pi / 2)
    square = wave.round().to(torch.uint8).expand(3, 128, 128)
    face = torch.full((3, 32, 32), 128, dtype=torch.uint8)
    restore, points = DetailRestorer(square, face, tiny_face(32)), tiny_face(32)[None]
    displacement = torch.zeros(1, 32, 32, 2)
    displacement[..., 0] = 0.125  # half a px of the square
    moved = restore(face[None], points, displacement)[0, 0, 64, 32:96].float()
    # Such a wave is then sampled 45 degrees on; half a level is rounding's.
    assert (moved - 128).abs().amax() == pytest.approx(left * 80 * math.cos(math.pi / 4), abs=1)


def test_opacity_moves_with_the_face_and_hidden_colours_do_not_show():
    """White on transparent red: where anything is visible it is white, whatever the motion mixes."""
    square = torch.zeros(4, 64, 64, dtype=torch.uint8)
    square[0] = 255
    square[:, 16:48, 16:48] = 255
    points = tiny_face(32)
    restore = DetailRestorer(square, torch.full((3, 32, 32), 255, dtype=torch.uint8), points)
    frame = restore(torch.full((1, 3, 32, 32), 255, dtype=torch.uint8), points[None] + torch.tensor([2.5, 1.5]))[0]
    visible = frame[3] > 0
    assert 0 < visible.float().mean() < 1 and (frame[:3, visible] >= 254).all()
    assert not torch.equal(frame[3], square[3])


def transparent_portrait(path):
    """The tiny portrait with a transparent left edge."""
    picture = torch.cat([tiny_portrait(), torch.full((1, 61, 72), 255, dtype=torch.uint8)])
    picture[3, :, :12] = 0
    Image.fromarray(picture.permute(1, 2, 0).numpy()).save(path)
    return path


@pytest.mark.parametrize("name", ["out.webm", "%03d.png"])
def test_transparent_in_transparent_out(pipe, tmp_path, name):
    image = transparent_portrait(tmp_path / "portrait.png")
    (tmp_path / "out").mkdir()
    options = {"reference_landmarks": POINTS, "emotion": "sad", "frame": "full", "transparent": True}
    pipe.generate_file(image, speech(0.2), tmp_path / "out" / name, progress=False, **options)
    if name.endswith(".png"):
        pictures = sorted((tmp_path / "out").iterdir())
        assert [p.name for p in pictures] == ["001.png", "002.png", "003.png", "004.png", "005.png"]
        frame = np.array(Image.open(pictures[2]))
    else:
        frame = first_frame_with_opacity(tmp_path / "out" / name)
    assert frame.shape[2] == 4
    assert frame[5, :10, 3].max() < 10 and frame[5, -10:, 3].min() > 245  # VP9 is not lossless


def first_frame_with_opacity(path):
    """FFmpeg's own VP9 decoder drops the opacity; libvpx keeps it."""
    decoder = av.CodecContext.create("libvpx-vp9", "r")
    with av.open(str(path)) as container:
        for packet in container.demux(video=0):
            for frame in decoder.decode(packet):
                return frame.to_ndarray(format="rgba")
    raise AssertionError("no frame")


@pytest.mark.parametrize("suffix", [".webm", ".gif", ".mov"])
def test_formats_by_name(pipe, tmp_path, suffix):
    out = tmp_path / f"out{suffix}"
    options = {"reference_landmarks": POINTS, "emotion": "sad", "size": 64}
    result = pipe(tiny_portrait(), speech(0.4), **options)
    result.save(out)
    frames, rate = read_video(out)
    assert frames.shape == (10, 3, 64, 64) and rate == 25
    error = (frames.permute(0, 2, 3, 1).float() - result.frames.float()).abs().mean()
    assert error < 25  # noise in halved colour, or in 256 colours; black would be above 100
    with av.open(str(out)) as container:
        kinds = [stream.type for stream in container.streams]
    assert ("audio" in kinds) == (suffix != ".gif")


def test_a_full_disk_is_told_by_the_rows_own_name(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(OSError, match=r"output: '.*/%05d\.png' cannot be written \(.*\); make room"):
        with open_writer(tmp_path / "%05d.png", 25, (8, 8), None) as writer:
            writer.append(torch.zeros(8, 8, 3, dtype=torch.uint8))
    assert list(tmp_path.iterdir()) == []


def test_an_error_leaves_nothing(tmp_path):
    for name in ("a.webm", "a.gif", "%d.png"):
        with pytest.raises(ValueError, match="stop"), open_writer(tmp_path / name, 25, (8, 8)) as writer:
            writer.append(torch.zeros(8, 8, 3, dtype=torch.uint8))
            raise ValueError("stop")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("pattern", "digits"), [("%05d.png", 5), ("me.%d.PNG", 1)])
def test_a_shorter_row_takes_the_place_of_a_longer_one(tmp_path, pattern, digits):
    """As a video does; what the pattern cannot have made stays: other digits, names, folders, links and number 0."""
    before, after = pattern.split("%")[0], pattern[-4:]
    name = f"{before}{{:0{digits}}}{after}".format
    others = [name(0), f"x{name(4)}", f"{before}{'4':0>7}{after}", name(4).replace("png", "jpg").replace("PNG", "jpg")]
    for other in others:
        (tmp_path / other).write_text("mine")
    (tmp_path / name(12)).mkdir()
    (tmp_path / name(13)).symlink_to(others[0])
    for count in (11, 3):
        with open_writer(tmp_path / pattern, 25, (8, 8)) as writer:
            for _ in range(count):
                writer.append(torch.full((8, 8, 3), count, dtype=torch.uint8))
        left = {*others, name(12), name(13), *(name(n) for n in range(1, count + 1))}
        assert {p.name for p in tmp_path.iterdir()} == left
        assert {np.array(Image.open(tmp_path / name(n))).max() for n in range(1, count + 1)} == {count}


def test_an_error_or_no_frame_leaves_the_row_before(tmp_path):
    (tmp_path / "1.png").write_text("before")
    for error, frames in ((KeyboardInterrupt, 1), (ValueError, 0)):
        with pytest.raises(error), open_writer(tmp_path / "%d.png", 25, (8, 8)) as writer:
            if frames:
                writer.append(torch.zeros(8, 8, 3, dtype=torch.uint8))
                raise error
    assert [p.read_text() for p in tmp_path.iterdir()] == ["before"]


@pytest.mark.parametrize(
    ("name", "options", "match"),
    [
        ("a.avi", {}, "must end in one of"),
        ("a.mp4", {"alpha": True}, "webm or .png"),
        ("a.png", {}, "number in it"),
        ("a.gif", {"fps": 60}, "at most 50"),
    ],
)
def test_writers_refuse(tmp_path, name, options, match):
    with pytest.raises(ValueError, match=match):
        open_writer(tmp_path / name, options.pop("fps", 25), (8, 8), **options)


def test_pipeline_refuses(pipe, tmp_path):
    Image.new("RGB", (72, 61)).save(tmp_path / "opaque.png")
    options = {"reference_landmarks": POINTS, "emotion": "sad"}
    for more, match in [({"size": 5}, "16..4096"), ({"size": 64, "frame": "full"}, "frame='crop'")]:
        with pytest.raises(ValueError, match=match):
            pipe.stream(tiny_portrait(), speech(0.2), **options, **more)
    for image in (tmp_path / "opaque.png", tiny_portrait()):
        with pytest.raises(ValueError, match="alpha channel"):
            pipe.stream(image, speech(0.2), transparent=True, **options)
