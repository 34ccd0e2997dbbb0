"""What the XML header of a scan says of its encoding (ISMRMRD's, which fastMRI has too)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

import numpy as np


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
    calibration: str
    patient: str

    @classmethod
    def from_xml(cls, stored: Any) -> Encoding:
        """What an XML header says, which HDF5 stores as one string, or as an array of one.

        Raises:
            KeyError: an element is missing.
            ParseError, ValueError: it is no such header.
        """
        root = ElementTree.fromstring(_text(stored))
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


def _text(stored: Any) -> str:
    text = np.asarray(stored, dtype=object).ravel()[0]
    return text.decode("utf-8") if isinstance(text, bytes) else str(text)


def cropped_readout(kspace: np.ndarray, measured: np.ndarray, kept: int) -> np.ndarray:
    """k-space (…, readout, phase) of the middle ``kept`` pixels along the readout.

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
    return np.where(measured[nearest], cropped, 0).astype(np.complex64)
