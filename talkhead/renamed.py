"""Old names of public arguments: they still work, and warn."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])


def renamed_arguments(**names: str) -> Callable[[Function], Function]:
    """Let a function take keyword arguments under their old names too.

    Args:
        **names: old name = new name.

    Returns:
        A decorator. The function it gives warns (``FutureWarning``) where an old name is used, and raises a TypeError
        where both are.

    Example:
        >>> @renamed_arguments(colour="color")
        ... def paint(color: str) -> str:
        ...     return color
        >>> with warnings.catch_warnings():
        ...     warnings.simplefilter("ignore")
        ...     paint(colour="red")
        'red'
    """

    def decorate(function: Function) -> Function:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            for old in names.keys() & kwargs.keys():
                new = names[old]
                if new in kwargs:
                    raise TypeError(f"{function.__name__}: {old} is the old name of {new}; got both, give {new} alone")
                warn_renamed(old, new)
                kwargs[new] = kwargs.pop(old)
            return function(*args, **kwargs)

        return wrapper  # type: ignore[return-value]  # functools.wraps keeps the signature, mypy does not see it

    return decorate


def warn_renamed(old: str, new: str, stacklevel: int = 3) -> None:
    """Warn that an argument has another name now."""
    warnings.warn(f"{old} is called {new} now; the old name will go", FutureWarning, stacklevel=stacklevel)
