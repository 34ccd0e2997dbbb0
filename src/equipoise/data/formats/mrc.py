"""MRC: volumes and tilt series of electron tomography, through mrcfile.

Cheng et al., "MRC2014: extensions to the MRC format header", Journal of Structural Biology 192,
2015.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import need
from ...imaging.tomography.scanner import ScannerGeometry
from ..item import Item, Units, UnitsFrom
from ..units import Values
from .base import Format, by_file, check_promised_size, first_bytes

#: Suffixes of tilt series, and of the files that hold their angles.
SERIES = (".st", ".ali", ".preali")
ANGLES = (".rawtlt", ".tlt")
#: Bytes of the header, and of what follows.
HEADER = 1024
#: Bytes of a number, by the header's mode.
ITEMSIZE = {0: 1, 1: 2, 2: 4, 4: 8, 6: 2, 12: 2}
#: Ångström in a millimetre.
ANGSTROM = 1e-7


@dataclass(frozen=True)
class Stack:
    """What a header says."""

    shape: tuple[int, int, int]  #: sections, rows, columns
    dtype: np.dtype
    voxel: tuple[float, float, float]  #: of x, y, z, in Ångström
    angles: tuple[float, ...] | None  #: of the sections of a tilt series, in degrees
    said_by: str  #: where the angles are


class Mrc(Format):
    """A volume: one item a section. A tilt series, which has angles or the suffix of one: one item
    a row, its sinogram (tilts, columns), the axis of tilt taken for vertical.
    """

    name = "mrc"
    suffixes = (".mrc", ".mrcs", ".rec", ".map", *SERIES)
    needs = (
        "An MRC file holds one volume, or one tilt series with its angles in a .rawtlt or .tlt "
        "file beside it."
    )
    may_hold_either = True

    def sniff(self, path: Path) -> bool:
        start = first_bytes(path, HEADER)
        return len(start) == HEADER and start[208:212] == b"MAP "

    def open(self, path: Path) -> list[Item]:
        items: list[Item] = []
        for file in self.files(path):
            with self.reading(file):
                stack = _header(file)
            is_series = stack.angles is not None or file.suffix.lower() in SERIES
            items += self._rows(file, stack) if is_series else self._sections(file, stack)
        return items

    def _sections(self, file: Path, stack: Stack) -> list[Item]:
        count, rows, columns = stack.shape
        changed = file.stat().st_mtime
        with self.reading(file):
            units, units_from = _units(_values(file, changed))
        return [
            Item(
                name=f"{file.stem}_{k:03d}" if count > 1 else file.stem,
                file=file,
                shape=(rows, columns),
                read=partial(self._section, file, changed, k),
                complex=stack.dtype.kind == "c",
                patient=file.stem,
                series=str(file),
                position=k * stack.voxel[2] * ANGSTROM,
                index=k,
                spacing=(stack.voxel[1] * ANGSTROM, stack.voxel[0] * ANGSTROM),
                units=units,
                units_from=units_from,
                format=self.name,
            )
            for k in range(count)
        ]

    def _rows(self, file: Path, stack: Stack) -> list[Item]:
        tilts, rows, columns = stack.shape
        changed = file.stat().st_mtime
        notes = [f"{file.name}: a tilt series; its axis of tilt is taken for vertical (along y)"]
        if stack.angles is None:
            notes.append(
                f"{file.name}: says no angles; put a .rawtlt file beside it, or set physics.angles"
            )
        geometry = ScannerGeometry(
            source=f"{file.name}: {stack.said_by}" if stack.said_by else file.name,
            beam="parallel",
            angles=stack.angles,
            detectors=columns,
        )
        digits = max(3, len(str(rows - 1)))
        return [
            Item(
                name=f"{file.stem}_{row:0{digits}d}",
                file=file,
                shape=(tilts, columns),
                read=partial(self._row, file, changed, row),
                holds="measurement",
                complex=stack.dtype.kind == "c",
                patient=file.stem,
                series=str(file),
                index=row,
                format=self.name,
                notes=tuple(notes),
                geometry=geometry,
            )
            for row in range(rows)
        ]

    def _section(self, file: Path, changed: float, k: int) -> np.ndarray:
        with self.reading(file):
            return np.array(_values(file, changed)[k])

    def _row(self, file: Path, changed: float, row: int) -> np.ndarray:
        with self.reading(file):
            return np.array(_values(file, changed)[:, row])

    def write(
        self, items: Sequence[Item], images: Sequence[np.ndarray], folder: Path
    ) -> list[Path]:
        """One volume for each that they came from, with its origin, and the size of its voxels,
        scaled if that of the images changed. Sections that were not reconstructed are zero."""
        paths = []
        for members, planes, path in by_file(items, images, folder, self.suffixes, ".mrc"):
            _write(members, np.stack(planes), path)
            paths.append(path)
        return paths


def _header(file: Path) -> Stack:
    """What the file's header says.

    Raises:
        ValueError: it is no header of an MRC file.
        EOFError: it promises more than there is.
    """
    start = first_bytes(file, HEADER)
    if len(start) < HEADER:
        raise EOFError(f"a header has {HEADER} bytes, the file has {len(start)} in all")
    numbers = np.frombuffer(start, "<i4", 4)
    numbers = numbers if 0 <= numbers[3] <= 127 else numbers.byteswap()
    columns, rows, sections, mode = (int(n) for n in numbers)
    if min(columns, rows, sections) < 1 or mode not in ITEMSIZE:
        raise ValueError(f"its header says {columns} × {rows} × {sections} numbers of mode {mode}")
    check_promised_size(file, HEADER + columns * rows * sections * ITEMSIZE[mode])
    with need("mrcfile", "mrc").mmap(file, mode="r") as stored:
        size = stored.voxel_size
        voxel = tuple(float(size[axis]) if size[axis] > 0 else 1.0 for axis in "xyz")
        angles, said_by = _angles(file, stored, sections)
        return Stack(
            (sections, rows, columns),
            stored.data.dtype,
            (voxel[0], voxel[1], voxel[2]),
            angles,
            said_by,
        )


def _angles(file: Path, stored: Any, sections: int) -> tuple[tuple[float, ...] | None, str]:
    """Of each section, in degrees, from a file beside it, or from the extended header."""
    for suffix in ANGLES:
        beside = file.with_suffix(suffix)
        if beside.is_file():
            words = beside.read_text(errors="replace").split()
            angles = tuple(float(word) for word in words)
            if len(angles) != sections or not np.isfinite(angles).all():
                raise ValueError(f"{beside.name} has {len(angles)} angles for {sections} sections")
            return angles, beside.name
    if sections < 2:
        return None, ""
    indexed: Any = getattr(stored, "indexed_extended_header", None)
    names = getattr(getattr(indexed, "dtype", None), "names", None) or ()
    values: np.ndarray | None
    if "Alpha tilt" in names and len(indexed) >= sections:
        values = np.asarray(indexed["Alpha tilt"][:sections], dtype=np.float64)
    else:
        values = _of_serialem(first_bytes(file, HEADER), stored, sections)
    if values is None or not np.isfinite(values).all() or np.ptp(values) == 0:
        return None, ""
    return tuple(values.tolist()), "its extended header"


def _of_serialem(start: bytes, stored: Any, sections: int) -> np.ndarray | None:
    """SerialEM's short integers, a hundredth of a degree each, where the header says that there are
    some (its fields nint, bytes a section, and nreal, whose bit 0 means angles)."""
    if start[104:108] not in (b"SERI", b"\0\0\0\0", b"    "):
        return None
    raw = stored.extended_header.tobytes()
    order = "<" if start[212:213] != b"\x11" else ">"
    each, flags = (int(n) for n in np.frombuffer(start[128:132], f"{order}i2"))
    if not flags & 1 or each < 2 or len(raw) < each * sections:
        return None
    first = np.frombuffer(raw[: each * sections], np.uint8).reshape(sections, each)[:, :2]
    return first.copy().view(f"{order}i2")[:, 0] / 100.0


@lru_cache(maxsize=4)
def _values(file: Path, changed: float) -> np.ndarray:
    """(sections, rows, columns), mapped: only what is used is read."""
    stack = _header(file)
    with need("mrcfile", "mrc").mmap(file, mode="r") as stored:
        values = stored.data
        return np.asarray(values).reshape(stack.shape) if values.ndim != 3 else values


def _units(volume: np.ndarray) -> tuple[Units, UnitsFrom]:
    places = np.linspace(0, len(volume) - 1, min(len(volume), 16)).round().astype(int)
    some = np.asarray(volume[places])
    values = Values.of_arrays([some[np.isfinite(some)]])
    return values.magnitude, "values" if values.looks_like_magnitude else "nothing"


def _write(items: Sequence[Item], images: np.ndarray, path: Path) -> None:
    library = need("mrcfile", "mrc")
    places = [item.index or 0 for item in items]
    first, count = min(places), max(places) - min(places) + 1
    volume = np.zeros((count, *images.shape[1:]), np.float32)
    for place, image in zip(places, images, strict=True):
        volume[place - first] = image
    placed = items[0].placement(images.shape[1:])
    with library.mmap(items[0].file, mode="r") as original:
        size, origin = original.voxel_size.copy(), original.header.origin.copy()
        start = int(original.header.nzstart) + first
    # The outer corner of the part that was reconstructed stays where it is: MRC's origin is that
    # of the first voxel's centre, in Ångström.
    for axis, began, pixel in zip("yx", placed.start, placed.pixel, strict=True):
        origin[axis] += float(size[axis]) * (began + (pixel - 1) / 2)
    with library.new(path) as stored:
        stored.set_data(volume)
        stored.voxel_size = (
            float(size.x) * placed.pixel[1],
            float(size.y) * placed.pixel[0],
            float(size.z),
        )
        stored.header.origin = origin
        stored.header.nzstart = start
        stored.set_volume()
