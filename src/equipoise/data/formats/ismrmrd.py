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

import numpy as np

from ...errors import UserError, need
from ..item import Item
from .base import Format, check_promised_size, first_bytes, listed
from .encoding import Encoding, cropped_readout

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
            encoding = Encoding.from_xml(stored["dataset"]["xml"][()])
            lines = list(stored["dataset"]["data"][()])
        self._check_encoding(file, encoding)
        with self.reading(file):
            used, notes = self._of_the_image(file, lines, encoding)
            planes = self._filled(file, used, encoding)
        items = []
        for number, plane in sorted(planes.items()):
            samples = plane.samples.swapaxes(1, 2)
            if encoding.readout_kept < encoding.columns:
                samples = cropped_readout(samples, plane.times.T > 0, encoding.readout_kept)
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

    def _check_encoding(self, file: Path, encoding: Encoding) -> None:
        if encoding.trajectory != "cartesian" or encoding.partitions > 1:
            raise self.error(
                file,
                f"trajectory {encoding.trajectory}, {encoding.partitions} partitions; "
                "two-dimensional Cartesian scans are read",
            )
        with self.reading(file):
            check_promised_size(file, 8 * encoding.rows * encoding.columns, compressed=True)

    def _of_the_image(
        self, file: Path, lines: list[Any], encoding: Encoding
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

    def _filled(self, file: Path, lines: list[Any], encoding: Encoding) -> dict[int, _Plane]:
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
    def empty(cls, coils: int, encoding: Encoding) -> _Plane:
        size = (encoding.rows, encoding.columns)
        return cls(np.zeros((coils, *size), np.complex64), np.zeros(size, np.float32))


def _has(head: Any, flag: int) -> bool:
    return bool(int(head["flags"]) >> (flag - 1) & 1)


def _reason_to_leave_out(head: Any, encoding: Encoding) -> str:
    """Why a line is not of the image; nothing, if it is."""
    for flag, what in NOT_OF_THE_IMAGE.items():
        if _has(head, flag):
            return what
    if int(head["encoding_space_ref"]) > 0:
        return "another encoding"
    if _has(head, CALIBRATION) and encoding.calibration not in SAME_CONTRAST:
        return "separate calibration"
    return ""


def _itself(array: np.ndarray) -> np.ndarray:
    return array
