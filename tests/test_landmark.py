"""The landmark net and its module: geometry, any length, saving, streaming, silence, training."""

import math

import pytest
import torch

from talkhead.data.clip import Clip, emotion_probabilities
from talkhead.face.frame import describe_portrait, face_frame, summarize_portrait, to_face
from talkhead.metrics import mouth_opening
from talkhead.modules.landmark import LandmarkGenerator, landmark_loss
from talkhead.nets.landmark import LandmarkNet
from talkhead.speech.level import num_frames_of

NEUTRAL = emotion_probabilities("neutral")


def make_net(**options) -> LandmarkNet:
    """A small net with a random last layer, in evaluation mode."""
    torch.manual_seed(5)
    net = LandmarkNet(**{"width": 32, "heads": 2, **options}).eval()
    torch.nn.init.normal_(net.head[-1].weight, std=0.3)
    return net


def face() -> torch.Tensor:
    """A rough face: an oval of points with level eyes, its lips together. Px of a 128-px frame."""
    generator = torch.Generator().manual_seed(2)
    angle = torch.linspace(0, 2 * math.pi, 69)[:68]
    points = torch.stack([64 + 30 * angle.cos(), 64 + 38 * angle.sin()], -1) + torch.rand(68, 2, generator=generator)
    points[36:42] = torch.tensor([50.0, 50.0]) + torch.rand(6, 2, generator=generator)
    points[42:48] = torch.tensor([78.0, 50.0]) + torch.rand(6, 2, generator=generator)
    points[61:64] = torch.tensor([[60.0, 85], [64, 85], [68, 85]])
    points[65:68] = torch.tensor([[68.0, 85.5], [64, 85.5], [60, 85.5]])
    return points


def speech(seconds: float) -> torch.Tensor:
    """Bursts of noise with gaps, about three a second."""
    time = torch.arange(round(16000 * seconds)) / 16000
    generator = torch.Generator().manual_seed(1)
    return 0.2 * torch.randn(len(time), generator=generator) * (torch.sin(2 * math.pi * 1.5 * time) > -0.3)


def turned(points: torch.Tensor, degrees: float, scale: float, shift: tuple[float, float]) -> torch.Tensor:
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return scale * points @ torch.tensor([[cos, sin], [-sin, cos]]) + torch.tensor(shift)


def steps(landmarks: torch.Tensor) -> torch.Tensor:
    """The (T - 1,) largest move of any point from one frame to the next, px."""
    return (landmarks[1:] - landmarks[:-1]).norm(dim=-1).amax(-1)


def test_face_frame_is_a_size_and_a_rotation() -> None:
    points = turned(face(), 25.0, 1.5, (10, -4))
    centre, axes = face_frame(points)
    q = to_face(points, (centre, axes))
    torch.testing.assert_close(q @ axes + centre, points, rtol=0, atol=1e-3)  # float32 at 100 px
    assert q.square().sum(-1).mean().item() == pytest.approx(1, abs=1e-4)
    eyes = q[42:48].mean(0) - q[36:42].mean(0)
    assert eyes[1].abs() < 1e-5 and eyes[0] > 0
    torch.testing.assert_close(q, to_face(face(), face_frame(face())), rtol=0, atol=1e-4)


def test_untrained_net_says_no_motion() -> None:
    reference_landmarks = face()[None]
    out = LandmarkNet(width=32, heads=2).eval()(speech(1)[None], reference_landmarks, NEUTRAL[None], 25)
    torch.testing.assert_close(out, reference_landmarks[:, None].expand(-1, 25, -1, -1), rtol=0, atol=1e-4)


def test_motion_turns_scales_and_moves_with_the_face() -> None:
    net = make_net()
    args = (speech(1)[None],)
    plain = net(*args, face()[None], NEUTRAL[None], 25)
    assert (plain - face()).abs().max() > 1
    for move in ((0, 3.0, (0, 0)), (0, 1.0, (500, -20)), (40, 1.0, (0, 0)), (-15, 0.3, (7, 9))):
        moved = net(*args, turned(face(), *move)[None], NEUTRAL[None], 25)
        # Relative to a face of up to 600 px, float32 leaves a thousandth of a pixel.
        torch.testing.assert_close(moved, turned(plain, *move), rtol=1e-5, atol=2e-3)


@pytest.mark.parametrize("view", ["points", "summary"])
def test_with_the_picture_it_moves_with_the_picture(view: str) -> None:
    net = make_net(portrait_view=view, habits=3)
    small = net(speech(1)[None], face()[None], NEUTRAL[None], 25, size=128)
    # A picture twice as wide: pixel centres go from x to 2 x + 1/2.
    large = net(speech(1)[None], 2 * face()[None] + 0.5, NEUTRAL[None], 25, size=256)
    torch.testing.assert_close(large, 2 * small + 0.5, rtol=1e-5, atol=2e-3)
    assert (small - net(speech(1)[None], face()[None], NEUTRAL[None], 25)).abs().max() > 1e-3


def test_portrait_in_the_middle_has_no_offset() -> None:
    reference_landmarks = face() - face().mean(0) + 63.5
    described = describe_portrait(reference_landmarks[None], 128)[0]
    assert described.shape == (140,)
    assert described[136:138].abs().max() < 1e-5


def test_summary_of_a_portrait() -> None:
    reference_landmarks = face()
    wide = reference_landmarks.clone()
    wide[65:68, 1] += 6
    summary, opened = summarize_portrait(torch.stack([reference_landmarks, wide]), 128)
    assert summary.shape == (22,)
    # The box's edges come after place, size and roll; only the lower lip's inner points differ, and not at an edge.
    edges = (torch.cat([reference_landmarks.amin(0), reference_landmarks.amax(0)]) + 0.5) / 128
    torch.testing.assert_close(summary[4:8], edges)
    torch.testing.assert_close(opened[4:8], edges)
    size = face_frame(wide)[1][0].norm()
    assert opened[8].item() == pytest.approx((mouth_opening(wide) / size).item(), abs=1e-3)


def test_nothing_but_the_pace_tells_the_habits_apart() -> None:
    net = make_net(portrait_view="points", habits=2)
    net.progress.weight.data.zero_()
    net.progress.bias.data.copy_(torch.tensor([0.0, -50.0]))  # the second has not begun
    blind = net(speech(1)[None], face()[None], NEUTRAL[None], 25)
    net.portrait.weight.data.zero_()
    net.habit.weight.data[136:] = 1.0
    shown = net(speech(1)[None], face()[None], NEUTRAL[None], 25, size=128)
    torch.testing.assert_close(shown, blind, rtol=0, atol=1e-3)
    net.habit.weight.data[:136] = 1.0
    assert (net(speech(1)[None], face()[None], NEUTRAL[None], 25, size=128) - blind).abs().max() > 0.1


@pytest.mark.parametrize(("samples", "frames"), [(16000, 25), (16000, 60), (7777, 3), (1, 1), (64000, 100)])
def test_any_length(samples: int, frames: int) -> None:
    net = make_net()
    assert net(torch.randn(2, samples), face().expand(2, -1, -1), NEUTRAL.expand(2, -1), frames).shape == (
        2,
        frames,
        68,
        2,
    )


def test_loudness_does_not_matter() -> None:
    net, audio = make_net(), speech(2)[None]
    plain = net(audio, face()[None], NEUTRAL[None], 50)
    for gain in (0.1, 3.0):
        torch.testing.assert_close(net(gain * audio, face()[None], NEUTRAL[None], 50), plain, rtol=0, atol=2e-2)


def test_emotions_never_trained_behave_like_neutral() -> None:
    net, audio = make_net(), speech(1)[None]
    neutral = net(audio, face()[None], NEUTRAL[None], 25)
    torch.testing.assert_close(net(audio, face()[None], emotion_probabilities("happy")[None], 25), neutral)
    torch.nn.init.normal_(net.emotion.weight)
    assert not torch.allclose(net(audio, face()[None], emotion_probabilities("happy")[None], 25), neutral)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"branches": ("raw",)},
        {"branches": ("content",), "fusion": "concat"},
        {"recurrent": "gru", "layers": 1},
        {"portrait_view": "summary", "habits": 4},
    ],
)
def test_saved_net_is_the_same_net(options: dict, tmp_path) -> None:
    net = make_net(**options)
    net.save_pretrained(tmp_path)
    again = LandmarkNet.from_pretrained(tmp_path).eval()
    assert all(torch.equal(a, b) for a, b in zip(again.state_dict().values(), net.state_dict().values(), strict=True))
    args = (speech(1)[None], face()[None], NEUTRAL[None], 25)
    # The weights are the same bits; where they lie in memory decides in which order a product is added up.
    torch.testing.assert_close(again(*args), net(*args), rtol=0, atol=1e-4)


def test_saved_net_brings_its_pretrained_encoder(tmp_path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.Wav2Vec2Config(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        conv_dim=(8, 8),
        conv_kernel=(10, 8),
        conv_stride=(10, 8),
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
    )
    encoder = tmp_path / "encoder"
    transformers.Wav2Vec2Model(config).save_pretrained(encoder)
    net = make_net(encoder=str(encoder))
    net.save_pretrained(tmp_path / "net")
    for file in encoder.iterdir():
        file.unlink()
    again = LandmarkNet.from_pretrained(tmp_path / "net").eval()
    assert all(torch.equal(a, b) for a, b in zip(again.state_dict().values(), net.state_dict().values(), strict=True))
    args = (speech(1)[None], face()[None], NEUTRAL[None], 25)
    # The weights are the same bits; where they lie in memory decides in which order a product is added up.
    torch.testing.assert_close(again(*args), net(*args), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"branches": ("video",)}, "branches"),
        ({"fusion": "sum"}, "fusion"),
        ({"recurrent": "rnn"}, "recurrent"),
        ({"portrait_view": "photo"}, "portrait_view"),
        ({"habits": 0}, "habits"),
    ],
)
def test_unknown_choices_are_refused(options: dict, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        LandmarkNet(**options)


def test_wrong_shapes_are_refused() -> None:
    net = make_net()
    good = {"audio": speech(1)[None], "reference_landmarks": face()[None], "emotion": NEUTRAL[None], "num_frames": 25}
    for name, value in (
        ("audio", speech(1)),
        ("reference_landmarks", face()),
        ("emotion", NEUTRAL),
        ("num_frames", 0),
        ("audio", torch.zeros(1, 0)),
    ):
        with pytest.raises(ValueError, match=name):
            net(**{**good, name: value})
    for name in ("fps", "window_seconds"):
        with pytest.raises(ValueError, match=f"^{name} must be above 0; got 0$"):
            net.generate(speech(1), face(), NEUTRAL, **{name: 0})
    with pytest.raises(ValueError, match="no face"):
        net.generate(speech(1), face() * float("nan"), NEUTRAL)
    with pytest.raises(ValueError, match="fps"):
        net.generate(speech(1), face(), NEUTRAL, fps=0)
    with pytest.raises(ValueError, match="audio"):
        net.generate(torch.zeros(0), face(), NEUTRAL)


def test_num_frames_drops_no_tail() -> None:
    assert [num_frames_of(s, 25) for s in (1, 640, 641, 48000)] == [1, 1, 2, 75]
    fps = 30000 / 1001
    for frames in (1, 89, 500):  # what preprocessing cuts for that many frames comes back as that many
        assert num_frames_of(round(frames / fps * 16000), fps) == frames


@pytest.mark.parametrize("fps", [25.0, 30000 / 1001, 60.0])
def test_stream_makes_every_frame_once(fps: float) -> None:
    net = make_net()
    for seconds in (0.02, 1.0, 9.3):
        audio = speech(seconds)
        pieces = list(net.stream(audio, face(), NEUTRAL, fps, window_seconds=2, context_seconds=0.5))
        assert sum(map(len, pieces)) == math.ceil(seconds * fps - 1e-6)
        assert torch.cat(pieces).isfinite().all()


def test_one_window_is_the_net_itself() -> None:
    net, audio = make_net(), speech(3)
    alone = net.generate(audio, face(), NEUTRAL, gate=False, idle=0)
    with torch.no_grad():
        torch.testing.assert_close(alone, net(audio[None], face()[None], NEUTRAL[None], 75)[0])


def test_windows_meet_without_a_jump() -> None:
    net, audio = make_net(), speech(12)
    whole = net.generate(audio, face(), NEUTRAL, gate=False, idle=0, window_seconds=20)
    parts = net.generate(audio, face(), NEUTRAL, gate=False, idle=0, window_seconds=2, context_seconds=1)
    assert steps(parts).max() < 1.2 * steps(whole).max()
    assert (parts - whole).norm(dim=-1).mean() < 0.2 * (whole - whole.mean(0)).norm(dim=-1).mean()


def test_silence_is_a_closed_mouth_and_a_living_face() -> None:
    net = make_net()
    opened = face()
    opened[65:68, 1] += 8
    quiet = net.generate(torch.zeros(64000), opened, NEUTRAL)
    assert quiet.shape == (100, 68, 2)
    assert mouth_opening(quiet).max() < 0.05 * face_frame(face())[1][0].norm()
    assert (quiet - quiet[0]).abs().max() > 0.2


def test_a_pause_closes_the_mouth_and_speech_opens_it_again() -> None:
    net = make_net()
    audio = torch.cat([speech(2), torch.zeros(32000), speech(2)])
    made = net.generate(audio, face(), NEUTRAL, idle=0)
    opening, rest = mouth_opening(made), mouth_opening(face())
    assert (opening[60:90] - rest).abs().max() < 0.1 * rest + 0.02
    assert opening[:45].std() > 0.2
    # The way into the pause is no faster than speech itself.
    assert steps(made)[44:60].max() <= steps(made)[:44].max()


def test_loss_of_a_hand_worked_case() -> None:
    target = torch.zeros(1, 2, 68, 2)
    predicted = target.clone()
    predicted[0, 1, :, 0] = 0.03  # three percent of the face, in the second frame
    assert landmark_loss(predicted, target).item() == pytest.approx((0 + 9) / 2)
    assert landmark_loss(predicted, target, velocity_weight=2).item() == pytest.approx(4.5 + 2 * 9)
    assert landmark_loss(predicted, target, distance="euclidean").item() == pytest.approx(1.5, abs=0.01)
    mouth = target.clone()
    mouth[..., 48:, 0] = 0.01
    assert landmark_loss(mouth, target, mouth_weight=2).item() == pytest.approx(20 * 3 / (48 + 20 * 3))
    gap = target.clone()
    gap[..., 65:68, 1] = 0.01
    assert landmark_loss(gap, target, opening_weight=1).item() == pytest.approx(3 / 68 + 1)


def test_frames_without_a_face_do_not_count() -> None:
    target = torch.zeros(1, 3, 68, 2)
    target[0, 1] = float("nan")
    predicted = torch.full((1, 3, 68, 2), 0.01, requires_grad=True)
    loss = landmark_loss(predicted, target, velocity_weight=1)
    assert loss.item() == pytest.approx(2.0)
    loss.backward()
    assert predicted.grad.isfinite().all() and (predicted.grad[0, 1] == 0).all()


def batch() -> Clip:
    audio = torch.stack([speech(1), 0.5 * speech(1).flip(0)])
    envelope = audio.abs().view(2, 25, 640).mean(-1)
    landmarks = face().expand(2, 25, -1, -1).clone()
    landmarks[:, :, 65:68, 1] += 60 * envelope.unsqueeze(-1)
    return Clip(
        audio=audio,
        emotion=torch.tensor([5, 5]),
        fps=torch.tensor([25.0, 25.0]),
        samples=torch.tensor([16000, 16000]),
        landmarks=landmarks,
        reference_landmarks=face().expand(2, -1, -1),
    )


@pytest.mark.parametrize("portrait", [0.0, 0.5])
def test_training_learns_to_open_the_mouth_with_the_sound(portrait: float) -> None:
    module = LandmarkGenerator(
        LandmarkNet(width=32, heads=2, layers=1, dropout=0.0, spec_augment=False, portrait_view="points"),
        velocity_weight=0.5,
        portrait=portrait,
    )
    module.log = lambda *args, **kwargs: None
    optimizer = torch.optim.Adam(module.parameters(), lr=5e-3)
    clip, losses = batch(), []
    for step in range(25):
        optimizer.zero_grad()
        loss = module.training_step(clip, step)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]
    module.eval()
    with torch.no_grad():
        made = mouth_opening(module(clip))
    true = mouth_opening(clip.landmarks)
    assert torch.corrcoef(torch.stack([made.flatten(), true.flatten()]))[0, 1] > 0.8


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # Lightning with a newer PyTorch
@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_module_fits_validates_and_logs(tmp_path) -> None:
    from lightning import Trainer

    net = LandmarkNet(width=32, heads=2, portrait_view="summary")
    module = LandmarkGenerator(net, augment=0.5, speed=0.1, portrait=0.5, size=64)
    trainer = Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    loader = torch.utils.data.DataLoader([batch()], batch_size=None)
    trainer.fit(module, loader, loader)
    logged = trainer.callback_metrics
    assert {"train/loss", "val/loss", "val/M-LD", "val/F-LD_centred", "val/opening_correlation"} <= set(logged)
    still = batch()
    module.net.head[-1].weight.data.zero_()
    module.net.head[-1].bias.data.zero_()
    (result,) = trainer.test(module, torch.utils.data.DataLoader([still], batch_size=None), verbose=False)
    # No motion: the distance is that of the face at rest, in px of a 256-px frame (64 px here: times four).
    expected = 4 * (still.landmarks - still.reference_landmarks[:, None])[:, :, 48:].norm(dim=-1).mean().item()
    assert result["test/M-LD"] == pytest.approx(expected, rel=1e-3)


def test_module_refuses_what_it_cannot_use() -> None:
    with pytest.raises(ValueError, match="distance"):
        LandmarkGenerator(distance="manhattan")
    with pytest.raises(ValueError, match="speed"):
        LandmarkGenerator(speed=0.7)
    with pytest.raises(ValueError, match="augment"):
        LandmarkGenerator(augment=2)
    clip = batch()
    with pytest.raises(ValueError, match="modality"):
        LandmarkGenerator(LandmarkNet(width=32, heads=2))(Clip(clip.audio, clip.emotion, clip.fps, clip.samples))
