"""A series of DICOM slices as a volume, cut across another axis than its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ..choice import PLANES, Axis, numbered_axis
from ..item import Item
from .dicom_header import Slice, normal_of, read_slices

#: By how much of their usual distance slices may be out of step.
UNEVEN = 0.05
#: By how much of a pixel, over the whole series, slices may drift sideways; a tilted gantry's do.
DRIFT = 0.5
#: How equal the directions of all slices must be.
ALIKE = 1e-3


@dataclass(frozen=True, eq=False)  # known by identity, so that what was read can be kept
class Volume:
    """The slices of one series, in the order of their positions; the axes are x (along a row), y
    (along a column) and z (across the slices)."""

    slices: Sequence[Slice]
    read: Callable[[Slice], np.ndarray]

    def axis(self, asked: Axis) -> int:
        """The axis that is meant by its number, its letter, or the plane across it.

        Raises:
            ValueError: there is none.
        """
        if isinstance(asked, str) and asked in PLANES:
            axes = self.slices[0].axes
            if len(axes) != 6:
                raise ValueError(f"data.axis={asked}: it does not say how its slices lie")
            directions = np.array([axes[:3], axes[3:], normal_of(axes)])
            return int(np.abs(directions[:, PLANES[asked]]).argmax())
        return numbered_axis(asked)

    def distance(self) -> float:
        """Between slices, in millimetres.

        Raises:
            ValueError: there are not several slices of one size at even distances.
        """
        first = self.slices[0]
        name = first.series or first.name
        kinds = {(one.rows, one.columns, one.spacing) for one in self.slices}
        places = [one.position for one in self.slices if one.position is not None]
        if len(self.slices) < 2 or len(kinds) > 1 or len(places) < len(self.slices):
            raise ValueError(
                f"data.axis: to be cut across another axis, series {name} needs two or more slices "
                f"of one size with positions, and has {len(self.slices)} of {len(kinds)} size(s), "
                f"{len(places)} with a position"
            )
        if first.spacing is None or not all(one.corner and one.axes for one in self.slices):
            raise ValueError(
                f"data.axis: series {name} does not say how its slices lie (ImagePositionPatient, "
                "ImageOrientationPatient and PixelSpacing), so it cannot be cut across another axis"
            )
        gaps = np.diff(places)
        usual = float(np.median(gaps))
        if usual <= 0 or np.abs(gaps - usual).max() > UNEVEN * usual:
            raise ValueError(
                f"data.axis: to be cut across another axis, slices must lie at even distances; "
                f"those of series {name} are {gaps.min():g} to {gaps.max():g} mm from each other"
            )
        self._check_straight(name, first.spacing)
        return usual

    def _check_straight(self, name: str, spacing: tuple[float, float]) -> None:
        """
        Raises:
            ValueError: the slices are not above each other, or turned.
        """
        first = self.slices[0]
        axes = np.array([one.axes for one in self.slices])
        if np.abs(axes - axes[0]).max() > ALIKE:
            raise ValueError(
                f"data.axis: the slices of series {name} are turned against each other, so they "
                "are no volume that could be cut across another axis"
            )
        moved = np.array([one.corner for one in self.slices]) - np.array(first.corner)
        rows, columns = spacing
        drift = [
            np.abs(moved @ axes[0][:3]).max() / columns,
            np.abs(moved @ axes[0][3:]).max() / rows,
        ]
        if max(drift) > DRIFT:
            raise ValueError(
                f"data.axis: the slices of series {name} drift sideways by {max(drift):.1f} pixels "
                "(a tilted gantry), so cuts across another axis would be sheared: straighten it "
                "first (dcm2niix does), and give the NIfTI file"
            )

    def cut(self, axis: int, k: int) -> np.ndarray:
        """(slices, rows) across x, or (slices, columns) across y."""
        plane: np.ndarray = _values(self).take(k, 2 - axis)
        return plane


@lru_cache(maxsize=2)
def _values(volume: Volume) -> np.ndarray:
    """(slices, rows, columns)."""
    return np.stack([volume.read(one) for one in volume.slices])


def set_place(data: Any, item: Item) -> None:
    """The geometry of a slice that was cut across x or y, in the header of the first slice of its
    series: rows run across the slices of the scan."""
    corner = np.array(data.ImagePositionPatient, dtype=float)
    axes = [float(value) for value in data.ImageOrientationPatient]
    rows, columns = (float(value) for value in data.PixelSpacing)
    assert item.spacing is not None
    assert item.index is not None
    along, step = (axes[:3], columns) if item.axis == 0 else (axes[3:], rows)
    corner = corner + item.index * step * np.array(along)
    others = axes[3:] if item.axis == 0 else axes[:3]
    data.ImagePositionPatient = [decimal(value) for value in corner]
    data.ImageOrientationPatient = [decimal(v) for v in (*others, *normal_of(axes).tolist())]
    data.PixelSpacing = [decimal(value) for value in item.spacing]
    data.SliceThickness = decimal(step)
    data.InstanceNumber = item.index + 1
    for key in ("SliceLocation", "SpacingBetweenSlices"):
        if key in data:
            delattr(data, key)


def decimal(value: float) -> str:
    """A decimal string, which has at most 16 characters."""
    text = f"{value:.10g}"
    return text if len(text) <= 16 else f"{value:.8g}"


def first_frame(file: Path) -> int:
    """The frame of the first slice, in the file of a volume that was cut."""
    return _first_frame(file, file.stat().st_mtime)


@lru_cache(maxsize=8)
def _first_frame(file: Path, changed: float) -> int:
    slices = read_slices(file)
    lowest = min(slices, key=lambda one: one.position or 0.0)
    return lowest.frame or 0
