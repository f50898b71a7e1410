"""The schedule against torch's own cosine annealing, and what a longer run makes of it."""

import copy
import math
from types import SimpleNamespace

import pytest
import torch

from talkhead.modules.optimizers import adam_with_cosine


def run(module: SimpleNamespace, steps: int, state: dict | None = None) -> tuple[list[float], dict]:
    parts = adam_with_cosine(module, 1e-4)
    schedule = parts["lr_scheduler"]["scheduler"]
    if state is not None:
        schedule.load_state_dict(state)
    rates = []
    for _ in range(steps):
        parts["optimizer"].step()
        schedule.step()
        rates.append(schedule.get_last_lr()[0])
    return rates, copy.deepcopy(schedule.state_dict())


def module_of(max_epochs: int, max_steps: int = -1) -> SimpleNamespace:
    weight = torch.nn.Parameter(torch.zeros(1))
    return SimpleNamespace(
        parameters=lambda: iter([weight]), trainer=SimpleNamespace(max_epochs=max_epochs, max_steps=max_steps)
    )


def test_it_is_cosine_annealing_with_t_max_epochs():
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=1e-4)
    truth = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=50)
    expected = []
    for _ in range(50):
        optimizer.step()
        truth.step()
        expected.append(truth.get_last_lr()[0])
    assert run(module_of(50), 50)[0] == pytest.approx(expected, abs=1e-12)


def test_a_run_resumed_with_another_length_follows_the_new_one():
    whole, _ = run(module_of(40), 40)
    _, half = run(module_of(20), 20)
    assert run(module_of(40), 20, half)[0] == pytest.approx(whole[20:], abs=1e-12)
    assert run(module_of(20), 25)[0][-1] == 0  # and a run that goes on past its end does not rise again


def test_steps_count_where_steps_limit_the_run():
    assert adam_with_cosine(module_of(1, 30), 1e-4)["lr_scheduler"]["interval"] == "step"
    assert adam_with_cosine(module_of(30), 1e-4)["lr_scheduler"]["interval"] == "epoch"


EIGHTHS = [n / 8 for n in range(1, 9)]
SHORT = [1 / 8, 1 / 4, 1 / 2, 3 / 4]  # a tenth of forty steps is four


@pytest.mark.parametrize(
    "epochs, steps, length, rise", [(-1, 40, 40, SHORT), (10, -1, 40, SHORT), (-1, 90, 90, EIGHTHS)]
)
def test_a_warm_up_multiplies_the_cosine_step_by_step(epochs: int, steps: int, length: int, rise: list[float]):
    """However the run is limited: ten epochs of four batches are forty steps."""
    module = module_of(epochs, steps)
    module.trainer.estimated_stepping_batches = length
    parts = adam_with_cosine(module, 1e-4, warmup_steps=8)
    assert parts["lr_scheduler"]["interval"] == "step"
    schedule, rates = parts["lr_scheduler"]["scheduler"], []
    for _ in range(length):
        rates.append(schedule.get_last_lr()[0])
        parts["optimizer"].step()
        schedule.step()
    rise = rise + [1.0] * (length - len(rise))
    cosine = [math.cos(math.pi * n / (2 * length)) ** 2 for n in range(length)]
    assert rates == pytest.approx([1e-4 * r * c for r, c in zip(rise, cosine, strict=True)], abs=1e-15)


def test_a_negative_warm_up_is_refused():
    with pytest.raises(ValueError, match="warmup_steps must be 0 or more; got -1"):
        adam_with_cosine(module_of(1), 1e-4, warmup_steps=-1)
