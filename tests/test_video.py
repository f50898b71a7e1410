"""Training of the renderer: it learns, it repeats, it follows the class, and it refuses what cannot work."""

import math
from dataclasses import replace

import pytest
import torch
from diffusers import DDPMScheduler

from talkhead.data.clip import Clip
from talkhead.face.mouth_bank import lip_map
from talkhead.modules.video import VideoDiffusion
from talkhead.nets.renderer import Renderer
from talkhead.schedulers import MaskNoiseBridgeScheduler
from tests.test_mouth_bank import face

SMALL = {"size": 16, "widths": (8, 16), "patch": 2}


def batch_of(count: int = 4, frames: int = 3, size: int = 16) -> Clip:
    """Random pictures whose brightness tells the class: 0 dark, 4 bright; the reference is grey."""
    emotion = torch.tensor([0, 4]).repeat(count // 2)
    tint = torch.where(emotion == 4, 200, 50)[:, None, None, None, None]
    landmarks = 4 + 8 * torch.rand(count, frames + 1, 68, 2)
    return Clip(
        audio=torch.zeros(count, 1920),
        emotion=emotion,
        fps=torch.full((count,), 25.0),
        samples=torch.full((count,), 1920),
        frames=tint.expand(count, frames, 3, size, size).to(torch.uint8),
        landmarks=landmarks[:, 1:],
        reference=torch.full((count, 3, size, size), 125, dtype=torch.uint8),
        reference_landmarks=landmarks[:, 0],
    )


def one_step(module: VideoDiffusion, batch: Clip) -> torch.Tensor:
    frames, landmarks, bank = module._augmented(batch, module._generator(0))
    return module.loss(frames, landmarks, torch.eye(8)[batch.emotion], module._generator(0), bank)


def learn(module: VideoDiffusion, steps: int, seed: int = 0) -> list[float]:
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-2)
    generator, losses = torch.Generator().manual_seed(seed), []
    for _ in range(steps):
        batch = batch_of()
        frames, landmarks, bank = module._augmented(batch, generator)
        loss = module.loss(frames, landmarks, torch.eye(8)[batch.emotion], generator, bank)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_the_class_shows_in_the_output_whatever_the_landmarks():
    """Trained on clips whose class is their brightness, the chosen class decides it, and mixtures lie between."""
    module = VideoDiffusion(Renderer(**SMALL), last_step_share=1.0)
    losses = learn(module, 150)
    assert sum(losses[-10:]) < 0.2 * sum(losses[:10])
    module.eval()
    batch = batch_of()
    condition = module.renderer.prepare(batch.reference, batch.reference_landmarks, batch.landmarks)

    def brightness(emotion: torch.Tensor) -> float:
        painted = module.sample(condition, emotion.expand(4, 8), 4)
        return float(module.renderer.decode(painted).float().mean())

    dark, bright = torch.eye(8)[:1], torch.eye(8)[4:5]
    assert brightness(dark) < 85 and brightness(bright) > 165
    levels = [brightness((1 - w) * dark + w * bright) for w in (0.0, 0.25, 0.5, 0.75, 1.0)]
    assert levels == sorted(levels) and levels[0] + 10 < levels[2] < levels[4] - 10


def test_the_draws_belong_to_the_seed(monkeypatch):
    module = VideoDiffusion(Renderer(**SMALL), recolour=0.5, mirror=0.5, jitter=0.5, mouth_weight=2.0)
    batch = batch_of()
    first = one_step(module, batch).item()
    assert one_step(module, batch).item() == first
    monkeypatch.setenv("PL_GLOBAL_SEED", "1")
    assert one_step(module, batch).item() != first


def test_the_loss_by_hand():
    """An untrained plain network answers 0: the loss is the mean square of the frames in [-1, 1]."""
    renderer = Renderer(**SMALL, output="plain")
    batch = batch_of()
    truth = (batch.frames.float() / 127.5 - 1).square()
    plain = VideoDiffusion(renderer)
    torch.testing.assert_close(one_step(plain, batch), truth.mean())
    weighted = one_step(VideoDiffusion(renderer, mouth_weight=1.0), batch)
    assert truth.mean() < weighted < 2 * truth.mean()


@pytest.mark.parametrize("kind", ["sample", "epsilon", "v_prediction"])
def test_targets_of_the_papers_process(kind):
    renderer = Renderer(
        **SMALL, carrier="reference", output="plain", carrier_channels=False, field_channels=False, map_channels=False
    )
    scheduler = DDPMScheduler(prediction_type=kind)
    module = VideoDiffusion(renderer, scheduler)
    batch = batch_of()
    condition = renderer.prepare(batch.reference, batch.reference_landmarks, batch.landmarks)
    clean = torch.rand_like(condition.noise)
    t = torch.tensor([0, 300, 600, 999])
    target = module._target(clean, condition, t)
    noisy = scheduler.add_noise(clean, condition.noise, t)
    alpha = scheduler.alphas_cumprod[t].view(-1, 1, 1, 1, 1)
    clean_again = {
        "sample": target,
        "epsilon": (noisy - (1 - alpha).sqrt() * target) / alpha.sqrt(),
        "v_prediction": alpha.sqrt() * noisy - (1 - alpha).sqrt() * target,
    }[kind]
    # float32 divides by sqrt(alpha), which is 0.006 at the last step
    torch.testing.assert_close(clean_again, clean, atol=1e-3, rtol=0)


@pytest.mark.parametrize("carrier", ["reference", "warped"])
@pytest.mark.parametrize("scheduler", [MaskNoiseBridgeScheduler(), DDPMScheduler(prediction_type="sample")])
def test_the_fused_forward_step_is_the_schedulers(carrier, scheduler):
    renderer = Renderer(**SMALL, carrier=carrier)
    module = VideoDiffusion(renderer, scheduler)
    batch, t, seeds = batch_of(), torch.tensor([0, 250, 700, 999]), torch.arange(4)
    frames, landmarks, _ = module._augmented(batch, module._generator(0))
    sample, target, _ = module._noised(frames, landmarks, seeds, t)
    noise = renderer.prepare(batch.reference, batch.reference_landmarks, batch.landmarks, seed=seeds).noise
    torch.testing.assert_close(sample, scheduler.add_noise(target, noise, t), atol=2e-6, rtol=0)  # float32 rounding
    assert torch.equal(target, batch.frames.float().permute(0, 2, 1, 3, 4) / 255 * 2 - 1)


def test_a_frame_that_is_the_reference_counts_at_most_100_db():
    batch = batch_of(2)
    frames, landmarks = batch.frames.clone(), batch.landmarks.clone()
    frames[:, 0], landmarks[:, 0] = batch.reference, batch.reference_landmarks  # as of a person with one picture
    module = VideoDiffusion(Renderer(**SMALL))  # untrained, it copies
    module.measure(replace(batch, frames=frames, landmarks=landmarks), "val", True)
    # The frames are plain: grey 125 throughout in the first, 50 or 200 beside it in the others.
    others = [20 * math.log10(255 / 75)] * 4
    for name in ("psnr", "psnr_carrier"):
        found = module.meters["val"][name].compute().item()
        assert found == pytest.approx((2 * 100 + sum(others)) / 6, rel=1e-5)


def test_painting_over_the_carrier_needs_a_prediction_of_the_picture():
    with pytest.raises(ValueError, match="give the scheduler prediction_type='sample', not 'epsilon'"):
        VideoDiffusion(Renderer(**SMALL), DDPMScheduler())


def test_its_own_answers_stand_on_the_bridge():
    """Untrained, the renderer answers with the carrier c: one or two steps on, x_s = (1 - s) c + s n."""
    module = VideoDiffusion(Renderer(**SMALL), own_share=1.0)
    batch, seeds = batch_of(), torch.arange(4)
    frames, landmarks, _ = module._augmented(batch, module._generator(0))
    places = (batch.reference, batch.reference_landmarks, batch.landmarks)
    condition = module.renderer.prepare(*places, seed=seeds)
    depths = set()
    for draw in range(4):
        calls = []
        handle = module.renderer.register_forward_pre_hook(lambda _, given, calls=calls: calls.append(given))
        generator = torch.Generator().manual_seed(draw)
        sample, target, _, t = module._own(frames, landmarks, torch.eye(8)[batch.emotion], seeds, generator)
        handle.remove()
        depths.add(len(calls))
        share = ((t + 1) / 1000).view(-1, 1, 1, 1, 1)
        torch.testing.assert_close(sample, (1 - share) * condition.carrier + share * condition.noise)
        torch.testing.assert_close(target, frames[:, 1:].transpose(1, 2) * 2 - 1)
        assert (t < 999).all()
    assert depths == {1, 2}


def test_its_own_answers_need_the_bridge():
    with pytest.raises(ValueError, match="own_share=0.5.*MaskNoiseBridgeScheduler.*DDPMScheduler"):
        VideoDiffusion(Renderer(**SMALL, output="plain"), DDPMScheduler(prediction_type="sample"), own_share=0.5)


def test_a_step_on_its_own_answers_learns():
    module = VideoDiffusion(Renderer(**SMALL), own_share=1.0)
    losses = learn(module, 60)
    assert sum(losses[-10:]) < 0.5 * sum(losses[:10])


def test_the_bank_is_dropped_in_its_share_and_thinned_in_the_rest():
    module = VideoDiffusion(Renderer(**SMALL, bank=1), bank_dropout=0.5)
    thinned = module._thinned(torch.zeros(4000, 4, 68, 2), torch.Generator().manual_seed(0))
    left = thinned.isfinite().all(-1).all(-1).sum(1)
    shares = torch.bincount(left, minlength=5) / 4000
    # Four binomial deviations: 4 sqrt(p (1 - p) / 4000).
    torch.testing.assert_close(shares, torch.tensor([0.5, 0.125, 0.125, 0.125, 0.125]), atol=0.032, rtol=0)


def test_a_renderer_learns_to_copy_a_mouth_that_only_the_bank_shows():
    """The mouth's colour is another in every sample; the portrait is grey: only the further picture tells it."""
    module = VideoDiffusion(Renderer(**SMALL | {"size": 32}, bank=1, map_channels=False), last_step_share=1.0)
    module.hparams.bank_dropout = 0.0
    optimizer, generator = torch.optim.Adam(module.parameters(), lr=1e-2), torch.Generator().manual_seed(0)
    points = face(4.0, width=12.0, size=32).expand(4, 1, 68, 2)
    where = lip_map(points, (32, 32))[:, 0, None, None] > 0.5

    def error(shown: bool) -> torch.Tensor:
        colour = torch.rand(4, 1, 3, 1, 1)
        painted = torch.where(where, colour, 0.5).expand(4, 1, 3, 32, 32)
        frames = torch.cat([torch.full_like(painted, 0.5), painted], 1)
        bank = (painted, points) if shown else None
        return module.loss(frames, points.repeat(1, 2, 1, 1), torch.zeros(4, 8), generator, bank)

    for _ in range(80):
        optimizer.zero_grad()
        error(shown=True).backward()
        optimizer.step()
    with torch.no_grad():
        shown, hidden = (sum(error(given) for _ in range(5)) for given in (True, False))
    assert shown < 0.3 * hidden


def test_the_bank_is_augmented_like_the_window():
    batch = batch_of()
    batch = replace(batch, bank=batch.frames[:, :2], bank_landmarks=batch.landmarks[:, :2])
    module = VideoDiffusion(Renderer(**SMALL, bank=1), mirror=0.5, jitter=0.5, recolour=0.5, bank_dropout=0.0)
    module._thinned = lambda landmarks, generator: landmarks
    frames, landmarks, bank = module._augmented(batch, module._generator(0))
    torch.testing.assert_close(bank[0], frames[:, 1:3])
    torch.testing.assert_close(bank[1], landmarks[:, 1:3])
