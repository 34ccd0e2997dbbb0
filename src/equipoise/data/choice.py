"""Which part of what a path holds is wanted: an axis, a volume of a series, some of the slices."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

from ..errors import UserError, shortened
from .item import Item

#: How the option ``data.slices`` may be written, for messages.
SLICES = 'every k-th (5, or "every 5"), "middle 20", a range "40:80" or "40:80:4", or a list [3, 7]'

Axis = int | Literal["x", "y", "z", "sagittal", "coronal", "axial"]
#: Which direction of the body each kind of slices lies across: left and right, front and back, feet
#: and head.
PLANES = {"sagittal": 0, "coronal": 1, "axial": 2}


@dataclass(frozen=True)
class Choice:
    """What is asked of the readers, where files hold more than one set of images. None: not asked.

    A format names those of these that it knows in :attr:`Format.chooses`; the others are refused.
    """

    axis: Axis | None = None  #: across which a volume is cut
    volume: int | Literal["average"] | None = None  #: of a series of volumes
    contrast: int | None = None  #: of k-space: echo
    phase: int | None = None  #: of k-space: of the heart, or of respiration
    set: int | None = None  #: of k-space: such as an encoding of velocity
    repetition: int | Literal["average"] | None = None  #: of k-space

    @property
    def asked(self) -> list[str]:
        """The names of the options that are set."""
        return [field.name for field in fields(self) if getattr(self, field.name) is not None]


NOTHING_ASKED = Choice()


def numbered_axis(asked: Axis) -> int:
    """The axis of a volume (0, 1, 2) that is meant by its number or its letter.

    Raises:
        ValueError: there is none.
    """
    axis = "xyz".index(asked) if isinstance(asked, str) else asked
    if not -3 <= axis < 3:
        raise ValueError(f"data.axis={asked}: a volume has the axes 0, 1 and 2")
    return axis % 3


def checked_slices(asked: Any) -> Any:
    """The option ``data.slices``, if it can be understood.

    Raises:
        ValueError: it cannot.
    """
    chosen_places(asked, 1000, check=False)
    return asked


def chosen_places(asked: Any, count: int, check: bool = True) -> list[int]:
    """The places, from 0, of the slices that ``data.slices`` wants of a volume of ``count``.

    Args:
        asked: see ``SLICES``; a mapping with ``middle``, ``every``, ``from`` and ``to`` has them
            all: every k-th of the middle n. None or "all": all of them.
        count: how many slices there are.
        check: whether places that do not exist are errors.

    Raises:
        ValueError: it cannot be understood, or nothing is left.
    """
    wanted = _as_mapping(asked)
    if "list" in wanted:
        places = wanted["list"]
        beyond = [k for k in places if not -count <= k < count]
        if beyond and check:
            raise ValueError(f"slice {beyond[0]} of {count} (counted from 0) does not exist")
        return sorted({k % count for k in places if k not in beyond})
    low, high, _ = slice(wanted.get("from"), wanted.get("to")).indices(count)
    if "middle" in wanted:
        spare = max(0, high - low - wanted["middle"])
        low, high = low + spare // 2, high - (spare - spare // 2)
    places = list(range(low, high, wanted.get("every", 1)))
    if not places and check:
        raise ValueError(f"none of {count} slices is left")
    return places


def _as_mapping(asked: Any) -> dict[str, Any]:
    if asked is None or asked == "all":
        return {}
    if isinstance(asked, bool):
        raise ValueError(f"must be {SLICES}")
    if isinstance(asked, int):
        return _checked({"every": asked})
    if isinstance(asked, (list, tuple)) and asked and all(type(k) is int for k in asked):
        return {"list": list(asked)}
    if isinstance(asked, dict):
        return _checked(asked)
    if isinstance(asked, str):
        return _of_text(asked.strip().lower())
    raise ValueError(f"must be {SLICES}")


def _of_text(text: str) -> dict[str, Any]:
    number = r"(-?\d+)?"
    found = re.fullmatch(rf"{number}\s*:\s*{number}(?:\s*:\s*{number})?", text)
    if found:
        names = ("from", "to", "every")
        given = zip(names, found.groups(), strict=True)
        return _checked({name: int(value) for name, value in given if value})
    if re.fullmatch(r"-?\d+(\s*,\s*-?\d+)+,?", text):
        return {"list": [int(part) for part in text.rstrip(",").split(",")]}
    if re.fullmatch(r"\d+", text):
        return _checked({"every": int(text)})
    words = re.findall(r"(middle|every)[\s:=]*(\d+)", text)
    rest = re.sub(r"(middle|every)[\s:=]*(\d+)(st|nd|rd|th)?|[\s,]|and", "", text)
    if words and not rest:
        return _checked({name: int(value) for name, value in words})
    raise ValueError(f"must be {SLICES}")


def _checked(wanted: dict[str, Any]) -> dict[str, Any]:
    unknown = [key for key in wanted if key not in ("middle", "every", "from", "to")]
    if unknown or not all(type(value) is int for value in wanted.values()):
        raise ValueError(f"must be {SLICES}")
    if min(wanted.get("middle", 1), wanted.get("every", 1)) < 1:
        raise ValueError("middle and every count from 1")
    return wanted


def with_chosen_slices(items: Sequence[Item], asked: Any) -> tuple[list[Item], list[str]]:
    """Of each volume, the slices that ``data.slices`` wants, and a note.

    A volume is a series; else what a file holds of one patient; else, where each file of a folder
    holds one image, the folder.

    Raises:
        UserError: a slice does not exist.
    """
    if asked is None or asked == "all":
        return list(items), []
    volumes: dict[tuple[str, ...], list[int]] = {}
    for i, key in enumerate(_volumes(items)):
        volumes.setdefault(key, []).append(i)
    kept: list[int] = []
    for members in volumes.values():
        try:
            kept += [members[k] for k in chosen_places(asked, len(members))]
        except ValueError as error:
            first = items[members[0]]
            raise UserError(
                f"data.slices={shortened(str(asked), 60)}: {first.file.name}: {error}; it takes "
                f"{SLICES}"
            ) from error
    note = (
        f"data.slices={shortened(str(asked), 60)}: {len(kept)} of {len(items)} slices of "
        f"{len(volumes)} volume(s) are used"
    )
    return [items[i] for i in sorted(kept)], [note]


def _volumes(items: Sequence[Item]) -> list[tuple[str, ...]]:
    """What each item's volume is called."""
    files: dict[str, int] = {}
    for item in items:
        files[str(item.file)] = files.get(str(item.file), 0) + 1
    keys: list[tuple[str, ...]] = []
    for item in items:
        if item.series:
            keys.append((item.patient, item.series))
        elif files[str(item.file)] > 1:
            keys.append((item.patient, str(item.file)))
        else:
            keys.append((str(item.file.parent),))
    return keys
