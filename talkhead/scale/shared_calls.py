"""Several jobs in one process, turn by turn: where each waits for the renderer, one network call answers several.

A graphics card is filled by a batch of windows, and a short video has few. Each job runs in a thread of its own, but
one works at any time: it goes on until it wants the network, then it is the next one's turn. When all of them wait, the
windows that fit together are one batch. Who waits for whom follows from the jobs alone, never from how fast they are.
"""

from __future__ import annotations

import threading
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from talkhead.nets.condition import Condition
from talkhead.nets.renderer import Renderer
from talkhead.pipeline.windows import batched

R = TypeVar("R")
Answer = tuple[Tensor, Tensor | None]
WINDOWS = 8  # in a shared call, at most: as many as one job's, so that it needs no more memory


@dataclass
class _Call:
    """What a job asks of the network, as `Renderer.predict_displaced` is asked; and its answer."""

    renderer: Renderer
    sample: Tensor
    timestep: Any
    condition: Condition
    emotion: Tensor
    guidance_scale: float
    answer: Answer | BaseException | None = None

    @property
    def kind(self) -> tuple[Any, ...]:
        """What calls must have in common to be one."""
        parts = [getattr(self.condition, f.name) for f in fields(Condition)]
        shapes = [None if part is None else (part.shape[1:], part.dtype) for part in (self.sample, *parts)]
        return id(self.renderer), int(self.timestep), self.guidance_scale, *shapes


class SharedRenderer:
    """A renderer whose network calls wait for those of the jobs beside it; all else is the renderer's own."""

    def __init__(self, renderer: Renderer, ask: Callable[[Any], Answer]) -> None:
        self._renderer, self._ask = renderer, ask

    def __getattr__(self, name: str) -> Any:
        return getattr(self._renderer, name)

    def predict_displaced(
        self, sample: Tensor, timestep: Any, condition: Condition, emotion: Tensor, guidance_scale: float = 1.0
    ) -> Answer:
        """Answer as `Renderer.predict_displaced` does, within a larger batch's rounding."""
        return self._ask(_Call(self._renderer, sample, timestep, condition, emotion, guidance_scale))


class _Turn(threading.Thread):
    """A task that works when it is its turn, until it asks or ends."""

    def __init__(self, task: Callable[[Callable[[Any], Answer]], Any]) -> None:
        super().__init__(daemon=True)
        self._task = task
        self._go, self._back = threading.Semaphore(0), threading.Semaphore(0)
        self._working = False
        self._asking = threading.Lock()  # a task's windows may ask from threads of their own
        self.call: _Call | None = None
        self.done = False
        self.result: Any = None
        self.error: BaseException | None = None

    def run(self) -> None:
        """Do the task: what a thread does once it is started."""
        self._go.acquire()
        try:
            self.result = self._task(self._ask)
        except BaseException as error:
            self.error = error
        self.done, self.call = True, None
        self._back.release()

    def _ask(self, call: _Call) -> Answer:
        with self._asking:
            self.call = call
            self._back.release()
            self._go.acquire()
        if isinstance(call.answer, BaseException):
            raise call.answer
        return cast(Answer, call.answer)

    def go_on(self) -> None:
        """Let it work until it asks or ends; at first, begin."""
        if self.ident is None:
            self.start()
        self._working = True
        self._go.release()
        self._back.acquire()
        self._working = False

    def stop(self) -> None:
        """End it where it is, as Ctrl-C does."""
        if self._working:
            self._back.acquire()
            self._working = False
        while self.call is not None:
            self.call.answer = KeyboardInterrupt()
            self.go_on()


def take_turns(tasks: Sequence[Callable[[Callable[[Any], Answer]], R]]) -> list[R]:
    """Do tasks side by side, of which one works at any time, and answer what they ask of the network together.

    Args:
        tasks: each is called with what a `SharedRenderer` takes as ``ask``.

    Returns:
        Their results, in their order.

    Raises:
        BaseException: what a task raises; the others are ended where they are.
    """
    turns = [_Turn(task) for task in tasks]
    try:
        while live := [turn for turn in turns if not turn.done]:
            for turn in live:
                turn.go_on()
                if turn.error is not None:
                    raise turn.error
            _answer([turn.call for turn in live if turn.call is not None])
    finally:
        for turn in turns:
            turn.stop()
    return [turn.result for turn in turns]


def _answer(calls: list[_Call]) -> None:
    """Answer all calls, those of a kind in as few network calls as their windows allow."""
    kinds: dict[tuple[Any, ...], list[_Call]] = defaultdict(list)
    for call in calls:
        kinds[call.kind].append(call)
    for alike in kinds.values():
        for batch in _batches(alike):
            try:
                _answer_batch(batch)
            except Exception as error:
                if len(batch) == 1:
                    batch[0].answer = error
                    continue
                for call in batch:  # one job's fault is not the others'
                    _answer([call])


def _batches(calls: list[_Call]) -> Iterator[list[_Call]]:
    """Yield the calls, as many at once as have no more than `WINDOWS` windows."""
    batch: list[_Call] = []
    for call in calls:
        if batch and sum(len(c.sample) for c in batch) + len(call.sample) > WINDOWS:
            yield batch
            batch = []
        batch.append(call)
    yield batch


@torch.inference_mode()
def _answer_batch(calls: list[_Call]) -> None:
    first, counts = calls[0], [len(call.sample) for call in calls]
    sample, condition, emotion = first.sample, first.condition, first.emotion
    if len(calls) > 1:
        sample, emotion = torch.cat([call.sample for call in calls]), torch.cat([call.emotion for call in calls])
        condition = batched([call.condition for call in calls])
    predicted, moved = first.renderer.predict_displaced(
        sample, first.timestep, condition, emotion, first.guidance_scale
    )
    parts = [None] * len(calls) if moved is None else moved.split(counts)
    for call, *answer in zip(calls, predicted.split(counts), parts, strict=True):
        call.answer = (answer[0], answer[1])


@contextmanager
def caught_by_thread() -> Iterator[dict[threading.Thread, list[Warning]]]:
    """Collect warnings by the thread that gave them: `warnings.catch_warnings` changes all threads' at once."""
    caught: dict[threading.Thread, list[Warning]] = defaultdict(list)

    def keep(message: Any, category: type[Warning], *where: Any, **more: Any) -> None:
        caught[threading.current_thread()].append(message)

    with warnings.catch_warnings():
        warnings.showwarning = keep
        yield caught
