"""Map a function over recordings in several processes that may die, be stopped, or lose their parent."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

S = TypeVar("S")
R = TypeVar("R")
Task = Callable[[S, Any, Callable[[], bool]], R]

Mapper = Callable[..., Generator[tuple[Any, Any], None, None]]
"""What spreads work over workers: called, and yielding, as `map_sources` is and does.

Where it has a method ``note``, what that returns stands at the progress bar's end.
"""

_stop: Any = None
_PARENT = "TALKHEAD_PARENT"
"""In a worker's environment: the process that started it."""


def map_sources(
    task: Task[S, R], sources: Iterable[S], job: Any, workers: int
) -> Generator[tuple[S, R | str], None, None]:
    """Yield ``(source, task(source, job, stopped))`` in the order in which they finish.

    A worker that dies (a crash in a codec, out of memory) does not end the run: the sources it may have died of are
    tried again, each alone, and one that kills its worker a second time gets a sentence in the place of a result.

    Args:
        task: a module-level function; it calls ``stopped`` now and then, and raises KeyboardInterrupt when it is true.
        sources: what to do; picklable.
        job: what the task must know; picklable.
        workers: number of processes; 1: this one; 0: one of its own.

    Yields:
        Each source with its result, or with a sentence that says how its worker died.

    Raises:
        Exception: whatever ``task`` raises; the other workers are stopped.
        RuntimeError: if no worker can begin, as where a script calls this without ``if __name__ == "__main__"``.
    """
    if workers == 1:
        return ((source, task(source, job, lambda: False)) for source in sources)
    if _reads_script() and os.environ.get(_PARENT) == str(os.getppid()):
        sys.exit(1)  # it has come to the call that made it, and can only end: the process that called tells why
    os.environ[_PARENT] = str(os.getpid())
    return _map(task, deque(sources), job, max(workers, 1))


def _map(task: Task[S, R], todo: deque[S], job: Any, workers: int) -> Generator[tuple[S, R | str], None, None]:
    begun = multiprocessing.get_context("spawn").Event()
    while todo:
        suspects = yield from _drain(task, todo, job, workers, begun)
        if suspects and not begun.is_set():
            raise RuntimeError(
                "workers: no worker process could begin; a script must be a file with its work below "
                '`if __name__ == "__main__":`, for each worker reads it first; or take workers=1'
            )
        for source in suspects:
            if (yield from _drain(task, deque([source]), job, 1, begun)):
                yield source, "the worker process died of it, by a crash or for want of memory"


def _drain(
    task: Task[S, R], todo: deque[S], job: Any, workers: int, begun: Any
) -> Generator[tuple[S, R | str], None, list[S]]:
    """Work through ``todo`` with one pool; return the sources in work when a worker died (none: all is done)."""
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    pool = ProcessPoolExecutor(min(workers, len(todo)), context, initializer=_begin, initargs=(stop, begun))
    running: dict[Future[R], S] = {}
    try:
        while todo or running:
            # No more in the pool than it works on, so that a dead worker leaves few suspects.
            while todo and len(running) < workers:
                source = todo.popleft()
                try:
                    running[pool.submit(_run, task, source, job)] = source
                except BrokenProcessPool:
                    return [*running.values(), source]
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                if isinstance(future.exception(), BrokenProcessPool):
                    return list(running.values())
                source = running.pop(future)
                yield source, future.result()
        return []
    finally:
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)


def _reads_script() -> bool:
    """Tell whether this is a new process of `multiprocessing` that still reads the script which was started."""
    return "--multiprocessing-fork" in sys.orig_argv and multiprocessing.parent_process() is None


def _begin(stop: Any, begun: Any) -> None:
    """Prepare a worker: one thread, Ctrl-C left to the parent, and no life without it."""
    global _stop
    _stop = stop
    begun.set()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["OMP_NUM_THREADS"] = "1"  # for a torch that is not imported yet
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
    # A killed parent cannot tell its workers to end; they would wait for work for ever.
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _run(task: Task[S, R], source: S, job: Any) -> R:
    return task(source, job, _stop.is_set)
