"""HDF5: stacks of slices in Hounsfield units (``hu``), and k-space as fastMRI writes it."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import UserError, need
from ..item import HOUNSFIELD, Frame, Item, KspaceHeader, Units
from .base import (
    Format,
    by_file,
    check_promised_size,
    in_units_of_coils,
    is_hdf5,
    listed,
    text_of,
    write_npy,
)
from .encoding import cropped_readout
from .fastmri import About

AXES = {"hu": "slices × rows × columns", "kspace": "slices × (coils ×) rows × columns"}
#: The two fields by which complex numbers are written where HDF5 has no type for them.
COMPLEX_FIELDS = (("r", "i"), ("real", "imag"), ("re", "im"))


class Hdf5(Format):
    """Images under ``hu`` with their ``patient``, or measurements under ``kspace``.

    Of fastMRI, the mask says which lines were measured, where there is one, and the header which
    are padding; a readout that measures more than the field of view is cropped.
    """

    name = "hdf5"
    suffixes = (".h5", ".hdf5")
    writes_of_kspace = True
    needs = (
        "An HDF5 file holds 'hu' (Hounsfield units, slices × rows × columns), 'kspace' (fastMRI), "
        "or ISMRMRD's 'dataset'."
    )

    def sniff(self, path: Path) -> bool:
        return is_hdf5(path)

    def open(self, path: Path) -> list[Item]:
        h5py = need("h5py", "hdf5")
        items: list[Item] = []
        for file in self.files(path):
            with self.reading(file), h5py.File(file) as stored:
                items += self._slices(file, stored)
        if len({item.holds for item in items}) > 1:
            raise UserError(
                f"{path}: holds images ('hu') beside k-space ('kspace'); put each in a folder of "
                "its own"
            )
        return items

    def _slices(self, file: Path, stored: Any) -> list[Item]:
        key = next((key for key in AXES if key in stored), None)
        if key is None:
            names = [repr(str(name)) for name in sorted(stored)]
            raise self.error(
                file,
                "no dataset 'hu' and no 'kspace', and no ISMRMRD 'dataset'; it has "
                f"[{listed(names)}]",
            )
        data = stored[key]
        if not hasattr(data, "ndim"):
            raise self.error(file, f"'{key}' is a group, not a dataset of slices")
        if key == "kspace" and data.dtype.kind == "f" and data.ndim > 3 and data.shape[-1] == 2:
            raise self.error(
                file,
                f"'kspace' of shape {data.shape} looks like real and imaginary parts in the last "
                "axis; write complex numbers: k[..., 0] + 1j * k[..., 1]",
            )
        if data.ndim != 3 and (key, data.ndim) != ("kspace", 4):
            raise self.error(file, f"'{key}' must be {AXES[key]}, got shape {data.shape}")
        is_complex = self._check_type(file, key, data.dtype)
        self._check_filters(file, key, data)
        if len(data):
            check_promised_size(file, data.nbytes // len(data), compressed=True)
        patients = self._patients(file, key, stored, len(data))
        if key == "kspace":
            return self._kspace(file, stored, patients, is_complex)
        return [
            Item(
                name=f"{file.stem}_{i:03d}",
                file=file,
                shape=data.shape[1:],
                read=partial(self._read, file, key, i),
                patient=patients[i],
                index=i,
                units=HOUNSFIELD,
                format=self.name,
            )
            for i in range(len(data))
        ]

    def _kspace(self, file: Path, stored: Any, patients: list[str], is_complex: bool) -> list[Item]:
        try:
            about = About.of(file.name, stored)
        except ValueError as error:
            raise self.error(file, str(error)) from error
        sampled = None
        if about.mask is not None:
            sampled = np.broadcast_to(about.mask, about.shape[-2:])
        items = []
        for i, patient in enumerate(patients):
            target = partial(self._read, file, about.target, i) if about.target else None
            header = KspaceHeader(
                sampled=sampled,
                lines=about.lines,
                recon=about.recon,
                target=target,
                peak=partial(self._peak, file, about.target) if about.target else None,
            )
            items.append(
                Item(
                    name=f"{file.stem}_{i:03d}",
                    file=file,
                    shape=about.shape,
                    read=partial(self._read_kspace, file, i, about),
                    holds="kspace",
                    complex=is_complex,
                    patient=patient,
                    series=str(file),
                    index=i,
                    units=Units(),
                    format=self.name,
                    notes=about.notes,
                    kspace=header,
                )
            )
        return items

    def _check_type(self, file: Path, key: str, dtype: np.dtype) -> bool:
        """Whether the numbers are complex."""
        is_complex = dtype.kind == "c" or _complex_fields(dtype) is not None
        if not is_complex and dtype.kind not in "biuf":
            raise self.error(file, f"'{key}' holds {dtype}, not numbers")
        if key == "hu" and is_complex:
            raise self.error(file, "'hu' holds complex numbers, which are no Hounsfield units")
        return is_complex

    def _check_filters(self, file: Path, key: str, data: Any) -> None:
        h5z = need("h5py", "hdf5").h5z
        properties = data.id.get_create_plist()
        for number in range(properties.get_nfilters()):
            code, _, _, name = properties.get_filter(number)
            if not h5z.filter_avail(code):
                raise self.error(
                    file,
                    f"'{key}' is compressed with {name.decode(errors='replace') or code}, which "
                    "is not installed; write it again with gzip (h5repack -f GZIP=4)",
                )

    def _patients(self, file: Path, key: str, stored: Any, count: int) -> list[str]:
        """Who each slice shows; the file's name, where it does not say."""
        if key == "kspace":
            return [text_of(stored.attrs.get("patient_id", file.stem))] * count
        if "patient" not in stored:
            return [file.stem] * count
        names = [text_of(name) for name in np.atleast_1d(stored["patient"][()])]
        if len(names) != count:
            raise self.error(
                file,
                f"{count} slices, but 'patient' names {len(names)}; it needs one for each slice",
            )
        return names

    def _read(self, file: Path, key: str, i: int) -> np.ndarray:
        with self.reading(file), need("h5py", "hdf5").File(file) as stored:
            array: np.ndarray = stored[key][i]
        fields = _complex_fields(array.dtype)
        if fields is None:
            return array
        real, imaginary = fields
        return array[real] + 1j * array[imaginary]

    def _read_kspace(self, file: Path, i: int, about: About) -> np.ndarray:
        """(coils, rows, columns) or (rows, columns); zero where the mask has no line."""
        array = self._read(file, "kspace", i)
        if about.mask is not None:
            array = array * about.mask
        if about.kept is None:
            return array
        measured = (array != 0).reshape(-1, *array.shape[-2:]).any(0)
        if about.mask is not None:
            measured = np.broadcast_to(about.mask, array.shape[-2:])
        return cropped_readout(array, measured, about.kept)[0]

    def _peak(self, file: Path, key: str) -> float:
        """The largest value of what fastMRI reconstructed."""
        with self.reading(file), need("h5py", "hdf5").File(file) as stored:
            return max(float(plane.max()) for plane in stored[key])

    def write(
        self, items: Sequence[Item], images: Sequence[np.ndarray], folder: Path
    ) -> list[Path]:
        """One file with ``hu`` in int16 and ``patient``, which this format reads; of k-space, a
        file for each volume as fastMRI's challenge wants it."""
        if items[0].holds == "kspace":
            return _write_volumes(items, images, folder, self.suffixes)
        if items[0].units != HOUNSFIELD or len({image.shape for image in images}) > 1:
            return write_npy(items, images, folder)
        files = {item.file for item in items}
        path = folder / (files.pop().name if len(files) == 1 else "images.h5")
        with _written_at_once(path) as stored:
            values = np.stack(images)
            if items[0].is_difference:
                stored["hu"] = values.astype(np.float32)  # a part of one Hounsfield unit matters
            else:
                stored["hu"] = np.clip(np.rint(values), -32768, 32767).astype(np.int16)
            if items[0].meaning:
                stored.attrs["meaning"] = items[0].meaning
            stored["patient"] = [item.patient.encode() for item in items]
        return [path]


@contextmanager
def _written_at_once(path: Path) -> Iterator[Any]:
    """An HDF5 file that is made in memory: where the disk is full, HDF5 ends the process when it
    closes its file, and Python says so."""
    made = io.BytesIO()
    with need("h5py", "hdf5").File(made, "w") as stored:
        yield stored
    path.write_bytes(made.getbuffer())


def _write_volumes(
    items: Sequence[Item], images: Sequence[np.ndarray], folder: Path, suffixes: tuple[str, ...]
) -> list[Path]:
    """For each file of k-space one of its name with ``reconstruction`` (slices, rows, columns),
    float32: the root sum of squares of the coils in the file's units, cropped to the image that its
    header wants."""
    paths = []
    for members, planes, path in by_file(items, images, folder, suffixes, ".h5"):
        volume = [_root_sum_of_squares(*pair) for pair in zip(members, planes, strict=True)]
        with _written_at_once(path) as stored:
            stored["reconstruction"] = np.stack(volume).astype(np.float32)
            if members[0].meaning:
                stored.attrs["meaning"] = members[0].meaning
            stored.attrs["patient_id"] = members[0].patient
        paths.append(path)
    return paths


def _root_sum_of_squares(item: Item, image: np.ndarray) -> np.ndarray:
    """(rows, columns) of the magnitude that the model reconstructed."""
    whole, recon = in_units_of_coils(item, image), item.kspace.recon
    if recon is None:
        return whole
    rows, columns = (min(a, b) for a, b in zip(recon, whole.shape, strict=True))
    return Frame.in_the_middle((whole.shape[0], whole.shape[1]), rows, columns).cut(whole)


def _complex_fields(dtype: np.dtype) -> tuple[str, str] | None:
    """The names of the real and the imaginary part of a compound type."""
    names = {name.lower(): name for name in dtype.names or ()}
    if len(names) != 2:
        return None
    for real, imaginary in COMPLEX_FIELDS:
        if real in names and imaginary in names:
            return names[real], names[imaginary]
    return None
