"""NumPy's files: ``.npy`` holds one array, ``.npz`` several."""

from __future__ import annotations

import math
import re
import zipfile
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import IO

import numpy as np

from ..item import Item
from .base import Format, first_bytes, left_out, listed

#: The kinds of numbers: truth values, unsigned, signed, floating and complex ones.
NUMBERS = "buifc"

#: Names of arrays that stand beside images and measurements, and are none.
BESIDE = re.compile(
    "map|sens|csm|flat|white|dark|bright|open|mask|noise|truth|target|label|^ref|^gt|weight", re.I
)

#: Name → shape and type, of the arrays of a file.
Headers = dict[str, tuple[tuple[int, ...], np.dtype]]


class _Arrays(Format):
    """What both have in common: nothing says whether an array is an image or a measurement."""

    may_hold_either = True

    @property
    def title(self) -> str:
        return f".{self.name}"

    def remedy(self, error: Exception) -> str:
        save = "numpy.save" if self.name == "npy" else "numpy.savez"
        if isinstance(error, (ValueError, zipfile.BadZipFile)):
            return f"save it again with {save}"
        return super().remedy(error)

    def item(self, name: str, file: Path, header: tuple[tuple[int, ...], np.dtype]) -> Item:
        """An item that has no ``read`` of its own yet."""
        shape, dtype = header
        if dtype.kind not in NUMBERS:
            raise self.error(file, f"holds {dtype}, not numbers")
        if 0 in shape:
            raise self.error(file, f"has nothing to read: an array of shape {shape}")
        is_complex = dtype.kind == "c"
        return Item(
            name=name,
            file=file,
            shape=shape,
            read=partial(np.empty, shape, dtype),
            holds="kspace" if is_complex else "measurement",
            complex=is_complex,
            patient=file.stem,
            units_from="nothing",
            format=self.name,
        )


class Npy(_Arrays):
    """One array a file. It is mapped, so that only what is used is read."""

    name = "npy"
    suffixes = (".npy",)
    needs = "A .npy file holds one array of numbers, as numpy.save writes it."

    def sniff(self, path: Path) -> bool:
        return first_bytes(path, 6) == b"\x93NUMPY"

    def open(self, path: Path) -> list[Item]:
        return [self._item(file) for file in self.files(path)]

    def _item(self, file: Path) -> Item:
        with self.reading(file), file.open("rb") as stream:
            shape, dtype = _header(stream)
            promised = math.prod(shape) * dtype.itemsize
            there = file.stat().st_size - stream.tell()
            if there < promised and not dtype.hasobject:
                raise EOFError(f"its header promises {promised} bytes of data, {there} are there")
        item = self.item(file.stem, file, (shape, dtype))
        # An array without any element cannot be mapped, and need not be.
        return replace(item, read=partial(self._map, file)) if promised else item

    def _map(self, file: Path) -> np.ndarray:
        with self.reading(file):
            array: np.ndarray = np.load(file, allow_pickle=False, mmap_mode="r")
        return array


class Npz(_Arrays):
    """Several named arrays a file."""

    name = "npz"
    suffixes = (".npz",)
    needs = "An .npz file holds arrays of numbers, as numpy.savez writes them."

    def __init__(self, variable: str | None = None):
        self.variable = variable  #: the name of the array that is read; None: all of them

    def choosing(self, variable: str) -> Npz:
        return Npz(variable)

    def sniff(self, path: Path) -> bool:
        start = first_bytes(path, 30 + 256)
        length = int.from_bytes(start[26:28], "little")
        return start.startswith(b"PK\x03\x04") and start[30 : 30 + length].endswith(b".npy")

    def open(self, path: Path) -> list[Item]:
        items = []
        for file in self.files(path):
            changed = file.stat().st_mtime
            headers = self._headers(file)
            if self.variable is not None and self.variable not in headers:
                there = listed(headers)
                raise self.error(file, f"no array {self.variable!r}; it holds {there}")
            wanted, notes = self._wanted(file, headers)
            for name in wanted:
                item = self.item(f"{file.stem}_{name}", file, headers[name])
                read = partial(self._load, file, changed, name)
                items.append(replace(item, read=read, notes=notes))
        return items

    def _wanted(self, file: Path, headers: Headers) -> tuple[list[str], tuple[str, ...]]:
        """The names of the arrays that are read, and what is said of the others: numbers and lists
        of numbers stand beside images and measurements to tell about them.

        Raises:
            UserError: there are several that may be different things, such as coil maps beside
                k-space.
        """
        if self.variable is not None:
            return [self.variable], ()
        arrays = [name for name, (shape, _) in headers.items() if len(shape) > 1]
        others = [name for name in headers if name not in arrays]
        beside = [name for name in arrays if BESIDE.search(name)]
        if beside and len(beside) < len(arrays):
            raise self.error(
                file,
                f"holds several arrays ({listed(arrays)}), of which {listed(beside)} may not be "
                "what was measured; choose one with data.variable",
            )
        if not arrays or not others:
            return list(headers), ()
        return arrays, (left_out(file, others),)

    def _headers(self, file: Path) -> Headers:
        headers = {}
        with self.reading(file), zipfile.ZipFile(file) as archive:
            for member in archive.infolist():
                with archive.open(member) as stream:
                    shape, dtype = _header(stream)
                promised = math.prod(shape) * dtype.itemsize
                if promised > member.file_size and not dtype.hasobject:
                    raise EOFError(
                        f"{member.filename} promises {promised} bytes of data, "
                        f"{member.file_size} are there"
                    )
                headers[member.filename.removesuffix(".npy")] = (shape, dtype)
        return headers

    def _load(self, file: Path, changed: float, name: str) -> np.ndarray:
        with self.reading(file):
            return _npz_array(file, changed, name)


@lru_cache(maxsize=1)
def _npz_array(file: Path, changed: float, name: str) -> np.ndarray:
    """One array, remembered while its slices are asked for and the file does not change."""
    with np.load(file, allow_pickle=False) as arrays:
        array: np.ndarray = arrays[name]
    return array


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    """The shape and the type of what follows.

    Raises:
        ValueError: this is no header of NumPy's.
    """
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_2_0
    if version == (1, 0):
        read = np.lib.format.read_array_header_1_0
    shape, _, dtype = read(stream)
    if min(shape, default=0) < 0:
        raise ValueError(f"its header promises the shape {shape}")
    return shape, dtype
