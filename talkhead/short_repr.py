"""Records of tensors as a notebook shows them: shapes in place of numbers."""

from __future__ import annotations

from dataclasses import fields
from fractions import Fraction
from typing import Any, TypeVar

Record = TypeVar("Record")


def short_repr(record: type[Record]) -> type[Record]:
    """Let a dataclass show its tensors by shape and kind; a decorator that stands above ``@dataclass``.

    Example:
        >>> import torch
        >>> from dataclasses import dataclass
        >>> @short_repr
        ... @dataclass(frozen=True)
        ... class Motion:
        ...     landmarks: torch.Tensor
        ...     fps: Fraction
        >>> Motion(torch.zeros(50, 68, 2), Fraction(25))
        Motion(landmarks=(50, 68, 2) float32, fps=25)
    """

    def __repr__(self: Any) -> str:
        told = ", ".join(f"{field.name}={_told(getattr(self, field.name))}" for field in fields(self) if field.repr)
        return f"{type(self).__qualname__}({told})"

    record.__repr__ = __repr__  # type: ignore[method-assign,assignment]
    return record


def _told(value: Any) -> str:
    if isinstance(value, Fraction):
        return str(value)
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key!r}: {_told(part)}' for key, part in value.items())}}}"
    if isinstance(value, tuple) and any(hasattr(part, "dtype") for part in value):
        return f"({', '.join(map(_told, value))})"
    if not hasattr(value, "dtype") or not hasattr(value, "shape"):
        return repr(value)
    place = str(getattr(value, "device", "cpu"))
    if not value.shape and place != "meta":  # where there are no numbers
        return _told(value.item())
    return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}{'' if place == 'cpu' else f' on {place}'}"
