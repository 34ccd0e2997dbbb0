"""What tells one set of data from another: what goes on goes on with the data it began with."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from .item import Item

#: Of so many items, evenly spread, the values are looked at; of all others the names.
SAMPLES = 64
#: By less, relative to their size, what is read of the same file differs from machine to machine.
SAME = 1e-6


def fingerprint(items: Sequence[Item]) -> dict[str, Any]:
    """Of items in their order: how many there are, their names, and a few numbers of their values;
    for a file of JSON. Where the files lie does not matter."""
    names = hashlib.sha256("\n".join(item.name for item in items).encode()).hexdigest()
    places = np.unique(np.linspace(0, len(items) - 1, min(len(items), SAMPLES)).round())
    values = [[int(place), *_numbers(items[int(place)].array())] for place in places]
    return {"items": len(items), "names": names[:16], "values": values}


def _numbers(array: np.ndarray) -> list[float]:
    """Size, root mean square, mean, and the mean along a wave, which moves when values do."""
    flat = np.asarray(array).ravel()
    if np.iscomplexobj(flat):
        flat = np.concatenate([flat.real, flat.imag])
    flat = flat.astype(np.float64)
    if not flat.size:
        return [0.0, 0.0, 0.0, 0.0]
    wave = np.cos(np.arange(flat.size))
    size = float(np.sqrt(np.mean(flat**2)))
    return [float(flat.size), size, float(flat.mean()), float(np.mean(wave * flat))]


def changes(then: dict[str, Any] | None, now: dict[str, Any], names: Sequence[str]) -> str:
    """What differs between two fingerprints, in words; empty where nothing does, or where nothing
    was kept.

    Args:
        names: of the items now.
    """
    if not then:
        return ""
    if then["items"] != now["items"]:
        return f"{then['items']} of them then, {now['items']} now"
    if then["names"] != now["names"]:
        return "their names are others, or in another order"
    other = [
        names[new[0]]
        for old, new in zip(then["values"], now["values"], strict=True)
        if old[0] != new[0] or not _are_same(old[1:], new[1:])
    ]
    if not other:
        return ""
    more = f" and {len(other) - 1} more" if len(other) > 1 else ""
    return f"{other[0]}{more}: other values"


def number_known(then: dict[str, Any], items: Sequence[Item]) -> int:
    """How many of the items are among those of a fingerprint, whatever they are called and wherever
    they lie. Of more than ``SAMPLES`` on either side, at least so many; empty ones do not count."""
    now = [new[1:] for new in fingerprint(items)["values"] if new[2]]
    return sum(any(_are_same(old[1:], new) for old in then["values"]) for new in now)


def _are_same(old: Sequence[float], new: Sequence[float]) -> bool:
    """Whether two arrays are, by their numbers."""
    (count, size, *sums), (count_now, size_now, *sums_now) = old, new
    if count != count_now:
        return False
    allowed = SAME * max(size, size_now)
    pairs = zip([size, *sums], [size_now, *sums_now], strict=True)
    return all(abs(a - b) <= allowed for a, b in pairs)
