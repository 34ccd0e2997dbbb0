"""NIfTI volumes, cut into slices across their last axis, or another that is asked for."""

from __future__ import annotations

import gzip
import math
import re
import zlib
from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import need
from ..choice import Axis, Choice, numbered_axis
from ..item import Item, check_numbers
from ..units import found_in
from .base import Format, by_file, check_promised_size, first_bytes

#: The directions across each kind of slices, as nibabel calls them.
CODES = {"sagittal": "RL", "coronal": "AP", "axial": "SI"}
#: Where the first and the second version have their mark.
MARKS = {344: (b"n+1\0", b"ni1\0"), 4: (b"n+2\0", b"ni2\0")}


class Nifti(Format):
    """Each volume is a subject with units of its own: NIfTI does not say what its values are.

    Volumes that look like Hounsfield units are taken for them, which is noted; in all others, the
    brightest 0.1 % count as 1.
    """

    name = "nifti"
    suffixes = (".nii", ".nii.gz")
    needs = "A NIfTI file holds one volume of three axes, of real or complex numbers."
    chooses = ("axis", "volume")

    @property
    def title(self) -> str:
        return "NIfTI"

    def remedy(self, error: Exception) -> str:
        if isinstance(error, NotImplementedError):
            return "convert it to grey values"
        return super().remedy(error)

    def sniff(self, path: Path) -> bool:
        start = first_bytes(path, 352)
        if start.startswith(b"\x1f\x8b"):
            try:
                with gzip.open(path) as stream:
                    start = stream.read(352)
            except (OSError, EOFError, zlib.error):
                return False
        return any(start[at : at + 4] in marks for at, marks in MARKS.items())

    def open(self, path: Path) -> list[Item]:
        return self.open_chosen(path, Choice())

    def open_chosen(self, path: Path, choice: Choice) -> list[Item]:
        items: list[Item] = []
        for file in self.files(path):
            items += self._slices(file, choice)
        return items

    def _slices(self, file: Path, choice: Choice) -> list[Item]:
        changed = file.stat().st_mtime
        volume = self._volume(file, changed, choice.volume)
        stem = file.name.split(".")[0]
        units, units_from, notes = found_in(volume, file.name)
        with self.reading(file):
            image = need("nibabel", "nifti").load(file)
            # Of a plane, the header gives no thickness.
            zooms = [float(zoom) for zoom in (*image.header.get_zooms()[:3], 1.0, 1.0, 1.0)[:3]]
        axis = 2 if choice.axis is None else self._axis(file, image, choice.axis)
        rows, columns = [other for other in range(3) if other != axis]
        return [
            Item(
                name=f"{stem}_{k:03d}",
                file=file,
                shape=(volume.shape[rows], volume.shape[columns]),
                read=partial(self._slice, file, changed, choice.volume, axis, k),
                complex=np.iscomplexobj(volume),
                patient=_subject(file, stem),
                series=str(file),
                position=k * zooms[axis],
                index=k,
                spacing=(zooms[rows], zooms[columns]),
                units=units,
                units_from=units_from,
                format=self.name,
                notes=notes,
                axis=axis,
            )
            for k in range(volume.shape[axis])
        ]

    def _axis(self, file: Path, image: Any, asked: Axis) -> int:
        """The axis of the file that is meant by its number, its letter, or the plane across it."""
        if isinstance(asked, str) and asked in CODES:
            codes = need("nibabel", "nifti").aff2axcodes(image.affine)
            found = [k for k, code in enumerate(codes) if code in CODES[asked]]
            if not found:
                raise self.error(file, f"does not say which of its axes is across {asked} slices")
            return found[0]
        try:
            return numbered_axis(asked)
        except ValueError as error:
            raise self.error(file, str(error)) from error

    def _volume(self, file: Path, changed: float, chosen: int | str | None) -> np.ndarray:
        """(x, y, z): the only one of the file, or the one that is chosen of a series."""
        with self.reading(file):
            image = need("nibabel", "nifti").load(file)
            shape = image.shape
        if len(shape) < 2:
            raise self.error(file, f"expected a volume with three axes, got shape {shape}")
        series = [n for n in shape[3:] if n > 1]
        count = series[0] if series else 1
        if len(series) > 1 or (series and chosen is None):
            raise self.error(
                file,
                f"expected a volume with three axes, got shape {shape}; set data.volume to one of "
                f"the {math.prod(series)} (from 0), or to average, or split it (fslsplit)",
            )
        if isinstance(chosen, int) and not -count <= chosen < count:
            raise self.error(file, f"data.volume={chosen}: it holds {count}, counted from 0")
        with self.reading(file):
            return _read_volume(file, changed, chosen if series else None)

    def _slice(
        self, file: Path, changed: float, volume: int | str | None, axis: int, k: int
    ) -> np.ndarray:
        one: np.ndarray = self._volume(file, changed, volume).take(k, axis)
        return one

    def write(
        self, items: Sequence[Item], images: Sequence[np.ndarray], folder: Path
    ) -> list[Path]:
        """One volume for each that they came from, with the affine of the original, scaled if the
        size changed. Slices between them that were not reconstructed are air, or zero."""
        paths = []
        for members, planes, path in by_file(items, images, folder, self.suffixes, ".nii.gz"):
            _write_volume(members, planes, path)
            paths.append(path)
        return paths


def _subject(file: Path, stem: str) -> str:
    """The file's name; or ``sub-01`` of ``sub-01_ses-2_T1w.nii.gz``: so BIDS names subjects."""
    found = re.match(r"sub-[A-Za-z0-9]+(?=_)", file.name)
    return found.group() if found else stem


@lru_cache(maxsize=2)
def _read_volume(file: Path, changed: float, chosen: int | str | None) -> np.ndarray:
    """(x, y, z) as float32 or complex64; of a series, the one that is chosen, or the average."""
    image = need("nibabel", "nifti").load(file)
    stored = image.get_data_dtype()
    if stored.kind not in "biufc":
        raise NotImplementedError(f"its values are {stored}: colours, not grey values")
    size = math.prod(image.shape) * stored.itemsize
    check_promised_size(_data_file(image, file), size, compressed=file.suffix.lower() == ".gz")
    kind = np.complex64 if stored.kind == "c" else np.float32
    shape = (*image.shape, 1, 1, 1)[:3]
    stored_values: Any = image.dataobj
    if isinstance(chosen, int):  # read no more than that
        places = tuple(chosen if n > 1 else 0 for n in image.shape[3:])
        stored_values = stored_values[(..., *places)]
    with np.errstate(over="ignore"):  # what does not fit becomes infinite, and is refused below
        values = np.asarray(stored_values).astype(kind)
    if chosen == "average":
        values = values.reshape(*shape, -1).mean(-1)
    return check_numbers(values.reshape(shape), str(file))


def _data_file(image: Any, file: Path) -> Path:
    """The file that holds the values: another one than the header, in a pair of files."""
    return Path(image.file_map["image"].filename or file)


def _write_volume(items: Sequence[Item], images: Sequence[np.ndarray], path: Path) -> None:
    nibabel = need("nibabel", "nifti")
    original = nibabel.load(items[0].file)
    axis = 2 if items[0].axis is None else items[0].axis
    across = [other for other in range(3) if other != axis]
    places = [item.index or 0 for item in items]
    first, count = min(places), max(places) - min(places) + 1
    empty = 0.0 if items[0].is_difference else items[0].units.offset
    planes = np.full((count, *images[0].shape), empty, dtype=np.float32)
    for place, image in zip(places, images, strict=True):
        planes[place - first] = image
    placed = items[0].placement(images[0].shape[-2:])
    affine = np.array(original.affine)
    moved, factor = np.zeros(3), np.ones(3)
    moved[axis] = first
    for other, start, size in zip(across, placed.start, placed.pixel, strict=True):
        # The outer corner of the part that was reconstructed stays where it is.
        moved[other], factor[other] = start + (size - 1) / 2, size
    affine[:3, 3] += affine[:3, :3] @ moved
    affine[:3, :3] *= factor
    header = original.header.copy()
    header.set_data_dtype(np.float32)
    if items[0].meaning:
        header["descrip"] = items[0].meaning.encode()[:79]
    nibabel.save(nibabel.Nifti1Image(np.moveaxis(planes, 0, axis), affine, header), path)
