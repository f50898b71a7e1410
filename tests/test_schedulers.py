"""The bridge against its closed form, and the paper's process behind the same interface."""

import pytest
import torch
from diffusers import DDPMScheduler

from talkhead.schedulers import MaskNoiseBridgeScheduler


@pytest.fixture
def ends() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.rand(2, 3, 4, 8, 8), torch.rand(2, 3, 4, 8, 8)


def test_add_noise_is_the_straight_line(ends):
    clean, noise = ends
    scheduler = MaskNoiseBridgeScheduler()
    mixed = scheduler.add_noise(clean, noise, torch.tensor([999, 249]))
    assert torch.equal(mixed[0], noise[0])
    torch.testing.assert_close(mixed[1], 0.75 * clean[1] + 0.25 * noise[1])


@pytest.mark.parametrize("steps", [1, 4, 20, 300])
@pytest.mark.parametrize("kind", ["sample", "epsilon", "v_prediction"])
def test_a_perfect_network_reaches_the_clean_sample(ends, steps, kind):
    clean, noise = ends
    scheduler = MaskNoiseBridgeScheduler(prediction_type=kind)
    scheduler.set_timesteps(steps)
    assert len(scheduler.timesteps) == steps
    # From n alone, x_0 cannot be had at s = 1 (x_s = n): the walk starts one step below.
    start = 899 if kind == "epsilon" else 999
    scheduler.set_timesteps(steps, start_timestep=start)
    x = scheduler.add_noise(clean, noise, torch.tensor([start, start]))
    truth = {"sample": clean, "epsilon": noise, "v_prediction": noise - clean}[kind]
    for t in scheduler.timesteps:
        torch.testing.assert_close(x, scheduler.add_noise(clean, noise, t.repeat(2)), atol=2e-5, rtol=0)
        x = scheduler.step(truth, t, x).prev_sample
    torch.testing.assert_close(x, clean, atol=2e-5, rtol=0)  # float32 rounding over 300 steps


def test_step_by_hand():
    scheduler = MaskNoiseBridgeScheduler()
    scheduler.set_timesteps(4)
    out = scheduler.step(torch.tensor([0.2]), 999, torch.tensor([1.0]))
    torch.testing.assert_close(out.prev_sample, torch.tensor([0.2 + 0.75 * 0.8]))
    out = scheduler.step(torch.tensor([0.2]), 249, torch.tensor([1.0]), return_dict=False)
    torch.testing.assert_close(out[0], torch.tensor([0.2]))


def test_bad_arguments_are_refused():
    scheduler = MaskNoiseBridgeScheduler()
    with pytest.raises(ValueError, match="num_inference_steps must lie in 1..1000, .* got 1001"):
        scheduler.set_timesteps(1001)
    with pytest.raises(ValueError, match="start_timestep"):
        scheduler.set_timesteps(4, start_timestep=1000)
    scheduler.set_timesteps(4)
    for wrong, near in ((500, 499), (-1, 249), (torch.tensor(1000), 999)):
        with pytest.raises(
            ValueError, match=rf"^timestep must be one of the 4 .*; got {int(wrong)}: the nearest is {near}$"
        ):
            scheduler.step(torch.zeros(1), wrong, torch.zeros(1))
    with pytest.raises(ValueError, match="prediction_type"):
        MaskNoiseBridgeScheduler(prediction_type="x0")  # type: ignore[arg-type]


def test_round_trip_through_a_folder(tmp_path):
    MaskNoiseBridgeScheduler(num_train_timesteps=500, prediction_type="v_prediction").save_pretrained(tmp_path)
    loaded = MaskNoiseBridgeScheduler.from_pretrained(tmp_path)
    assert loaded.config.num_train_timesteps == 500
    assert loaded.config.prediction_type == "v_prediction"


def test_coefficients_agree_with_add_noise(ends):
    clean, noise = ends
    scheduler = MaskNoiseBridgeScheduler()
    t = torch.tensor([100, 700])
    a, b = (v.view(-1, 1, 1, 1, 1) for v in scheduler.coefficients(t))
    torch.testing.assert_close(a * clean + b * noise, scheduler.add_noise(clean, noise, t))


def test_three_hundred_steps_of_the_papers_process():
    """An integer stride gives 334 steps; diffusers' `leading` gives 300, but starts at 897 and not at 999."""
    scheduler = DDPMScheduler(num_train_timesteps=1000)
    scheduler.set_timesteps(300)
    assert len(scheduler.timesteps) == 300
    assert int(scheduler.timesteps[0]) == 897
    trailing = DDPMScheduler(num_train_timesteps=1000, timestep_spacing="trailing")
    trailing.set_timesteps(300)
    assert len(trailing.timesteps) == 300
    assert int(trailing.timesteps[0]) == 999


def test_the_bridge_from_the_truth_is_the_forward_process():
    """With the true x_0, stepping from s to s' lands where the forward process puts s', each sample at its own step."""
    scheduler = MaskNoiseBridgeScheduler()
    clean, noise = torch.randn(3, 2, 4), torch.randn(3, 2, 4)
    here, there = torch.tensor([999, 600, 10]), torch.tensor([998, 20, 0])
    moved = scheduler.bridge(clean, scheduler.add_noise(clean, noise, here), here, there)
    torch.testing.assert_close(moved, scheduler.add_noise(clean, noise, there))
