"""Frames beside the landmarks that they were painted on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from talkhead.devices import ahead
from talkhead.face.portrait import Portrait
from talkhead.nets.renderer import Renderer
from talkhead.pipeline.at_once import ready_to_paint
from talkhead.pipeline.windows import Painted, paint_windows
from talkhead.schedulers import Scheduler


def paint(
    renderer: Renderer,
    scheduler: Scheduler,
    portrait: Portrait,
    landmarks: Iterator[Tensor],
    emotion: Tensor,
    options: Mapping[str, Any],
) -> Iterator[tuple[Painted, Tensor]]:
    """Yield painted frames with their (t, 68, 2) px landmarks; see `paint_windows`.

    The next landmarks are found while windows are painted, and the next windows painted while the caller works on the
    last; not where the renderer waits for other jobs' calls (`SharedRenderer`): they work one at a time.
    """

    def windows(parts: Iterator[Tensor]) -> Iterator[Painted]:
        own = portrait.face, portrait.reference_landmarks
        return paint_windows(ready_to_paint(renderer), scheduler, *own, parts, emotion, **options)

    if not isinstance(renderer, Renderer):
        return _with_landmarks(windows, landmarks)
    return ahead(_with_landmarks(windows, ahead(landmarks)))


def _with_landmarks(
    windows: Callable[[Iterator[Tensor]], Iterator[Painted]], landmarks: Iterator[Tensor]
) -> Iterator[tuple[Painted, Tensor]]:
    """Yield what is painted on landmarks beside those that it was painted on."""
    waiting = torch.empty(0, 68, 2)

    def passing() -> Iterator[Tensor]:
        nonlocal waiting
        for part in landmarks:
            waiting = torch.cat((waiting, part))
            yield part

    for painted in windows(passing()):
        count = len(painted.frames)
        yield painted, waiting[:count]
        waiting = waiting[count:]
