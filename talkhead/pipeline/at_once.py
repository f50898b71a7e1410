"""A few frames painted at once, from their noise to the picture: what windows and wavefronts are not needed for."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from talkhead.nets.renderer import Condition, Renderer
from talkhead.pipeline.windows import set_timesteps


@torch.inference_mode()
def paint_at_once(renderer: Renderer, scheduler: Any, condition: Condition, emotion: Tensor, steps: int) -> Tensor:
    """Return (B, T, 3, s, s) uint8 frames.

    Args:
        renderer: the network.
        scheduler: what steps from one level to the next; it is copied, never changed.
        condition: from the renderer's ``prepare``, of B clips of T frames.
        emotion: (8,) probabilities.
        steps: network evaluations per frame.
    """
    scheduler = copy.deepcopy(scheduler)
    set_timesteps(scheduler, steps, None, renderer.device)
    x, told = condition.noise, emotion.to(renderer.device).expand(len(condition.noise), -1)
    for timestep in scheduler.timesteps.tolist():
        x = scheduler.step(renderer.predict(x, timestep, condition, told), timestep, x).prev_sample
    return renderer.decode(x).cpu()
