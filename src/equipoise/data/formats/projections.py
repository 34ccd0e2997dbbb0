"""Raw scans as detectors write them, frame after frame: their sinograms are read some rows of
detectors at a time, so that a scan of any size goes through flat memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ...errors import need
from ..memory import block_size

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
    views: tuple[int, ...] | None = None  #: those of its frames that are meant; None: all
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
        else:
            wanted = [slice(None)] * 3
            wanted[scan.axes[1]] = slice(first, last)
            frames = np.transpose(dataset[tuple(wanted)], scan.axes)
    return frames if scan.views is None else frames[list(scan.views)]


@lru_cache(maxsize=4)
def _mean(scan: Projections) -> np.ndarray:
    _, rows, detectors = scan.shape
    mean = np.empty((rows, detectors), np.float32)
    for first in range(0, rows, scan.rows_at_once):
        last = min(first + scan.rows_at_once, rows)
        mean[first:last] = _rows.__wrapped__(scan, first, last).mean(0, dtype=np.float64)
    return mean


def degrees_of(values: np.ndarray, units: str) -> tuple[np.ndarray, str]:
    """Angles in degrees, and a note where their unit had to be assumed.

    Raises:
        ValueError: the unit is neither degrees nor radians.
    """
    angles = np.asarray(values, dtype=np.float64).ravel()
    word = units.strip().lower()
    if word.startswith(("deg", "°")):
        return angles, ""
    if word.startswith("rad"):
        return np.degrees(angles), ""
    if word.startswith(("mrad", "millirad")):
        return np.degrees(angles / 1000), ""
    if word:
        raise ValueError(f"angles in {units!r}, which are neither degrees nor radians")
    span = float(np.ptp(angles)) if len(angles) else 0.0
    if len(angles) > 8 and 0.9 * np.pi < span < 2.02 * np.pi:
        return np.degrees(angles), (
            f"says no unit, and spans {span:.3f}: taken for radians; if they are degrees, give "
            "them as physics.angles"
        )
    return angles, ""


def text_of(value: Any) -> str:
    """A string of an HDF5 file, however it is stored."""
    if isinstance(value, np.ndarray):
        value = value.ravel()[0] if value.size else ""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


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
