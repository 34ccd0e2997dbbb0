"""The size of an image: pixels each way, or height and width."""

from __future__ import annotations

from collections.abc import Sequence

#: Pixels of an image: each way, or (height, width).
Size = int | tuple[int, int]


def image_size(size: int | Sequence[int]) -> tuple[int, int]:
    """Height and width of ``size``, which may be one number for both."""
    numbers = (size, size) if isinstance(size, int) else tuple(size)
    if isinstance(size, str) or len(numbers) != 2 or any(n != int(n) for n in numbers):
        raise ValueError(f"size must be one whole number or (height, width), got {size!r}")
    height, width = (int(n) for n in numbers)
    if height < 1 or width < 1:
        raise ValueError(f"size must be at least 1 pixel each way, got {size}")
    return height, width


def shown_size(size: int | Sequence[int] | str) -> str:
    """As it stands in a sentence: 64², 106×127, or native."""
    if isinstance(size, str):
        return size
    height, width = image_size(size)
    return f"{height}²" if height == width else f"{height}×{width}"
