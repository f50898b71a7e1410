"""A live face: the same frames whatever the pieces, those of the whole recording where it was heard, bounded memory."""

import math
from fractions import Fraction

import pytest
import torch
from conftest import POINTS, shaken, speech, tiny_pipeline, tiny_portrait

from talkhead.face.head_state import read_head
from talkhead.nets.head_motion import HeadMotionNet
from talkhead.nets.renderer import Renderer
from talkhead.pipeline import TalkingHeadPipeline
from talkhead.speaker.folder import BUNDLED


def begin(pipe, **options):
    return pipe.live(tiny_portrait(), reference_landmarks=POINTS, **{"size": 32} | options)


def run(live, sound, piece):
    """Push pieces of a size; return frames, landmarks, sound, and the frames that had left after each piece."""
    parts, left = [], []
    for part in [*sound.split(piece), None]:
        parts.append(live.flush() if part is None else live.push(part))
        left.append(live.num_frames)
    starts = [p.start for p in parts]
    assert starts == [0, *torch.tensor([len(p.frames) for p in parts]).cumsum(0).tolist()[:-1]]
    frames, landmarks, heard = (torch.cat([getattr(p, n) for p in parts]) for n in ("frames", "landmarks", "audio"))
    return frames, landmarks, heard, left


@pytest.mark.parametrize("piece", [320, 1000, 16000])
def test_frames_do_not_depend_on_the_pieces(pipe, piece):
    sound = speech(1.3)
    frames, landmarks, heard, _ = run(begin(pipe), sound, piece)
    whole = run(begin(pipe), sound, len(sound))
    assert frames.shape == whole[0].shape == (33, 32, 32, 3)
    assert torch.allclose(landmarks, whole[1], atol=1e-4) and torch.equal(heard, sound)


def test_what_was_heard_whole_is_the_offline_video(pipe):
    """Look-ahead and history cover the recording: what is left to differ is nothing."""
    sound = speech(1.2)
    live = begin(pipe, look_ahead=2.0, history=2.0, hop=4)
    assert len(live.push(sound).frames) == 0
    last = live.flush()
    whole = pipe(
        tiny_portrait(), sound, reference_landmarks=POINTS, emotion="neutral", size=32, window=4, overlap=0,
        num_inference_steps=1,
    )  # fmt: skip
    assert torch.allclose(last.landmarks, whole.landmarks, atol=2e-3)  # another order of sums
    assert (last.frames.float() - whole.frames.float()).abs().mean() < 0.5


@pytest.mark.parametrize(
    ("options", "place", "finely"),
    [
        ({}, "cpu", False),
        ({}, "cuda", True),
        ({"fine": False}, "cuda", False),
        ({"fine": True}, "cpu", True),
        ({"fine": True, "size": 48}, "cpu", False),
    ],
)
def test_a_large_face_is_painted_as_offline_where_that_is_asked_for(options, place, finely, monkeypatch):
    """Of 200 px, a renderer of 64 px beside that of 32; of itself only on a card, which is said to be there."""
    pipe, sound = tiny_pipeline(), speech(0.5)
    pipe.fine_renderer = shaken(Renderer(size=64, widths=(8, 16), patch=2), 0.1).eval()
    image = torch.nn.functional.interpolate(tiny_portrait()[None].float(), scale_factor=4)[0].byte()
    given = {"reference_landmarks": (POINTS + 0.5) * 4 - 0.5, "size": 64}
    with monkeypatch.context() as patch:
        patch.setattr(TalkingHeadPipeline, "device", torch.device(place))
        live = pipe.live(image, look_ahead=2.0, history=2.0, hop=4, **(given | options))
    shown = torch.cat((live.push(sound).frames, live.flush().frames)).float()
    given |= {"emotion": "neutral", "num_inference_steps": 1, "window": 4, "overlap": 0}
    given["size"] = options.get("size", 64)
    both = pipe(image, sound, **given).frames.float()
    pipe.fine_renderer = None
    plain = pipe(image, sound, **given).frames.float()
    assert (shown - (both if finely else plain)).abs().mean() < 0.5
    assert live.portrait.face.shape[-1] == (64 if finely else 32)


@pytest.fixture(scope="module")
def lively() -> TalkingHeadPipeline:
    """The tests' small pipeline with the bundled speaker's head."""
    pipe = tiny_pipeline()
    pipe.head_net = HeadMotionNet.from_pretrained(BUNDLED / "head").eval()
    return pipe


def offline(pipe, sound, **options):
    options = {"emotion": "neutral", "size": 32, "num_inference_steps": 1} | options
    return pipe(tiny_portrait(), sound, reference_landmarks=POINTS, **options)


def test_a_drawn_head_that_was_heard_whole_is_the_offline_one(lively):
    sound, gains = speech(1.19), {"pose": 1.5, "brow": 0.5, "blink": 0.7, "idle": 0.9, "mouth": 1.1}
    live = begin(lively, look_ahead=2.0, hop=4, **gains)
    live.push(sound)
    assert torch.allclose(live.flush().landmarks, offline(lively, sound, **gains).landmarks, atol=2e-3)


def test_half_a_second_ahead_draws_the_offline_head_and_less_ahead_does_not_jump(lively):
    """The net may look further, but what lies there hardly moves it: what is left is the level not yet heard."""
    sound = torch.cat([speech(1.2), torch.zeros(4800), speech(0.9)])
    whole = offline(lively, sound, mouth=0.0).landmarks
    tracks = [run(begin(lively, look_ahead=ahead, mouth=0.0), sound, 3200)[1] for ahead in (0.5, 0.16)]
    live, true = (read_head(track.double(), whole[0].double()) for track in (tracks[0], whole))
    error, own = (x.square().mean(0).sqrt() for x in (live - true, true - true.mean(0)))
    assert (error < 0.25 * own).all()
    steps = [track[:, 27:36].diff(dim=0).norm(dim=-1).amax() for track in (tracks[1], whole)]
    assert steps[0] < 1.2 * steps[1]


def test_the_drawn_head_is_that_of_the_emotion(lively):
    """Of the emotion that was asked for, though at the first frame the face still shows none of it."""
    sound, nose = speech(0.6), slice(27, 36)
    whole = offline(lively, sound, mouth=0.0, emotion="angry").landmarks[:, nose]
    calm, angry = (
        run(begin(lively, look_ahead=2.0, mouth=0.0, emotion=name), sound, 40000)[1][:, nose]
        for name in ("neutral", "angry")
    )
    assert (angry - whole).norm() < 0.5 * (calm - whole).norm()


def test_whole_frames_of_look_ahead_are_so_many(pipe):
    for count in range(1, 50):
        assert begin(pipe, look_ahead=count / 25, hop=3).delay == pytest.approx((count + 3) / 25)


@pytest.mark.parametrize(("ahead", "hop"), [(0.0, 1), (0.16, 3), (0.5, 2)])
def test_a_frame_leaves_in_time(pipe, ahead, hop):
    live = begin(pipe, look_ahead=ahead, hop=hop)
    pieces = speech(1.0).split(640)  # one frame's sound each
    left = []
    for piece in pieces:
        live.push(piece)
        left.append(live.num_frames)
    for frame in range(len(pieces)):
        if frame + live.delay * 25 <= len(pieces):
            leaves = next(n for n, count in enumerate(left) if count > frame)  # while this frame's sound comes
            assert leaves - frame < live.delay * 25 + 1e-6
    assert live.delay == pytest.approx((math.ceil(ahead * 25) + hop) / 25)


def test_a_hop_says_what_it_waits_for_and_paints_what_it_moved(pipe):
    """The halves of ``push``, in whatever order: what is painted does not depend on what has been heard since."""
    sound, live = speech(1.0), begin(pipe, look_ahead=0.12, hop=3)
    assert live.missing == 6 * 640 and not len(live.move(sound[:3839]).landmarks) and live.missing == 1
    first, later = live.move(sound[3839:3840]), live.move(sound[3840:])
    assert len(first.landmarks) == 3 and live.missing > 0
    joined, rest = live.paint(first.join(later)), live.paint(live.finish())
    whole = begin(pipe, look_ahead=0.12, hop=3).push(sound)
    assert torch.equal(live.paint(first).frames, whole.frames[:3]) and rest.start == len(joined.frames)
    assert torch.equal(joined.frames, whole.frames) and torch.equal(torch.cat((joined.audio, rest.audio)), sound)


def test_silence_idles_alive(pipe):
    frames, landmarks, _, _ = run(begin(pipe), torch.zeros(48000), 1600)
    inner = (landmarks[:, [61, 62, 63]] - landmarks[:, [67, 66, 65]]).norm(dim=-1)
    size = (landmarks[0] - landmarks[0].mean(0)).norm(dim=-1).square().mean().sqrt()
    assert inner.max() < 0.05 * size  # closed
    assert landmarks.std(0).max() > 0.01  # and it moves


def test_a_buffer_that_is_filled_again_changes_nothing(pipe):
    """As the callback of a microphone does it: one array, new samples in it each time."""
    sound, buffer, live, parts = speech(1.0), torch.empty(400), begin(pipe), []
    for part in sound.split(400):
        buffer[: len(part)] = part
        parts.append(live.push(buffer[: len(part)]))
    parts.append(live.flush())
    _, landmarks, heard, _ = run(begin(pipe), sound, 400)
    assert torch.equal(torch.cat([part.landmarks for part in parts]), landmarks)
    assert torch.equal(torch.cat([part.audio for part in parts]), heard)


def test_what_leaves_may_be_changed_in_place(pipe):
    """As what the offline call gives: a caption into the frames, a fade into the sound; later frames do not know."""
    sound, live, parts = speech(1.0), begin(pipe), []
    for half in sound.split(8000):
        motion = live.move(half)
        parts.append(live.paint(motion).landmarks.clone())
        for left in (live.paint(motion), motion):
            left.landmarks.zero_()
            left.audio.zero_()
        live.paint(motion).frames.zero_()
    _, landmarks, _, _ = run(begin(pipe), sound, 8000)
    assert torch.equal(torch.cat(parts), landmarks[: sum(map(len, parts))])


def test_memory_is_bounded(pipe, monkeypatch):
    monkeypatch.setattr("talkhead.pipeline.live.REMEMBERED_SECONDS", 3.0)
    live, kept = begin(pipe, history=1.0), []
    for _ in range(20):
        live.push(speech(0.5), at_most=0)
        kept.append(len(live._sound))
    assert max(kept) <= 16000 * 5 and live.num_frames == 243 + 3  # the last hop of 3 + 4 that 250 frames' sound covers
    assert live._first % 640 == 0


def test_who_is_late_skips_frames_and_keeps_their_time(pipe):
    sound = speech(1.2)
    whole = begin(pipe).push(sound)
    live = begin(pipe)
    late = live.push(sound, at_most=3)
    assert len(late.frames) == 3 and late.start == len(whole.frames) - 3
    assert torch.equal(late.landmarks, whole.landmarks[-3:])
    assert len(late.audio) == 3 * 640


def test_any_frame_rate(pipe):
    frames, _, heard, _ = run(begin(pipe, fps=Fraction(30000, 1001)), speech(1.0), 777)
    assert len(frames) == 30 and len(heard) == 16000


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("look_ahead", -1, r"^look_ahead must lie in 0\.\.\d+ s; got -1$"),
        ("history", 0.0, r"^history must be above 0, and at most \d+ s; got 0\.0$"),
        ("look_ahead", "1", "^look_ahead must lie in .* got '1'$"),
        ("history", None, "^history must be above 0, .* got None$"),
        ("size", "x", "^size must be a whole number .* got 'x'$"),
        ("hop", 0, "hop must be a whole number of frames, at least 1; got 0"),
        ("hop", 2.5, "hop must be a whole number"),
        ("mouth", -1, "mouth"),
        ("seed", 2**64, "seed must be a whole number"),
        ("seed", "x", "seed must be a whole number"),
        ("num_inference_steps", 0, "num_inference_steps must be a whole number of at least 1; got 0"),
        ("num_inference_steps", 5000, r"num_inference_steps must lie in 1\.\.1000"),
    ],
)
def test_a_stream_is_refused_before_it_begins(pipe, option, value, words):
    with pytest.raises(ValueError, match=words):
        begin(pipe, **{option: value})


def test_refusals(pipe):
    live = begin(pipe)
    wrong = (torch.zeros(2, 5), torch.zeros(5, dtype=torch.int16), torch.full((5,), torch.nan), None, "hello.wav", b"")
    for samples in wrong:
        with pytest.raises(ValueError, match="^samples must"):
            live.push(samples)
    for late in (-1, 2.5, True):
        with pytest.raises(ValueError, match="at_most must be a whole number of frames, or None; got"):
            live.paint(live.move(torch.zeros(0)), late)
    live.flush()
    with pytest.raises(ValueError, match="over"):
        live.push(speech(0.1))
