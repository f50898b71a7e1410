"""A recorded network answers as the network does, with its gradients; the card's graphs are stood in for on a CPU."""

import copy
from collections.abc import Callable

import pytest
import torch
from test_video import SMALL, batch_of, one_step
from torch import Tensor

from talkhead.modules import recorded
from talkhead.modules.recorded import Recorded
from talkhead.modules.video import VideoDiffusion
from talkhead.nets.renderer import Renderer
from talkhead.nets.unet3d import UNet3D


def tape(forwards: Callable[[], list[Tensor]], backwards: Callable[[], list[Tensor | None]]) -> tuple:
    """Do what CUDA graphs do: write each replay's results to the places of the first."""
    answers = [answer.detach().clone() for answer in forwards()]
    gradients = [None if gradient is None else gradient.clone() for gradient in backwards()]

    def replay(places: list, work: Callable[[], list]) -> None:
        with torch.enable_grad():
            made = work()
        for place, new in zip(places, made, strict=True):
            if place is not None:
                place.copy_(new.detach())

    return lambda: replay(answers, forwards), lambda: replay(gradients, backwards), answers, gradients


@pytest.fixture
def taped(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Put the tape in the place of the card; how often something was recorded."""
    made: list[int] = []

    def record(*passes: Callable) -> tuple:
        made.append(1)
        return tape(*passes)

    monkeypatch.setattr(recorded, "record", record)
    monkeypatch.setattr(recorded, "_recordable", lambda tensor: not tensor.requires_grad)
    return made


def pair() -> tuple[UNet3D, UNet3D]:
    net = UNet3D(6, 3, widths=(8, 16), patch=1, attention_levels=1)
    for weight in net.parameters():
        torch.nn.init.normal_(weight, std=0.1)
    other = copy.deepcopy(net)
    net.forward = Recorded(net)  # type: ignore[method-assign]
    return net, other


def ask(net: UNet3D, seed: int, batch: int = 2) -> Tensor:
    draws = torch.Generator().manual_seed(seed)
    parts = [torch.rand(batch, 3, 4, 8, 8, generator=draws) for _ in range(2)]
    return net(parts, torch.arange(batch) * 100 + seed, torch.rand(batch, 8, generator=draws))


def test_answers_and_gradients_are_the_networks_also_added_up(taped: list[int]) -> None:
    net, plain = pair()
    for turn in range(4):
        if turn == 2:  # two steps' gradients were added up before
            net.zero_grad(), plain.zero_grad()
        answers = ask(net, turn), ask(plain, turn)
        assert torch.equal(*answers)
        for answer in answers:
            answer.square().sum().backward()
        for got, wanted in zip(net.parameters(), plain.parameters(), strict=True):
            assert got.grad is not None and wanted.grad is not None and torch.equal(got.grad, wanted.grad)
        with torch.no_grad():  # as sampling on its own answers does; it must not spoil what was handed out
            torch.testing.assert_close(ask(net, 9), ask(plain, 9))
    assert len(taped) == 1


def test_each_shape_is_recorded_and_no_more_than_four(taped: list[int]) -> None:
    net, plain = pair()
    for batch in (1, 2, 3, 4, 5, 6, 2):
        assert torch.equal(ask(net, 0, batch), ask(plain, 0, batch))
    assert len(taped) == 4


def test_evaluation_runs_as_it_is_and_learns_with_the_weights(taped: list[int]) -> None:
    net, plain = pair()
    ask(net, 0)
    with torch.no_grad():
        for weight, other in zip(net.parameters(), plain.parameters(), strict=True):
            weight.mul_(1.5), other.mul_(1.5)
    assert torch.equal(ask(net, 1), ask(plain, 1))  # replayed with the new weights
    twin = copy.deepcopy(net)
    twin.zero_grad(), net.zero_grad()
    ask(twin, 1).sum().backward()
    assert next(net.parameters()).grad is None and len(taped) == 2  # a copy records its own weights
    net.eval(), plain.eval()
    assert torch.equal(ask(net, 2, 3), ask(plain, 2, 3)) and len(taped) == 2


def test_a_training_step_of_the_renderer_is_the_same(taped: list[int]) -> None:
    losses = []
    for graphs in (False, True):
        torch.manual_seed(0)
        module, batch = VideoDiffusion(Renderer(**SMALL), own_share=1.0, graphs=graphs), batch_of()
        loss = one_step(module, batch)
        loss.backward()
        losses.append([loss, *(weight.grad for weight in module.parameters() if weight.grad is not None)])
    assert len(taped) == 1 and len(losses[0]) == len(losses[1])
    for plain, replayed in zip(*losses, strict=True):
        torch.testing.assert_close(replayed, plain)


def test_weights_that_have_moved_are_recorded_anew(taped: list[int]) -> None:
    """A trainer takes the module off the card when it ends; the next puts it elsewhere."""
    net, plain = pair()
    ask(net, 0)
    for weight in net.parameters():
        weight.data = weight.data.clone()
    assert torch.equal(ask(net, 1), ask(plain, 1)) and len(taped) == 2


def test_a_recording_keeps_no_graph_of_another_stream(taped: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """A weight's node in a graph belongs to the stream it was made on: one that lives on would be recorded, too."""
    own, made = UNet3D.forward, []

    def forward(self: UNet3D, *inputs: object) -> Tensor:
        made.append(torch.is_grad_enabled())
        return own(self, *inputs)  # type: ignore[arg-type]

    def record(forwards: Callable, backwards: Callable) -> tuple:
        assert made == [False]
        answers = forwards()
        backwards()
        assert not answers  # what the backward pass has used is let go
        return tape(forwards, backwards)

    net = pair()[0]
    monkeypatch.setattr(UNet3D, "forward", forward)
    monkeypatch.setattr(recorded, "record", record)
    ask(net, 0)


def test_on_a_cpu_nothing_is_recorded_and_what_would_change_it_is_refused() -> None:
    net, plain = pair()
    assert torch.equal(ask(net, 0), ask(plain, 0))
    with pytest.raises(ValueError, match="graphs=True .* compile=True"):
        VideoDiffusion(Renderer(**SMALL), compile=True, graphs=True)
    with pytest.raises(ValueError, match="gradient_checkpointing=True"):
        VideoDiffusion(Renderer(**SMALL, gradient_checkpointing=True), graphs=True)
