"""A task for Ray's workers; nothing heavy is imported, for each worker imports this file."""

import os
from collections.abc import Callable


def odd(source: int, job: int, stopped: Callable[[], bool]) -> int:
    """Multiply; kill the worker, or fail, for certain numbers."""
    if source == 13:
        os._exit(1)
    if source == 99:
        raise OSError("disk full")
    return source * job
