"""The head's state against known motions; the drawn motion is stationary, the same in any window, as large as data."""

import math
import time
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning import Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from torch import Tensor
from torch.utils.data import DataLoader

from talkhead import metrics
from talkhead.data.clip import Clip, emotion_probabilities
from talkhead.face.frame import face_frame
from talkhead.face.head_state import STATE, close_lids, move_head, read_head, still_head
from talkhead.heads.drawn_head import DrawnHead, draw_head, hear_prosody
from talkhead.modules.head_motion import HeadMotionGenerator, _moved, _nonnegative, hear
from talkhead.nets.head_motion import HeadMotionNet
from talkhead.ops.blink_clock import BlinkClock
from talkhead.ops.smooth_noise import SCALES, gaussian, structure_function
from talkhead.speaker.trained import load_head
from talkhead.speech.level import speech_level
from talkhead.speech.pitch import GrowingPitchgram
from talkhead.speech.prosody import PITCH_HOP, PROSODY, prosody

NEUTRAL = emotion_probabilities("neutral")


@pytest.fixture
def face() -> Tensor:
    """A plausible (68, 2) face in px: an oval with brows, eyes, nose and mouth in their places."""
    angle = torch.linspace(math.pi, 0, 17)
    jaw = torch.stack([60 + 40 * angle.cos(), 50 + 55 * angle.sin()], -1)
    brows = torch.cat([torch.stack([x + torch.linspace(-9, 9, 5), torch.full((5,), 38.0)], -1) for x in (42.0, 78.0)])
    bridge = torch.stack([torch.full((4,), 60.0), torch.linspace(48, 66, 4)], -1)
    base = torch.stack([torch.linspace(53, 67, 5), torch.full((5,), 71.0)], -1)
    ring = torch.tensor([[-7.0, 0], [-3, -3], [3, -3], [7, 0], [3, 3], [-3, 3]])
    eyes = torch.cat([ring + torch.tensor([x, 48.0]) for x in (42.0, 78.0)])
    outer = torch.tensor(
        [[-14.0, 0], [-9, -4], [-4, -6], [0, -5], [4, -6], [9, -4], [14, 0], [9, 5], [4, 7], [0, 8], [-4, 7], [-9, 5]]
    )
    inner = torch.tensor([[-11.0, 0], [-4, -1], [0, -1], [4, -1], [11, 0], [4, 2], [0, 2], [-4, 2]])
    return torch.cat(
        [jaw, brows, bridge, base, eyes, outer + torch.tensor([60.0, 84]), inner + torch.tensor([60.0, 84])]
    )


@pytest.mark.parametrize("number", range(len(STATE)))
def test_each_number_of_the_state_is_read_as_it_was_put(face: Tensor, number: int) -> None:
    state = torch.zeros(3, len(STATE))
    state[:, number] = torch.tensor([0.0, 0.03, -0.05])
    read = read_head(move_head(face.expand(3, 68, 2), face, state), face)
    assert torch.allclose(read, state, atol=1e-4)


def test_a_rolled_and_moved_picture_is_roll_and_shift(face: Tensor) -> None:
    centre, axes = face_frame(face)
    size = axes[0].norm()
    rigid = face[[*range(27, 36), 36, 39, 42, 45]].mean(0)
    turn = torch.tensor([[math.cos(0.1), math.sin(0.1)], [-math.sin(0.1), math.cos(0.1)]])
    moved = 1.1 * (face - rigid) @ turn + rigid + torch.tensor([0.0, 5.0])
    expected = torch.tensor([0, 5 / size, math.log(1.1), 0.1, 0, 0, 0, 0])
    assert torch.allclose(read_head(moved[None], face)[0], expected, atol=1e-4)


def test_still_head_leaves_the_lips(face: Tensor) -> None:
    speaking = face.repeat(4, 1, 1)
    speaking[:, 55:60, 1] += torch.tensor([0.0, 3, 6, 2])[:, None]
    state = 0.03 * torch.randn(4, len(STATE))
    moved = move_head(speaking, face, state)
    assert torch.allclose(still_head(moved, face), speaking, atol=2e-3)
    assert not torch.allclose(moved, speaking, atol=0.5)


def test_close_lids_to_the_given_share(face: Tensor) -> None:
    closed = close_lids(face.expand(3, 68, 2), torch.tensor([0.0, 0.5, 1.0]))
    opening = metrics.eye_opening(closed)
    assert torch.allclose(opening / opening[0], torch.tensor([1.0, 0.5, 0.0]), atol=1e-5)
    assert torch.equal(closed[:, 48:], face.expand(3, 68, 2)[:, 48:])


def test_gaussian_numbers_are_normal_and_belong_to_their_frames() -> None:
    numbers = gaussian(3, -50, 4000, 4)
    assert numbers.mean().abs() < 0.03 and (numbers.std() - 1).abs() < 0.03
    assert torch.equal(gaussian(3, 100, 50, 4), numbers[:, 150:200])
    assert not torch.equal(gaussian(4, 100, 50, 4), numbers[:, 150:200])


def test_the_source_has_the_structure_function_it_is_made_for() -> None:
    net = HeadMotionNet()
    net.spectrum[:] = torch.tensor([0.1, 0.2, 0.3, 0.2, 0.1, 0.1])
    source = net.source(0, 0, 20000).double()
    lags = torch.tensor([1, 4, 16])
    expected = structure_function(lags) @ net.spectrum[0].double()
    measured = torch.stack([(source[:, lag:] - source[:, :-lag]).square().mean() for lag in lags.tolist()])
    assert torch.allclose(measured, expected, rtol=0.1)  # 8 x 20,000 numbers, correlated over a second
    assert source.square().mean().item() == pytest.approx(1, rel=0.05)


def test_nonnegative_shares_are_found_again() -> None:
    lags = torch.tensor([1, 2, 4, 8, 16, 32])
    shares = torch.tensor([0.0, 2.0, 0.0, 1.0, 0.0, 3.0], dtype=torch.float64)
    found = _nonnegative(structure_function(lags), structure_function(lags) @ shares)
    assert found.min() >= 0
    matrix = structure_function(lags)  # near scales resemble each other: what they add up to is found again
    assert torch.allclose(matrix @ found, matrix @ shares, rtol=0.02)


@pytest.fixture
def lively() -> HeadMotionNet:
    torch.manual_seed(0)
    net = HeadMotionNet(width=8, steps=2)
    torch.nn.init.normal_(net.exit.weight, std=0.3)
    net.spread.fill_(0.02)
    net.blink_rate.fill_(0.02)
    torch.nn.init.zeros_(net.hazard.bias)
    net.blink[:] = torch.cat([torch.linspace(0, 0.5, 7), torch.linspace(0.5, 0, 16)[1:]])
    return net.eval()


def test_a_frame_moves_alike_whatever_window_it_is_drawn_in(lively: HeadMotionNet) -> None:
    heard = torch.randn(PROSODY, 200)
    whole = lively.draw(heard, NEUTRAL, 7, 0, 200)
    part = lively.draw(heard, NEUTRAL, 7, 60, 50)
    assert torch.allclose(part[0], whole[0][60:110], atol=1e-5)
    assert torch.equal(part[1], whole[1][60:110])
    other = lively.draw(heard, NEUTRAL, 8, 60, 50)
    assert not torch.allclose(other[0], part[0], atol=1e-3)


def test_blinks_keep_their_rate_and_their_distance(lively: HeadMotionNet) -> None:
    """One in each unit of the intensity's integral, here 50 frames; two too close: a triangle's tip."""
    heard = torch.zeros(PROSODY, 10)
    moments = lively.blink_moments(heard, 0, 20000, BlinkClock(1)).nonzero()[:, 0]
    assert len(moments) == pytest.approx(400 * (1 - 8.5**2 / (2 * 50**2)), rel=0.02)
    assert moments.diff().min() > 8 and moments.min() > 6 and moments.diff().max() <= 100
    counts = (
        lively.blink_moments(heard, 10, 20000, BlinkClock(2)).view(-1, 125).sum(1).double()
    )  # five seconds hold 2.5
    assert counts.var().item() == pytest.approx(1 / 3, rel=0.35)  # the two ends' p (1 - p), 1/6 each; Poisson's: 2.5
    assert torch.equal(
        lively.blink_moments(heard, 700, 300, BlinkClock(1)).nonzero()[:, 0] + 700,
        moments[(moments >= 700) & (moments < 1000)],
    )


def test_blinks_come_where_the_sound_calls_for_them(lively: HeadMotionNet) -> None:
    lively.hazard.weight.data[0, 0, 0] = math.log(4.0)
    heard = torch.zeros(PROSODY, 8000)
    heard[0, 4000:] = 1.0  # four times the intensity
    calm, often = lively.blink_moments(heard, 0, 8000, BlinkClock(0)).view(2, 4000).sum(1).tolist()
    assert calm == pytest.approx(80 * (1 - 8.5**2 / (2 * 50**2)), abs=5)
    assert often == pytest.approx(320 * (1 - 8.5**2 / (2 * 12.5**2)), rel=0.1)
    clock, starts = BlinkClock(0), range(0, 8000, 500)  # heard a window at a time, the count goes on
    parts = [lively.blink_moments(heard[:, at : at + 500], at, 500, clock, at) for at in starts]
    assert torch.equal(torch.cat(parts), lively.blink_moments(heard, 0, 8000, BlinkClock(0)))


def test_two_hours_do_not_drift_and_do_not_repeat(lively: HeadMotionNet) -> None:
    heard = torch.zeros(PROSODY, 10)
    early, late = (lively.draw(heard, NEUTRAL, 0, first, 1500)[0] for first in (0, 180_000))
    assert (late.mean(0) - early.mean(0)).abs().max() < 0.02  # a spread
    assert late.std(0).mean().item() == pytest.approx(early.std(0).mean().item(), rel=0.3)
    assert not torch.allclose(early, late, atol=1e-2)


def test_an_untrained_net_draws_the_still_head() -> None:
    state, closing = HeadMotionNet().draw(torch.zeros(PROSODY, 50), NEUTRAL, 0, 0, 50)
    assert state.abs().max() == 0 and closing.abs().max() == 0


@pytest.mark.parametrize("fps", [25.0, 30.0])
def test_the_drawn_head_does_not_depend_on_the_pieces(lively: HeadMotionNet, face: Tensor, fps: float) -> None:
    speech = torch.randn(32000) * 0.1
    track = face.repeat(60, 1, 1)
    track[:, 48:] += 0.2 * torch.randn(60, 20, 2)
    whole = torch.cat(list(draw_head(DrawnHead(lively, face, NEUTRAL, fps, seed=3), iter([track]), speech)))
    pieces = torch.cat(list(draw_head(DrawnHead(lively, face, NEUTRAL, fps, seed=3), iter(track.split(17)), speech)))
    assert torch.allclose(whole, pieces, atol=1e-3)
    assert torch.allclose(read_head(whole, face)[0], torch.zeros(8), atol=1e-4)  # the portrait's own pose
    still = torch.cat(
        list(
            draw_head(DrawnHead(lively, face, NEUTRAL, fps, {"pose": 0, "brow": 0, "blink": 0}), iter([track]), speech)
        )
    )
    assert read_head(still, face).abs().max() < 1e-4


def test_whole_frames_of_speech_are_heard_as_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("talkhead.heads.drawn_head.prosody", lambda speech, level, count, gram: count)
    level = torch.tensor(0.1)
    for count in range(1, 601):
        assert hear_prosody(torch.zeros(640 * count), level) == count
        assert hear_prosody(torch.zeros(640 * count - 1), level) == count
        assert hear_prosody(torch.zeros(640 * count + 1), level) == count + 1


def test_prosody_is_the_same_for_loud_and_soft_and_knows_the_melody() -> None:
    time = torch.arange(32000) / 16000
    low, high = (sum(torch.sin(2 * math.pi * n * pitch * time) / n for n in range(1, 12)) for pitch in (110, 165))
    voice = 0.1 * torch.cat([low[:16000], high[16000:]])
    heard = prosody(voice, speech_level(voice), 50)
    assert heard.shape == (PROSODY, 50)
    assert torch.allclose(prosody(5 * voice, speech_level(5 * voice), 50), heard, atol=1e-3)
    with torch.autocast("cpu", torch.bfloat16):  # as in training by `--config gpu`
        assert torch.equal(prosody(voice, speech_level(voice), 50), heard)
    rise = heard[2, 30:45].mean() - heard[2, 5:20].mean()
    assert rise.item() == pytest.approx(math.log2(1.5), abs=0.06)  # a pitch bin is a 17th of an octave
    assert prosody(torch.zeros(1600), speech_level(torch.zeros(1600)), 3).abs().max() == 0


def test_prosody_of_a_growing_recording_is_that_of_each_piece() -> None:
    """Whatever has been heard before, and however much of the start is forgotten."""
    sound, gram, level = torch.randn(64000) * 0.1, GrowingPitchgram(PITCH_HOP), torch.tensor(0.1)
    for first, last in ((0, 3), (0, 3), (0, 6), (0, 31), (10, 34), (10, 61), (58, 64), (80, 90), (70, 75)):
        gram.first, piece = first, sound[first * 640 : last * 640]
        heard = prosody(piece, level, last - first, gram)
        assert torch.allclose(heard, prosody(piece, level, last - first), atol=1e-4)


def test_training_measures_learns_and_calibrates(face: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """On heads that sway by known sines the drawn motion is as large as theirs."""
    torch.manual_seed(0)
    net = HeadMotionNet(width=16, steps=2)
    module = HeadMotionGenerator(net, candidates=2)
    seconds = torch.arange(75) / 25
    clips = []
    for _ in range(6):
        state = torch.zeros(75, 8)
        for number in range(8):
            state[:, number] = 0.03 * torch.sin(2 * math.pi * (0.7 * seconds + torch.rand(())))
        moved = move_head(face.expand(75, 68, 2), face, state)
        clips.append((moved, torch.randn(48000) * 0.1))

    class Data:
        entries = {str(n): {"identity": "a" if n < 5 else "b"} for n in range(6)}

        def names(self, part: str) -> list[str]:
            return list(self.entries)

        def dataset(self, part: str) -> list[Clip]:
            emotion, fps = torch.tensor(5), torch.tensor(25.0)
            return [Clip(audio, emotion, fps, torch.tensor(48000), None, track, None, face) for track, audio in clips]

    class Trainer:
        datamodule = Data()

    module._trainer = Trainer()  # type: ignore[assignment]
    module._measure_clips()
    assert net.spread.min() > 0 and torch.allclose(net.spectrum.sum(1), torch.ones(8), atol=1e-4)
    optimizer = torch.optim.Adam(module.parameters(), 2e-3)
    batch = Clip(
        torch.stack([a for _, a in clips]),
        torch.full((6,), 5),
        torch.full((6,), 25.0),
        torch.full((6,), 48000),
        None,
        torch.stack([t for t, _ in clips]),
        None,
        face.expand(6, 68, 2),
    )
    module.log_loss = lambda *_, **__: None  # type: ignore[method-assign]
    prosodies = hear(batch, 75)  # the same in every step: heard once
    monkeypatch.setattr("talkhead.modules.head_motion.hear", lambda *_: prosodies)
    losses = []
    for step in range(30):
        loss = module.training_step(batch, step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) < sum(losses[:5])
    module._calibrate(seeds=2)
    heard = prosody(clips[0][1], speech_level(clips[0][1]), 75)
    drawn = torch.stack([net.draw(heard, NEUTRAL, seed, 0, 75)[0].std(0, correction=0) for seed in range(8)])
    true = torch.stack([read_head(t, face).std(0, correction=0) for t, _ in clips])
    size = drawn.square().mean(0).sqrt() / true.square().mean(0).sqrt()
    assert torch.allclose(size[:6], torch.ones(6), atol=0.35)  # the head moves as far
    moving = [_moved(net, face.expand(75, 68, 2), face, heard, NEUTRAL, seed) for seed in range(8)]
    speed = sum(metrics.brow_dynamics(track).item() for track in moving) / 8
    assert speed == pytest.approx(sum(metrics.brow_dynamics(t).item() for t, _ in clips) / 6, rel=0.2)  # brows as fast


def test_short_clips_tell_of_short_lags_alone(face: Tensor) -> None:
    """They counted in the long ones, as standing still: with them among long clips every head was drawn too calm."""
    module, generator = HeadMotionGenerator(HeadMotionNet(width=8)), torch.Generator().manual_seed(0)
    state = torch.zeros(75, 8)
    state[:, 0] = 0.01 * torch.randn(75, generator=generator).cumsum(0)
    track = move_head(face.expand(75, 68, 2), face, state)
    gap = torch.cat([track[:9], torch.full((60, 68, 2), torch.nan), track[69:]])  # no two frames 12 to 40 apart
    names = {str(number): {"identity": str(number)} for number in range(4)}

    def spread(*tracks: Tensor) -> float:
        told = torch.randn(48000, generator=generator), torch.tensor(5), torch.tensor(25.0), torch.tensor(48000)
        clips = [Clip(*told, None, part, None, face) for part in tracks]
        data = SimpleNamespace(names=lambda _: [*names][: len(clips)], entries=names, dataset=lambda _: clips)
        module._trainer = SimpleNamespace(datamodule=data)  # type: ignore[assignment]
        module._measure_clips()
        return module.net.spread[0].item()

    assert spread(track, track[:9], track[30:39], track[:1]) == pytest.approx(spread(track), rel=0.1)
    assert spread(track, gap) == pytest.approx(spread(track), rel=0.1)
    assert spread(track[:30]) > 0


@pytest.mark.parametrize("limit", [{"max_epochs": 2}, {"max_steps": 3}, {"max_epochs": -1, "max_time": {"seconds": 1}}])
def test_a_run_is_calibrated_at_its_end_whatever_limits_it(limit: dict[str, Any], tmp_path: Path) -> None:
    """Once, before its last checkpoint is written, and from an interrupted run's no speaker is made."""

    class Tiny(HeadMotionGenerator):
        times = 0

        def on_fit_start(self) -> None:
            self.net.spread.fill_(1)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            time.sleep(0.1)
            return self.net.hazard.weight.sum()

        def _calibrate(self, *_: Any) -> None:
            self.times += 1
            self.net.blink_rate.fill_(0.02)

    module = Tiny(HeadMotionNet(width=8))
    checkpoint = ModelCheckpoint(tmp_path, save_last=True, save_on_train_epoch_end=True)
    trainer = Trainer(
        **limit, callbacks=[checkpoint], logger=False, enable_progress_bar=False, enable_model_summary=False,
        accelerator="cpu",
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(module, DataLoader([torch.zeros(1)] * 2))
    assert module.times == 1
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
    assert state["net.blink_rate"] == pytest.approx(0.02)


def test_a_run_that_is_stopped_early_is_calibrated(tmp_path: Path) -> None:
    """That an epoch was the last is said after the module has been asked about it."""

    class Tiny(HeadMotionGenerator):
        def on_fit_start(self) -> None:
            self.net.spread.fill_(1)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            self.log("same", 1.0, on_epoch=True, on_step=False, batch_size=1)
            return self.net.hazard.weight.sum()

        def _calibrate(self, *_: Any) -> None:
            self.net.blink_rate.fill_(0.01 * (1 + self.current_epoch))

    callbacks = [
        EarlyStopping("same", patience=1, check_on_train_epoch_end=True),
        ModelCheckpoint(tmp_path, save_last=True, save_on_train_epoch_end=True),
    ]
    trainer = Trainer(
        max_epochs=9, callbacks=callbacks, logger=False, enable_progress_bar=False, enable_model_summary=False,
        accelerator="cpu",
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(Tiny(HeadMotionNet(width=8)), DataLoader([torch.zeros(1)] * 2))
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
    assert trainer.current_epoch == 2 and state["net.blink_rate"] == pytest.approx(0.02)


def test_of_a_run_that_has_not_ended_no_head_is_taken(tmp_path: Path) -> None:
    net = HeadMotionNet(width=8)
    net.spread.fill_(1)
    net.save_pretrained(tmp_path / "head")
    with pytest.raises(ValueError, match="has not come to its end"):
        load_head(tmp_path / "head")


def test_other_frame_rates_and_sound_alone_are_refused(face: Tensor) -> None:
    module = HeadMotionGenerator(HeadMotionNet(width=8))
    tensors = (torch.zeros(1, 16000), torch.tensor([5]), torch.tensor([30.0]), torch.tensor([16000]))
    with pytest.raises(ValueError, match="25 frames per second"):
        module.training_step(Clip(*tensors, None, face.expand(1, 30, 68, 2), None, face[None]), 0)
    with pytest.raises(ValueError, match="sound alone"):
        module.training_step(Clip(*tensors), 0)
    with pytest.raises(ValueError, match="candidates"):
        HeadMotionGenerator(candidates=0)
    few = 2 * module.net.reach  # no frame has all its neighbours: a mean of nothing, NaN
    tensors = (torch.randn(1, 640 * few), torch.tensor([5]), torch.tensor([25.0]), torch.tensor([640 * few]))
    with pytest.raises(ValueError, match=f"more than {few} frames.*num_frames"):
        module.training_step(Clip(*tensors, None, face.expand(1, few, 68, 2), None, face[None]), 0)
    with pytest.raises(ValueError, match="steps"):
        HeadMotionNet(steps=0)
    assert len(SCALES) == 6
