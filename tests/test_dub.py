"""New words for an existing video: what changes, what must not, and how frames, sound and cuts go together."""

import itertools

import pytest
import torch
from conftest import shaken, speech, tiny_face, tiny_frames, tiny_pipeline
from media_files import without_sound

from talkhead.dubbing.dub import back_and_forth, dub, dubbed_frames, frames_in_order, further_faces, plan_dubbing
from talkhead.dubbing.face_track import FaceTrack, track_face
from talkhead.dubbing.new_lips import new_lips, resting_face
from talkhead.dubbing.repaint import repaint
from talkhead.face.crop import Crop
from talkhead.face.frame import face_size
from talkhead.face.mouth_region import mouth_region
from talkhead.media.read import MediaWarning, read_audio, read_video
from talkhead.media.write import VideoWriter, write_audio
from talkhead.metrics.mouths import mouth_opening
from talkhead.nets.landmark import LandmarkNet
from talkhead.nets.renderer import Renderer
from talkhead.pipeline import TalkingHeadPipeline
from talkhead.tracking.track import Detection

SIZE = 64


class Knows:
    """A detector that knows each frame's face, by its number; None: not there."""

    name = "known"

    def __init__(self, faces):
        self.faces, self.asked = itertools.cycle(faces), 0

    def __call__(self, image, face="largest"):
        self.asked += 1
        points = next(self.faces)
        return None if points is None else Detection(points, 1.0, (0, 0, SIZE, SIZE))


def faces(count: int = 20) -> list[torch.Tensor]:
    """A mouth that opens and closes in a head that moves a little."""
    opening = 0.5 - 0.5 * torch.cos(torch.arange(count) * 0.9)
    shift = torch.stack([2 * torch.sin(torch.arange(count) / 7), torch.zeros(count)], -1)
    return [tiny_face(SIZE, float(o)) + s for o, s in zip(opening, shift, strict=True)]


def write(path, points, sound=None, fps=25):
    """Write a video of the rendered faces; a frame without a face is grey."""
    with VideoWriter(path, fps, (SIZE, SIZE), sound, crf=0) as video:
        for p in points:
            video.append(
                torch.full((3, SIZE, SIZE), 90, dtype=torch.uint8) if p is None else tiny_frames(p[None], SIZE)[0]
            )
    return path


@pytest.fixture
def clip(tmp_path):
    """20 frames, the eighth to tenth without a face, and their sound."""
    points = faces()
    points[7:10] = [None] * 3
    points[7:13] = [None] * 6  # longer than what is filled in
    return write(tmp_path / "clip.mp4", points, speech(0.8)), points


def test_only_the_mouths_region_changes(pipe, clip):
    video, points = clip
    plan = plan_dubbing(pipe, video, speech(0.8), detector=Knows(points))
    frames = torch.stack(list(dubbed_frames(pipe, plan)))
    source = read_video(video)[0].permute(0, 2, 3, 1)
    assert frames.shape == source.shape and [(run.start, run.stop) for run in plan.runs] == [(0, 7), (13, 20)]
    assert torch.equal(frames[7:13], source[7:13])  # no face, no change
    changed = (frames != source).any(-1)
    assert all(changed[index].any() for index in (0, 6, 13, 19))
    for index in (*range(7), *range(13, 20)):
        eyes = int(points[index][36:48, 1].max()) + 2
        assert not changed[index, :eyes].any()  # bit for bit


def test_what_already_is_right_stays(pipe, tmp_path):
    """A net that moves nothing and a renderer that copies: a still face comes back as it was."""
    still = [tiny_face(SIZE, 0.0)] * 12
    video = write(tmp_path / "still.mp4", still, speech(0.48))
    nothing = TalkingHeadPipeline(
        LandmarkNet(width=16, layers=1, heads=2),  # its last layer starts at zero
        None,
        Renderer(size=32, widths=(8, 16), patch=2, output="residual"),
        pipe.scheduler,
        pipe.info,
    )
    plan = plan_dubbing(nothing, video, speech(0.48), detector=Knows(still))
    assert torch.allclose(plan.new, plan.old, atol=0.5)  # lips brought together by a hair
    frames = torch.stack(list(dubbed_frames(nothing, plan)))
    assert (frames.float() - read_video(video)[0].permute(0, 2, 3, 1)).abs().mean() < 1


def test_the_mouth_says_the_new_and_not_the_old():
    """Old motion known, head turned: the mouth is the head's own similarity of rest plus new motion, to the point."""
    rest = tiny_face(SIZE, 0.0)
    said, to_say = torch.zeros(30, 68, 2), torch.zeros(30, 68, 2)
    said[:, 57, 1] = torch.sin(torch.arange(30.0))
    to_say[:, 57, 1] = torch.cos(torch.arange(30.0) / 2)
    turn = torch.tensor([[0.0, 2.0], [-2.0, 0.0]])  # a quarter turn, twice as large
    track = FaceTrack((rest + said) @ turn + 100, (0,))
    new = new_lips(track, torch.arange(30), rest, said, to_say, 25.0)
    expected = (rest + to_say) @ turn + 100
    assert torch.allclose(new[:, 48:], expected[:, 48:], atol=1e-3)
    assert torch.equal(new[:, 17:48], track.landmarks[:, 17:48])


@pytest.mark.parametrize(
    ("own", "length", "seconds", "count"),
    [
        (20, "video", 0.4, 20),
        (20, "audio", 0.4, 10),
        (20, "audio", 2.0, 50),
        (1, "audio", 0.4, 10),
        (1, "video", 0.4, 1),
    ],
)
def test_lengths(pipe, tmp_path, own, length, seconds, count):
    points = faces(own)
    video = write(tmp_path / "clip.mp4", points, speech(own / 25))
    out = dub(
        pipe, video, speech(seconds), tmp_path / "out.mp4", length=length, detector=Knows(points), progress=False,
        num_inference_steps=1,
    )  # fmt: skip
    frames, rate = read_video(out)
    assert (len(frames), rate) == (count, 25)
    assert len(read_audio(out)) / 16000 == pytest.approx(count / 25, abs=0.04)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["clip.mp4", "out.mp4"]


def test_an_interrupted_call_does_not_track_again(pipe, tmp_path, monkeypatch):
    points = faces()
    video, detector = write(tmp_path / "clip.mp4", points), Knows(points)
    options = {"detector": detector, "progress": False, "num_inference_steps": 1}
    with monkeypatch.context() as patch:
        patch.setattr("talkhead.dubbing.dub.repaint", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            dub(pipe, video, speech(0.8), tmp_path / "out.mp4", **options)
    assert detector.asked == 20 and not (tmp_path / "out.mp4").exists()
    dub(pipe, video, speech(0.8), tmp_path / "out.mp4", **options)
    assert detector.asked == 20
    assert sorted(p.name for p in tmp_path.iterdir()) == ["clip.mp4", "out.mp4"]
    dub(pipe, video, speech(0.8), tmp_path / "out.mp4", **(options | {"face": 1}))
    assert detector.asked == 40


@pytest.mark.parametrize("count", [1, 2, 8])
def test_backwards_is_what_indexing_gives(tmp_path, monkeypatch, count):
    monkeypatch.setattr("talkhead.dubbing.dub.PIECE", 3)
    video = write(tmp_path / "clip.mp4", faces(count))
    order = back_and_forth(count, 30)
    assert torch.equal(torch.stack(list(frames_in_order(video, order))), read_video(video)[0][order])
    assert back_and_forth(1, 3).tolist() == [0, 0, 0]


def test_a_cut_ends_a_run_and_short_gaps_are_filled():
    points = faces(12)
    points[3] = None
    dark = torch.zeros(3, 36, 64, dtype=torch.uint8)
    frames = [dark] * 8 + [dark + 80] * 4
    track = track_face(frames, Knows(points), smoothing=1)
    assert track.shots == (0, 8) and list(track.runs()) == [slice(0, 8), slice(8, 12)]
    assert torch.allclose(track.landmarks[3], (points[2] + points[4]) / 2)


def test_a_face_that_jumps_is_another_one():
    points = [tiny_face(SIZE)] * 4 + [tiny_face(SIZE) + 40] * 4
    track = track_face([torch.zeros(3, 36, 64, dtype=torch.uint8)] * 8, Knows(points))
    assert list(track.runs()) == [slice(0, 4), slice(4, 8)]
    assert torch.equal(track.landmarks[3], points[3])  # not smoothed over the jump


@pytest.mark.parametrize("gap", [1, 3, 5])
@pytest.mark.parametrize("change", ["elsewhere", "larger"])
def test_another_face_after_a_gap_ends_the_run(pipe, tmp_path, gap, change):
    """Lost on one person and found on another: what lies between is neither's and stays the video's own."""
    points = [tiny_face(SIZE)] * 7 + [None] * gap
    points += [tiny_face(SIZE) + 60 if change == "elsewhere" else 1.4 * tiny_face(SIZE)] * 7
    track = track_face([torch.zeros(3, 36, 64, dtype=torch.uint8)] * len(points), Knows(points))
    assert list(track.runs()) == [slice(0, 7), slice(7 + gap, 14 + gap)]
    assert all(torch.allclose(track.landmarks[index], points[index], atol=1e-3) for index in (6, 7 + gap))
    video = write(tmp_path / "clip.mp4", points, speech(len(points) / 25))
    plan = plan_dubbing(pipe, video, speech(len(points) / 25), detector=Knows(points))
    frames = torch.stack(list(dubbed_frames(pipe, plan, num_inference_steps=1)))
    assert torch.equal(frames[7 : 7 + gap], read_video(video)[0].permute(0, 2, 3, 1)[7 : 7 + gap])


def test_a_head_that_moves_on_unseen_is_the_same():
    """0.4 face sizes a frame, to the right: four frames' way is further than a head goes in one."""
    way = 0.4 * face_size(tiny_face(SIZE)) * torch.tensor([1.0, 0.0])
    true = [tiny_face(SIZE) + index * way for index in range(12)]
    points = [None if index in (4, 5, 6) else p for index, p in enumerate(true)]
    track = track_face([torch.zeros(3, 36, 64, dtype=torch.uint8)] * 12, Knows(points))
    assert list(track.runs()) == [slice(0, 12)]
    assert torch.allclose(track.landmarks, torch.stack(true), atol=1e-3)


def test_resting_face_is_the_most_closed():
    track = FaceTrack(torch.stack([tiny_face(SIZE, 0.8), tiny_face(SIZE, 0.1), tiny_face(SIZE, 0.5)]), (0,))
    assert torch.allclose(resting_face(track)[17:48], tiny_face(SIZE, 0.1)[17:48])


def test_the_region_holds_mouth_and_chin_and_nothing_above_the_nose():
    points = tiny_face(64)[None]
    region = mouth_region(points, points, 64)[0]
    x, y = (points[0, 48:].mean(0) / 2).round().long().tolist()
    assert region[y, x] == 1
    assert region[: int(points[0, 27, 1] / 2)].max() == 0 and region[:, 0].max() == 0


@pytest.mark.parametrize(("what", "name"), [("video", "clip.mp4"), ("audio", "voice.mp4"), ("video", "hard.mp4")])
def test_nothing_that_is_read_is_written_over(pipe, tmp_path, what, name):
    points = faces(6)
    video, audio = write(tmp_path / "clip.mp4", points), write(tmp_path / "voice.mp4", points[:5], speech(0.2))
    (tmp_path / "hard.mp4").hardlink_to(video)
    before = (tmp_path / name).read_bytes()
    with pytest.raises(ValueError, match=f"is the {what} and would be written over"):
        dub(pipe, video, audio, tmp_path / name, detector=Knows(points), progress=False)
    assert (tmp_path / name).read_bytes() == before


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_inference_steps": 0}, "num_inference_steps must be a whole number of at least 1; got 0"),
        ({"num_inference_steps": -1}, "num_inference_steps must be .* got -1"),
        ({"num_inference_steps": 2.0}, "num_inference_steps must be .* got 2.0"),
        ({"num_inference_steps": 5000}, r"num_inference_steps must lie in 1\.\.1000"),
        ({"seed": "x"}, "seed must be a whole number .* got 'x'"),
        ({"seed": 2**64}, "seed must be a whole number"),
        ({"output": "out.gif"}, "fps must be at most 50 for a GIF; got 60"),
        ({"video": "voice.wav"}, "holds no picture"),
    ],
)
def test_what_cannot_work_is_refused_before_the_face_is_followed(pipe, tmp_path, monkeypatch, change, words):
    monkeypatch.chdir(tmp_path)
    points = faces(6)
    write("clip.mp4", points, fps=60)
    write_audio("voice.wav", speech(0.1))
    detector = Knows(points)
    arguments = {"video": "clip.mp4", "audio": speech(0.1), "output": "out.mp4"} | change
    with pytest.raises(ValueError, match=words):
        dub(pipe, **arguments, detector=detector, progress=False)
    assert not detector.asked and sorted(p.name for p in tmp_path.iterdir()) == ["clip.mp4", "voice.wav"]


def test_refusals(pipe, tmp_path):
    points = faces(6)
    video = write(tmp_path / "clip.mp4", points)
    with pytest.raises(ValueError, match="no frame shows the face"):
        dub(pipe, video, speech(0.2), tmp_path / "out.mp4", detector=Knows([None]), progress=False)
    with pytest.raises(ValueError, match="'video' or 'audio'"):
        plan_dubbing(pipe, video, speech(0.2), detector=Knows(points), length="long")


@pytest.mark.filterwarnings("ignore:.*clip.mkv is cut off:talkhead.media.write.MediaWarning")
def test_an_own_sound_that_cannot_be_read_is_none_and_that_is_said(pipe, tmp_path):
    points = faces(6)
    whole, mute = write(tmp_path / "whole.mp4", points, speech(0.24)), write(tmp_path / "mute.mp4", points)
    expected = plan_dubbing(pipe, mute, speech(0.2), detector=Knows(points)).new  # without a word
    empty = without_sound(whole, tmp_path / "clip.mkv")
    with pytest.warns(MediaWarning, match=r"^video: .*clip\.mkv' is dubbed as one without sound, .* has no sound"):
        plan = plan_dubbing(pipe, empty, speech(0.2), detector=Knows(points))
    assert torch.equal(plan.new, expected)
    (tmp_path / "odd.mkv").write_bytes(empty.read_bytes().replace(b"A_AAC", b"A_ODD"))  # a codec that nobody knows
    with pytest.warns(MediaWarning, match=r"odd\.mkv' is dubbed as one without sound, .* FFmpeg can decode"):
        plan = plan_dubbing(pipe, tmp_path / "odd.mkv", speech(0.2), detector=Knows(points))
    assert torch.equal(plan.new, expected)


@pytest.mark.parametrize("letter", ["x", "\u00e9"])
def test_a_name_as_long_as_names_may_be(pipe, tmp_path, letter):
    points = faces(3)
    video = write(tmp_path / "clip.mp4", points, speech(0.12))
    output = tmp_path / f"{letter * (251 // len(letter.encode()))}.mp4"
    options = {"detector": Knows(points), "progress": False, "num_inference_steps": 1}
    assert dub(pipe, video, speech(0.12), output, **options).is_file()
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["clip.mp4", output.name])


def test_large_faces_are_painted_by_the_finer_renderer_where_there_is_one(tmp_path):
    """By it as if it were the only one, from the same further faces; in a video of small faces by the other."""
    torch.manual_seed(0)
    finer = shaken(Renderer(size=48, widths=(8, 16), patch=2, bank=2), 0.1).eval()
    points = faces(6)
    video = write(tmp_path / "clip.mp4", points, speech(0.24))

    def dubbed(plain=None, fine=None):
        pipe = tiny_pipeline()
        pipe.renderer, pipe.fine_renderer = plain or pipe.renderer, fine
        plan = plan_dubbing(pipe, video, speech(0.24), detector=Knows(points))
        return torch.stack(list(dubbed_frames(pipe, plan, num_inference_steps=1)))

    assert torch.equal(dubbed(fine=finer), dubbed(plain=finer))
    assert not torch.equal(dubbed(fine=finer), dubbed())
    larger = Renderer(size=96, widths=(8, 16), patch=4, bank=2)  # than the faces
    assert torch.equal(dubbed(finer, larger), dubbed(finer))


def test_further_faces_are_those_whose_mouths_differ(tmp_path, monkeypatch):
    """Of a mouth that is open in one frame of many, that frame is among two."""
    monkeypatch.setattr("talkhead.dubbing.dub.BANK", 2)
    points = [tiny_face(SIZE, 1.0 if frame == 13 else 0.1) for frame in range(20)]
    video = write(tmp_path / "clip.mp4", points)
    track = FaceTrack(torch.stack(points), (0,))
    pictures, found = further_faces(video, track, 1.5, 40)
    assert pictures.shape == (2, 3, 40, 40) and found.shape == (2, 68, 2)
    opened = [mouth_opening(one[None]).item() for one in found]
    assert max(opened) > 5 * min(opened)


def test_what_was_painted_too_finely_for_the_frame_leaves_no_pattern():
    """Every other column of 48 px brighter and darker, in a face of 16: of every third one they would be stripes."""
    face, points = torch.full((3, 48, 48), 120, dtype=torch.uint8), tiny_face(48)
    painted = face + 40 * (torch.arange(48) % 2 * 2 - 1).to(torch.int8)
    frame = torch.full((3, 16, 16), 120, dtype=torch.uint8)
    shown = repaint(frame, Crop(0.0, 0.0, 16.0), face, points, points, painted.to(torch.uint8))
    assert (shown.int() - 120).abs().max() <= 8  # of 40; the kernel ends nowhere in nothing
