"""The workers of a Ray cluster in the place of this machine's processes, and what is lost when one dies."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable
from typing import Any

_RECENT = 30.0  # s over which a node's rate is told
_PATIENCE = 20.0  # s for tasks to end when the run is stopped
_TRIES = 3


class RayEngine:
    """Spread work over a Ray cluster; called, and yielding, as `talkhead.data.workers.map_sources` is and does.

    No more tasks are in flight than twice what the cluster runs at once, so that a million recordings need no more
    memory than a hundred, and nodes that join get work. A task whose worker or node dies is started again on another,
    three times in all; then it gets a sentence in the place of a result. Every node must have this version of
    talkhead installed, and see the files under the same names.

    Args:
        address: of the cluster, such as ``auto`` or ``10.0.0.1:6379``; None: a cluster of this machine alone, which
            ends with the run.
        workers: tasks at once, at most; None: as many as there are cores.
        gpus_per_worker: the share of a graphics card that a task takes; 0: it sees none.
        things: what is counted, in `note`.
    """

    def __init__(
        self,
        address: str | None = None,
        workers: int | None = None,
        gpus_per_worker: float = 0.0,
        things: str = "recordings",
    ) -> None:
        if gpus_per_worker < 0 or (gpus_per_worker > 1 and gpus_per_worker != int(gpus_per_worker)):
            raise ValueError(f"gpus_per_worker must lie in 0..1, or be a whole number; got {gpus_per_worker}")
        if workers is not None and workers < 1:
            raise ValueError(f"workers must be at least 1; got {workers}")
        self.address, self.workers, self.gpus_per_worker, self.things = address, workers, gpus_per_worker, things
        self._ends: dict[str, deque[float]] = {}
        self._start = 0.0
        self._room, self._asked = 0, 0.0

    def __call__(
        self, task: Callable[..., Any], sources: Iterable[Any], job: Any, workers: int
    ) -> Generator[tuple[Any, Any], None, None]:
        """Yield ``(source, task(source, job, stopped))`` in the order in which they finish; ``workers`` is ignored.

        Raises:
            ImportError: if Ray is not installed.
            ConnectionError: if there is no cluster at the address.
            ValueError: if the cluster has not the graphics cards that a worker needs.
            Exception: whatever ``task`` raises; the other tasks are stopped.
        """
        todo = deque(sources)
        if not todo:
            return
        ray = _ray()
        connected = _connect(ray, self.address, self.workers)
        running: dict[Any, Any] = {}
        try:
            self._check_gpus(ray)
            self._start, self._asked = time.monotonic(), 0.0
            # A task that dies is started again here, where the tries are counted.
            remote = ray.remote(num_cpus=1, num_gpus=self.gpus_per_worker, max_retries=0)(_on_node)
            yield from self._drain(ray, remote, task, todo, job, running)
        finally:
            _stop(ray, list(running))
            if connected:
                ray.shutdown()

    def _drain(
        self, ray: Any, remote: Any, task: Any, todo: deque[Any], job: Any, running: dict[Any, Any]
    ) -> Generator[tuple[Any, Any], None, None]:
        deaths: Counter[int] = Counter()
        gone = (
            ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError, ray.exceptions.OutOfMemoryError,
            ray.exceptions.ObjectLostError, ray.exceptions.LocalRayletDiedError,
        )  # fmt: skip
        while todo or running:
            while todo and len(running) < self._at_once(ray):
                source = todo.popleft()
                running[remote.remote(os.getcwd(), self.gpus_per_worker > 0, task, source, job)] = source
            done, _ = ray.wait(list(running), timeout=1.0)
            for reference in done:
                source = running.pop(reference)
                try:
                    node, result = ray.get(reference)
                except gone:
                    deaths[id(source)] += 1
                    if deaths[id(source)] < _TRIES:
                        todo.appendleft(source)
                        continue
                    result = "the worker process died of it, by a crash or for want of memory"
                except ray.exceptions.RayTaskError as error:
                    raise (error.cause if isinstance(error.cause, Exception) else error) from None
                else:
                    self._ends.setdefault(node, deque(maxlen=1000)).append(time.monotonic())
                yield source, result

    def _at_once(self, ray: Any) -> int:
        """Return how many tasks may be in flight: twice what the cluster runs at once, as it is now."""
        if time.monotonic() - self._asked > 2:
            self._asked = time.monotonic()
            has = ray.cluster_resources()
            slots = int(has.get("CPU", 0))
            if self.gpus_per_worker:
                slots = min(slots, int(has.get("GPU", 0) / self.gpus_per_worker))
            self._room = 2 * max(slots, 1)
        return self._room if self.workers is None else min(self._room, self.workers)

    def _check_gpus(self, ray: Any) -> None:
        has = ray.cluster_resources().get("GPU", 0)
        if has < self.gpus_per_worker:
            raise ValueError(
                f"gpus_per_worker: the cluster has {has:g} graphics cards, a worker needs {self.gpus_per_worker:g}; "
                "leave it out, or start nodes that have some"
            )

    def note(self) -> str:
        """Return each node's speed in the last half minute, such as ``a:1f3e 2.1, b:77aa 1.9 recordings/s``."""
        now = time.monotonic()
        seconds = min(max(now - self._start, 1e-3), _RECENT)
        counts = {node: sum(now - end < _RECENT for end in ends) for node, ends in self._ends.items()}
        shown = [f"{node} {count / seconds:.1f}" for node, count in sorted(counts.items()) if count]
        return f"{', '.join(shown)} {self.things}/s" if shown else ""


def _ray() -> Any:
    """Import Ray, which tells nobody that it runs."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError:
        raise ImportError("engine ray: Ray is not installed; run: pip install 'talkhead[ray]'") from None
    return ray


def _connect(ray: Any, address: str | None, workers: int | None) -> bool:
    """Connect to a cluster, or start one; return whether it was done here."""
    if ray.is_initialized():
        return False
    handler = signal.getsignal(signal.SIGTERM)
    quiet = {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": True}
    try:
        if address is None:
            os.environ.setdefault("RAY_worker_niceness", "0")  # as the local pool's: the run is what is waited for
            little = 100 * 2**20  # what is passed on is small: names and lines of a manifest
            ray.init(address="local", num_cpus=workers, include_dashboard=False, object_store_memory=little, **quiet)
        else:
            ray.init(address=address, **quiet)
    except ConnectionError:
        raise ConnectionError(
            f"address: there is no Ray cluster at {address!r}; start one with `ray start --head`, or leave it out"
        ) from None
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)  # Ray puts its own there, which would end this process at once
    return True


def _stop(ray: Any, references: list[Any]) -> None:
    """End what still runs: asked first, so that nothing half-written is left, then by force."""
    if not references or not ray.is_initialized():
        return
    for reference in references:
        ray.cancel(reference)
    _, left = ray.wait(references, num_returns=len(references), timeout=_PATIENCE)
    for reference in left:
        ray.cancel(reference, force=True)


def _on_node(folder: str, cards: bool, task: Callable[..., Any], source: Any, job: Any) -> tuple[str, Any]:
    """Do one task on a node, from the folder that the run was started in; return the node's name and the result."""
    import ray

    if not cards:  # Ray itself leaves all of them to a task that asked for none
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    if os.path.isdir(folder):
        os.chdir(folder)
    node = f"{socket.gethostname()}:{ray.get_runtime_context().get_node_id()[:4]}"
    return node, task(source, job, lambda: False)
