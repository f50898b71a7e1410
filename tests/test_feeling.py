"""Which emotion when: keys and their easing by hand, what is left to the networks, and the stage between them."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from conftest import POINTS as FACE
from conftest import speech
from lightning import Trainer
from torch.utils.data import DataLoader

from talkhead.data.clip import EMOTIONS, Clip, emotion_probabilities
from talkhead.data.dataset import collate
from talkhead.face.expression import average_face, expression
from talkhead.face.idle import idle_motion
from talkhead.face.mouth_gate import gaps_between_lips
from talkhead.face.points import EYELIDS, UPPER_LIDS
from talkhead.modules.landmark import LandmarkGenerator
from talkhead.nets.conformer import ConformerClassifier
from talkhead.nets.landmark import LandmarkNet
from talkhead.nets.renderer import Renderer
from talkhead.pipeline import talking_head
from talkhead.pipeline.feeling import NEUTRAL, emotion_keys, leave_to, left_by
from talkhead.pipeline.hearing import CALM, believed, heard_keys, stretches
from talkhead.pipeline.worn import breathing, wear_expressions

FPS = Fraction(25)
HAPPY, SAD = (emotion_probabilities(name) for name in ("happy", "sad"))
POINTS = torch.rand(68, 2, generator=torch.Generator().manual_seed(3)) * 60 + 30


def landmark_net(trained_on=None):
    return LandmarkNet(
        width=16, layers=1, attention_layers=0, heads=2, fusion="concat", dropout=0.0, trained_on=trained_on
    )


def seconds(*times):
    return torch.tensor(times, dtype=torch.float64)


def test_an_emotion_rises_in_half_a_second():
    keys = emotion_keys("happy")
    shown = keys.shown_at(seconds(0, 0.125, 0.25, 0.5, 100))[:, EMOTIONS.index("happy")]
    # raised cosine: (1 - cos(pi t / 0.5)) / 2
    assert shown.tolist() == pytest.approx([0, (1 - math.sqrt(0.5)) / 2, 0.5, 1, 1], abs=1e-6)
    assert torch.equal(keys.asked_at(seconds(0, 7)), torch.stack([HAPPY, HAPPY]))


@pytest.mark.parametrize(
    "track",
    ["0 neutral, 2.5 happy, 6 sad", "2.5 happy,6 sad", [(0, "neutral"), (2.5, {"happy": 1.0}), (6, SAD.tolist())]],
)
def test_a_track_goes_from_one_emotion_to_the_next(track):
    keys = emotion_keys(track)
    assert torch.equal(keys.shown_at(seconds(1, 4, 7)), torch.stack([NEUTRAL, HAPPY, SAD]))
    assert torch.allclose(keys.shown_at(seconds(6.25)), (HAPPY + SAD)[None] / 2, atol=1e-6)
    assert torch.equal(keys.asked_at(seconds(2.4, 2.5, 9)), torch.stack([NEUTRAL, HAPPY, SAD]))


def test_crowded_keys_stay_a_mixture():
    keys = emotion_keys([(i / 10, EMOTIONS[i % 8]) for i in range(20)])
    shown = keys.shown_at(torch.linspace(0, 3, 200, dtype=torch.float64))
    assert shown.min() > -1e-6 and torch.allclose(shown.sum(1), torch.ones(200), atol=1e-5)
    assert shown.diff(dim=0).abs().max() < 0.15  # no jump


@pytest.mark.parametrize("kind", [list, tuple, torch.tensor, np.array])
@pytest.mark.parametrize("one", [1, 1.0])
def test_eight_numbers_are_probabilities_whole_or_not(kind, one):
    assert torch.equal(emotion_keys(kind([0, 0, 0, 0, one, 0, 0, 0])).asked, HAPPY[None])
    assert torch.equal(emotion_keys([(0, [0, 0, 0, 0, one, 0, 0, 0])]).asked, HAPPY[None])


@pytest.mark.parametrize(
    ("emotion", "message"),
    [
        ("2 happy, 1 sad", "must rise, from 0 s on"),
        ("0 neutral, two happy", "a track is written '0 neutral, 2.5 happy, 6 sad'.*got 'two happy'"),
        ("0 neutral, 1 merry", "emotion must be one of angry"),
        ([(-1, "happy")], "must rise, from 0 s on"),
        ([(math.nan, "happy")], "must rise, from 0 s on"),
    ],
)
def test_a_track_that_is_none_is_refused(emotion, message):
    with pytest.raises(ValueError, match=message):
        emotion_keys(emotion)


def test_networks_are_told_what_they_have_learnt():
    mixed = 0.5 * HAPPY + 0.3 * SAD + 0.2 * NEUTRAL
    knows = landmark_net(["neutral", "happy"])
    assert torch.allclose(leave_to(knows, mixed), 0.5 * HAPPY + 0.5 * NEUTRAL)
    assert torch.allclose(left_by(knows, mixed), 0.3 * SAD)
    assert torch.allclose(leave_to(knows, mixed, 0.5), 0.25 * HAPPY + 0.75 * NEUTRAL)
    assert torch.equal(leave_to(landmark_net(), HAPPY), NEUTRAL)  # it does not say: neutral alone
    only = Renderer(size=16, widths=(8, 16), patch=2, trained_on=["angry", "sad"])
    assert torch.allclose(leave_to(only, HAPPY), (emotion_probabilities("angry") + SAD) / 2)
    assert torch.allclose(leave_to(only, SAD), SAD)


def test_nets_remember_what_they_were_trained_on(tmp_path):
    landmark_net(["neutral", "sad"]).save_pretrained(tmp_path)
    assert LandmarkNet.from_pretrained(tmp_path).config["trained_on"] == ["neutral", "sad"]


def worn(emotion, strength=1.0, chunk=100, net=None, motion=None, face=POINTS):
    motion = face.expand(100, 68, 2) if motion is None else motion
    strengths = torch.full((len(motion),), float(strength))
    parts = wear_expressions(
        iter(motion.split(chunk)), face, emotion_keys(emotion), net or landmark_net(), strengths, FPS
    )
    return torch.cat(list(parts))


def test_nothing_to_show_touches_nothing():
    motion = POINTS + torch.rand(100, 68, 2, generator=torch.Generator().manual_seed(0))
    assert torch.equal(worn("neutral", motion=motion), motion)
    assert torch.equal(worn("happy", strength=0, motion=motion), motion)
    assert torch.equal(worn("happy", net=landmark_net(["neutral", "happy"]), motion=motion), motion)
    assert not torch.equal(worn("happy", motion=motion), motion)


def test_chunks_change_nothing():
    motion = POINTS + torch.rand(100, 68, 2, generator=torch.Generator().manual_seed(0))
    whole = worn("0.2 happy, 1 angry, 3 neutral", motion=motion)
    for chunk in (1, 7, 64):
        parts = worn("0.2 happy, 1 angry, 3 neutral", motion=motion, chunk=chunk)
        assert torch.allclose(parts, whole, atol=1e-4)  # px: sums of float32 in another order


@pytest.mark.parametrize("emotion", [name for name in EMOTIONS if name != "neutral"])
def test_no_step_is_longer_than_the_words_own(emotion):
    """Coming, staying and going: the lips open as the words open them, and the rest moves slower than they do."""
    face = average_face()[:, :2] * torch.tensor([10.0, -10.0]) + 100
    course = 0.2 * torch.sin(torch.arange(100)).clamp_min(0)  # four syllables a second
    motion = face + course[:, None, None] * (expression(face, {"jawOpen": 1.0}) - face)
    shown = worn(f"0 neutral, 0.6 {emotion}, 2.4 neutral", motion=motion, face=face)
    words, steps = (x.diff(dim=0).norm(dim=-1) for x in (motion, shown))
    assert (shown - motion)[30:60].norm(dim=-1).max() > 3  # px: it shows
    assert steps.max() <= 1.02 * words.max()
    gaps = [gaps_between_lips(x) for x in (motion, shown)]
    assert torch.allclose(gaps[1], gaps[0], atol=1e-3)  # px


@pytest.mark.parametrize("emotion", ["surprised", "fear"])
def test_no_blink_of_a_wide_eye_is_longer_than_the_words_own(emotion):
    """The lids close in the same frames, as far as they close, and no point steps further than without the emotion."""
    face = average_face()[:, :2] * torch.tensor([10.0, -10.0]) + 100
    face[UPPER_LIDS] -= torch.tensor([0.0, 3.0])  # a blink's longest step lies above LEAST_STEP
    motion = idle_motion(face.expand(400, 68, 2), 25)  # four blinks
    shown = worn(emotion, motion=motion, face=face)
    words, steps = (x.diff(dim=0).norm(dim=-1) for x in (motion, shown))
    assert steps.max() <= 1.001 * words.max()
    gaps, wide = (torch.stack([(x[:, lo] - x[:, up]).norm(dim=-1) for up, lo in EYELIDS], 1) for x in (motion, shown))
    assert wide[50].mean() > 1.05 * gaps[50].mean()  # it shows
    shut = gaps < 0.1 * gaps.amax(0)
    assert shut.any(0).all() and (wide[shut] < 0.2 * gaps.amax()).all()


def test_breathing_follows_the_voice_and_the_seed():
    loud = 0.3 * torch.sin(torch.arange(64_000) * 0.2)
    sound = torch.cat([loud, torch.zeros(64_000)])
    breath = breathing(sound, 200, FPS, seed=0)
    assert breath[:90].mean() > breath[110:].mean() + 0.15
    assert breath.min() > 0.75 and breath.max() < 1.15 and breath.diff().abs().max() < 0.03
    assert torch.equal(breathing(sound, 200, FPS, seed=0), breath)
    assert not torch.equal(breathing(sound, 200, FPS, seed=1), breath)


def test_a_track_says_and_draws_what_is_shown(tmp_path):
    track = emotion_keys("0 neutral, 1 happy").track(10, 60, FPS)
    assert track.word(0) == "neutral 1.00" and track.word(49) == "happy 1.00"
    assert track.mean == pytest.approx({**dict.fromkeys(EMOTIONS, 0.0), "neutral": 15 / 50, "happy": 35 / 50})
    track.plot(tmp_path / "track.png")
    assert (tmp_path / "track.png").read_bytes()[:4] == b"\x89PNG"


def test_stretches_cover_the_recording_and_overlap():
    sound = torch.arange(11 * 16_000)
    pieces = list(stretches(sound))
    assert [(int(p[0]) / 16_000, (int(p[-1]) + 1) / 16_000) for p in pieces] == [
        (0, 4),
        (2, 6),
        (4, 8),
        (6, 10),
        (7, 11),
    ]
    assert len(list(stretches(sound[:16_000]))) == 1 and len(list(stretches(sound[: 4 * 16_000]))) == 1


def test_the_whole_recording_is_heard(monkeypatch):
    net = ConformerClassifier("XS", trained_on=["happy", "neutral", "sad"])
    answers = {1.0: HAPPY, -1.0: SAD}  # told apart by the sign of the samples
    monkeypatch.setattr(net, "probabilities", lambda audio: answers[float(audio[0].sum().sign())][None])
    sound = torch.cat([torch.ones(9 * 16_000), -torch.ones(11 * 16_000)])
    keys = heard_keys(net, sound)
    heard = keys.asked_at(seconds(0, 3, 18, 19.9))
    assert torch.allclose(heard, torch.stack([HAPPY, HAPPY, SAD, SAD]), atol=1e-6)
    shown = keys.shown_at(seconds(4, 19))
    assert shown[0].argmax() == EMOTIONS.index("happy") and shown[1].argmax() == EMOTIONS.index("sad")


def test_what_is_heard_must_be_clear_to_be_believed():
    net = ConformerClassifier("XS", trained_on=["happy", "neutral", "sad"])
    half = 0.5 * HAPPY + 0.5 * NEUTRAL
    odds = ((1 - CALM) / 2) / CALM  # prior odds of happy to neutral; the likelihoods are equal
    assert believed(half, net)[EMOTIONS.index("happy")].item() == pytest.approx(odds / (1 + odds), abs=1e-6)
    assert torch.allclose(believed(HAPPY, net), HAPPY) and torch.allclose(believed(NEUTRAL, net), NEUTRAL)


def emotional_clips(emotions, shape, frames=8):
    """Clips of one still face that is moved by ``shape`` (68, 2) px wherever the emotion is happy."""
    generator = torch.Generator().manual_seed(1)
    for name in emotions:
        audio = 0.1 * torch.randn(frames * 640, generator=generator)
        face = POINTS + (name == "happy") * shape
        yield Clip(
            audio=audio,
            emotion=torch.tensor(EMOTIONS.index(name)),
            fps=torch.tensor(25.0),
            samples=torch.tensor(len(audio)),
            landmarks=face.expand(frames, 68, 2),
            reference_landmarks=POINTS,
        )


def test_nothing_is_done_twice(tmp_path):
    """A net trained on happy clips smiles by itself, once; anger, which it never saw, is worn."""
    shape = torch.zeros(68, 2)
    shape[48:, 1] = -5.0
    clips = list(emotional_clips(["happy", "neutral"] * 4, shape))
    loader = DataLoader(clips, batch_size=8, collate_fn=collate)  # type: ignore[arg-type]
    module = LandmarkGenerator(landmark_net(), learning_rate=2e-2)
    trainer = Trainer(
        max_epochs=40, logger=False, enable_progress_bar=False, enable_model_summary=False, accelerator="cpu",
        enable_checkpointing=False,
        check_val_every_n_epoch=1000,
        num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(module, loader, loader)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    again = LandmarkGenerator(landmark_net())
    again.on_load_checkpoint(checkpoint)
    assert again.net.config["trained_on"] == ["happy", "neutral"] == module.net.config["trained_on"]
    net, sound = module.net.eval(), clips[0].audio.repeat(20)  # 6.4 s: two windows

    def corners(emotion):
        keys = emotion_keys(emotion)
        told = keys.told_at(torch.arange(160, dtype=torch.float64) / 25, net, 1.0)
        motion = net.generate(sound, POINTS, told, gate=False, idle=0)
        parts = wear_expressions(iter([motion]), POINTS, keys, net, torch.ones(160), FPS)
        return motion, torch.cat(list(parts))

    calm, happy, angry = (corners(name) for name in ("neutral", "happy", "angry"))
    assert torch.equal(calm[1], calm[0]) and torch.equal(happy[1], happy[0])  # left to the net
    lifted = (happy[1] - calm[1])[30:, [48, 54], 1].mean()
    assert lifted.item() == pytest.approx(-5, abs=1)  # what the clips taught, not that and a smile on top
    assert torch.allclose(angry[0], calm[0], atol=1e-4)  # the net is told neutral
    assert (angry[1] - calm[1])[30:, 17:27].norm(dim=-1).mean() > 0.5


def test_strength_zero_and_neutral_write_the_file_of_a_pipeline_without_the_stage(
    pipe, portrait, tmp_path, monkeypatch
):
    def written(name, emotion, **options):
        options |= {"reference_landmarks": FACE, "size": 32, "progress": False}
        return pipe.generate_file(
            portrait, speech(0.8), tmp_path / f"{name}.mp4", emotion=emotion, **options
        ).read_bytes()

    neutral, nothing = written("a", "neutral"), written("b", "happy", emotion_strength=0)
    assert written("c", "happy") != neutral
    monkeypatch.setattr(talking_head, "wear_expressions", lambda landmarks, *others: landmarks)
    assert written("d", "neutral") == neutral == nothing
