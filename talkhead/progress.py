"""How far a video is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress_bar(total: int, show: bool) -> Iterator[Callable[..., None]]:
    """Give a function that counts one frame of ``total``, with a bar on stderr where ``show`` is set.

    It takes, if wanted, a word on the frame to stand beside their number.
    """
    if not show:
        yield lambda word="": None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task(f"{total} frames", total=total)
        yield lambda word="": bar.update(task, advance=1, description=f"{total} frames {word}".rstrip())
