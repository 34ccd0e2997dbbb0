"""Data Exchange: the raw counts of a tomograph, in HDF5, as synchrotrons write them.

De Carlo et al., "Scientific data exchange: a schema for HDF5-based storage of raw and analyzed
data", Journal of Synchrotron Radiation 21, 2014.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import need
from ...imaging.tomography.scanner import ScannerGeometry
from ..item import Item
from .base import Format, check_promised_size, hdf5_has, text_of
from .projections import Projections, axes_of, degrees_of, millimetres_of, sinograms_of

DATA, WHITE, DARK = "exchange/data", "exchange/data_white", "exchange/data_dark"
#: Where angles are, if they are not where they should be.
THETA = ("exchange/theta", "exchange/angles", "exchange/rotation_angle")
#: What the name of a dataset says that holds the angle of every view.
ANGLE_WORDS = ("theta", "angle", "rotation")
#: The width of a detector as it is seen at the object, in words of several beamlines.
PITCH = (
    "measurement/instrument/detection_system/objective/resolution",
    "measurement/instrument/detector/actual_pixel_size_x",
    "measurement/instrument/detector/actual_pixel_size",
)
#: The width of the camera's own pixels, and by how much the optics before it magnify.
CAMERA = (
    "measurement/instrument/detector/pixel_size_x",
    "measurement/instrument/detector/pixel_size",
    "measurement/instrument/detector/x_pixel_size",
)
MAGNIFICATION = "measurement/instrument/detection_system/objective/magnification"


class Exchange(Format):
    """One item a row of detectors: its sinogram in raw counts, with the open beam and the dark
    current beside it (:class:`Counts`), and the angles of the views.
    """

    name = "exchange"
    suffixes = (".hdf", ".dxf")
    needs = (
        "A Data Exchange file holds 'exchange/data' (views × rows × detectors), with 'data_white', "
        "'data_dark' and 'theta' beside it."
    )

    @property
    def title(self) -> str:
        return "Data Exchange"

    def sniff(self, path: Path) -> bool:
        def has_data(stored: Any) -> bool:
            return hasattr(stored.get("exchange"), "keys") and "data" in stored["exchange"]

        return hdf5_has(path, has_data, "hdf5")

    def open(self, path: Path) -> list[Item]:
        items: list[Item] = []
        for file in self.files(path):
            with self.reading(file), need("h5py", "hdf5").File(file) as stored:
                items += self._rows(file, stored)
        return items

    def _rows(self, file: Path, stored: Any) -> list[Item]:
        scan = self._projections(file, stored, DATA)
        beam = {key: self._beside(file, stored, key, scan) for key in (WHITE, DARK)}
        geometry, notes = self._geometry(file, stored, scan)
        return sinograms_of(self, scan, beam[WHITE], beam[DARK], geometry, notes)

    # ---------------------------------------------------------------------- what is in a file

    def _projections(self, file: Path, stored: Any, key: str) -> Projections:
        dataset = self._checked(file, stored, key)
        if dataset.ndim not in (2, 3):
            raise self.error(
                file, f"'{key}' must be views × rows × detectors, got shape {dataset.shape}"
            )
        known = (file, file.stat().st_mtime, key)
        size = dataset.dtype.itemsize
        if dataset.ndim == 2:
            views, detectors = dataset.shape
            return Projections(*known, (views, 1, detectors), size, holds="sinogram")
        axes = axes_of(text_of(dataset.attrs.get("axes", "")))
        views, rows, detectors = (dataset.shape[axis] for axis in axes)
        return Projections(*known, (views, rows, detectors), size, axes)

    def _checked(self, file: Path, stored: Any, key: str) -> Any:
        """The dataset, if it holds numbers, and no more of them than the file can."""
        dataset = stored[key]
        if not hasattr(dataset, "ndim"):
            raise self.error(file, f"'{key}' is a group, not a dataset of counts")
        if dataset.dtype.kind not in "biuf":
            raise self.error(file, f"'{key}' holds {dataset.dtype}, not counts")
        if not dataset.size:
            raise self.error(file, f"'{key}' is empty: its shape is {dataset.shape}")
        if not (dataset.external or dataset.is_virtual):
            check_promised_size(file, dataset.nbytes, compressed=dataset.chunks is not None)
        return dataset

    def _beside(self, file: Path, stored: Any, key: str, scan: Projections) -> Projections | None:
        """The frames of the open beam or of the dark current, one or many."""
        if key not in stored or getattr(stored[key], "size", 1) == 0:
            return None
        dataset = self._checked(file, stored, key)
        _, rows, detectors = scan.shape
        found = None
        if dataset.shape == ((rows, detectors) if rows > 1 else (detectors,)):
            known = (file, file.stat().st_mtime, key)
            size = dataset.dtype.itemsize
            found = Projections(*known, (1, rows, detectors), size, holds="frame")
        elif dataset.ndim in (2, 3):
            found = self._projections(file, stored, key)
        if found is None or found.shape[1:] != (rows, detectors):
            raise self.error(
                file,
                f"'{key}' has the shape {dataset.shape}, which does not belong to {rows} row(s) "
                f"of {detectors} detectors in '{DATA}'",
            )
        return found

    def _geometry(
        self, file: Path, stored: Any, scan: Projections
    ) -> tuple[ScannerGeometry, tuple[str, ...]]:
        views, _, detectors = scan.shape
        angles, source, notes = self._angles(file, stored, views)
        geometry = ScannerGeometry(
            source=f"{file.name}: {source}" if source else file.name,
            angles=None if angles is None else tuple(angles.tolist()),
            detectors=detectors,
            detector_pitch=_pitch(stored),
        )
        return geometry, tuple(notes)

    def _angles(
        self, file: Path, stored: Any, views: int
    ) -> tuple[np.ndarray | None, str, list[str]]:
        """The angle of every view in degrees, where that was read, and what is to be said."""
        key = next((key for key in THETA if _holds_numbers(stored, key)), None)
        key = _elsewhere(stored, views) if key is None else key
        steps = _start_and_step(stored, views) if key is None else None
        if steps is not None:
            return *steps, [f"{file.name}: the angles are made of '{steps[1]}'"]
        if key is None:
            return (
                None,
                "",
                [
                    f"{file.name}: says no angles; set physics.angles to what the scanner did (a "
                    "number of views spread evenly over 180°, or each in degrees)"
                ],
            )
        values = np.atleast_1d(stored[key][()])
        if values.size > max(values.shape):
            raise self.error(
                file,
                f"'{key}' has the shape {values.shape}, and angles are one number a view; write "
                "the column that turns alone, or set physics.angles",
            )
        values = values.ravel()
        notes = []
        if len(values) > views:
            notes.append(
                f"{file.name}: '{key}' has {len(values)} angles for {views} views; the first are "
                "taken"
            )
            values = values[:views]
        if len(values) < views or not np.isfinite(values).all():
            raise self.error(
                file,
                f"'{key}' has {int(np.isfinite(values).sum())} angles for {views} views in "
                f"'{DATA}': the scan may have been interrupted; cut one to the other",
            )
        angles, note = degrees_of(values, text_of(stored[key].attrs.get("units", "")))
        if note:
            notes.append(f"{file.name}: '{key}' {note}")
        if angles is not None and key != THETA[0]:
            notes.append(f"{file.name}: the angles were found in '{key}'")
        return angles, key, notes


def _holds_numbers(stored: Any, key: str) -> bool:
    dataset = stored.get(key)
    return hasattr(dataset, "dtype") and dataset.dtype.kind in "iuf" and dataset.size > 0


def _elsewhere(stored: Any, views: int) -> str | None:
    """Another dataset whose name speaks of angles, with one number a view."""
    found: list[str] = []

    def look(name: str, dataset: Any) -> None:
        if _speaks_of_angles(name) and _holds_numbers(stored, name) and dataset.size == views:
            found.append(name)

    if views > 1:
        stored.visititems(look)
    return min(found, key=len, default=None)


#: What scalars are called that say where a rotation begins and ends, and how far a step is.
SCALARS = {"start": ("start",), "step": ("step", "increment"), "stop": ("stop", "end")}


def _start_and_step(stored: Any, views: int) -> tuple[np.ndarray, str] | None:
    """Angles in degrees of a first one and a step, or a last one, and where these are."""
    groups: dict[str, dict[str, tuple[float, str]]] = {}

    def look(name: str, dataset: Any) -> None:
        group, _, last = name.rpartition("/")
        if not _speaks_of_angles(name) or not _holds_numbers(stored, name) or dataset.size != 1:
            return
        for what, words in SCALARS.items():
            if any(word in last.lower() for word in words):
                units = text_of(dataset.attrs.get("units", ""))
                number = float(np.ravel(dataset[()])[0])
                groups.setdefault(group, {})[what] = (number, units)

    stored.visititems(look)
    for group, found in groups.items():
        if "start" not in found or not {"step", "stop"} & found.keys():
            continue
        (start, units), other = found["start"], "step" if "step" in found else "stop"
        value = found[other][0]
        last = start + value * (views - 1) if other == "step" else value
        angles, _ = degrees_of(np.linspace(start, last, views), units or "degrees")
        if angles is not None and np.isfinite(angles).all() and np.ptp(angles) > 0:
            return angles, f"{group}: start and {other}"
    return None


def _speaks_of_angles(name: str) -> bool:
    """Whether the last two parts of a path do."""
    parts = name.lower().rsplit("/", 2)[-2:]
    return any(word in part for part in parts for word in ANGLE_WORDS)


def _pitch(stored: Any) -> float | None:
    """The width of a detector in millimetres, as it is seen at the object, where the file says it
    with its unit."""
    seen = _first_length(stored, PITCH)
    camera = _first_length(stored, CAMERA)
    if seen is not None or camera is None:
        return seen
    return camera / _magnification(stored)


def _first_length(stored: Any, keys: Sequence[str]) -> float | None:
    found = (millimetres_of(stored.get(key)) for key in keys)
    return next((value for value in found if value is not None), None)


def _magnification(stored: Any) -> float:
    """What the optics make of the object's size; 1 where the file does not say."""
    try:
        value = float(np.asarray(stored[MAGNIFICATION][()]).reshape(-1)[0])
    except (KeyError, ValueError, TypeError, IndexError):
        return 1.0
    return value if 0 < value < float("inf") else 1.0
