"""The judge of synchrony: lags of made-up tracks by hand, the loss, other rates, a still face."""

import math

import pytest
import torch
from lightning import Trainer
from torch import Tensor
from torch.nn import functional

from talkhead.data.clip import Clip
from talkhead.evaluate.videos import load_sync
from talkhead.modules.sync import SyncExpert, mirror, shifted
from talkhead.nets.sync import SyncNet, at_rate, lag_curve, lip_shapes


@pytest.fixture(scope="module")
def net() -> SyncNet:
    torch.manual_seed(0)
    return SyncNet(width=16, dimensions=8, dropout=0.0).eval()


def speaking(batch: int = 2, frames: int = 40, seed: int = 0) -> Tensor:
    """(B, T, 68, 2) faces with random lips."""
    generator = torch.Generator().manual_seed(seed)
    face = torch.rand(68, 2, generator=generator) * 60 + 30
    face[36:42, 0], face[42:48, 0] = 40.0, 80.0  # eyes apart
    track = face.expand(batch, frames, 68, 2).clone()
    track[:, :, 48:] += 3 * torch.randn(batch, frames, 20, 2, generator=generator)
    return track


def test_lag_curve_finds_a_known_delay() -> None:
    vectors = functional.normalize(torch.randn(60, 32), dim=-1)
    for late in (-7, 0, 4):
        lips, sound = shifted(vectors, vectors, late)  # cut so that lips[n + late] belongs to sound[n]
        curve = lag_curve(lips, sound)
        assert int(curve.argmax()) - 15 == late and curve.max().item() == pytest.approx(1, abs=1e-5)


def test_the_offset_is_of_the_lips_behind_the_sound() -> None:
    sound = functional.normalize(torch.randn(60, 16), dim=-1)
    late = torch.cat([sound[:1].expand(3, -1), sound[:-3]])  # frame t shows what was said at t - 3
    assert int(lag_curve(late, sound).argmax()) - 15 == 3


def test_lips_are_seen_without_head_size_and_amplitude() -> None:
    track = speaking()
    shapes = lip_shapes(track)
    assert shapes.shape == (2, 40, 100)
    angle = torch.tensor(0.3)
    turn = torch.stack([torch.stack([angle.cos(), angle.sin()]), torch.stack([-angle.sin(), angle.cos()])])
    sway = 20 * torch.sin(torch.arange(40) / 5).view(1, 40, 1, 1)
    assert torch.allclose(lip_shapes(2 * track @ turn + sway), shapes, atol=2e-3)
    wide = track.mean(1, keepdim=True) + 1.5 * (track - track.mean(1, keepdim=True))
    assert torch.allclose(lip_shapes(wide), shapes, atol=2e-2)
    assert lip_shapes(track[:, :1].expand(-1, 40, -1, -1)).abs().max() == 0


def test_vectors_are_of_length_one_and_one_per_look(net: SyncNet) -> None:
    lips, sound = net(speaking(), torch.randn(2, 25600))
    assert lips.shape == sound.shape == (2, 28, 8)
    assert torch.allclose(lips.norm(dim=-1), torch.ones(2, 28), atol=1e-5)


def test_a_still_face_has_no_confidence(net: SyncNet) -> None:
    track = speaking(1)[0, :1].expand(40, 68, 2)
    assert net.judge(track, torch.randn(25600)) == (0, 0.0, 0.0)


def test_how_loud_the_sound_is_does_not_matter(net: SyncNet) -> None:
    sound = 0.2 * torch.randn(25600)
    one, other = net.judge(speaking(1)[0], sound), net.judge(speaking(1)[0], 0.1 * sound)
    assert one.offset == other.offset and one.confidence == pytest.approx(other.confidence, abs=1e-4)


def test_other_rates_and_gaps_are_read_between_frames() -> None:
    time = (torch.arange(60) + 0.5) / 30
    track = time.view(60, 1, 1).expand(60, 68, 2).clone()
    track[10:13] = math.nan
    read = at_rate(track, 30.0, 2.0)
    assert torch.allclose(read[1:-1, 0, 0], ((torch.arange(50) + 0.5) / 25)[1:-1], atol=1e-5)
    with pytest.raises(ValueError, match="no face"):
        at_rate(torch.full((5, 68, 2), math.nan), 25.0, 0.2)


def test_mirrored_twice_is_the_same() -> None:
    track = speaking(2, 3)
    which = torch.tensor([True, False])
    once = mirror(track, which)
    assert torch.equal(once[1], track[1]) and not torch.equal(once[0], track[0])
    assert torch.equal(mirror(once, which), track)


def clip(frames: int = 30) -> Clip:
    """Two clips whose lips are their sound: loudness in known frames opens the mouth."""
    track = speaking(2, frames)
    loud = torch.rand(2, frames, generator=torch.Generator().manual_seed(1))
    track[:, :, 48:] = track[:, :1, 48:] + 6 * loud[:, :, None, None] * torch.tensor([0.0, 1.0])
    sound = loud.repeat_interleave(640, dim=1) * 0.3 * torch.randn(2, frames * 640)
    counts = (torch.tensor([5, 5]), torch.tensor([25.0, 25.0]), torch.tensor([frames * 640] * 2))
    return Clip(sound, *counts, None, track, None, track[:, 0])


def test_training_finds_out_that_loudness_opens_the_mouth() -> None:
    torch.manual_seed(0)
    module = SyncExpert(SyncNet(width=16, dimensions=8, dropout=0.0), augment=0.0)
    module.log_loss = lambda *_, **__: None  # type: ignore[method-assign]
    optimizer = torch.optim.Adam(module.parameters(), 1e-2)
    batch = clip()
    losses = []
    for step in range(30):
        loss = module.training_step(batch, step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.95 * sum(losses[:5])
    module.eval()
    module.measure(batch, "val", True)
    meters = module.meters["val"]
    assert meters["confidence"].compute() > 0 and 0 <= meters["offset_accuracy"].compute() <= 1


def test_a_judge_of_any_size_is_read_from_its_run_and_from_its_folder(tmp_path) -> None:
    module = SyncExpert(SyncNet(width=24, dimensions=8))
    trainer = Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    trainer.strategy.connect(module)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    module.net.save_pretrained(tmp_path / "judge")
    for path in (tmp_path / "last.ckpt", tmp_path / "judge"):
        judge = load_sync(path)
        assert judge is not None and not judge.training
        weights = judge.state_dict()
        assert all(torch.equal(weights[name], weight) for name, weight in module.net.state_dict().items())
    (tmp_path / "torn.ckpt").write_bytes((tmp_path / "last.ckpt").read_bytes()[:-9])
    for wrong in ("torn.ckpt", "."):
        with pytest.raises(ValueError, match="checkpoint|trained SyncNet"):
            load_sync(tmp_path / wrong)
    with pytest.raises(FileNotFoundError, match="fit --config sync"):
        load_sync(tmp_path / "none.ckpt")


def test_what_cannot_be_judged_is_refused(net: SyncNet) -> None:
    with pytest.raises(ValueError, match="half a second"):
        net(speaking(1, 12), torch.randn(1, 7680))
    with pytest.raises(ValueError, match="beside B = 2"):
        net(speaking(), torch.randn(1, 25600))
    with pytest.raises(ValueError, match="share"):
        SyncExpert(net, augment=2)
    with pytest.raises(ValueError, match="sound alone"):
        SyncExpert(net).predict_step(
            Clip(torch.zeros(1, 9), torch.tensor([5]), torch.tensor([25.0]), torch.tensor([9])), 0
        )
