"""The units of images whose files do not say them: recognised, or asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from ..errors import UserError
from .item import HOUNSFIELD, Item, Units, UnitsFrom

#: The option ``data.units``; a number is the value that counts as 1.
Asked = Literal["auto", "hounsfield", "magnitude"] | float

#: Air in Hounsfield units, with noise around it.
AIR = (-1100, -900)
#: How much of an image at least is air, if it is in Hounsfield units, …
LEAST_AIR = 0.01
#: … and how many times more of it than of what lies at the same distance above water: the values
#: of a phase image are the same to both sides.
AIR_ABOVE_MIRROR = 4
#: What is brightest in an image in the units of the model lies between these. Twelve bits in a
#: type of sixteen reach 1/16, fourteen bits less than 1/4.
BRIGHTEST = (0.25, 4.0)
#: How many images of a group tell its units.
SAMPLES = 32

#: Images whose values all lie this near each other are not in Hounsfield units, of which water and
#: air, or even fat, are further apart.
LEAST_SPREAD = 10

OPTIONS = (
    "set data.units=hounsfield, data.units=magnitude (the brightest 0.1% count as 1), or the value "
    "that counts as 1 (for other data of a run: in its config.yaml), such as data.units={example:g}"
)


@dataclass(frozen=True)
class Values:
    """What is looked at."""

    lowest: float
    highest: float
    brightest: float  #: exceeded by one magnitude in a thousand
    looks_like_hounsfield: bool

    @classmethod
    def of_arrays(cls, arrays: Iterable[np.ndarray]) -> Values:
        values = np.concatenate([np.asarray(array).ravel() for array in arrays])
        if values.size == 0:
            return cls(0, 0, 0, False)
        is_complex = np.iscomplexobj(values)
        magnitudes = np.abs(values)
        brightest = float(np.percentile(magnitudes, 99.9))
        if is_complex:
            return cls(0, float(magnitudes.max()), brightest, False)
        lowest, highest = float(values.min()), float(values.max())
        return cls(lowest, highest, brightest, _looks_like_hounsfield(values))

    @property
    def magnitude(self) -> Units:
        """The brightest 0.1 % count as 1."""
        return Units(scale=self.brightest or 1.0)

    @property
    def looks_like_magnitude(self) -> bool:
        """Nothing is negative but the ringing of interpolation."""
        return self.lowest >= -0.1 * self.brightest

    def __str__(self) -> str:
        return f"values from {self.lowest:g} to {self.highest:g}"


def _looks_like_hounsfield(values: np.ndarray) -> bool:
    low, high = AIR
    air = float(np.mean((values >= low) & (values <= high)))
    mirror = float(np.mean((values >= -high) & (values <= -low)))
    return air >= max(LEAST_AIR, AIR_ABOVE_MIRROR * mirror)


def recognised_note(name: str, values: Values) -> str:
    """What is said of units that were recognised."""
    return (
        f"{name}: taken for Hounsfield units ({values}); if they are not, set data.units=magnitude"
    )


def found_in(volume: np.ndarray, name: str) -> tuple[Units, UnitsFrom, tuple[str, ...]]:
    """The units of a volume whose file does not say them, what they were found by, and what is to
    be said of it."""
    is_whole = volume.dtype.kind in "bui" or bool(np.isfinite(volume).all())
    values = Values.of_arrays([volume if is_whole else volume[np.isfinite(volume)]])
    if values.looks_like_hounsfield:
        return HOUNSFIELD, "values", (recognised_note(name, values),)
    return values.magnitude, "values" if values.looks_like_magnitude else "nothing", ()


def settled(items: Sequence[Item], asked: Asked = "auto", override: bool = True) -> list[Item]:
    """The images in units that are known.

    Args:
        asked: the option ``data.units``.
        override: whether ``asked`` stands above what a file says of itself.

    Raises:
        UserError: nothing says the units, and the values do not look like any that are known; or a
            file says Hounsfield units, and holds other ones.
    """
    result = list(items)
    if asked == "auto":
        for group in _by_series(items, _says_hounsfield).values():
            _check_hounsfield([items[i] for i in group])
    for group in _by_series(items, lambda item: _is_open(item, asked, override)).values():
        members = [items[i] for i in group]
        for i, item in zip(group, _settled_group(members, asked), strict=True):
            result[i] = item
    return result


def _by_series(
    items: Sequence[Item], wanted: Callable[[Item], bool]
) -> dict[tuple[str, str], list[int]]:
    """The numbers of the items that are wanted, by their format and series."""
    groups: dict[tuple[str, str], list[int]] = {}
    for i, item in enumerate(items):
        if wanted(item):
            groups.setdefault((item.format, item.series), []).append(i)
    return groups


def _says_hounsfield(item: Item) -> bool:
    return item.holds == "image" and item.units == HOUNSFIELD and item.units_from == "file"


def _check_hounsfield(items: list[Item]) -> None:
    """
    Raises:
        UserError: the values of images of one series lie too near each other for Hounsfield units.
    """
    values = Values.of_arrays(item.array() for item in _some(items))
    if 0 < values.highest - values.lowest < LEAST_SPREAD:
        raise UserError(
            f"{items[0].file}: says Hounsfield units, and holds {values}, where air is -1000 and "
            f"water 0; {OPTIONS.format(example=max(values.highest, 1))}"
        )


def _is_open(item: Item, asked: Asked, override: bool) -> bool:
    if item.holds != "image":
        return False
    if asked == "auto":
        return item.units_from in ("nothing", "magnitude")
    return override or item.units_from != "file"


def _settled_group(items: list[Item], asked: Asked) -> list[Item]:
    """Items of one format and series, which share their units."""
    if asked == "hounsfield":
        return [replace(item, units=HOUNSFIELD, units_from="file") for item in items]
    if isinstance(asked, (int, float)):
        return [replace(item, units=Units(scale=asked), units_from="file") for item in items]
    values = Values.of_arrays(item.array() for item in _spread(items))
    if asked == "magnitude":
        return [replace(item, units=values.magnitude, units_from="file") for item in items]
    first = items[0]
    if first.units_from == "magnitude" and values.looks_like_magnitude:
        return [replace(item, units=values.magnitude, units_from="values") for item in items]
    if values.looks_like_hounsfield and first.units_from != "magnitude":
        note = recognised_note(first.file.name, values)
        return [
            replace(item, units=HOUNSFIELD, units_from="values", notes=(*item.notes, note))
            for item in items
        ]
    if not _fits(values, first.units):
        raise UserError(question(first, values))
    return [replace(item, units_from="values") for item in items]


def _fits(values: Values, units: Units) -> bool:
    """Whether values look like images in [0, 1], in the units that their type stands for."""
    if units == HOUNSFIELD:
        return False
    low, high = BRIGHTEST
    is_bright = low <= values.brightest / units.scale <= high
    return values.looks_like_magnitude and (is_bright or values.brightest == 0)


def _spread(items: list[Item]) -> list[Item]:
    """All slices of one file; otherwise some of the items, evenly spread."""
    return items if len({item.file for item in items}) == 1 else _some(items)


def _some(items: list[Item]) -> list[Item]:
    """At most ``SAMPLES`` of the items, evenly spread."""
    if len(items) <= SAMPLES:
        return items
    places = np.linspace(0, len(items) - 1, SAMPLES).round().astype(int)
    return [items[i] for i in places]


def question(item: Item, values: Values) -> str:
    """What is asked where nothing says the units."""
    bits = max(1, int(np.ceil(np.log2(max(values.highest, 1) + 1))))
    example = 2**bits - 1 if values.highest > 1 else 1
    return (
        f"{item.file}: does not say its units, and its {values} look neither like Hounsfield units "
        f"nor like brightness from 0 to {item.units.scale:g}; {OPTIONS.format(example=example)}"
    )
