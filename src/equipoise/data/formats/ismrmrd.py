"""ISMRMRD: the k-space of a scanner, line by line, each with a header of its own.

The lines are read by the names of their fields, so that files of every program are read, whatever
the layout of their headers; and the XML header by the few elements that matter. Both are described
by Inati et al., "ISMRM Raw data format", Magnetic Resonance in Medicine 77, 2017.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from ...errors import UserError, need
from ..item import Item
from .base import Format, check_promised_size, first_bytes, listed

#: The bits of a line's flags, counted from 1.
CALIBRATION = 20
REVERSE = 22
#: Lines that are not of the image: noise, navigators, feedback and their like.
NOT_OF_THE_IMAGE = {
    19: "noise",
    23: "navigators",
    24: "phase corrections",
    26: "feedback",
    27: "dummy scans",
    28: "feedback",
    29: "surface coil corrections",
    30: "phase stabilisation",
    31: "phase stabilisation",
}
#: Calibration lines of these modes are of the same contrast as the image.
SAME_CONTRAST = ("embedded", "interleaved")
#: A slice, and what must not differ among its lines.
APART = ("contrast", "phase", "set", "kspace_encode_step_2")


class Ismrmrd(Format):
    """One item a slice: (coils, readout, phase), its lines where their headers say.

    Averages and repetitions are averaged. A readout that measures more than the field of view is
    cropped to ``reconSpace``.
    """

    name = "ismrmrd"
    suffixes = (".mrd",)
    needs = (
        "An ISMRMRD file holds a group 'dataset' with 'xml' and 'data': two-dimensional Cartesian "
        "lines of one contrast."
    )

    @property
    def title(self) -> str:
        return "ISMRMRD"

    def sniff(self, path: Path) -> bool:
        if first_bytes(path, 8) != b"\x89HDF\r\n\x1a\n":
            return False
        try:
            with need("h5py", "mri").File(path) as stored:
                if "hu" in stored or "kspace" in stored:
                    return False
                group = stored.get("dataset")
                return hasattr(group, "keys") and "data" in group
        except (OSError, RuntimeError, KeyError, ValueError, UserError):
            return False

    def open(self, path: Path) -> list[Item]:
        items: list[Item] = []
        for file in self.files(path):
            items += self._slices(file)
        return items

    def _slices(self, file: Path) -> list[Item]:
        with self.reading(file), need("h5py", "mri").File(file) as stored:
            encoding = _Encoding.from_xml(_xml(stored["dataset"]["xml"][()]))
            lines = list(stored["dataset"]["data"][()])
        self._check_encoding(file, encoding)
        with self.reading(file):
            used, notes = self._of_the_image(file, lines, encoding)
            planes = self._filled(file, used, encoding)
        items = []
        for number, plane in sorted(planes.items()):
            samples = plane.samples.swapaxes(1, 2)
            if encoding.readout_kept < encoding.columns:
                samples = _cropped_readout(samples, plane.times.T > 0, encoding.readout_kept)
            items.append(
                Item(
                    name=f"{file.stem}_{number:03d}",
                    file=file,
                    shape=samples.shape,
                    read=partial(_itself, samples),
                    holds="kspace",
                    complex=True,
                    patient=encoding.patient or file.stem,
                    series=str(file),
                    index=number,
                    format=self.name,
                    notes=tuple(notes),
                )
            )
        return items

    def _check_encoding(self, file: Path, encoding: _Encoding) -> None:
        if encoding.trajectory != "cartesian" or encoding.partitions > 1:
            raise self.error(
                file,
                f"trajectory {encoding.trajectory}, {encoding.partitions} partitions; "
                "two-dimensional Cartesian scans are read",
            )
        with self.reading(file):
            check_promised_size(file, 8 * encoding.rows * encoding.columns, compressed=True)

    def _of_the_image(
        self, file: Path, lines: list[Any], encoding: _Encoding
    ) -> tuple[list[Any], list[str]]:
        """The lines that are of the image, and notes on those that are left out."""
        used = []
        left_out: Counter[str] = Counter()
        for line in lines:
            reason = _reason_to_leave_out(line["head"], encoding)
            if reason:
                left_out[reason] += 1
            else:
                used.append(line)
        if not used:
            reasons = listed(left_out) or "there are none"
            raise self.error(
                file, f"{len(lines)} acquisitions, none of them of an image ({reasons})"
            )
        if any(_has(line["head"], REVERSE) for line in used):
            raise self.error(
                file, "has lines that were read backwards (EPI); correct them first (Gadgetron)"
            )
        kinds = {tuple(int(line["head"]["idx"][key]) for key in APART) for line in used}
        if len(kinds) > 1:
            raise self.error(
                file, f"{len(kinds)} contrasts, phases or sets; export one of them alone"
            )
        notes = [f"{file.name}: {n} lines of {what} are left out" for what, n in left_out.items()]
        return used, notes + encoding.notes(file.name)

    def _filled(self, file: Path, lines: list[Any], encoding: _Encoding) -> dict[int, _Plane]:
        """By the number of the slice: what its lines measured, where they measured it."""
        planes: dict[int, _Plane] = {}
        for line in lines:
            head = line["head"]
            samples = self._samples(file, line)
            row = int(head["idx"]["kspace_encode_step_1"]) + encoding.row_shift
            before, after = int(head["discard_pre"]), int(head["discard_post"])
            start = encoding.columns // 2 - int(head["center_sample"]) + before
            samples = samples[:, before : samples.shape[1] - after]
            end = start + samples.shape[1]
            if not (0 <= row < encoding.rows and 0 <= start <= end <= encoding.columns):
                raise self.error(
                    file,
                    f"a line at row {row}, samples {start} to {end}, lies outside the "
                    f"{encoding.rows}×{encoding.columns} points that the header promises",
                )
            number = int(head["idx"]["slice"])
            if number not in planes:
                planes[number] = _Plane.empty(len(samples), encoding)
            plane = planes[number]
            if len(plane.samples) != len(samples):
                raise self.error(
                    file, f"lines of {len(plane.samples)} coils and of {len(samples)} in one slice"
                )
            plane.samples[:, row, start:end] += samples
            plane.times[row, start:end] += 1
        for plane in planes.values():
            plane.samples[...] /= np.maximum(plane.times, 1)
        return planes

    def _samples(self, file: Path, line: Any) -> np.ndarray:
        """(coils, samples) complex."""
        count = int(line["head"]["number_of_samples"])
        coils = int(line["head"]["active_channels"])
        numbers = np.asarray(line["data"], dtype=np.float32)
        if numbers.size != 2 * coils * count or not numbers.size:
            raise self.error(
                file,
                f"a line has {numbers.size} numbers, where its header promises {coils} coils × "
                f"{count} complex samples",
            )
        return numbers.view(np.complex64).reshape(coils, count)


@dataclass(frozen=True)
class _Plane:
    """The k-space of one slice."""

    samples: np.ndarray  #: (coils, phase, readout) complex
    times: np.ndarray  #: (phase, readout): how often each point was measured

    @classmethod
    def empty(cls, coils: int, encoding: _Encoding) -> _Plane:
        size = (encoding.rows, encoding.columns)
        return cls(np.zeros((coils, *size), np.complex64), np.zeros(size, np.float32))


@dataclass(frozen=True)
class _Encoding:
    """What the XML header says of the first encoding."""

    rows: int  #: phase encodings
    columns: int  #: samples of a whole readout
    partitions: int
    trajectory: str
    row_shift: int  #: from a line's number to its row, so that frequency zero is in the middle
    readout_kept: int  #: pixels of the readout inside the field of view
    readout_fields: tuple[float, float]  #: of view, encoded and reconstructed, in millimetres
    phase_fields: tuple[float, float]
    calibration: str
    patient: str

    @classmethod
    def from_xml(cls, text: str) -> _Encoding:
        root = ElementTree.fromstring(text)
        encoding = _child(root, "encoding")
        encoded = _child(encoding, "encodedSpace")
        recon = encoding.find("{*}reconSpace")
        rows, columns = (int(_number(encoded, "matrixSize", axis)) for axis in "yx")
        fields = {axis: _fields(encoded, recon, axis) for axis in "xy"}
        center = encoding.find("{*}encodingLimits/{*}kspace_encoding_step_1/{*}center")
        shift = 0 if center is None else rows // 2 - int(center.text or 0)
        share = fields["x"][1] / fields["x"][0] if min(fields["x"]) > 0 else 1.0
        return cls(
            rows=rows,
            columns=columns,
            partitions=int(_number(encoded, "matrixSize", "z")),
            trajectory=(encoding.findtext("{*}trajectory") or "unknown").strip().lower(),
            row_shift=shift,
            readout_kept=min(columns, max(1, round(columns * share))),
            readout_fields=fields["x"],
            phase_fields=fields["y"],
            calibration=_calibration(encoding),
            patient=(root.findtext("{*}subjectInformation/{*}patientID") or "").strip(),
        )

    def notes(self, file: str) -> list[str]:
        """What is said of the field of view."""
        notes = []
        if self.readout_kept < self.columns:
            notes.append(
                f"{file}: the readout measures {self.readout_fields[0]:g} mm, of which the middle "
                f"{self.readout_fields[1]:g} mm are kept ({self.readout_kept} of {self.columns} "
                "pixels), as reconSpace says"
            )
        encoded, reconstructed = self.phase_fields
        if encoded > 1.01 * reconstructed > 0:
            notes.append(
                f"{file}: {encoded:g} mm are encoded along phase, of which reconSpace wants "
                f"{reconstructed:g} mm; all are kept: crop the reconstruction"
            )
        return notes


def _child(element: ElementTree.Element, name: str) -> ElementTree.Element:
    child = element.find(f"{{*}}{name}")
    if child is None:
        raise KeyError(f"its XML header has no {name}")
    return child


def _number(element: ElementTree.Element, *names: str) -> float:
    for name in names:
        element = _child(element, name)
    return float(element.text or "nothing")


def _fields(
    encoded: ElementTree.Element, recon: ElementTree.Element | None, axis: str
) -> tuple[float, float]:
    """The fields of view that were encoded and that shall be reconstructed; (0, 0) where the
    header does not say."""
    if recon is None:
        return 0.0, 0.0
    return tuple(  # type: ignore[return-value]
        _number(space, "fieldOfView_mm", axis) for space in (encoded, recon)
    )


def _calibration(encoding: ElementTree.Element) -> str:
    mode = encoding.findtext("{*}parallelImaging/{*}calibrationMode") or ""
    return mode.strip().lower()


def _xml(stored: Any) -> str:
    """The header, which is stored as one string, or as an array of one."""
    text = np.asarray(stored, dtype=object).ravel()[0]
    return text.decode("utf-8") if isinstance(text, bytes) else str(text)


def _has(head: Any, flag: int) -> bool:
    return bool(int(head["flags"]) >> (flag - 1) & 1)


def _reason_to_leave_out(head: Any, encoding: _Encoding) -> str:
    """Why a line is not of the image; nothing, if it is."""
    for flag, what in NOT_OF_THE_IMAGE.items():
        if _has(head, flag):
            return what
    if int(head["encoding_space_ref"]) > 0:
        return "another encoding"
    if _has(head, CALIBRATION) and encoding.calibration not in SAME_CONTRAST:
        return "separate calibration"
    return ""


def _cropped_readout(kspace: np.ndarray, measured: np.ndarray, kept: int) -> np.ndarray:
    """k-space (coils, readout, phase) of the middle ``kept`` pixels along the readout.

    The transforms are orthonormal, so that neither the image nor the noise in a sample changes.
    Where nothing was measured (readout, phase; partial echo), nothing is made up.
    """
    size = kspace.shape[1]
    image = np.fft.fftshift(
        np.fft.ifft(np.fft.ifftshift(kspace, axes=1), axis=1, norm="ortho"), axes=1
    )
    start = size // 2 - kept // 2
    middle = image[:, start : start + kept]
    cropped = np.fft.fftshift(
        np.fft.fft(np.fft.ifftshift(middle, axes=1), axis=1, norm="ortho"), axes=1
    )
    frequency = (np.arange(kept) - kept // 2) * size / kept
    nearest = np.clip(np.rint(frequency + size // 2).astype(int), 0, size - 1)
    return np.where(measured[nearest], cropped, 0).astype(np.complex64)


def _itself(array: np.ndarray) -> np.ndarray:
    return array
