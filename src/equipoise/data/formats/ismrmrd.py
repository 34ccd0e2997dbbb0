"""ISMRMRD: the k-space of a scanner, line by line, each with a header of its own.

The lines are read by the names of their fields, so that files of every program are read, whatever
the layout of their headers; and the XML header by the few elements that matter. Both are described
by Inati et al., "ISMRM Raw data format", Magnetic Resonance in Medicine 77, 2017.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import need
from ..choice import Choice
from ..item import Item, KspaceHeader
from .base import Format, check_promised_size, hdf5_has, listed
from .encoding import Encoding, cropped_readout
from .lines import (
    APART,
    REVERSE,
    Plane,
    Sorted,
    chosen,
    counter,
    has,
    noise_covariance,
    numbers_of,
    row_and_start,
)


class Ismrmrd(Format):
    """One item a slice: (coils, readout, phase), its lines where their headers say.

    Averages and repetitions are averaged, unless one repetition is asked for. A readout that
    measures more than the field of view is cropped to ``reconSpace``. What was measured is what
    has a line, whatever its values. Noise scans and separate calibration lines are handed on.
    """

    name = "ismrmrd"
    suffixes = (".mrd",)
    needs = (
        "An ISMRMRD file holds a group 'dataset' with 'xml' and 'data': two-dimensional Cartesian "
        "lines of one contrast."
    )
    chooses = ("contrast", "phase", "set", "repetition")

    @property
    def title(self) -> str:
        return "ISMRMRD"

    def sniff(self, path: Path) -> bool:
        def has_acquisitions(stored: Any) -> bool:
            if "hu" in stored or "kspace" in stored:
                return False
            group = stored.get("dataset")
            return hasattr(group, "keys") and "data" in group

        return hdf5_has(path, has_acquisitions, "mri")

    def open(self, path: Path) -> list[Item]:
        return self.open_chosen(path, Choice())

    def open_chosen(self, path: Path, choice: Choice) -> list[Item]:
        items: list[Item] = []
        for file in self.files(path):
            items += self._slices(file, choice)
        return items

    def _slices(self, file: Path, choice: Choice) -> list[Item]:
        with self.reading(file), need("h5py", "mri").File(file) as stored:
            encoding = Encoding.from_xml(stored["dataset"]["xml"][()])
            lines = list(stored["dataset"]["data"][()])
        self._check_encoding(file, encoding)
        with self.reading(file):
            found = Sorted.of(lines, encoding)
            self._check_image(file, len(lines), found)
            used, notes = self._chosen(file, found.image, choice)
            notes = [*self._left_out(file, found), *notes, *encoding.notes(file.name)]
            planes = self._filled(file, used, encoding)
            beside = self._filled(file, found.calibration, encoding)
            noise = self._noise(file, found.noise, used, encoding)
            if noise is not None:
                noise = noise / _times(planes)
        remarks: tuple[str, ...] = ()
        if found.noise and noise is None:
            remarks = ("the noise scan has too few samples, or other coils, and is not used",)
        items = []
        for number, plane in sorted(planes.items()):
            samples, sampled = _readout_first(plane, encoding)
            calibration = None
            if number in beside:
                calibration, _ = _readout_first(beside[number], encoding)
            item = Item(
                name=f"{file.stem}_{number:03d}",
                file=file,
                shape=samples.shape,
                read=partial(_itself, samples),
                holds="kspace",
                complex=True,
                patient=encoding.patient or file.stem,
                series=str(file),
                position=_position(used, number),
                index=number,
                format=self.name,
                notes=tuple(notes),
                kspace=KspaceHeader(
                    sampled=sampled, noise=noise, calibration=calibration, remarks=remarks
                ),
            )
            items.append(item)
        return items

    def _check_encoding(self, file: Path, encoding: Encoding) -> None:
        if encoding.trajectory != "cartesian" or encoding.partitions > 1:
            raise self.error(
                file,
                f"trajectory {encoding.trajectory}, {encoding.partitions} partitions; "
                "two-dimensional Cartesian scans are read: grid others first (bart nufft), or "
                "transform and save each partition",
            )
        with self.reading(file):
            check_promised_size(file, 8 * encoding.rows * encoding.columns, compressed=True)

    def _check_image(self, file: Path, count: int, found: Sorted) -> None:
        if not found.image:
            reasons = listed(found.left_out) or "there are none"
            raise self.error(file, f"{count} acquisitions, none of them of an image ({reasons})")
        if any(has(line["head"], REVERSE) for line in found.image):
            raise self.error(
                file, "has lines that were read backwards (EPI); correct them first (Gadgetron)"
            )

    def _chosen(self, file: Path, lines: list[Any], choice: Choice) -> tuple[list[Any], list[str]]:
        """The lines of one contrast, phase and set, and notes on what is averaged."""
        try:
            lines, notes = chosen(lines, choice)
        except ValueError as error:
            raise self.error(file, str(error)) from error
        kinds = {tuple(counter(line, key) for key in APART) for line in lines}
        if len(kinds) > 1:
            ways = [
                f"data.{key} to one of {listed(there, 4)}"
                for key in APART[:3]
                if len(there := numbers_of(lines, key)) > 1
            ]
            raise self.error(
                file,
                f"{len(kinds)} contrasts, phases or sets; set "
                f"{' and '.join(ways) or 'nothing: export one partition alone'}",
            )
        return lines, [f"{file.name}: {note}" for note in notes]

    def _left_out(self, file: Path, found: Sorted) -> list[str]:
        return [
            f"{file.name}: {count} lines of {what} are left out"
            for what, count in found.left_out.items()
        ]

    def _filled(self, file: Path, lines: list[Any], encoding: Encoding) -> dict[int, Plane]:
        """By the number of the slice: what its lines measured, where they measured it."""
        planes: dict[int, Plane] = {}
        for line in lines:
            head = line["head"]
            samples = self._samples(file, line)
            before, after = int(head["discard_pre"]), int(head["discard_post"])
            try:
                row, start = row_and_start(line, encoding)
            except ValueError as error:
                raise self.error(file, str(error)) from error
            start += before
            samples = samples[:, before : samples.shape[1] - after]
            end = start + samples.shape[1]
            if not (0 <= row < encoding.rows and 0 <= start <= end <= encoding.columns):
                raise self.error(
                    file,
                    f"a line at row {row}, samples {start} to {end}, lies outside the "
                    f"{encoding.rows}×{encoding.columns} points that the header promises: mend "
                    "encodedSpace.matrixSize and encodingLimits in it",
                )
            number = counter(line, "slice")
            if number not in planes:
                planes[number] = Plane.empty(len(samples), encoding)
            plane = planes[number]
            if len(plane.samples) != len(samples):
                raise self.error(
                    file, f"lines of {len(plane.samples)} coils and of {len(samples)} in one slice"
                )
            plane.add(row, start, samples)
        for plane in planes.values():
            try:
                plane.average()
            except ValueError as error:
                raise self.error(file, str(error)) from error
        return planes

    def _noise(
        self, file: Path, lines: list[Any], image: list[Any], encoding: Encoding
    ) -> np.ndarray | None:
        """(coils, coils): the covariance of the noise, by the noise scan; none without one."""
        coils = int(image[0]["head"]["active_channels"])
        fitting = [line for line in lines if int(line["head"]["active_channels"]) == coils]
        if not fitting:
            return None
        dwell = tuple(float(each[0]["head"]["sample_time_us"]) for each in (fitting, image))
        samples = [self._samples(file, line) for line in fitting]
        return noise_covariance(samples, (dwell[0], dwell[1]), encoding.bandwidth)

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


def _readout_first(plane: Plane, encoding: Encoding) -> tuple[np.ndarray, np.ndarray]:
    """(coils, readout, phase), and where it is measured, (readout, phase); an oversampled readout
    is cropped."""
    samples, sampled = plane.samples.swapaxes(1, 2), plane.times.T > 0
    if encoding.readout_kept < encoding.columns:
        return cropped_readout(samples, sampled, encoding.readout_kept)
    return samples, sampled


def _times(planes: dict[int, Plane]) -> float:
    """How often a point was measured, usually: so many times smaller is the noise's variance."""
    times = np.concatenate([plane.times[plane.times > 0] for plane in planes.values()])
    return float(np.median(times))


def _position(lines: list[Any], number: int) -> float | None:
    """Of a slice along its normal, in millimetres; none, where the headers have no normal."""
    line = next(line for line in lines if counter(line, "slice") == number)
    normal = np.asarray(line["head"]["slice_dir"], float)
    where = float(np.dot(normal, np.asarray(line["head"]["position"], float)))
    return where if np.any(normal) and np.isfinite(where) else None


def _itself(array: np.ndarray) -> np.ndarray:
    return array
