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
from ..imaging.tomography.scanner import ScannerGeometry

#: An image, as numpy or torch has it.
Values = TypeVar("Values", np.ndarray, Tensor)

#: Formats of bare arrays, which do not say what their axes are.
BARE = ("npy", "npz", "hdf5")
#: Those that do not say whether complex numbers are k-space or images.
COMPLEX_EITHER = ("npy", "npz", "mat", "tiff")

#: What an item's array is: pixels, what a scanner measured, or complex k-space samples.
Holds = Literal["image", "measurement", "kspace"]

#: What an item's units were taken from: what its file says, what its values look like, or nothing
#: yet, so that they have to be settled before they are used (units.py). Of what is "magnitude", the
#: brightest 0.1 % of its series count as 1, which is settled there as well.
UnitsFrom = Literal["file", "values", "magnitude", "nothing"]


@dataclass(frozen=True)
class Units:
    """How images in their own units belong to those of the model, in which [0, 1] is what matters:
    native = model · scale + offset. With ``clip``, what lies outside [0, 1] is cut off.

    Those of a measurement are the units of the images that are made of it.
    """

    scale: float = 1.0
    offset: float = 0.0
    clip: bool = False
    name: str = ""  #: such as "HU" or "1/mm"; empty where it is not known
    peak: float | None = None  #: of x in a measurement, where native values are not x itself

    @classmethod
    def of_measurement(cls, peak: float, water: float | None = None, name: str = "") -> Units:
        """Of what is reconstructed from line integrals: as they are, or in Hounsfield units where
        the attenuation of water is known.

        Args:
            peak: the value of x that counts as 1.
            water: attenuation of water, in the unit of ``peak``.
            name: of that unit.
        """
        if water is None:
            return cls(scale=peak, name=name)
        return cls(scale=1000 * peak / water, offset=-1000.0, peak=peak, name="HU")

    @property
    def word(self) -> str:
        """What a value is called that stands beside its unit; empty where files do not say."""
        if self.name:
            return self.name
        return "HU" if (self.scale, self.offset) == (2000.0, -1000.0) else ""

    @property
    def counts_as_one(self) -> float:
        """Of a measurement: the value of x that counts as 1."""
        return self.scale if self.peak is None else self.peak

    @property
    def words(self) -> str:
        """What black and white stand for in a picture from 0 to 1 of the model; empty where the
        unit is not known."""
        low, high = self.offset, self.offset + self.scale
        return f"grey from {low:g} to {high:g} {self.name}" if self.name else ""

    def to_model(self, native: Values) -> Values:
        """An image in its own units, in those of the model; not clipped."""
        return (native - self.offset) / self.scale

    def to_native(self, model: Values) -> Values:
        """An image of the model in its own units."""
        return model * self.scale + self.offset


#: Attenuation relative to water is 1 + HU / 1000, so that air is 0 and water is 0.5.
HOUNSFIELD = Units(scale=2000.0, offset=-1000.0, clip=True, name="HU")


@dataclass(frozen=True)
class Counts:
    """What makes line integrals of raw counts: the open beam and the dark current of each detector,
    (detectors,), read when they are asked for; None where the file has none."""

    white: Callable[[], np.ndarray] | None = None
    dark: Callable[[], np.ndarray] | None = None


@dataclass(frozen=True)
class Frame:
    """The part of an image that the model sees, in the image's pixels. What lies outside of the
    image is air, or zero."""

    top: int  #: the image's row that is the frame's first; negative where it is padded
    left: int
    rows: int
    columns: int

    @classmethod
    def in_the_middle(cls, shape: tuple[int, int], rows: int, columns: int) -> Frame:
        """``rows`` × ``columns`` pixels in the middle of, or around, an image of ``shape``."""
        return cls((shape[0] - rows) // 2, (shape[1] - columns) // 2, rows, columns)

    def cut(self, image: np.ndarray, outside: float = 0.0) -> np.ndarray:
        """This part of an image (…, H, W)."""
        height, width = image.shape[-2:]
        out = np.full((*image.shape[:-2], self.rows, self.columns), outside, image.dtype)
        top, left = max(0, self.top), max(0, self.left)
        bottom = min(height, self.top + self.rows)
        right = min(width, self.left + self.columns)
        target = (
            slice(top - self.top, bottom - self.top),
            slice(left - self.left, right - self.left),
        )
        out[(..., *target)] = image[..., top:bottom, left:right]
        return out

    def undone(self, shape: tuple[int, int]) -> Frame:
        """What cuts an image of ``shape`` back out of this part."""
        return Frame(-self.top, -self.left, *shape)


@dataclass(frozen=True)
class Placement:
    """Where the pixels of a reconstruction lie, in those of the original image: rows, columns."""

    start: tuple[float, float]  #: of the first pixel's outer corner
    pixel: tuple[float, float]  #: the sides of a pixel


@dataclass(frozen=True)
class KspaceHeader:
    """What the file of a scan says of its k-space, beside the samples.

    Readers put the readout first: (coils, readout, phase).
    """

    #: (readout, phase): which points were measured; none: those that are not zero
    sampled: np.ndarray | None = None
    #: (phase,): which lines can have been measured; of these, what is zero everywhere was not
    lines: np.ndarray | None = None
    noise: np.ndarray | None = None  #: (coils, coils): covariance of the noise in a sample
    calibration: np.ndarray | None = None  #: (coils, readout, phase) of lines beside the image's
    recon: tuple[int, int] | None = None  #: rows and columns of the image that is wanted
    target: Callable[[], np.ndarray] | None = None  #: (rows, columns), reconstructed of all lines
    peak: Callable[[], float] | None = None  #: the largest value of the target's volume
    #: (H, W): by it, the magnitude of the model is the root sum of squares in the file's units
    weight: np.ndarray | None = None
    remarks: tuple[str, ...] = ()  #: on its noise


@dataclass(frozen=True, slots=True)  # a scan has thousands of them
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
    frame: Frame | None = None  #: the part of an image that the model sees; none: the whole
    axis: int | None = None  #: of the volume in its file that it was cut across; none: the last
    kspace: KspaceHeader = KspaceHeader()
    geometry: ScannerGeometry | None = None  #: of a measurement, where its file says it
    counts: Counts | None = None  #: of a measurement in raw counts
    whole: Item | None = None  #: of a sinogram of some views: that of all views, as its file has it

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

    def placement(self, shape: tuple[int, ...]) -> Placement:
        """Where the pixels of an image of ``shape``, which was made of this one, lie in it."""
        rows, columns = self.shape[-2:]
        if tuple(shape) == (rows, columns):
            return Placement((0.0, 0.0), (1.0, 1.0))
        frame = self.frame or Frame(0, 0, rows, columns)
        pixel = (frame.rows / shape[0], frame.columns / shape[1])
        return Placement((float(frame.top), float(frame.left)), pixel)

    def restored(self, image: np.ndarray) -> np.ndarray:
        """An image (…, H, W), in native units, in the frame of the original, if its pixels are the
        original's; else as it is."""
        frame = self.frame
        if frame is None or image.shape[-2:] != (frame.rows, frame.columns):
            return image
        rows, columns = self.shape[-2:]
        outside = 0.0 if self.is_difference else self.units.offset
        return frame.undone((rows, columns)).cut(image, outside)

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
    return array.astype(np.float32) if array.dtype == bool else array
