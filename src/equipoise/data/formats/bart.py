"""BART's files: complex numbers in a ``.cfl``, their dimensions in the ``.hdr`` beside it."""

from __future__ import annotations

import math
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np

from ..item import Item
from .base import Format, listed

BYTES_PER_NUMBER = 8


class Bart(Format):
    """The k-space of one slice: two of (read, phase 1, phase 2), and coils."""

    name = "bart"
    suffixes = (".cfl",)
    needs = (
        "A .cfl file holds the k-space of one slice, and its .hdr the dimensions: two of (read, "
        "phase 1, phase 2), and coils."
    )

    def sniff(self, path: Path) -> bool:
        return path.suffix.lower() == ".hdr" and path.with_suffix(".cfl").is_file()

    def open(self, path: Path) -> list[Item]:
        files = {file.with_suffix(".cfl"): None for file in self.files(path)}
        return [self._item(file) for file in files]

    def _item(self, file: Path) -> Item:
        header = file.with_suffix(".hdr")
        if not header.is_file():
            raise self.error(
                file, f"has no {header.name} beside it, which says its dimensions; copy both"
            )
        with self.reading(header):
            dims = _dimensions(header.read_text(errors="replace"))
        if not dims:
            raise self.error(
                header,
                "no line '# Dimensions' with positive numbers below it; write it again with BART",
            )
        promised = math.prod(dims) * BYTES_PER_NUMBER
        with self.reading(file):
            there = file.stat().st_size
        if there != promised:
            raise self.error(
                file,
                f"{header.name} says [{listed(dims, 16)}], which is {promised} bytes; the file has "
                f"{there}: copy it again",
            )
        dims += [1] * (4 - len(dims))
        if math.prod(dims[4:]) > 1 or sum(d > 1 for d in dims[:3]) > 2:
            raise self.error(file, f"dimensions [{listed(dims, 16)}]: split it (bart slice)")
        plane = [d for d in dims[:3] if d > 1] or [1]
        plane += [1] * (2 - len(plane))
        coils = dims[3]
        shape = (coils, *plane) if coils > 1 else tuple(plane)
        return Item(
            name=file.stem,
            file=file,
            shape=shape,
            read=partial(self._read, file, (*plane, coils), shape),
            holds="kspace",
            complex=True,
            patient=file.stem,
            format=self.name,
        )

    def _read(self, file: Path, dims: tuple[int, ...], shape: tuple[int, ...]) -> np.ndarray:
        with self.reading(file):
            numbers = np.fromfile(file, np.complex64).reshape(dims, order="F")
        return numbers.transpose(2, 0, 1).reshape(shape)


def _dimensions(text: str) -> list[int]:
    """The numbers below the line ``# Dimensions``; none, where there are not only positive ones."""
    lines = [line.strip() for line in text.splitlines()]
    below = [after for line, after in pairwise(lines) if line.lower() == "# dimensions"]
    words = below[0].split() if below else []
    if not all(word.isascii() and word.isdigit() for word in words):
        return []
    dims = [int(word) for word in words[:16]]
    return dims if all(dims) else []
