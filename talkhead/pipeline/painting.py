"""Frames beside the landmarks that they were painted on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from talkhead.nets.renderer import Renderer
from talkhead.pipeline.stages import Portrait
from talkhead.pipeline.windows import render_windows
from talkhead.schedulers import Scheduler


def paint(
    renderer: Renderer,
    scheduler: Scheduler,
    portrait: Portrait,
    landmarks: Iterator[Tensor],
    emotion: Tensor,
    options: Mapping[str, Any],
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (t, 3, s, s) uint8 frames with their (t, 68, 2) px landmarks; see `render_windows`."""
    waiting = torch.empty(0, 68, 2)

    def passing() -> Iterator[Tensor]:
        nonlocal waiting
        for part in landmarks:
            waiting = torch.cat((waiting, part))
            yield part

    face, reference_landmarks = portrait.face, portrait.reference_landmarks
    for frames in render_windows(renderer, scheduler, face, reference_landmarks, passing(), emotion, **options):
        yield frames, waiting[: len(frames)]
        waiting = waiting[len(frames) :]
