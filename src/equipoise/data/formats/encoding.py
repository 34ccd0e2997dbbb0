"""What the XML header of a scan says of its encoding (ISMRMRD's, which fastMRI has too)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

import numpy as np

from .base import text_of

#: Limits that differ by less than this share of k-space on its two sides are padding, and no
#: partial Fourier scan, which leaves out a sixteenth of one side at least.
PADDING_DIFFERENCE = 0.05


@dataclass(frozen=True)
class Limits:
    """The numbers of the phase encodings, and that of frequency zero."""

    minimum: int
    maximum: int
    center: int

    @classmethod
    def of(cls, encoding: ElementTree.Element) -> Limits | None:
        """What the header of an encoding says; none, where it does not."""
        found = encoding.find("{*}encodingLimits/{*}kspace_encoding_step_1")
        if found is None or found.find("{*}center") is None:
            return None
        numbers = [int(_number(found, name)) for name in ("minimum", "maximum", "center")]
        return cls(*numbers) if numbers[1] > numbers[0] else None


@dataclass(frozen=True)
class Encoding:
    """What the XML header says of the first encoding."""

    rows: int  #: phase encodings
    columns: int  #: samples of a whole readout
    partitions: int
    trajectory: str
    row_shift: int  #: from a line's number to its row, so that frequency zero is in the middle
    readout_kept: int  #: pixels of the readout inside the field of view
    readout_fields: tuple[float, float]  #: of view, encoded and reconstructed, in millimetres
    phase_fields: tuple[float, float]
    limits: Limits | None  #: of the phase encodings, where the header says them
    recon: tuple[int, int] | None  #: samples along readout and phase of the image that is wanted
    calibration: str
    patient: str
    bandwidth: float  #: noise that the receiver passes, relative to white noise

    @classmethod
    def from_xml(cls, stored: Any) -> Encoding:
        """What an XML header says, which HDF5 stores as one string, or as an array of one.

        Raises:
            KeyError: an element is missing.
            ParseError, ValueError: it is no such header.
        """
        root = ElementTree.fromstring(text_of(stored))
        encoding = _child(root, "encoding")
        encoded = _child(encoding, "encodedSpace")
        recon = encoding.find("{*}reconSpace")
        rows, columns = (int(_number(encoded, "matrixSize", axis)) for axis in "yx")
        fields = {axis: _fields(encoded, recon, axis) for axis in "xy"}
        system = root.findtext("{*}acquisitionSystemInformation/{*}relativeReceiverNoiseBandwidth")
        limits = Limits.of(encoding)
        share = fields["x"][1] / fields["x"][0] if min(fields["x"]) > 0 else 1.0
        return cls(
            rows=rows,
            columns=columns,
            partitions=int(_number(encoded, "matrixSize", "z")),
            trajectory=(encoding.findtext("{*}trajectory") or "unknown").strip().lower(),
            row_shift=0 if limits is None else rows // 2 - limits.center,
            readout_kept=min(columns, max(1, round(columns * share))),
            readout_fields=fields["x"],
            phase_fields=fields["y"],
            limits=limits,
            recon=_matrix(recon),
            calibration=_calibration(encoding),
            patient=(root.findtext("{*}subjectInformation/{*}patientID") or "").strip(),
            bandwidth=float(system or 1) or 1.0,
        )

    @property
    def missing(self) -> tuple[int, int]:
        """How many rows at the beginning and at the end of k-space are outside of the limits."""
        if self.limits is None:
            return 0, 0
        first = self.limits.minimum + self.row_shift
        last = self.limits.maximum + self.row_shift
        return max(0, min(first, self.rows)), max(0, min(self.rows - 1 - last, self.rows))

    def notes(self, file: str) -> list[str]:
        """What is said of the field of view."""
        notes = []
        if self.readout_kept < self.columns:
            notes.append(
                f"{file}: the readout measures {self.readout_fields[0]:g} mm, of which the middle "
                f"{self.readout_fields[1]:g} mm are kept ({self.readout_kept} of {self.columns} "
                "pixels), as reconSpace says"
            )
        before, after = self.missing
        if abs(before - after) > max(1, PADDING_DIFFERENCE * self.rows):
            side, fewer = ("first", before - after) if before > after else ("last", after - before)
            notes.append(
                f"{file}: partial Fourier: the {fewer} {side} of {self.rows} phase encodings were "
                "left out; they count as not measured"
            )
        if min(before, after) > 0:
            notes.append(
                f"{file}: zero padding: of {self.rows} phase encodings, the outermost "
                f"{min(before, after)} on each side are beyond the encoding limits"
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


def _matrix(recon: ElementTree.Element | None) -> tuple[int, int] | None:
    if recon is None or recon.find("{*}matrixSize") is None:
        return None
    columns, rows = (int(_number(recon, "matrixSize", axis)) for axis in "xy")
    return columns, rows


def cropped_readout(
    kspace: np.ndarray, measured: np.ndarray, kept: int
) -> tuple[np.ndarray, np.ndarray]:
    """k-space (…, readout, phase) of the middle ``kept`` pixels along the readout, and where it is
    measured (readout, phase).

    The transforms are orthonormal, so that neither the image nor the noise in a sample changes.
    Where nothing was measured (readout, phase; partial echo), nothing is made up.
    """
    size = kspace.shape[-2]
    image = np.fft.fftshift(
        np.fft.ifft(np.fft.ifftshift(kspace, axes=-2), axis=-2, norm="ortho"), axes=-2
    )
    start = size // 2 - kept // 2
    middle = image[..., start : start + kept, :]
    cropped = np.fft.fftshift(
        np.fft.fft(np.fft.ifftshift(middle, axes=-2), axis=-2, norm="ortho"), axes=-2
    )
    frequency = (np.arange(kept) - kept // 2) * size / kept
    nearest = np.clip(np.rint(frequency + size // 2).astype(int), 0, size - 1)
    there = measured[nearest]
    return np.where(there, cropped, 0).astype(np.complex64), there
