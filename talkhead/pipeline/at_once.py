"""A few frames painted at once, from their noise to the picture: what windows and wavefronts are not needed for."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from talkhead.devices import has_fast_bf16
from talkhead.nets.condition import Condition
from talkhead.nets.renderer import Renderer
from talkhead.pipeline.windows import Painted, set_timesteps
from talkhead.schedulers import Scheduler, keyed_step


@torch.inference_mode()
def paint_at_once(
    renderer: Renderer, scheduler: Scheduler, condition: Condition, emotion: Tensor, steps: int, seed: int, first: int
) -> Painted:
    """Return frames (B, T, 3, s, s) on the CPU, and their displacements (B, T, s, s, 2) on the renderer's device.

    Args:
        renderer: the network.
        scheduler: what steps from one level to the next; it is copied, never changed.
        condition: from the renderer's ``prepare``, of B clips of T frames.
        emotion: (8,) probabilities.
        steps: network evaluations per frame.
        seed: of the noise that the scheduler draws, where it does.
        first: number of the first frame in the video.
    """
    scheduler = copy.deepcopy(scheduler)
    x = condition.noise
    told = emotion.to(x.device).expand(len(x), -1)
    set_timesteps(scheduler, steps, None, torch.device("cpu"))  # each step reads them
    moved: Tensor | None = None
    for level, timestep in enumerate(scheduler.timesteps.tolist()):
        predicted, moved = renderer.predict_displaced(x, timestep, condition, told)
        x = keyed_step(scheduler, predicted, timestep, x, seed=seed, frame=first, level=level)
    return Painted(renderer.decode(x).cpu(), moved)


def ready_to_paint(renderer: Renderer) -> Renderer:
    """Return a copy whose weights already have the type that each call would round them to: the same pictures, sooner.

    Where there is no bf16 arithmetic, it is the renderer itself; so is one that is compiled, as a copy is not, or that
    only asks another (`SharedRenderer`). For what is called often: of the 40 ms of three frames, rounding five million
    weights took six. Filters lie with their channels last, as the pictures do: each call would copy them so.
    """
    plain = isinstance(renderer, Renderer) and renderer.unet._compiled_call_impl is None
    if not plain or not has_fast_bf16(renderer.device):
        return renderer
    ready = copy.deepcopy(renderer)
    for layer in ready.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.to(torch.bfloat16, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return ready
