"""An error's message on one line, as it stands in a sentence of ours."""

from __future__ import annotations

from typing import Any


def one_line(error: Any, most: int | None = None) -> str:
    r"""Return what an error says on one line, or its class's name where it says nothing.

    Args:
        error: an exception, or a message.
        most: the characters after which it is cut.

    Example:
        >>> one_line(ValueError("one\n  two"), 7), one_line(KeyboardInterrupt())
        ('one two', 'KeyboardInterrupt')
    """
    return " ".join(str(error).split())[:most] or type(error).__name__
