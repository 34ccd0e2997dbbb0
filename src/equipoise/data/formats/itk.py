"""MetaImage and NRRD, through SimpleITK: volumes with spacing, origin and orientation."""

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
    """One item a slice along the last axis, (rows, columns) = (y, x).

    Neither family says what its values are: what looks like Hounsfield units is taken for them,
    which is noted; in all others, the brightest 0.1 % count as 1.
    """

    may_hold_either = True

    def open(self, path: Path) -> list[Item]:
        items: list[Item] = []
        for file in self.files(path):
            items += self._slices(file)
        return items

    def remedy(self, error: Exception) -> str:
        if isinstance(error, RuntimeError):  # SimpleITK has no other
            return "copy it again, with the file of values that its header names beside it"
        return super().remedy(error)

    def _slices(self, file: Path) -> list[Item]:
        with self.reading(file):
            header = _header(file)
            changed = file.stat().st_mtime
            volume = _volume(file, changed)
        units, units_from, notes = found_in(volume, file.name)
        stem = file.name.rsplit(".", 1)[0]
        count = len(volume)
        thickness = header.spacing[2] if len(header.spacing) > 2 else 1.0
        return [
            Item(
                name=f"{stem}_{k:03d}" if count > 1 else stem,
                file=file,
                shape=volume.shape[1:],
                read=partial(self._slice, file, changed, k),
                holds="image",
                complex=header.is_complex,
                patient=stem,
                series=str(file),
                position=k * thickness,
                index=k,
                spacing=(header.spacing[1], header.spacing[0]),
                units=units,
                units_from=units_from,
                format=self.name,
                notes=notes,
            )
            for k in range(count)
        ]

    def _slice(self, file: Path, changed: float, k: int) -> np.ndarray:
        with self.reading(file):
            plane: np.ndarray = _volume(file, changed)[k]
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
    places = [item.index or 0 for item in items]
    first, count = min(places), max(places) - min(places) + 1
    empty = 0.0 if items[0].is_difference else items[0].units.offset
    volume = np.full((count, *images.shape[1:]), empty, dtype=np.float32)
    for place, image in zip(places, images, strict=True):
        volume[place - first] = image
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
    for axis, start, size in zip((1, 0), placed.start, placed.pixel, strict=True):  # y, x
        # The outer corner of the part that was reconstructed stays where it is.
        moved[axis], factor[axis] = start + (size - 1) / 2, size
    if axes == 3:
        moved[2] = first
    shift = moved * spacing
    image.SetSpacing((spacing * factor).tolist())
    image.SetOrigin((np.array(original.GetOrigin()) + direction @ shift).tolist())
    image.SetDirection(direction.ravel().tolist())
    return image
