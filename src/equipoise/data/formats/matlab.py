"""MATLAB's files, version 4, 5 (through scipy) and 7.3 (HDF5, through h5py): a matrix, or a struct
of a sinogram and its parameters."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import need
from ..item import Item
from .base import HDF5_MARK, Format, first_bytes, left_out, listed
from .heltomo import geometry_of, is_scan
from .matlab_tags import check_tags


class Matlab(Format):
    """One matrix a file, or a struct with ``sinogram`` and ``parameters``, as the Helsinki
    Tomography Challenge and HelTomo write them.

    Args:
        variable: the name of the variable that is read, fields after dots; none: the only one.
    """

    name = "mat"
    suffixes = (".mat",)
    may_hold_either = True

    def __init__(self, variable: str | None = None):
        self.variable = variable

    @property
    def needs(self) -> str:  # type: ignore[override]
        return (
            "A .mat file holds one matrix, or one that data.variable names, or a struct with "
            "sinogram and parameters; in MATLAB: save('scan.mat', 'sinogram', '-v7')."
        )

    @property
    def title(self) -> str:
        return "a MATLAB file"

    def choosing(self, variable: str) -> Matlab:
        return Matlab(variable)

    def sniff(self, path: Path) -> bool:
        start = first_bytes(path, 8)
        if start[:7] == b"MATLAB ":
            return True
        return start == HDF5_MARK and path.suffix.lower() == ".mat"

    def open(self, path: Path) -> list[Item]:
        return [self._item(file) for file in self.files(path)]

    def _item(self, file: Path) -> Item:
        found, others = self._found(file)
        said = (left_out(file, others),) if others else ()
        read = partial(self._read, file)
        item = Item(
            name=file.stem,
            file=file,
            shape=(),
            read=read,
            holds="measurement",
            patient=file.stem,
            units_from="nothing",
            format=self.name,
        )
        if is_scan(found):
            with self.reading(file):
                scan = geometry_of(found, file)
            array = np.asarray(found["sinogram"])
            if scan.turned:
                item = replace(item, read=partial(_turned, read))
                array = array.T
            return replace(item, shape=array.shape, geometry=scan.geometry, notes=scan.notes)
        item = replace(item, notes=said)
        array = np.asarray(found)
        if array.ndim == 3 and not _counts_slices_first(array.shape):
            item = replace(item, read=partial(_last_axis_first, read))
            array = np.moveaxis(array, -1, 0)
        is_complex = array.dtype.kind == "c"
        if is_complex:
            item = replace(item, holds="kspace")
        return replace(item, shape=array.shape, complex=is_complex)

    def _read(self, file: Path) -> np.ndarray:
        found, _ = self._found(file)
        return np.asarray(found["sinogram"] if is_scan(found) else found)

    def _found(self, file: Path) -> tuple[Any, list[str]]:
        """The scan or the matrix that is read, and the names of arrays beside it that are none.

        Raises:
            UserError: there is none, or there are several.
        """
        with self.reading(file):
            contents = variables(file)
        if self.variable is not None:
            return self._named(file, contents), []
        scans = {name: value for name, value in contents.items() if is_scan(value)}
        matrices = {name: value for name, value in _matrices(contents)}
        chosen = scans or matrices
        if len(chosen) == 1:
            return next(iter(chosen.values())), _lists(contents)
        what = f"it holds {listed(_described(contents)) or 'nothing'}"
        if chosen:
            names = listed(chosen)
            raise self.error(file, f"{what}; choose one with data.variable ({names})")
        raise self.error(file, f"no matrix of numbers and no scan; {what}")

    def _named(self, file: Path, contents: dict[str, Any]) -> Any:
        here: Any = contents
        assert self.variable is not None
        for step in self.variable.split("."):
            if not isinstance(here, dict) or step not in here:
                raise self.error(
                    file,
                    f"no variable {self.variable!r}; it holds {listed(_described(contents))}",
                )
            here = here[step]
        if is_scan(here) or _is_matrix(here):
            return here
        raise self.error(file, f"{self.variable!r} is no matrix of numbers and no scan")


def _turned(read: Any) -> np.ndarray:
    return np.asarray(read()).T


def _last_axis_first(read: Any) -> np.ndarray:
    return np.moveaxis(np.asarray(read()), -1, 0)


def _counts_slices_first(shape: tuple[int, ...]) -> bool:
    """MATLAB counts slices along the last axis. Slices that are square along the last two, and
    those alone, were not stacked by MATLAB."""
    return shape[1] == shape[2] != shape[0]


# ------------------------------------------------------------------------------- what there is


def variables(file: Path) -> dict[str, Any]:
    """Variables by name: dicts for structs, arrays for numbers, strings for text."""
    start = first_bytes(file, 520)
    if HDF5_MARK in (start[:8], start[512:520]):
        h5py = need("h5py", "hdf5")
        with h5py.File(file) as stored:
            return {name: _plain_hdf5(stored[name]) for name in stored if not name.startswith("#")}
    from scipy.io import loadmat

    check_tags(file)
    loaded = loadmat(file, squeeze_me=True, struct_as_record=False)
    return {name: _plain(value) for name, value in loaded.items() if not name.startswith("__")}


def _plain(value: Any) -> Any:
    names = getattr(value, "_fieldnames", None)
    if names is None:
        return value
    return {name: _plain(getattr(value, name)) for name in names}


def _plain_hdf5(value: Any) -> Any:
    if not hasattr(value, "shape"):
        return {name: _plain_hdf5(value[name]) for name in value}
    array = np.asarray(value[()]).T  # MATLAB's first axis stands last in HDF5
    if value.attrs.get("MATLAB_class") == b"char":
        return "".join(chr(int(code)) for code in array.ravel(order="F"))
    if array.dtype.names is not None and len(array.dtype.names) == 2:
        real, imaginary = array.dtype.names
        array = array[real] + 1j * array[imaginary]
    return array.squeeze()


def _is_matrix(value: Any) -> bool:
    return (
        isinstance(value, np.ndarray)
        and value.dtype.kind in "buifc"
        and value.ndim in (2, 3)
        and min(value.shape) > 1
    )


def _matrices(contents: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Matrices by name, of the variables; or of their fields, where no variable is one."""
    own = [(name, value) for name, value in contents.items() if _is_matrix(value)]
    yield from own
    if own:
        return
    for name, value in contents.items():
        if isinstance(value, dict):
            for field, inner in value.items():
                if _is_matrix(inner):
                    yield f"{name}.{field}", inner


def _lists(contents: dict[str, Any]) -> list[str]:
    """The names of variables that are several numbers in a row or a column."""
    return [
        name
        for name, value in contents.items()
        if isinstance(value, np.ndarray)
        and value.dtype.kind in "buifc"
        and sum(side > 1 for side in value.shape) == 1
    ]


def _described(contents: dict[str, Any]) -> list[str]:
    words = []
    for name, value in contents.items():
        if isinstance(value, dict):
            words.append(f"{name} (struct of {', '.join(list(value)[:4])})")
        elif isinstance(value, np.ndarray) and math.prod(value.shape) > 1:
            words.append(f"{name} ({'×'.join(map(str, value.shape))} {value.dtype})")
        else:
            words.append(f"{name} ({type(value).__name__})")
    return words
