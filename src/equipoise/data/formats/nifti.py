"""NIfTI volumes, cut into slices along their last axis."""

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
from ..item import HOUNSFIELD, Item, Units, UnitsFrom, check_numbers
from ..units import Values, recognised_note
from .base import Format, check_promised_size, first_bytes

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
        items: list[Item] = []
        for file in self.files(path):
            items += self._slices(file)
        return items

    def _slices(self, file: Path) -> list[Item]:
        changed = file.stat().st_mtime
        volume = self._volume(file, changed)
        stem = file.name.split(".")[0]
        units, units_from, notes = _units(volume, file)
        with self.reading(file):
            zooms = need("nibabel", "nifti").load(file).header.get_zooms()
            # Of a plane, the header gives no thickness.
            rows, columns, thickness = [float(zoom) for zoom in (*zooms, 1.0)[:3]]
        return [
            Item(
                name=f"{stem}_{k:03d}",
                file=file,
                shape=volume.shape[:2],
                read=partial(self._slice, file, changed, k),
                complex=np.iscomplexobj(volume),
                patient=_subject(file, stem),
                series=str(file),
                position=k * thickness,
                index=k,
                spacing=(rows, columns),
                units=units,
                units_from=units_from,
                format=self.name,
                notes=notes,
            )
            for k in range(volume.shape[2])
        ]

    def _volume(self, file: Path, changed: float) -> np.ndarray:
        with self.reading(file):
            volume = _read_volume(file, changed)
        if volume.ndim != 3:
            raise self.error(
                file,
                f"expected a volume with three axes, got shape {volume.shape}; split a series of "
                "volumes into files of their own (nibabel.four_to_three, fslsplit)",
            )
        return volume

    def _slice(self, file: Path, changed: float, k: int) -> np.ndarray:
        return self._volume(file, changed)[:, :, k]

    def write(self, items: Sequence[Item], images: np.ndarray, folder: Path) -> list[Path]:
        """One volume for each that they came from, with the affine of the original, scaled if the
        size changed. Slices between them that were not reconstructed are air, or zero."""
        paths = []
        for file in dict.fromkeys(item.file for item in items):
            places = [n for n, item in enumerate(items) if item.file == file]
            members = [items[n] for n in places]
            path = folder / (file.name if file.name.lower().endswith(self.suffixes) else "")
            if path == folder:
                path = folder / f"{file.stem}.nii.gz"
            _write_volume(members, images[places], path)
            paths.append(path)
        return paths


def _subject(file: Path, stem: str) -> str:
    """The file's name; or ``sub-01`` of ``sub-01_ses-2_T1w.nii.gz``: so BIDS names subjects."""
    found = re.match(r"sub-[A-Za-z0-9]+(?=_)", file.name)
    return found.group() if found else stem


def _units(volume: np.ndarray, file: Path) -> tuple[Units, UnitsFrom, tuple[str, ...]]:
    values = Values.of_arrays([volume])
    if values.looks_like_hounsfield:
        return HOUNSFIELD, "values", (recognised_note(file.name, values),)
    return values.magnitude, "values" if values.looks_like_magnitude else "nothing", ()


@lru_cache(maxsize=2)
def _read_volume(file: Path, changed: float) -> np.ndarray:
    """The volume, without trailing axes of length 1, as float32 or complex64."""
    image = need("nibabel", "nifti").load(file)
    stored = image.get_data_dtype()
    if stored.kind not in "biufc":
        raise NotImplementedError(f"its values are {stored}: colours, not grey values")
    size = math.prod(image.shape) * stored.itemsize
    check_promised_size(_data_file(image, file), size, compressed=file.suffix.lower() == ".gz")
    if stored.kind == "c":
        volume = np.asarray(image.dataobj).astype(np.complex64)
    else:
        volume = np.asarray(image.get_fdata(dtype=np.float32, caching="unchanged"))
    while volume.ndim > 3 and volume.shape[-1] == 1:
        volume = volume[..., 0]
    if volume.ndim == 2:
        volume = volume[..., None]
    return check_numbers(volume, str(file))


def _data_file(image: Any, file: Path) -> Path:
    """The file that holds the values: another one than the header, in a pair of files."""
    return Path(image.file_map["image"].filename or file)


def _write_volume(items: Sequence[Item], images: np.ndarray, path: Path) -> None:
    nibabel = need("nibabel", "nifti")
    original = nibabel.load(items[0].file)
    places = [item.index or 0 for item in items]
    first, count = min(places), max(places) - min(places) + 1
    empty = 0.0 if items[0].is_difference else items[0].units.offset
    volume = np.full((*images.shape[1:], count), empty, dtype=np.float32)
    for place, image in zip(places, images, strict=True):
        volume[:, :, place - first] = image
    affine = np.array(original.affine)
    affine[:3, 3] += affine[:3, 2] * first
    rows, columns = original.shape[:2]
    factor = np.array([rows / volume.shape[0], columns / volume.shape[1], 1.0])
    # The outer corner of the volume stays where it is.
    affine[:3, 3] += affine[:3, :3] @ ((factor - 1) / 2)
    affine[:3, :3] *= factor
    header = original.header.copy()
    header.set_data_dtype(np.float32)
    if items[0].meaning:
        header["descrip"] = items[0].meaning.encode()[:79]
    nibabel.save(nibabel.Nifti1Image(volume, affine, header), path)
