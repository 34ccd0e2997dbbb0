"""Some of many, as a configuration names them: one, a range, or a list."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field

from ..errors import UserError

_RANGE = re.compile(r"\s*(-?\d*)\s*:\s*(-?\d*)\s*(?::\s*(-?\d*))?\s*")


def _is_range(text: str) -> str:
    found = _RANGE.fullmatch(text)
    if found is None or found.group(3) in ("0", "-0"):
        raise ValueError(
            f"{text!r} is no range; write first:last or first:last:step as in Python, such as "
            "100:200 or ::10"
        )
    return text


#: One place, counted from 0; a range such as ``100:200`` or ``::10``; or a list of places.
Places = int | Annotated[str, AfterValidator(_is_range)] | Annotated[list[int], Field(min_length=1)]


def chosen(places: Places | None, count: int, key: str) -> list[int]:
    """Which of ``count`` are named, in the order in which they are named; None: all.

    Raises:
        UserError: there is none of them, or one lies outside.
    """
    if places is None:
        return list(range(count))
    if isinstance(places, str):
        found = _RANGE.fullmatch(places)
        assert found is not None
        first, last, step = (int(text) if text else None for text in found.groups())
        some = list(range(count))[first:last:step]
        if not some:
            raise UserError(f"{key}={places}: names none of {count}, counted from 0")
        return some
    listed = [places] if isinstance(places, int) else places
    outside = [place for place in listed if not -count <= place < count]
    if outside:
        raise UserError(f"{key}: {outside[0]} is not there; there are {count}, counted from 0")
    return [place % count for place in listed]


def places_of(text: str | None, key: str) -> Places | None:
    """What a command line says: a number, a range, or numbers with commas.

    Raises:
        UserError: it is none of them.
    """
    if text is None:
        return None
    try:
        if ":" in text:
            return _is_range(text)
        numbers = [int(part) for part in text.split(",")]
    except ValueError as error:
        raise UserError(f"{key}={text}: expected 7, 100:200, ::10 or 3,5,8") from error
    return numbers[0] if len(numbers) == 1 else numbers
