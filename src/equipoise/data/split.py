"""Which items are kept from training: whole patients, by number or by name, or the middle of the
only one."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

import numpy as np
import torch

from ..errors import UserError
from .formats.base import listed
from .item import Item

#: Slices of one volume between those that are trained on and those that are held out.
GAP = 3


def split_items(
    items: Sequence[Item], fraction: float, seed: int = 0
) -> tuple[list[int], list[int]]:
    """(to train on, held out): indices, with no patient on both sides. About ``fraction`` of the
    patients, at least one, is held out.

    Where all are one patient's, the slices in the middle of each volume are held out, and ``GAP``
    places on each side of them belong to neither. Slices at one place belong together, whatever
    the series: two reconstructions of one scan show the same.

    Raises:
        UserError: one patient's slices are too few for that.
    """
    patients = sorted({item.patient for item in items})
    if len(patients) < 2:
        return _split_volumes(items, fraction, patients)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(patients), generator=generator).tolist()
    count = min(len(patients) - 1, max(1, round(fraction * len(patients))))
    held = {patients[i] for i in order[:count]}
    training = [i for i, item in enumerate(items) if item.patient not in held]
    return training, [i for i, item in enumerate(items) if item.patient in held]


def split_by_name(items: Sequence[Item], names: Sequence[str]) -> tuple[list[int], list[int]]:
    """(to train on, held out): indices. Held out is every patient of whom an item is named: by the
    patient's name, the file's (with its suffix or without) or its own; ``*`` stands for anything.

    Raises:
        UserError: a name is nobody's, or nothing is left to train on.
    """
    known = [{item.patient, item.name, item.file.name, item.file.stem} for item in items]
    held_patients = set()
    for name in names:
        found = [i for i, own in enumerate(known) if any(fnmatchcase(n, name) for n in own)]
        if not found:
            there = listed(dict.fromkeys(item.patient or item.name for item in items))
            raise UserError(f"data.holdout: nothing is named {name!r}; there are {there}")
        held_patients.update(_identity(items[i]) for i in found)
    held = [i for i, item in enumerate(items) if _identity(item) in held_patients]
    training = [i for i, item in enumerate(items) if _identity(item) not in held_patients]
    if not training:
        raise UserError(
            f"data.holdout: names all {len(items)} items, and leaves none to train on; name fewer"
        )
    return training, held


def _identity(item: Item) -> str:
    return item.patient or item.name


def _split_volumes(
    items: Sequence[Item], fraction: float, patients: list[str]
) -> tuple[list[int], list[int]]:
    """The middle of all places, volume after volume."""
    volumes: dict[str, list[int]] = {}
    for i, item in enumerate(items):
        volumes.setdefault(item.volume or item.series, []).append(i)
    positions = np.zeros(len(items))
    places: list[tuple[str, float]] = []
    for name, members in volumes.items():
        positions[members] = _positions([items[i] for i in members])
        places += [(name, float(position)) for position in np.unique(positions[members])]
    count = max(1, round(fraction * len(places)))
    low = (len(places) - count) // 2
    held_places = places[low : low + count]
    training: list[int] = []
    held: list[int] = []
    for name, members in volumes.items():
        block = [position for volume, position in held_places if volume == name]
        gap = GAP * _distance([items[i] for i in members], positions[members])
        for i in members:
            if not block or positions[i] < min(block) - gap or positions[i] > max(block) + gap:
                training.append(i)
            elif min(block) <= positions[i] <= max(block):
                held.append(i)
    if not training:
        raise UserError(
            f"{len(items)} images of one patient ({''.join(patients)[:100]}) are too few to hold "
            "some out: set data.holdout=0"
        )
    return sorted(training), sorted(held)


def _positions(items: Sequence[Item]) -> np.ndarray:
    """Along the axis, to a hundredth of a millimetre; the order, where one is not known."""
    known = [item.position for item in items if item.position is not None]
    if len(known) < len(items):
        return np.arange(len(items), dtype=float)
    return np.round(known, 2)


def _distance(items: Sequence[Item], positions: np.ndarray) -> float:
    """The usual distance between neighbours in the coarsest series of a volume, and a little."""
    distances = []
    for series in {item.series for item in items}:
        places = [p for item, p in zip(items, positions, strict=True) if item.series == series]
        steps = np.diff(np.unique(places))
        distances.append(float(np.median(steps)) if len(steps) else 0.0)
    return 1.001 * max(distances)
