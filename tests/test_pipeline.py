"""The whole chain with tiny random networks: what goes in, what comes out."""

import threading
from fractions import Fraction

import numpy as np
import pytest
import torch
from conftest import POINTS, OneFace, speech, tiny_face, tiny_pipeline

from talkhead.data.clip import EMOTIONS
from talkhead.media.read import probe, read_audio, read_video, write_audio, write_image
from talkhead.nets.renderer import Renderer
from talkhead.pipeline import TalkingHeadPipeline, stages
from talkhead.pipeline.motion import LandmarkSequence

NTSC = Fraction(30000, 1001)


def test_result_is_what_the_interface_says(pipe, portrait):
    result = pipe(portrait, speech(1.0), reference_landmarks=POINTS, size=32)
    assert result.frames.shape == (25, 32, 32, 3) and result.frames.dtype == torch.uint8
    assert result.landmarks.shape == (25, 68, 2) and result.landmarks.dtype == torch.float32
    assert list(result.emotion) == list(EMOTIONS) and sum(result.emotion.values()) == pytest.approx(1, abs=1e-5)
    assert torch.equal(result.audio, speech(1.0)) and result.fps == 25


def test_old_names_of_arguments_work_and_warn(pipe, portrait):
    landmarks = POINTS.expand(3, 68, 2)
    now = pipe(portrait, landmarks=landmarks, emotion="neutral", reference_landmarks=POINTS, guidance_scale=2.0)
    with pytest.warns(FutureWarning, match="is called") as said:
        old = pipe(portrait, landmarks=landmarks, emotion="neutral", portrait_landmarks=POINTS, emotion_scale=2.0)
    assert torch.equal(now.frames, old.frames) and len(said) == 2
    with pytest.raises(TypeError, match="got both"):
        pipe(portrait, landmarks=landmarks, emotion="sad", emotion_scale=2.0, guidance_scale=2.0)


@pytest.mark.parametrize("fps", [25, 29.97])
@pytest.mark.parametrize("samples", [1, 800, 48160, 48000])
def test_sound_and_picture_are_equally_long(pipe, portrait, tmp_path, fps, samples):
    sound = speech(samples / 16000)
    pieces = pipe.stream(portrait, sound, reference_landmarks=POINTS, emotion="sad", fps=fps, num_inference_steps=1)
    promised, rate = pieces.num_frames, pieces.fps
    count = sum(len(piece.frames) for piece in pieces)
    assert count == promised and rate == (25 if fps == 25 else NTSC)
    assert 0 <= count / rate - Fraction(samples, 16000) < 1 / rate or count == 1


def test_file_has_all_frames_the_exact_rate_and_the_sound(pipe, portrait, tmp_path, capfd):
    out = tmp_path / "out.mp4"
    assert pipe.generate_file(portrait, speech(0.75), out, reference_landmarks=POINTS, fps=NTSC, size=32) == out
    info = probe(out)
    assert (info.fps, info.num_frames, info.width, info.height) == (NTSC, 23, 32, 32)  # ceil(0.75 * 29.97)
    assert len(read_audio(out)) / 16000 == pytest.approx(0.75, abs=1 / 29.97)
    assert [p.name for p in tmp_path.iterdir()] == ["out.mp4"]
    assert "23 frames" in capfd.readouterr().err
    frames, _ = read_video(out)
    again = pipe(portrait, speech(0.75), reference_landmarks=POINTS, fps=NTSC, size=32)
    # H.264 at visually lossless quality, but with halved colour on a noisy picture: coarse agreement shows the order.
    error = (frames.permute(0, 2, 3, 1).float() - again.frames.float()).abs().mean((1, 2, 3))
    assert error.max() < 25
    again.save(tmp_path / "again.mp4")
    assert torch.equal(read_video(tmp_path / "again.mp4")[0], frames)


def test_files_and_arrays_and_tensors_agree(pipe, portrait, tmp_path):
    from PIL import Image

    sound = (speech(0.3) * 32767).round() / 32767  # what 16 bits can hold
    write_image(tmp_path / "face.png", portrait)
    write_audio(tmp_path / "speech.wav", sound)
    array = portrait.permute(1, 2, 0).numpy()
    options = {"reference_landmarks": POINTS, "emotion": "happy"}
    first = pipe(portrait, sound, **options)
    for image in (tmp_path / "face.png", str(tmp_path / "face.png"), array, Image.fromarray(array)):
        assert torch.equal(pipe(image, sound, **options).frames, first.frames)
    other = pipe(portrait, tmp_path / "speech.wav", **options)
    assert torch.allclose(other.audio, sound, atol=2 / 32767)  # one step of 16 bits either way
    assert torch.equal(pipe(portrait, sound.numpy(), **options).frames, first.frames)
    assert len(pipe(portrait, speech(0.3).repeat_interleave(3), sample_rate=48000, **options).audio) == 4800
    with pytest.raises(ValueError, match="sample_rate=47999 has no short ratio"):  # a filter of gigabytes
        pipe(portrait, speech(0.3), sample_rate=47999, **options)


def test_the_seed_decides(pipe, portrait):
    options = {"reference_landmarks": POINTS, "emotion": "happy"}
    one = pipe(portrait, speech(0.5), seed=3, **options)
    torch.manual_seed(77)
    same, other = (pipe(portrait, speech(0.5), seed=seed, **options) for seed in (3, 4))
    assert torch.equal(one.frames, same.frames) and torch.equal(one.landmarks, same.landmarks)
    assert not torch.equal(one.frames, other.frames)


def test_stream_is_the_call_in_pieces(pipe, portrait):
    options = {"reference_landmarks": POINTS, "emotion": "happy"}
    whole = pipe(portrait, speech(1.41), **options)
    pieces = pipe.stream(portrait, speech(1.41), **options)
    first = next(pieces)
    assert len(first.frames) < len(whole.frames)
    next(pipe.stream(portrait, speech(0.8), num_inference_steps=1, **options))  # another one in between
    parts = [first, *pieces]
    assert [p.start for p in parts] == np.cumsum([0, *(len(p.frames) for p in parts[:-1])]).tolist()
    for name in ("frames", "landmarks", "audio"):
        assert torch.equal(torch.cat([getattr(p, name) for p in parts]), getattr(whole, name))
    for part in parts[:-1]:
        assert len(part.audio) / 16000 == pytest.approx(len(part.frames) / 25)


def test_a_closed_stream_ends_and_so_do_its_threads(pipe, portrait):
    """What fails in the middle of a video keeps the stream, in its traceback, and kept two threads with it."""

    def ahead() -> set[threading.Thread]:
        return {thread for thread in threading.enumerate() if thread.name.startswith("ahead")}

    number, others = torch.get_num_threads(), ahead()
    torch.set_num_threads(2)
    try:
        with pipe.stream(portrait, speech(4.0), reference_landmarks=POINTS, emotion="happy") as pieces:
            assert next(pieces).start == 0 and len(ahead() - others) == 2
        assert not ahead() - others
        assert list(pieces) == []
        pieces.close()
    finally:
        torch.set_num_threads(number)


def test_whole_pictures_come_a_few_at_a_time(pipe, portrait, monkeypatch):
    options = {"reference_landmarks": POINTS, "emotion": "happy", "frame": "full"}
    whole = pipe(portrait, speech(1.41), **options)
    for bound, most in ((3.5, 3), (0.5, 1)):
        monkeypatch.setattr("talkhead.finishing.placing.AT_ONCE", int(bound * portrait.nbytes))
        parts = [*pipe.stream(portrait, speech(1.41), **options)]
        assert max(len(part.frames) for part in parts) == most
        assert [p.start for p in parts] == np.cumsum([0, *(len(p.frames) for p in parts[:-1])]).tolist()
        for name in ("frames", "landmarks", "audio"):
            assert torch.equal(torch.cat([getattr(p, name) for p in parts]), getattr(whole, name))
        assert torch.equal(torch.cat([p.motion.landmarks for p in parts]), whole.motion.landmarks)
        assert torch.equal(torch.cat([p.emotion_track.shown for p in parts]), whole.emotion_track.shown)


def test_memory_goes_back_after_many_frames_of_one_video_or_of_many(pipe, portrait, monkeypatch):
    given_back = []
    monkeypatch.setattr(stages, "give_back_memory", lambda: given_back.append(True))
    monkeypatch.setattr(stages, "_GIVE_BACK", 50)
    monkeypatch.setattr(stages.Stream, "_painted_since", 0)
    counts = []
    for seconds in (0.8, 0.8, 0.8, 2.4):  # 20, 20, 20 and 60 frames
        pipe(portrait, speech(seconds), reference_landmarks=POINTS, emotion="happy", num_inference_steps=1)
        counts.append(len(given_back))
    assert counts == [0, 0, 1, 2]


def test_given_landmarks_are_painted(pipe, portrait):
    moving = POINTS + torch.linspace(0, 3, 12)[:, None, None]
    result = pipe(
        portrait, speech(12 / 25), landmarks=moving, reference_landmarks=POINTS, emotion="neutral", frame="full"
    )
    assert torch.allclose(result.landmarks, moving, atol=1e-3)
    silent = pipe(portrait, landmarks=moving, reference_landmarks=POINTS, emotion="neutral", frame="full")
    assert silent.audio is None and torch.equal(silent.frames, result.frames)


@pytest.mark.parametrize("kind", [lambda points: points, lambda points: LandmarkSequence(points, 25, (61, 72))])
def test_given_landmarks_may_be_filled_again_while_the_pieces_come(pipe, portrait, kind):
    options = {"reference_landmarks": POINTS, "emotion": "neutral", "num_inference_steps": 1}
    points = POINTS.expand(90, 68, 2).clone()
    expected = pipe(portrait, landmarks=kind(points), **options).landmarks
    pieces = pipe.stream(portrait, landmarks=kind(points), **options)
    points += 3
    assert torch.equal(torch.cat([piece.landmarks for piece in pieces]), expected)


def test_the_sound_of_a_piece_may_be_changed_in_place(pipe, portrait):
    """Later pieces hear the second before their own."""
    options = {"reference_landmarks": POINTS, "emotion": "neutral", "fps": 12.5, "num_inference_steps": 1, "window": 2}
    whole, parts = pipe(portrait, speech(9.0), **options), []
    for piece in pipe.stream(portrait, speech(9.0), **options):
        parts.append(piece.landmarks)
        piece.audio.zero_()
    assert len(parts) > 2 and torch.equal(torch.cat(parts), whole.landmarks)


def test_an_emotion_that_given_landmarks_do_not_wear_warns(pipe, portrait):
    options = {"landmarks": POINTS.expand(3, 68, 2), "reference_landmarks": POINTS}
    with pytest.warns(UserWarning, match="emotion changes nothing where landmarks are given") as said:
        sad = pipe(portrait, emotion="sad", **options)
    assert len(said) == 1
    assert torch.equal(sad.frames, pipe(portrait, emotion="neutral", **options).frames)
    knows = tiny_pipeline()
    knows.renderer.register_to_config(trained_on=["neutral", "sad"])
    assert not torch.equal(knows(portrait, emotion="sad", **options).frames, sad.frames)


def test_the_emotion_is_plotted_beside_the_video(pipe, portrait, tmp_path, monkeypatch):
    options = {"reference_landmarks": POINTS, "emotion": "0 neutral, 0.2 happy", "progress": False}
    pipe.generate_file(portrait, speech(0.4), tmp_path / "a.mp4", plot_emotion=tmp_path / "a.svg", **options)
    assert "</svg>" in (tmp_path / "a.svg").read_text()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.mp4", "a.svg"]
    (tmp_path / "folder.png").mkdir()
    monkeypatch.setattr(pipe, "stream", lambda *_, **__: pytest.fail("the work has begun"))
    for name, error, message in (
        ("a.mp4", ValueError, "must be a file that ends in .png, .svg, .pdf"),
        ("no/a.png", FileNotFoundError, "plot_emotion .* its folder does not exist"),
        ("folder.png", IsADirectoryError, "plot_emotion .*folder.png' is a folder"),
    ):
        with pytest.raises(error, match=message):
            pipe.generate_file(portrait, speech(0.4), tmp_path / "b.mp4", plot_emotion=tmp_path / name, **options)
    assert not (tmp_path / "b.mp4").exists()
    for row, plot in (("%05d.png", "00003.png"), ("%d.png", "3.png")):
        with pytest.raises(ValueError, match="is the plot and would be written over; give another name"):
            pipe.generate_file(portrait, speech(0.4), tmp_path / row, plot_emotion=tmp_path / plot, **options)
    assert not list(tmp_path.glob("*3.png"))
    write_image(tmp_path / "me.png", portrait)
    before = (tmp_path / "me.png").read_bytes()
    with pytest.raises(ValueError, match="is the image and would be written over"):
        pipe.generate_file(
            tmp_path / "me.png", speech(0.4), tmp_path / "b.mp4", plot_emotion=tmp_path / "me.png", **options
        )
    assert (tmp_path / "me.png").read_bytes() == before


def test_a_saved_motion_renders_again(pipe, portrait, tmp_path):
    options = {"reference_landmarks": POINTS, "emotion": "neutral"}
    first = pipe(portrait, speech(0.5), fps=NTSC, **options)
    first.motion.save(tmp_path / "motion.npz")
    again = pipe(portrait, speech(0.5), landmarks=tmp_path / "motion.npz", **options)
    assert again.fps == NTSC
    # To the picture and back in float32: 1e-3 px at most, which may tip a rounding of a colour.
    assert torch.allclose(again.landmarks, first.landmarks, atol=1e-3)
    assert (again.frames.float() - first.frames.float()).abs().mean() < 0.5


def test_gains_reach_the_landmarks(pipe, portrait):
    options = {"reference_landmarks": POINTS, "emotion": "neutral", "size": 32}
    still = pipe(portrait, speech(0.6), mouth=0, pose=0, blink=0, idle=0, **options)
    face = still.landmarks[0]
    rest = pipe.stream(portrait, speech(0.6), **options)._portrait.reference_landmarks
    parts = [*range(31, 68)]  # brows and upper nose have no gain of their own
    assert torch.allclose(still.landmarks[:, parts[5:]], rest[parts[5:]], atol=2e-2)
    free = pipe(portrait, speech(0.6), **options)
    assert (free.landmarks[:, 48:] - rest[48:]).abs().max() > 10 * (face[48:] - rest[48:]).abs().max()


def test_silence_closes_an_open_mouth(pipe, portrait):
    result = pipe(portrait, torch.zeros(16000), reference_landmarks=POINTS, emotion="neutral", size=32)
    inner = result.landmarks[:, [61, 62, 63]] - result.landmarks[:, [67, 66, 65]]
    face = tiny_face(32)
    size = (face - face.mean(0)).norm(dim=-1).square().mean().sqrt()
    assert (face[62] - face[66]).norm() > 0.1 * size
    assert inner.norm(dim=-1).max() < 0.04 * size  # what a detector says of lips that touch is 0.035
    assert result.landmarks.std(0).max() > 0  # alive: it moves


def test_full_frame_changes_nothing_outside_the_crop(pipe, portrait):
    options = {"reference_landmarks": POINTS, "emotion": "happy"}
    result = pipe(portrait, speech(0.3), frame="full", **options)
    assert result.frames.shape == (8, 61, 72, 3)
    crop = pipe.stream(portrait, speech(0.3), **options)._portrait.crop
    x, y, side = int(crop.x), int(crop.y), int(crop.side)
    outside = torch.ones(61, 72, dtype=torch.bool)
    outside[max(y, 0) : y + side, max(x, 0) : x + side] = False
    assert outside.any()
    picture = portrait.permute(1, 2, 0)
    assert torch.equal(result.frames[:, outside], picture[outside].expand(8, -1, -1))
    assert not torch.equal(result.frames[0], picture)


def test_full_frame_keeps_the_portraits_own_sharpness(pipe):
    """A renderer that paints the warped portrait as it is, on a face that holds still, must give the picture back."""
    copyist = Renderer(size=32, widths=(8, 16), patch=2, output="residual")  # its last layer starts at zero
    still = TalkingHeadPipeline(pipe.landmark_net, None, copyist, pipe.scheduler, pipe.info)
    large = tiny_face(200) + 20
    picture = torch.randint(0, 255, (3, 240, 250), dtype=torch.uint8)  # all fine detail
    frames = still(
        picture, landmarks=large.expand(3, 68, 2), reference_landmarks=large, emotion="neutral", frame="full"
    ).frames
    # The crop is rounded to 8 bits at 32 px, which the enlargement passes on.
    assert (frames[0].int() - picture.permute(1, 2, 0).int()).abs().max() <= 2


def test_full_frame_moves_detail_with_the_face(pipe):
    copyist = Renderer(size=32, widths=(8, 16), patch=2, output="residual")
    still = TalkingHeadPipeline(pipe.landmark_net, None, copyist, pipe.scheduler, pipe.info)
    large = tiny_face(200) + 20
    picture = torch.full((3, 240, 250), 128, dtype=torch.uint8)
    x, y = (round(v) for v in large[33].tolist())  # a one-pixel freckle below the nose
    picture[:, y, x] = 255
    moving = torch.stack([large, large + torch.tensor([6.0, 0.0])])
    frames = still(picture, landmarks=moving, reference_landmarks=large, emotion="neutral", frame="full").frames
    seen = [divmod(int(frame[..., 0].argmax()), 250) for frame in frames]
    assert seen[0] == (y, x)
    assert seen[1] == pytest.approx((y, x + 6), abs=1)


def test_the_detector_is_asked_only_where_needed(pipe, portrait):
    detector = OneFace(POINTS)
    found = pipe(portrait, speech(0.1), detector=detector, face="center", emotion="sad")
    assert detector.asked == ["center"]
    told = pipe(portrait, speech(0.1), detector=detector, reference_landmarks=POINTS, emotion="sad")
    assert detector.asked == ["center"] and torch.equal(found.frames, told.frames)


@pytest.mark.parametrize(
    ("emotion", "expected"),
    [("happy", "happy"), ({"sad": 0.25, "happy": 0.75}, "happy"), ([0, 0, 0, 0, 0, 0, 0.9, 0.1], "sad")],
)
def test_emotion_in_any_form(pipe, portrait, emotion, expected):
    result = pipe(portrait, speech(0.1), reference_landmarks=POINTS, emotion=emotion)
    assert max(result.emotion, key=result.emotion.get) == expected


def test_emotion_is_heard_where_not_given(pipe, portrait):
    result = pipe(portrait, speech(0.4), reference_landmarks=POINTS)
    expected = pipe.emotion_net.probabilities(speech(0.4)[None])[0]
    assert list(result.emotion.values()) == pytest.approx(expected.tolist(), abs=1e-6)
