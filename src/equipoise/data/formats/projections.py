"""Raw scans as detectors write them, frame after frame: their sinograms are read some rows of
detectors at a time, so that a scan of any size goes through flat memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ...errors import need
from ...imaging.tomography.scanner import MILLIMETRES, ScannerGeometry
from ..item import Counts, Item
from ..memory import block_size
from .base import Format, text_of

#: Bytes of a scan that are read and kept at once.
BLOCK = block_size()

#: Where the views, the rows and the detectors are among the axes of a dataset.
Axes = tuple[int, int, int]
FRAMES: Axes = (0, 1, 2)


@dataclass(frozen=True)
class Projections:
    """A dataset of an HDF5 file: views × rows × detectors, in any order of the axes; or a plane,
    the sinogram of one row (views, detectors) or one frame (rows, detectors), (detectors,)."""

    file: Path
    changed: float  #: when the file was, so that nothing stale is remembered
    key: str
    shape: tuple[int, int, int]  #: views, rows, detectors
    itemsize: int
    axes: Axes = FRAMES  #: of the dataset, if it has three
    views: tuple[int, ...] | None = None  #: of its frames, ascending; None: all
    holds: Literal["frames", "sinogram", "frame"] = "frames"  #: a plane is one of the latter two

    @property
    def rows_at_once(self) -> int:
        views, _, detectors = self.shape
        return max(1, BLOCK // max(1, views * detectors * self.itemsize))

    def row(self, row: int) -> np.ndarray:
        """The sinogram (views, detectors) of one row of detectors, in the file's numbers."""
        first = row - row % self.rows_at_once
        last = min(first + self.rows_at_once, self.shape[1])
        sinogram: np.ndarray = _rows(self, first, last)[:, row - first]
        return sinogram

    def mean(self) -> np.ndarray:
        """(rows, detectors) the mean of all frames."""
        return _mean(self)


@lru_cache(maxsize=1)
def _rows(scan: Projections, first: int, last: int) -> np.ndarray:
    """(views, some rows, detectors)."""
    with need("h5py", "hdf5").File(scan.file) as stored:
        dataset = stored[scan.key]
        if scan.holds == "sinogram":
            frames = dataset[()][:, None]
        elif scan.holds == "frame":
            frames = dataset[()].reshape(scan.shape)[:, first:last]
        elif scan.views is None:
            wanted = [slice(None)] * 3
            wanted[scan.axes[1]] = slice(first, last)
            frames = np.transpose(dataset[tuple(wanted)], scan.axes)
        else:
            runs = [dataset[run, first:last] for run in _runs(scan.views)]
            frames = np.concatenate(runs)
    return frames


def _runs(places: tuple[int, ...]) -> list[slice]:
    """Ascending places as ranges that are read at once."""
    breaks = [k for k in range(1, len(places)) if places[k] != places[k - 1] + 1]
    starts, ends = [0, *breaks], [*breaks, len(places)]
    return [slice(places[a], places[b - 1] + 1) for a, b in zip(starts, ends, strict=True)]


@lru_cache(maxsize=4)
def _mean(scan: Projections) -> np.ndarray:
    _, rows, detectors = scan.shape
    mean = np.empty((rows, detectors), np.float32)
    for first in range(0, rows, scan.rows_at_once):
        last = min(first + scan.rows_at_once, rows)
        mean[first:last] = _rows.__wrapped__(scan, first, last).mean(0, dtype=np.float64)
    return mean


def degrees_of(values: np.ndarray, units: str) -> tuple[np.ndarray | None, str]:
    """Angles in degrees, and a note where their unit had to be assumed; None, and why, where it is
    neither degrees nor radians."""
    angles = np.asarray(values, dtype=np.float64).ravel()
    word = units.strip().lower()
    if word.startswith(("deg", "°")):
        return angles, ""
    if word.startswith("rad"):
        return np.degrees(angles), ""
    if word.startswith(("mrad", "millirad")):
        return np.degrees(angles / 1000), ""
    if word:
        return None, (
            f"is in {units!r}, neither degrees nor radians, and not taken; set physics.angles to "
            "what the scanner did"
        )
    span = float(np.ptp(angles)) if len(angles) else 0.0
    if len(angles) > 8 and 0.9 * np.pi < span < 2.02 * np.pi:
        return np.degrees(angles), (
            f"says no unit, and spans {span:.3f}: taken for radians; if they are degrees, give "
            "them as physics.angles"
        )
    if len(angles) > 8 and 0 < span < 4.1 * np.pi:
        return angles, (
            f"says no unit, and {len(angles)} views span {span:.3f}: taken for degrees; if they "
            f"are radians, they span {np.degrees(span):.1f}°: give them in degrees as "
            "physics.angles"
        )
    return angles, ""


def millimetres_of(dataset: Any) -> float | None:
    """One length that an HDF5 file says with its unit; None where it does not."""
    if not hasattr(dataset, "dtype") or dataset.size != 1 or dataset.dtype.kind not in "iuf":
        return None
    factor = MILLIMETRES.get(text_of(dataset.attrs.get("units", "")).strip().lower())
    value = float(np.ravel(dataset[()])[0])
    return value * factor if factor is not None and np.isfinite(value) and value > 0 else None


def sinograms_of(
    format: Format,
    scan: Projections,
    white: Projections | None,
    dark: Projections | None,
    geometry: ScannerGeometry,
    notes: tuple[str, ...],
) -> list[Item]:
    """One item a row of detectors: its sinogram in raw counts, with what belongs to them."""
    file, (views, rows, detectors) = scan.file, scan.shape
    digits = max(3, len(str(rows - 1)))

    def beam(frames: Projections | None, row: int) -> Any:
        return None if frames is None else partial(_mean_of_row, format, frames, row)

    return [
        Item(
            name=f"{file.stem}_{row:0{digits}d}" if rows > 1 else file.stem,
            file=file,
            shape=(views, detectors),
            read=partial(_row, format, scan, row),
            holds="measurement",
            patient=file.stem,
            series=str(file),
            index=row,
            format=format.name,
            notes=notes,
            geometry=geometry,
            counts=Counts(white=beam(white, row), dark=beam(dark, row)),
        )
        for row in range(rows)
    ]


def _row(format: Format, scan: Projections, row: int) -> np.ndarray:
    with format.reading(scan.file):
        return scan.row(row)


def _mean_of_row(format: Format, frames: Projections, row: int) -> np.ndarray:
    with format.reading(frames.file):
        mean: np.ndarray = frames.mean()[row]
        return mean


def axes_of(words: str, first: Sequence[str] = ("theta", "angle", "view", "rot", "image")) -> Axes:
    """The order of the axes by the attribute ``axes``, such as ``theta:y:x``; as frames, where it
    says nothing of the kind."""
    names = [name.strip().lower() for name in words.replace(",", ":").split(":")]
    if len(names) != 3:
        return FRAMES
    views = [k for k, name in enumerate(names) if name.startswith(tuple(first))]
    if len(views) != 1:
        return FRAMES
    rest = [k for k in range(3) if k != views[0]]
    if names[rest[0]].startswith("x") and names[rest[1]].startswith(("y", "z")):
        rest.reverse()
    return views[0], rest[0], rest[1]
