"""What the renderer's training adds to the squared error, against hand-worked numbers."""

from dataclasses import replace

import pytest
import torch
from diffusers import DDPMScheduler
from torch import nn

from talkhead.data.clip import Clip
from talkhead.losses.adversarial import Critics
from talkhead.losses.picture import change_loss, detail_loss, relative_scale
from talkhead.modules.video import VideoDiffusion
from talkhead.nets.renderer import Renderer
from tests.test_mouth_bank import face
from tests.test_video import SMALL, batch_of


def video(value: float, size: int = 32) -> torch.Tensor:
    return torch.full((1, 3, 2, size, size), value)


def points(size: int = 32) -> torch.Tensor:
    return face(0.3, size=size).expand(1, 2, 68, 2)


def test_fine_detail_is_what_a_blurred_copy_lacks():
    """A ramp has none but at the border, a checkerboard is nothing else: 1 at the first scale, 0 at the second."""
    ones = torch.ones(())
    board = ((torch.arange(16)[:, None] + torch.arange(16)) % 2 * 2.0 - 1).expand(2, 3, 4, 16, 16)
    zero = torch.zeros_like(board)
    assert detail_loss(board, zero, ones).item() == pytest.approx(1.0)
    flat = torch.full_like(board, 0.7)
    assert detail_loss(flat, zero, ones).item() == pytest.approx(0.0, abs=1e-6)
    weight = torch.zeros(2, 1, 4, 16, 16)
    weight[..., :8] = 3.0
    assert detail_loss(board, zero, weight).item() == pytest.approx(1.5)


def test_change_is_punished_only_where_it_is_looked_for():
    target = torch.zeros(1, 3, 4, 8, 8)
    flicker = target.clone()
    flicker[:, :, 1::2] = 0.5
    where = torch.zeros(1, 1, 4, 8, 8)
    assert change_loss(flicker, target, where) == 0
    where[..., 2:4, 2:4] = 1
    assert change_loss(flicker, target, where).item() == pytest.approx(0.25)
    assert change_loss(target + 0.5, target, where) == 0  # wrong, but it does not flicker


def test_a_sample_with_a_small_mouth_counts_as_much_as_one_with_a_large_mouth():
    """Means of 0.25 over 4 pixels and of 0 over 36: half of 0.25, whatever the sizes."""
    target = torch.zeros(2, 3, 4, 8, 8)
    flicker = target.clone()
    flicker[0, :, 1::2] = 0.5
    where = torch.zeros(2, 1, 4, 8, 8)
    where[0, ..., 2:4, 2:4] = where[1, ..., :6, :6] = 1
    assert change_loss(flicker, target, where).item() == pytest.approx(0.125)


def test_errors_count_against_those_of_the_carrier():
    """Off by 0.05 the scale is 0.05 / sqrt(0.05^2 + 0.01^2); off by nothing it ends at 0.05 / 0.01."""
    target = torch.zeros(3, 3, 2, 8, 8)
    carrier = torch.tensor([0.05, 0.5, 0.0]).view(3, 1, 1, 1, 1).expand_as(target)
    expected = [0.05 / 0.0026**0.5, 0.05 / 0.2501**0.5, 5.0]
    assert relative_scale(carrier, target).flatten().tolist() == pytest.approx(expected)


def test_a_sample_that_no_landmark_tells_does_not_outweigh_the_others():
    """Untrained, the renderer answers with the carrier: each sample's weighted error is its scale's square of it."""
    renderer = Renderer(**SMALL)
    batch = batch_of()
    batch = replace(batch, frames=batch.frames // torch.tensor([1, 1, 1, 8]).view(4, 1, 1, 1, 1))
    plain, relative = (loss_of(VideoDiffusion(renderer, relative=told), batch) for told in (False, True))
    frames = batch.frames.float() / 127.5 - 1
    errors = ((125 / 127.5 - 1) - frames).square().mean((1, 2, 3, 4))
    assert plain.item() == pytest.approx(errors.mean().item(), rel=1e-4)
    assert relative.item() == pytest.approx((0.05**2 * errors / (errors + 0.01**2)).mean().item(), rel=1e-4)


def test_untaught_judges_give_the_hinge_loss_of_nothing_known() -> None:
    critics = Critics(mouth_size=16)
    for module in critics.modules():
        if isinstance(module, nn.Conv2d):  # without spectral norm, which would divide zeros by their size
            nn.utils.parametrize.remove_parametrizations(module, "weight")
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
    painter, own = critics(video(0.5), video(0.1), video(0.0), points())
    assert painter.item() == 0
    assert own.item() == pytest.approx(0.01 * 2 * (1 + 1)), "each judge: max(0, 1 - 0) + max(0, 1 + 0)"


def test_the_painter_learns_from_the_judges_and_the_judges_from_themselves() -> None:
    critics = Critics(mouth_size=16)
    painted = video(0.5).requires_grad_()
    painter, own = critics(painted, video(0.1), video(0.0), points())
    (to_painted,) = torch.autograd.grad(own, painted, allow_unused=True, retain_graph=True)
    assert to_painted is None, "the judges' lesson must not reach the painter"
    to_judges = torch.autograd.grad(painter, list(critics.parameters()), allow_unused=True, retain_graph=True)
    assert all(gradient is None for gradient in to_judges), "the painter must not flatter itself a judge"
    (painter + own).backward()
    assert painted.grad is not None and painted.grad.abs().sum() > 0
    assert all(p.grad is not None and p.requires_grad for p in critics.parameters())


def test_judges_learn_to_tell_true_from_painted() -> None:
    torch.manual_seed(0)
    critics = Critics(mouth_size=16)
    optimizer = torch.optim.Adam(critics.parameters(), 2e-3)
    truth, painted = torch.rand(1, 3, 2, 32, 32) * 2 - 1, video(0.0)
    for _ in range(40):
        optimizer.zero_grad()
        _, own = critics(painted, truth, video(0.0), points())
        own.backward()
        optimizer.step()
    told, own = critics(painted, truth, video(0.0), points())
    flattered, _ = critics(truth, truth, video(0.0), points())
    assert own.item() < 0.01 * 2 and told.item() > flattered.item() + 1


def test_the_mouths_square_holds_the_mouth() -> None:
    spot = points()
    picture = video(-1.0)
    low, high = spot[0, 0, 48:].amin(0).round().long(), spot[0, 0, 48:].amax(0).round().long()
    picture[..., low[1] : high[1] + 1, low[0] : high[0] + 1] = 1.0
    cut = Critics(mouth_size=24)._mouth(picture, spot)
    assert cut.shape == (2, 3, 24, 24)
    assert cut[:, :, 12, 12].min() == 1 and cut[:, :, 0].max() < 0, "the middle is mouth, the upper border is not"


def loss_of(module: VideoDiffusion, batch: Clip | None = None) -> torch.Tensor:
    batch = batch_of() if batch is None else batch
    frames = torch.cat([batch.reference[:, None], batch.frames], 1) / 255
    landmarks = torch.cat([batch.reference_landmarks[:, None], batch.landmarks], 1)
    return module.loss(frames, landmarks, torch.eye(8)[batch.emotion], torch.Generator().manual_seed(0))


def test_the_renderer_hears_the_judges_only_from_their_step_on() -> None:
    torch.manual_seed(0)
    renderer = Renderer(**SMALL)
    gradients = {}
    for name, options in {"none": {}, "later": {"adversarial_from": 9}, "now": {"adversarial_from": 0}}.items():
        torch.manual_seed(1)
        weight = {} if name == "none" else {"adversarial_weight": 1.0}
        module = VideoDiffusion(renderer, **weight, **options)
        torch.manual_seed(2)
        renderer.zero_grad()
        loss_of(module).backward()
        gradients[name] = torch.cat([p.grad.flatten() for p in renderer.parameters() if p.grad is not None]).clone()
        if module.critics is not None:
            assert all(p.grad is not None for p in module.critics.parameters()), "judges learn from the first step on"
    assert torch.equal(gradients["none"], gradients["later"])
    assert not torch.allclose(gradients["none"], gradients["now"])


def test_a_network_of_features_is_heard_but_neither_trained_nor_kept() -> None:
    network = nn.Conv2d(3, 5, 3)
    torch.manual_seed(3)
    renderer = Renderer(**SMALL)
    plain, with_features = (
        VideoDiffusion(renderer),
        VideoDiffusion(renderer, feature_weight=1.0, feature_network=network),
    )
    losses = []
    for module in (plain, with_features):
        torch.manual_seed(4)
        losses.append(loss_of(module))
    assert losses[1] > losses[0]
    losses[1].backward()
    assert all(p.grad is None for p in network.parameters())
    assert plain.state_dict().keys() == with_features.state_dict().keys()


def test_what_looks_at_pictures_refuses_a_process_that_predicts_none() -> None:
    scheduler = DDPMScheduler(prediction_type="epsilon")
    with pytest.raises(ValueError, match="prediction_type='sample'"):
        VideoDiffusion(Renderer(**SMALL, output="plain"), scheduler, adversarial_weight=0.1)
    with pytest.raises(ValueError, match="needs feature_network"):
        VideoDiffusion(Renderer(**SMALL), feature_weight=0.1)
