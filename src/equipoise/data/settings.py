"""What is measured: the section ``data`` of a configuration."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PositiveFloat, field_validator

from ..settings import Settings
from .choice import SLICES, Axis, Choice, checked_slices

#: Pixels each way, rows and columns, or each image's own.
Size = int | tuple[int, int] | Literal["native"]
#: The bounds of a side, in pixels.
SIDES = (8, 4096)


class DataSettings(Settings):
    """What all kinds of data have."""

    size: Size = Field(
        64,
        description="pixels each way of the reconstruction, or [rows, columns]; larger images are "
        "averaged down. native: each image at its own size, batches of one size",
    )
    validation: Path | None = Field(
        None, description="images to score on while training; never trained on"
    )
    holdout: float = Field(
        0,
        ge=0,
        lt=1,
        description="fraction of the patients to keep from training and score on instead",
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

    @field_validator("path", "validation", mode="before", check_fields=False)
    @classmethod
    def _a_name_of_digits_is_a_name(cls, value: Any) -> Any:
        return str(value) if isinstance(value, int) else value  # a folder named 20240101


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
    low, high = SIDES
    if len(sides) > 2 or not all(
        type(side) in (int, float) and side == int(side) and low <= side <= high for side in sides
    ):
        raise ValueError(
            f"must be a number of pixels from {low} to {high}, [rows, columns], or native"
        )
    sides = [int(side) for side in sides]
    return sides[0] if len(set(sides)) == 1 else tuple(sides)


def size_in_words(size: Size) -> str:
    """Such as ``64²``, ``96×128``, ``native size``."""
    if isinstance(size, str):
        return f"{size} size"
    return f"{size}²" if isinstance(size, int) else f"{size[0]}×{size[1]}"


class PhantomSettings(DataSettings):
    """Anatomical phantoms, made from the seed and measured."""

    kind: Literal["phantoms"] = "phantoms"
    count: int = Field(200, ge=1, description="how many phantoms")

    @field_validator("size")
    @classmethod
    def _square(cls, value: Any) -> Any:
        if not isinstance(value, int):
            raise ValueError("phantoms are square: give one number of pixels")
        return value


class FileSettings(DataSettings):
    """What all kinds of files have."""

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
        return Choice(
            self.axis, self.volume, self.contrast, self.phase, self.set, self.repetition
        )


class ImageSettings(FileSettings):
    """Images, which are measured first."""

    kind: Literal["images"] = "images"


PEAK = Field(1.0, gt=0, description="the value of x that counts as 1 in measurements from files")


class MeasurementSettings(FileSettings):
    """What a scanner measured."""

    kind: Literal["measurements"] = "measurements"
    peak: float = PEAK


class AutoSettings(FileSettings):
    """What the files look like: arrays and k-space are measurements, all else is images."""

    kind: Literal["auto"] = "auto"
    peak: float = PEAK


def _kind_by_path(tree: Any) -> Any:
    """Without a kind, what has a path are files and what has none are phantoms."""
    if not isinstance(tree, dict) or tree.get("kind", "auto") != "auto":
        return tree
    return {**tree, "kind": "phantoms" if tree.get("path") is None else "auto"}


Data = Annotated[
    PhantomSettings | ImageSettings | MeasurementSettings | AutoSettings,
    Field(discriminator="kind"),
    BeforeValidator(_kind_by_path),
]
