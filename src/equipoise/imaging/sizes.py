"""The size of an image: pixels each way, or height and width."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from numbers import Real  # numpy's numbers among them
from typing import Any

#: Pixels of an image: each way, or (height, width).
Size = int | tuple[int, int]


def image_size(size: int | Sequence[int]) -> tuple[int, int]:
    """Height and width of ``size``, which may be one number for both."""
    sides: tuple[Any, ...]
    sides = tuple(size) if isinstance(size, Iterable) else (size, size)
    is_whole = all(isinstance(n, Real) and float(n).is_integer() for n in sides)
    if len(sides) != 2 or not is_whole:
        raise ValueError(f"size must be one whole number or (height, width), got {size!r}")
    height, width = (int(n) for n in sides)
    if height < 1 or width < 1:
        raise ValueError(f"size must be at least 1 pixel each way, got {size}")
    return height, width


def shown_size(size: int | Sequence[int] | str) -> str:
    """As it stands in a sentence: 64², 106×127, or native."""
    if isinstance(size, str):
        return size
    height, width = image_size(size)
    return f"{height}²" if height == width else f"{height}×{width}"
