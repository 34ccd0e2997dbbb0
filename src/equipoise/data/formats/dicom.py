"""DICOM: slices of CT in Hounsfield units and of MR, one a file or several (enhanced)."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import need
from ..choice import Axis, Choice
from ..item import HOUNSFIELD, Item, Units, UnitsFrom
from .base import Format, all_files, first_bytes, listed
from .dicom_header import MODALITIES, Slice, read_slices
from .dicom_volume import Volume
from .dicom_writer import write_slices

#: Files of these names are no images.
NO_IMAGES = ("DICOMDIR", "LOCKFILE", "VERSION")
#: A gap between slices is noted from this many times the usual distance on.
GAP = 1.5
#: Slices nearer than this, in millimetres, are at the same place.
SAME_PLACE = 1e-3


class Dicom(Format):
    """Slices sorted by patient, series and position along their normal; of a folder and of all
    folders in it. Each series may be cut across another axis.

    What is no slice of a scan (localizers, maps, phases, reports) is left out, and noted. CT is in
    Hounsfield units; of MR, the brightest 0.1 % of each series count as 1.
    """

    name = "dicom"
    suffixes = (".dcm", ".ima")
    needs = "A DICOM file holds grey slices of CT or MR, with the size, position and rescaling."
    any_suffix = True
    chooses = ("axis",)

    def sniff(self, path: Path) -> bool:
        return path.name not in NO_IMAGES and first_bytes(path, 132)[128:] == b"DICM"

    def remedy(self, error: Exception) -> str:
        if isinstance(error, (EOFError, NotImplementedError, AttributeError, KeyError, OSError)):
            return f"{super().remedy(error)}; repair it or take it out of the folder"
        return "the file is damaged: repair it or take it out of the folder"

    def open(self, path: Path) -> list[Item]:
        return self.open_chosen(path, Choice())

    def open_chosen(self, path: Path, choice: Choice) -> list[Item]:
        slices: list[Slice] = []
        left_out: list[str] = []
        for file in self.files(path):
            with self.reading(file), _quietly():
                found = read_slices(file)
            if not found:
                left_out.append(f"{file.name} (no image)")
            slices += found
        slices, others = _of_a_scan(slices)
        left_out += [f"{one.name} ({one.what})" for one in others]
        self._check_modalities(slices, others)
        if not slices and left_out:
            raise self.error(path, f"holds no slice of a scan: {listed(left_out, 3)}; leave it out")
        slices.sort(key=lambda one: (one.patient, one.series, one.position or 0.0, one.name))
        items = self._items(slices) if choice.axis is None else self._cut(slices, choice.axis)
        if left_out:
            note = f"{len(left_out)} DICOM images are left out, as no slices of a scan: "
            items[0] = replace(items[0], notes=(note + listed(left_out, 3), *items[0].notes))
        return items

    def files(self, path: Path) -> list[Path]:
        """The file itself, or those of a folder and of all folders in it (studies, series)."""
        return [path] if path.is_file() else [file for file in all_files(path) if self.owns(file)]

    def _check_modalities(self, slices: list[Slice], others: list[Slice]) -> None:
        """
        Raises:
            UserError: CT and MR are mixed, or there is neither.
        """
        first = {one.modality: one for one in reversed(slices)}
        if len({modality or "CT" for modality in first}) > 1:
            raise self.error(
                first["MR"].file,
                "is MR, beside CT; only CT has Hounsfield units: put each in a folder of its own",
            )
        unknown = [one for one in others if one.modality not in MODALITIES]
        if not slices and unknown:
            raise self.error(
                unknown[0].file,
                f"its modality is {unknown[0].modality}; only CT has Hounsfield units, and only CT "
                "and MR are read: convert other images to NIfTI (dcm2niix)",
            )

    def _item(self, one: Slice) -> Item:
        units_from: UnitsFrom = "file" if one.says_hounsfield else "nothing"
        if one.modality == "MR":
            units_from = "magnitude"
        return Item(
            name=one.name,
            file=one.file,
            shape=(one.rows, one.columns),
            read=partial(self._read, one),
            patient=one.patient,
            series=one.series,
            volume=one.volume,
            position=one.position,
            index=one.frame,
            spacing=one.spacing,
            units=Units() if one.modality == "MR" else HOUNSFIELD,
            units_from=units_from,
            format=self.name,
        )

    def _items(self, slices: list[Slice]) -> list[Item]:
        """Of slices as they are, with a note where some are missing."""
        items = [self._item(one) for one in slices]
        for i, note in _missing_slices(slices):
            items[i] = replace(items[i], notes=(*items[i].notes, note))
        return items

    def _cut(self, slices: list[Slice], asked: Axis) -> list[Item]:
        """The slices of each series as a volume that is cut across the axis that is asked for."""
        items: list[Item] = []
        for _, members in groupby(slices, key=lambda one: (one.patient, one.series)):
            series = list(members)
            volume = Volume(series, self._read)
            try:
                axis = volume.axis(asked)
                if axis == 2:
                    items += self._items(series)
                    continue
                across = volume.distance()
            except ValueError as error:
                raise self.error(series[0].file, str(error)) from error
            items += self._items_across(volume, axis, across)
        return items

    def _items_across(self, volume: Volume, axis: int, across: float) -> list[Item]:
        first = volume.slices[0]
        assert first.spacing is not None
        rows, columns = first.spacing
        along = first.axes[:3] if axis == 0 else first.axes[3:]
        start = sum(a * b for a, b in zip(along, first.corner, strict=True))
        step, kept = (columns, rows) if axis == 0 else (rows, columns)
        count, width = (first.columns, first.rows) if axis == 0 else (first.rows, first.columns)
        return [
            replace(
                self._item(first),
                name=f"{first.file.stem}_{'xyz'[axis]}{k:03d}",
                shape=(len(volume.slices), width),
                read=partial(volume.cut, axis, k),
                volume=f"{first.volume} {'xyz'[axis]}",
                position=start + k * step,
                index=k,
                spacing=(across, kept),
                axis=axis,
            )
            for k in range(count)
        ]

    def _read(self, one: Slice) -> np.ndarray:
        """(rows, columns) in Hounsfield units, of which padding is air; or of MR, padding is 0."""
        pydicom = need("pydicom", "dicom")
        with self.reading(one.file), _quietly():
            data = pydicom.dcmread(one.file, force=True)
            self._check_codec(one.file, data)
            _check_length(data)
            if one.modality != "CT" and data.get("PhotometricInterpretation") == "MONOCHROME1":
                raise self.error(
                    one.file,
                    "its smallest value is white (PhotometricInterpretation MONOCHROME1), so that "
                    "it would be taken for its negative; export it as MONOCHROME2",
                )
            index = one.frame if one.frame is not None else 0
            stored = pydicom.pixels.pixel_array(data, index=index)
            if stored.shape != (one.rows, one.columns):
                raise ValueError(f"its pixels have the shape {stored.shape}")
            stored = _significant_bits(stored, data)
            values = stored.astype(np.float32) * one.slope + one.intercept
            outside = 0.0 if one.modality == "MR" else HOUNSFIELD.offset
            return np.where(_is_padding(stored, data), outside, values)

    def _check_codec(self, file: Path, data: Any) -> None:
        syntax = data.file_meta.TransferSyntaxUID
        if not syntax.is_encapsulated:
            return
        decoder = need("pydicom.pixels", "dicom").get_decoder(syntax)
        if not decoder.is_available:
            raise self.error(
                file,
                "is compressed with a codec that is not installed (pip install "
                f"'pydicom[pixeldata]', pylibjpeg): {syntax.name}",
            )

    def write(
        self, items: Sequence[Item], images: Sequence[np.ndarray], folder: Path
    ) -> list[Path]:
        """One file a slice, of the same kind (CT in HU, MR), its geometry adapted to the new size,
        marked as derived."""
        return write_slices(items, images, folder, self.suffixes)


@contextmanager
def _quietly() -> Iterator[None]:
    """Without pydicom's remarks on values that break the standard in ways that do not matter."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _of_a_scan(slices: list[Slice]) -> tuple[list[Slice], list[Slice]]:
    """The slices of scans, and what is left out: overviews and maps; and derived slices, where the
    study has those that they were derived from."""
    kept = [one for one in slices if one.is_slice and one.modality in MODALITIES]
    with_originals = {one.patient for one in kept if not one.is_derived}
    used = [one for one in kept if not (one.is_derived and one.patient in with_originals)]
    names = {id(one) for one in used}
    return used, [one for one in slices if id(one) not in names]


def _missing_slices(slices: Sequence[Slice]) -> list[tuple[int, str]]:
    """A note for the slice after each gap in a series of sorted slices of one orientation, and that
    slice's place; and one where several lie at the same place."""
    places: dict[tuple[str, str, str], list[int]] = {}
    for i, one in enumerate(slices):
        if one.position is not None:
            places.setdefault((one.patient, one.series, one.volume), []).append(i)
    notes = []
    for (patient, *_), series in places.items():
        gaps = np.diff([slices[i].position or 0.0 for i in series])
        apart = gaps[gaps > SAME_PLACE]
        again = len(gaps) - len(apart)
        if 0 < again < len(series) / 4:  # of more, several belong to each place: echoes, phases
            where = series[int(np.argmin(gaps)) + 1]
            note = f"patient {patient}: {again} slice(s) lie where another one of the series does"
            notes.append((where, note))
        usual = float(np.median(apart)) if len(apart) > 2 else 0.0
        if usual <= 0:
            continue
        wide = np.flatnonzero(gaps > GAP * usual)
        note = (
            f"patient {patient}: slices are missing at {len(wide)} place(s): gaps up to "
            f"{float(gaps.max()):g} mm, where {usual:g} mm is usual"
        )
        notes += [(series[k + 1], note) for k in wide]
    return notes


def _check_length(data: Any) -> None:
    """Notices pixels that are cut short.

    Raises:
        EOFError: they are.
        KeyError: there are none.
    """
    if "PixelData" not in data:
        return
    frames = int(data.get("NumberOfFrames", 1) or 1)
    bits = data.Rows * data.Columns * frames * data.BitsAllocated
    there = len(data.PixelData)
    if not data.file_meta.TransferSyntaxUID.is_encapsulated and there < bits // 8:
        raise EOFError(f"its header promises {bits // 8} bytes of pixels, {there} are there")


def _significant_bits(stored: np.ndarray, data: Any) -> np.ndarray:
    """Pixels without what stands in the bits that are not theirs (PS3.5, 8.1.1)."""
    if stored.dtype.kind not in "iu" or data.BitsStored >= data.BitsAllocated:
        return stored
    above = data.BitsAllocated - 1 - data.HighBit
    below = data.HighBit + 1 - data.BitsStored
    return (stored << above) >> (above + below)


def _is_padding(stored: np.ndarray, data: Any) -> np.ndarray:
    """Which pixels lie outside of what was reconstructed (PS3.3, C.7.5.1.1.2)."""
    value = data.get("PixelPaddingValue")
    if not isinstance(value, int):
        return np.zeros(stored.shape, dtype=bool)
    limit = data.get("PixelPaddingRangeLimit")
    ends = (value, limit if isinstance(limit, int) else value)
    return (stored >= min(ends)) & (stored <= max(ends))
