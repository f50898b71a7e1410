"""A network's forward and backward pass recorded once and replayed by the graphics card alone: CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

_MOST = 4
"""Recordings of one network; each keeps its own activations in the card's memory."""


class Recorded:
    """Takes the place of a network's ``forward`` and replays it in training, where the inputs lie on a CUDA device.

    A training step of small pictures asks for thousands of kernels that take microseconds, and the host needs longer to
    ask than the card to answer. Recorded, a pass is one request. A pass is recorded for each combination of shapes,
    of arguments that are no tensors and of autocast; from the fifth on, in evaluation and elsewhere than on CUDA the
    network runs as it is. It must draw no random numbers and wait for nothing; its inputs get no gradients.

    Args:
        net: the network; weights that have moved are recorded anew.
    """

    def __init__(self, net: nn.Module) -> None:
        self.net, self._takes = net, dict[Any, _Take]()
        self._place = 0

    def __getstate__(self) -> dict[str, Any]:
        """A copy, of another network, begins without recordings."""
        return {"net": self.net, "_takes": {}, "_place": 0}

    def __call__(self, *inputs: Any) -> Tensor:
        """Return what the network's own ``forward`` returns."""
        tensors, rest = _tensors(inputs)
        usable = self.net.training and all(_recordable(tensor) for tensor in tensors)
        kind = tensors[0].device.type
        amp = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
        key = (*((tensor.shape, tensor.dtype) for tensor in tensors), *rest, amp)
        place = next(self.net.parameters()).data_ptr()
        if place != self._place:  # a trainer takes a module off the card when it ends
            self._takes, self._place = {}, place
        if not usable or (key not in self._takes and len(self._takes) == _MOST):
            return type(self.net).forward(self.net, *inputs)
        if key not in self._takes:
            with torch.enable_grad(), torch.autocast(kind, amp[1], amp[0], cache_enabled=False):
                self._takes[key] = _Take(self.net, inputs)
        return self._takes[key](tensors)


class _Take:
    """One recording: the places of its inputs, of its answer and of the weights' gradients, and what fills them."""

    def __init__(self, net: nn.Module, inputs: Sequence[Any]) -> None:
        held = [_held(argument) for argument in inputs]
        self.inputs = _tensors(held)[0]
        self.weights = [weight for weight in net.parameters() if weight.requires_grad]
        live: list[Tensor] = []

        def forwards() -> list[Tensor]:
            live[:] = [type(net).forward(net, *held)]
            return live

        def backwards() -> list[Tensor | None]:
            return list(torch.autograd.grad(live.pop(), self.weights, self.incoming, allow_unused=True))

        with torch.no_grad():  # a graph that is made here and kept would tie the recording to this stream
            self.incoming = torch.zeros_like(type(net).forward(net, *held))
        self.forwards, self.backwards, (answer,), self.gradients = record(forwards, backwards)
        self.answer = answer.detach()

    def __call__(self, tensors: list[Tensor]) -> Tensor:
        for place, tensor in zip(self.inputs, tensors, strict=True):
            place.copy_(tensor)
        return _Replay.apply(self, *self.weights)  # type: ignore[no-any-return]


class _Replay(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, take: _Take, *weights: Tensor) -> Tensor:
        ctx.take = take
        take.forwards()
        return take.answer.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        take: _Take = ctx.take
        for weight, place in zip(take.weights, take.gradients, strict=True):
            # What was handed out before and is being added to lies where the replay writes.
            if weight.grad is not None and place is not None and weight.grad.data_ptr() == place.data_ptr():
                weight.grad = weight.grad.clone()
        take.incoming.copy_(gradient)
        take.backwards()
        return None, *(None if place is None else place.detach() for place in take.gradients)


def record(
    forwards: Callable[[], list[Tensor]], backwards: Callable[[], list[Tensor | None]]
) -> tuple[Callable[[], None], Callable[[], None], list[Tensor], list[Tensor | None]]:
    """Record two passes, of which the second follows the first; return what replays each, and what each fills."""
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(3):  # convolutions are chosen and workspaces allocated
            forwards(), backwards()
    torch.cuda.current_stream().wait_stream(aside)
    torch.cuda.synchronize()
    first, second = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
    # Each has memory of its own: a gradient that is kept, to be added to, must not lie where the next forward pass
    # writes. Other threads go on meanwhile: one of them puts batches into page-locked memory.
    with torch.cuda.graph(first, capture_error_mode="thread_local"):
        answers = list(forwards())
    with torch.cuda.graph(second, capture_error_mode="thread_local"):
        gradients = backwards()
    return first.replay, second.replay, answers, gradients


def _tensors(inputs: Sequence[Any]) -> tuple[list[Tensor], tuple[Any, ...]]:
    """Return the tensors among arguments, those in lists too, and the others with how many each list has."""
    tensors: list[Tensor] = []
    rest: list[Any] = []
    for argument in inputs:
        if isinstance(argument, Tensor):
            tensors.append(argument)
        elif isinstance(argument, list | tuple):
            tensors.extend(argument)
            rest.append(("list", len(argument)))
        else:
            rest.append(argument)
    return tensors, tuple(rest)


def _held(argument: Any) -> Any:
    """Return an argument's own copy."""
    if isinstance(argument, list | tuple):
        return [tensor.detach().clone() for tensor in argument]
    return argument.detach().clone() if isinstance(argument, Tensor) else argument


def _recordable(tensor: Tensor) -> bool:
    return tensor.is_cuda and not tensor.requires_grad
