"""One array that somebody brought: an image, a measurement, or the k-space of a slice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
from torch import Tensor

from ..errors import UserError

#: An image, as numpy or torch has it.
Values = TypeVar("Values", np.ndarray, Tensor)

#: What an item's array is: pixels, what a scanner measured, or complex k-space samples.
Holds = Literal["image", "measurement", "kspace"]

#: What an item's units were taken from: what its file says, what its values look like, or nothing
#: yet, so that they have to be settled before they are used (units.py).
UnitsFrom = Literal["file", "values", "nothing"]


@dataclass(frozen=True)
class Units:
    """How images in their own units belong to those of the model, in which [0, 1] is what matters:
    native = model · scale + offset. With ``clip``, what lies outside [0, 1] is cut off.

    Those of a measurement are the units of the images that it was made of.
    """

    scale: float = 1.0
    offset: float = 0.0
    clip: bool = False

    def to_model(self, native: Values) -> Values:
        """An image in its own units, in those of the model; not clipped."""
        return (native - self.offset) / self.scale

    def to_native(self, model: Values) -> Values:
        """An image of the model in its own units."""
        return model * self.scale + self.offset


#: Attenuation relative to water is 1 + HU / 1000, so that air is 0 and water is 0.5.
HOUNSFIELD = Units(scale=2000.0, offset=-1000.0, clip=True)


@dataclass(frozen=True)
class Item:
    """One array of a file, which is read when it is asked for.

    ``read`` may return a map of the file, of which only what is indexed is read.
    """

    name: str  #: of the file that is written for it; unique in a data set
    file: Path
    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]
    holds: Holds = "image"
    complex: bool = False
    patient: str = ""
    series: str = ""  #: of which slices are neighbours: a scan, or one reconstruction of it
    volume: str = ""  #: whose series share their positions; empty where each series has its own
    position: float | None = None  #: along the series' axis, in millimetres
    index: int | None = None  #: of the slice or frame, where the file holds several
    spacing: tuple[float, float] | None = None  #: of rows and of columns, in millimetres
    units: Units = Units()
    units_from: UnitsFrom = "file"
    format: str = "npy"  #: the name of the format that reads it, and writes what is made of it
    notes: tuple[str, ...] = ()  #: what its reader noticed
    frames: tuple[Item, ...] = ()  #: of which it is a sequence
    #: What a file that is written says it shows, where that is not the image itself.
    meaning: str = ""
    #: Whether its values are differences, such as deviations, to which no offset applies.
    is_difference: bool = False

    def array(self) -> np.ndarray:
        """The values, in the units of the file.

        Raises:
            UserError: the file cannot be read, or holds something else than finite numbers.
        """
        return check_numbers(np.asarray(self.read()), str(self.file))

    def showing(self, meaning: str, is_difference: bool = False) -> Item:
        """The item for a file about this image that is not the image itself."""
        frames = tuple(frame.showing(meaning, is_difference) for frame in self.frames)
        return replace(self, meaning=meaning, is_difference=is_difference, frames=frames)

    def along_first_axis(self) -> list[Item]:
        """The items of a stack, each named after its place."""
        return [
            replace(
                self,
                name=f"{self.name}_{k:03d}",
                shape=self.shape[1:],
                index=k,
                read=partial(_read_one, self.read, k),
            )
            for k in range(self.shape[0])
        ]


def _read_one(read: Callable[[], np.ndarray], k: int) -> np.ndarray:
    one: np.ndarray = read()[k]
    return one


def check_numbers(array: np.ndarray, where: str) -> np.ndarray:
    """The array, if it holds finite numbers.

    Raises:
        UserError: it holds something else, or NaN.
    """
    if not (np.issubdtype(array.dtype, np.number) or array.dtype == bool):
        raise UserError(f"{where}: holds {array.dtype}, not numbers")
    finite = np.isfinite(array)
    bad = int(array.size - finite.sum())
    if bad:
        first = tuple(int(i) for i in np.argwhere(~finite)[0])
        raise UserError(
            f"{where}: {bad} of {array.size} values are NaN or infinite, the first at index "
            f"{first}; replace them (interpolate dead detectors) or leave the file out"
        )
    return array
