"""What is measured: the section ``data`` of a configuration."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, NonNegativeFloat, PositiveFloat, field_validator

from ..settings import Settings
from .choice import SLICES, Axis, Choice, checked_slices
from .ranges import Places

#: The bounds of a side, in pixels.
SIDES = (8, 4096)
#: Pixels each way, (height, width), or each image's own.
DataSize = int | tuple[int, int] | Literal["native"]
Fraction = Annotated[float, Field(ge=0, lt=1)]


class DataSettings(Settings):
    """What all kinds of data have."""

    size: DataSize = Field(
        64,
        description="pixels of the reconstruction, each way or [height, width], from 8 to 4096; "
        "larger images are averaged down. native: each image at its own size, batches of one size",
    )
    validation: Path | None = Field(
        None, description="images to score on while training; never trained on"
    )
    holdout: Fraction | list[str] = Field(
        0,
        description="fraction of the patients (or scans) to keep from training and score on "
        "instead, or their names (of patients, files or items; * stands for anything)",
    )
    keep_out: float = Field(
        0,
        ge=0,
        le=0.5,
        description="fraction (one half, third, quarter, …) of each measurement to validate on",
    )
    units: Literal["auto", "hounsfield", "magnitude"] | PositiveFloat = Field(
        "auto",
        description="what images in files are measured in: hounsfield, magnitude (the brightest "
        "0.1% count as 1), or the value that counts as 1; auto: what the file says, or looks like",
    )
    stream: bool = Field(
        False, description="read and measure while training, for data that do not fit into memory"
    )

    @field_validator("size", mode="before")
    @classmethod
    def _a_size(cls, value: Any) -> Any:
        return _checked_size(value)

    @field_validator("holdout", mode="before", check_fields=False)
    @classmethod
    def _names_of_digits_are_names(cls, value: Any) -> Any:
        if not isinstance(value, list):
            return value
        return [str(each) if type(each) is int else each for each in value]

    @field_validator("path", "validation", mode="before", check_fields=False)
    @classmethod
    def _a_name_of_digits_is_a_name(cls, value: Any) -> Any:
        return str(value) if isinstance(value, int) else value  # a folder named 20240101


class SimulatedSettings(Settings):
    """How images are measured."""

    simulate: Literal["same", "fine"] = Field(
        "same",
        description="the grid that images are measured on: that of the reconstruction, or one "
        "twice as fine, as real objects have (rays and MRI)",
    )


def _checked_size(value: Any) -> Any:
    """A side, two of them, or "native"; two that are equal are one.

    Raises:
        ValueError: it is none of these, or out of bounds.
    """
    if isinstance(value, str):
        text = re.fullmatch(r"\s*(\d+)(?:\s*[x×,]\s*(\d+))?\s*", value)
        if text:
            value = [int(side) for side in text.groups() if side]
            value = value[0] if len(value) == 1 else value
    if value == "native":
        return value
    sides = list(value) if isinstance(value, (list, tuple)) else [value]
    sides = [int(s) if isinstance(s, str) and re.fullmatch(r"\d+", s) else s for s in sides]
    low, high = SIDES
    if len(sides) > 2 or not all(
        type(side) in (int, float) and low <= side <= high and side == int(side) for side in sides
    ):
        raise ValueError(
            f"must be a number of pixels from {low} to {high}, [rows, columns], or native"
        )
    sides = [int(side) for side in sides]
    return sides[0] if len(set(sides)) == 1 else tuple(sides)


class PhantomSettings(SimulatedSettings, DataSettings):
    """Anatomical phantoms, made from the seed and measured."""

    kind: Literal["phantoms"] = "phantoms"
    count: int = Field(200, ge=1, le=1_000_000, description="how many phantoms")

    @field_validator("size")
    @classmethod
    def _of_a_size(cls, value: Any) -> Any:
        if value == "native":
            raise ValueError("phantoms have no size of their own: give a number of pixels")
        return value


class FileSettings(DataSettings):
    """What all kinds of files have."""

    sample: int | None = Field(
        None,
        ge=1,
        description="train on so many of them, drawn at random by the seed; none: on all",
    )
    path: Path = Field(
        description="file or folder of images (DICOM, NIfTI, HDF5, TIFF, PNG), k-space, or arrays"
    )
    slices: int | list[int] | dict[str, int] | str | None = Field(
        None, description=f"which slices of each volume: {SLICES}; none: all"
    )
    fit: Literal["pad", "crop", "refuse"] = Field(
        "pad",
        description="images of another shape than size: pad with air around them, then average "
        "down what is larger; crop the middle size pixels (padded where smaller); or refuse them",
    )
    axis: Axis | None = Field(
        None,
        description="across which volumes are cut: 0, 1, 2 (or x, y, z) of the file, or sagittal, "
        "coronal, axial; none: the last",
    )
    volume: int | Literal["average"] | None = Field(
        None, description="which volume of a series in one file, from 0; average: their mean"
    )
    contrast: int | None = Field(None, description="which contrast (echo) of k-space, from 0")
    phase: int | None = Field(None, description="which phase (of a gated scan) of k-space, from 0")
    set: int | None = Field(None, description="which set of k-space, from 0")
    repetition: int | Literal["average"] | None = Field(
        None, description="which repetition of k-space, from 0; average, or none: their mean"
    )

    @field_validator("slices", mode="before")
    @classmethod
    def _slices_that_are_understood(cls, value: Any) -> Any:
        return checked_slices(value)

    @property
    def choice(self) -> Choice:
        """What is asked of the readers."""
        return Choice(self.axis, self.volume, self.contrast, self.phase, self.set, self.repetition)

    variable: str | None = Field(
        None,
        min_length=1,
        description="name of the array in each file (MATLAB: fields after dots; .npz); none: the "
        "only one",
    )


class ImageSettings(SimulatedSettings, FileSettings):
    """Images, which are measured first."""

    kind: Literal["images"] = "images"


Layout = Literal["auto", "sinograms", "transposed", "projections"]


class SinogramSettings(Settings):
    """How the numbers of a tomograph become line integrals."""

    values: Literal["auto", "counts", "line_integrals"] = Field(
        "auto",
        description="what a tomograph's numbers are; auto: counts, where the file or data.white "
        "says the open beam, and line integrals elsewhere",
    )
    white: Path | PositiveFloat | None = Field(
        None,
        description="counts with nothing in the way: a file or folder of frames, or a number (1: "
        "the data are transmissions); none: what the file says",
    )
    dark: Path | NonNegativeFloat | None = Field(
        None, description="counts without a beam: as data.white; none: what the file says, or 0"
    )
    layout: Layout = Field(
        "auto",
        description="what a plane of the files is: sinograms (views × detectors), transposed ones "
        "(detectors × views), or projections (rows × detectors, a view each); auto: what the "
        "format says, else sinograms",
    )
    rows: Places | None = Field(
        None,
        description="rows of detectors, or sinograms of a stack, that are used: one (counted from "
        "0), a range such as 100:200 or ::10, or a list; none: all",
    )
    dead: Literal["auto", "interpolate", "mask", "refuse"] = Field(
        "auto",
        description="dead detectors, hot values and values not above the dark current: filled in "
        "from their neighbours, masked (left out of the operator), or refused; auto: counts are "
        "filled in, NaN in line integrals are refused",
    )
    rings: Literal["none", "all", "sorting", "filtering", "fitting", "large", "dead"] = Field(
        "none",
        description="remove the stripes that make rings, by algotom's method of that name (pip "
        "install 'equipoise[rings]')",
    )
    bin_rows: int = Field(
        1,
        ge=1,
        description="rows of detectors that become one: their photons are added up, line integrals "
        "averaged (physics.bin does so along a row)",
    )


PEAK = Field(
    1.0,
    gt=0,
    description="the value of x that counts as 1 in measurements from files; per millimetre, where "
    "lengths are",
)
WATER = Field(
    None,
    gt=0,
    description="attenuation of water in the unit of x, such as 0.02 per millimetre: "
    "reconstructions come back in Hounsfield units",
)


class MeasurementSettings(SinogramSettings, FileSettings):
    """What a scanner measured."""

    kind: Literal["measurements"] = "measurements"
    peak: float = PEAK
    water: float | None = WATER


class AutoSettings(SimulatedSettings, SinogramSettings, FileSettings):
    """What the files look like: arrays and k-space are measurements, all else is images."""

    kind: Literal["auto"] = "auto"
    peak: float = PEAK
    water: float | None = WATER


def _kind_by_path(tree: Any) -> Any:
    """Without a kind, what has a path are files and what has none are phantoms."""
    if not isinstance(tree, dict) or "kind" in tree:
        return tree
    return {**tree, "kind": "phantoms" if tree.get("path") is None else "auto"}


Data = Annotated[
    PhantomSettings | ImageSettings | MeasurementSettings | AutoSettings,
    Field(discriminator="kind"),
    BeforeValidator(_kind_by_path),
]
