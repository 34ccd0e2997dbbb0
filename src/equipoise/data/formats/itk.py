"""MetaImage and NRRD, through SimpleITK: volumes with spacing, origin and orientation, cut into
slices across their last axis, or another that is asked for."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import UserError, need
from ..choice import PLANES, Axis, Choice, numbered_axis
from ..item import Item
from ..units import found_in
from .base import Format, by_file, check_promised_size, first_bytes

#: How a header names the file of the values, and what it says where they follow the header itself.
DATA_FILE = re.compile(rb"^\s*(?:ElementDataFile|data ?file)\s*[=:]\s*(.+?)\s*$", re.I | re.M)
IN_ITSELF = (b"local",)
#: A header is no longer than this.
LONGEST_HEADER = 65536


def itk() -> Any:
    """SimpleITK, which says nothing of its own."""
    library = need("SimpleITK", "itk")
    library.ProcessObject.SetGlobalWarningDisplay(False)
    return library


def reader_of(file: Path, with_header: bool = True) -> Any:
    """SimpleITK's reader of the file, by its content: whatever it is called."""
    reader = itk().ImageFileReader()
    reader.SetImageIO("NrrdImageIO" if first_bytes(file, 4) == b"NRRD" else "MetaImageIO")
    reader.SetFileName(str(file))
    if with_header:
        reader.ReadImageInformation()
    return reader


@dataclass(frozen=True)
class Header:
    """What a file says of its volume, axes in the order x, y, z."""

    size: tuple[int, ...]
    spacing: tuple[float, ...]
    itemsize: int
    is_complex: bool


class _Itk(Format):
    """One item a slice across the last axis, (rows, columns) = (y, x), or across another.

    Neither family says what its values are: what looks like Hounsfield units is taken for them,
    which is noted; in all others, the brightest 0.1 % count as 1.
    """

    may_hold_either = True
    chooses = ("axis",)

    def open(self, path: Path) -> list[Item]:
        return self.open_chosen(path, Choice())

    def open_chosen(self, path: Path, choice: Choice) -> list[Item]:
        items: list[Item] = []
        for file in self.files(path):
            items += self._slices(file, choice.axis)
        return items

    def remedy(self, error: Exception) -> str:
        # SimpleITK has no other; what this reader refuses has a remedy of its own.
        if isinstance(error, RuntimeError) and not isinstance(error, NotImplementedError):
            return "copy it again, with the file of values that its header names beside it"
        return super().remedy(error)

    def _slices(self, file: Path, asked: Axis | None) -> list[Item]:
        with self.reading(file):
            header = _header(file)
            changed = file.stat().st_mtime
            volume = _volume(file, changed)
        axis = 2 if asked is None else self._axis(file, asked)
        units, units_from, notes = found_in(volume, file.name)
        stem = file.name.rsplit(".", 1)[0]
        sides, spacing = volume.shape[::-1], (*header.spacing, 1.0)[:3]
        columns, rows = [other for other in range(3) if other != axis]
        count = sides[axis]
        return [
            Item(
                name=f"{stem}_{k:03d}" if count > 1 else stem,
                file=file,
                shape=(sides[rows], sides[columns]),
                read=partial(self._slice, file, changed, axis, k),
                holds="image",
                complex=header.is_complex,
                patient=stem,
                series=str(file),
                position=k * spacing[axis],
                index=k,
                spacing=(spacing[rows], spacing[columns]),
                units=units,
                units_from=units_from,
                format=self.name,
                notes=notes,
                axis=axis,
            )
            for k in range(count)
        ]

    def _axis(self, file: Path, asked: Axis) -> int:
        """The axis (x, y, z) of the file that is meant by its number, its letter, or the plane
        across it."""
        with self.reading(file):
            direction = np.array(reader_of(file).GetDirection())
        axes = round(len(direction) ** 0.5)
        if axes < 3 and asked in (2, -1, "z"):
            return 2
        if axes < 3:
            raise self.error(file, f"data.axis={asked}: it holds one plane, which is not cut")
        if isinstance(asked, str) and asked in PLANES:
            across = np.abs(direction.reshape(axes, axes)[PLANES[asked], :3])
            return int(across.argmax())
        try:
            return numbered_axis(asked)
        except ValueError as error:
            raise self.error(file, str(error)) from error

    def _slice(self, file: Path, changed: float, axis: int, k: int) -> np.ndarray:
        with self.reading(file):
            plane: np.ndarray = _volume(file, changed).take(k, 2 - axis)
        return plane

    def write(
        self, items: Sequence[Item], images: Sequence[np.ndarray], folder: Path
    ) -> list[Path]:
        """One volume for each that they came from, where it was: with its origin, orientation and
        spacing, scaled if the size changed. Slices between them that were not reconstructed are
        air, or zero."""
        paths = []
        for members, planes, path in by_file(
            items, images, folder, self.suffixes, self.suffixes[0]
        ):
            itk().WriteImage(_image(members, np.stack(planes)), str(path))
            paths.append(path)
        return paths


class MetaImage(_Itk):
    """``.mha``, or ``.mhd`` with its file of values."""

    name = "metaimage"
    suffixes = (".mha", ".mhd")
    needs = "A MetaImage file (.mha, or .mhd with its .raw) holds one volume of numbers."

    @property
    def title(self) -> str:
        return "MetaImage"

    def sniff(self, path: Path) -> bool:
        start = first_bytes(path, 256)
        return start.lstrip().startswith((b"ObjectType", b"NDims")) and b"=" in start[:20]


class Nrrd(_Itk):
    """``.nrrd``, or ``.nhdr`` with its file of values."""

    name = "nrrd"
    suffixes = (".nrrd", ".nhdr")
    needs = "An NRRD file (.nrrd, or .nhdr with its values beside it) holds one volume of numbers."

    def sniff(self, path: Path) -> bool:
        return first_bytes(path, 7) == b"NRRD000"


def _header(file: Path) -> Header:
    """What the header says, if the file can hold it.

    Raises:
        EOFError: it promises more values than there are bytes.
    """
    reader = reader_of(file)
    size = tuple(int(n) for n in reader.GetSize())
    if reader.GetNumberOfComponents() != 1:
        raise NotImplementedError("its values are vectors or colours, not single numbers")
    while len(size) > 3 and size[-1] == 1:
        size = size[:-1]
    if len(size) not in (2, 3):
        raise NotImplementedError(f"it has {len(size)} axes {size}: split it into volumes")
    kind = reader.GetPixelIDValue()
    probe = itk().GetArrayFromImage(itk().Image([1] * 2, kind))
    _check_size(file, math.prod(size) * probe.dtype.itemsize)
    spacing = tuple(float(n) for n in reader.GetSpacing())
    return Header(size, spacing, probe.dtype.itemsize, probe.dtype.kind == "c")


def _check_size(file: Path, promised: int) -> None:
    """Notices a header that promises more than its file of values holds, where that is one."""
    start = first_bytes(file, LONGEST_HEADER)
    named = DATA_FILE.search(start)
    if named is None or named.group(1).strip().lower() in IN_ITSELF:
        check_promised_size(file, promised, compressed=True)
        return
    beside = file.parent / named.group(1).decode(errors="replace").strip()
    if beside.is_file():
        check_promised_size(beside, promised, compressed=True)
    elif not re.search(rb"%|LIST| ", named.group(1)):
        raise FileNotFoundError(f"its values are in {beside.name}, which is not there")


@lru_cache(maxsize=2)
def _volume(file: Path, changed: float) -> np.ndarray:
    """(slices, rows, columns)."""
    _header(file)
    image = reader_of(file, with_header=False).Execute()
    values: np.ndarray = itk().GetArrayFromImage(image)
    while values.ndim > 3 and len(values) == 1:
        values = values[0]
    return values[None] if values.ndim == 2 else values


def _image(items: Sequence[Item], images: np.ndarray) -> Any:
    """Slices of one file as an image of ITK's, in the place of the original."""
    original = reader_of(items[0].file)
    across = 2 if items[0].axis is None else items[0].axis
    columns, rows = [other for other in range(3) if other != across]
    places = [item.index or 0 for item in items]
    first, count = min(places), max(places) - min(places) + 1
    empty = 0.0 if items[0].is_difference else items[0].units.offset
    volume = np.full((count, *images.shape[1:]), empty, dtype=np.float32)
    for place, image in zip(places, images, strict=True):
        volume[place - first] = image
    volume = np.moveaxis(volume, 0, 2 - across)
    axes = len(original.GetSize())
    if axes == 2:
        volume = volume[0]
    elif axes > 3:
        raise UserError(
            f"{items[0].file}: has {axes} axes, of which no volume can be written; split it"
        )
    image = itk().GetImageFromArray(volume)
    spacing = np.array(original.GetSpacing())
    direction = np.array(original.GetDirection()).reshape(axes, axes)
    placed = items[0].placement(images.shape[-2:])
    moved, factor = np.zeros(axes), np.ones(axes)
    for axis, start, size in zip((rows, columns), placed.start, placed.pixel, strict=True):
        # The outer corner of the part that was reconstructed stays where it is.
        moved[axis], factor[axis] = start + (size - 1) / 2, size
    if axes == 3:
        moved[across] = first
    shift = moved * spacing
    image.SetSpacing((spacing * factor).tolist())
    image.SetOrigin((np.array(original.GetOrigin()) + direction @ shift).tolist())
    image.SetDirection(direction.ravel().tolist())
    return image
