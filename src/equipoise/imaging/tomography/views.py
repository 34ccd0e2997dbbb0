"""Which of a scan's views are used: every k-th, a range, or a list of them."""

from __future__ import annotations

from collections.abc import Sequence

#: Every k-th; "first:end:step" as Python slices; or the numbers of the views, counted from 0.
Choice = int | str | Sequence[int] | None


def chosen_views(choice: Choice, count: int) -> list[int]:
    """The numbers of the views that are used, of ``count``, counted from 0.

    Raises:
        ValueError: none is left, a view is named that is not there or named twice, or the text is
            no range.
    """
    if choice is None:
        return list(range(count))
    if isinstance(choice, str):
        return _range(choice, count)
    if isinstance(choice, int):
        if not 1 <= choice <= count:
            raise ValueError(
                f"views takes every k-th of {count} views for k in [1, {count}], got {choice}"
            )
        return list(range(0, count, choice))
    numbers = [int(number) for number in choice]
    for number in numbers:
        if not 0 <= number < count:
            raise ValueError(
                f"views names view {number}, but there are {count}, numbered from 0 to {count - 1}"
            )
    if len(set(numbers)) < len(numbers):
        twice = next(n for n in numbers if numbers.count(n) > 1)
        raise ValueError(f"views names view {twice} twice; name each once")
    return numbers


def _range(text: str, count: int) -> list[int]:
    parts = text.split(":")
    try:
        numbers = [int(part) if part.strip() else None for part in parts]
    except ValueError:
        numbers = []
    if len(numbers) not in (2, 3) or (len(numbers) == 3 and numbers[2] == 0):
        raise ValueError(
            f"views must be every how many, a range first:end:step of numbers such as 0:{count}:12 "
            f"(the end is left out), or a list of numbers, got {text!r}"
        )
    chosen = list(range(count))[slice(*numbers)]
    if not chosen:
        raise ValueError(
            f"views={text} leaves none of {count} views, numbered from 0 to {count - 1}"
        )
    return chosen


def unseen_views(angles: Sequence[float], chosen: Sequence[int], period: float) -> list[int]:
    """The numbers of the views that are not ``chosen`` and do not stand where one of those stands
    (a first view that is taken again after a turn of ``period`` degrees).

    Angles are compared to a thousandth of a degree.
    """
    seen = {_place(angles[i], period) for i in chosen}
    used = set(chosen)
    return [
        i for i in range(len(angles)) if i not in used and _place(angles[i], period) not in seen
    ]


def _place(angle: float, period: float) -> int:
    return round(angle * 1000) % round(period * 1000)
