"""Distances in a network's features against hand-worked numbers."""

import pytest
import torch

from talkhead.metrics import PerceptualDistance, feature_distance, perceptual_distance


def plain(colour: tuple[int, int, int]) -> torch.Tensor:
    return torch.tensor(colour, dtype=torch.uint8)[:, None, None].expand(3, 4, 4)


def test_directions_at_right_angles_are_two_apart_whatever_their_length() -> None:
    red, green = plain((200, 0, 0)), plain((0, 40, 0))
    assert perceptual_distance(red[None], green[None], lambda x: x).item() == pytest.approx(2)
    assert perceptual_distance(red[None], plain((90, 0, 0))[None], lambda x: x).item() == pytest.approx(0, abs=1e-6)
    layers = perceptual_distance(red[None], green[None], lambda x: [x, 3 * x, -x])
    assert layers.item() == pytest.approx(6), "layers are added up"


def test_places_are_averaged_and_frames_kept_apart() -> None:
    red, green = plain((255, 0, 0)), plain((0, 255, 0))
    half = red.clone()
    half[:, :, :1] = green[:, :, :1]
    values = perceptual_distance(torch.stack([half, red]), torch.stack([red, red]), lambda x: x, reduce="none")
    assert values.tolist() == pytest.approx([0.5, 0], abs=1e-6)
    running = PerceptualDistance(torch.nn.Identity())
    running.update(half[None], red[None])
    running.update(torch.stack([red, red, green]), torch.stack([red, red, red]))
    assert running.compute().item() == pytest.approx((0.5 + 2) / 4)


def test_a_network_judges_alike_while_its_owner_trains() -> None:
    metric = PerceptualDistance(torch.nn.Sequential(torch.nn.Conv2d(3, 8, 1), torch.nn.Dropout(0.5)))
    owner = torch.nn.ModuleList([metric]).train()
    picture = torch.randint(256, (2, 3, 4, 4), dtype=torch.uint8)
    metric.update(picture, picture)
    assert metric.compute().item() == 0 and owner.training


@pytest.mark.parametrize("shape", [(), (1,), (2, 3), (0,)])
def test_one_picture_and_batches_of_videos(shape: tuple[int, ...]) -> None:
    red, green = plain((255, 0, 0)).expand(*shape, 3, 4, 4), plain((0, 255, 0)).expand(*shape, 3, 4, 4)
    values = perceptual_distance(red, green, lambda x: x, reduce="none")
    assert values.shape == shape and values.flatten().tolist() == pytest.approx([2.0] * values.numel())
    assert perceptual_distance(red, green, lambda x: x).isnan().item() == (not values.numel())


def test_the_distance_of_a_loss_has_a_gradient_for_the_prediction_alone() -> None:
    pred, target = torch.rand(2, 3, 4, 4).requires_grad_(), torch.rand(2, 3, 4, 4).requires_grad_()
    feature_distance(pred, target, lambda x: x).sum().backward()
    assert pred.grad is not None and pred.grad.abs().sum() > 0 and target.grad is None


def test_pictures_of_another_kind_are_refused() -> None:
    with pytest.raises(ValueError, match="uint8 RGB"):
        perceptual_distance(torch.rand(1, 3, 4, 4), torch.rand(1, 3, 4, 4), lambda x: x)
    grey = torch.zeros(4, 4, dtype=torch.uint8)
    with pytest.raises(ValueError, match="uint8 RGB"):
        perceptual_distance(grey, grey, lambda x: x)
