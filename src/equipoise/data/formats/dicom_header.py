"""What the header of a DICOM file says of its slices.

Files of several frames (enhanced CT) say in their functional groups, for all frames or for each,
what others say at the top (DICOM PS3.3, C.7.6.16).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import need

#: What stands in ImageType where an image is no slice of a scan (PS3.3, C.8.2.1.1.1 and
#: C.8.16.1): overviews, pictures of a screen, and what was computed from slices and is no
#: attenuation any more.
NO_SLICES = {
    *("LOCALIZER", "SCOUT", "TOPOGRAM", "SURVIEW"),
    *("SCREEN", "SCREENSHOT", "SCREENSAVE", "REPORT", "DOSE"),
    *("MAP", "PERFUSION", "CBF", "CBV", "MTT", "TTP", "TMAX", "PERMEABILITY", "IODINE"),
    *("MIP", "MINIP", "MAXIMUM", "MINIMUM", "SUBTRACTION", "DIVISION", "MULTIPLICATION"),
    *("QUANTITY", "FUSED", "FUSION"),
    *("PROJECTION IMAGE", "PROJECTION", "ADC", "DIFFUSION", "TENSOR", "FA", "TRACEW", "T1MAP"),
}
#: What stands in the names of series of MR that are overviews: their ImageType does not say.
OVERVIEWS = ("localizer", "localiser", "scout", "survey", "3-plane", "3 plane", "plane loc")
#: The third value of MR where an image is no magnitude (PS3.3, C.8.3.1.1.1 and C.8.13.3.1.1).
NO_MAGNITUDE = {"P", "PHASE", "R", "REAL", "I", "IMAGINARY", "VELOCITY", "ADC", "FA", "TRACEW"}
#: The modalities that are read.
MODALITIES = ("CT", "MR", "")
#: The third value where an image is one; what is derived and has another is a reformat.
SLICES = {"AXIAL", "VOLUME", ""}
#: The rescale types that are Hounsfield units; without a type, CT is in Hounsfield units.
HOUNSFIELD_TYPES = {"HU", "HU_MOD", ""}


@dataclass(frozen=True)
class Slice:
    """One image, and what its header says of it."""

    name: str
    file: Path
    frame: int | None  #: where the file holds several
    rows: int
    columns: int
    samples: int  #: per pixel: 1 of grey images
    modality: str
    image_type: tuple[str, ...]
    slope: float
    intercept: float
    says_hounsfield: bool
    patient: str
    series: str
    volume: str  #: study, frame of reference and orientation: what shares positions
    position: float | None  #: along the slices' normal, in millimetres
    spacing: tuple[float, float] | None
    description: str = ""  #: of its series
    axes: tuple[float, ...] = ()  #: directions along a row and along a column, where it says them
    corner: tuple[float, ...] = ()  #: of the first pixel's centre, where it says it

    @property
    def is_slice(self) -> bool:
        """Whether it is a slice of a scan, or was computed of some."""
        words = {word for value in self.image_type for word in value.replace("_", " ").split()}
        return self.samples == 1 and not words & NO_SLICES and not self.is_of_mr_alone

    @property
    def is_of_mr_alone(self) -> bool:
        """Whether it is of MR, and an overview by its series' name, or no magnitude."""
        if self.modality != "MR":
            return False
        is_overview = any(word in self.description.lower() for word in OVERVIEWS)
        return is_overview or bool(set(self.image_type[2:3]) & NO_MAGNITUDE)

    @property
    def what(self) -> str:
        """What it is, for the note that it is left out."""
        if self.modality not in MODALITIES:
            return self.modality
        kind = "/".join(self.image_type)
        if self.is_of_mr_alone and self.description:
            return f"{self.description}: {kind}" if kind else self.description
        return kind

    @property
    def is_derived(self) -> bool:
        """Whether it was computed of slices: a reformat, or a reconstruction such as ours."""
        return self.image_type[:1] == ("DERIVED",) and (
            "SECONDARY" in self.image_type[1:2] or self.modality == "MR" or not self.is_axial
        )

    @property
    def is_axial(self) -> bool:
        return "".join(self.image_type[2:3]) in SLICES


def read_slices(file: Path) -> list[Slice]:
    """The slices of a file, of which only the header is read; none, where it holds no image.

    Raises:
        InvalidDicomError: it is no DICOM file.
        AttributeError: an image lacks a field of its header.
    """
    pydicom = need("pydicom", "dicom")
    # Files without the mark at their beginning are read too, if they say what they are.
    data = pydicom.dcmread(file, stop_before_pixels=True, force=True)
    if "SOPClassUID" not in data and "Rows" not in data:
        raise pydicom.errors.InvalidDicomError("it has neither the mark DICM nor a SOPClassUID")
    is_ct = str(data.get("Modality", "CT") or "CT") == "CT"
    if "Rows" not in data and not (is_ct and "ImageType" in data):
        return []
    count = int(data.get("NumberOfFrames", 1) or 1)
    if count == 1:
        return [_slice(data, file, None)]
    return [_slice(data, file, k) for k in range(count)]


def _slice(data: Any, file: Path, frame: int | None) -> Slice:
    axes = _numbers(
        header_value(data, frame, "PlaneOrientationSequence", "ImageOrientationPatient")
    )
    spacing = _numbers(header_value(data, frame, "PixelMeasuresSequence", "PixelSpacing"))
    slope, intercept = (
        header_value(data, frame, "PixelValueTransformationSequence", f"Rescale{name}")
        for name in ("Slope", "Intercept")
    )
    kinds = (
        header_value(data, frame, f"{modality}ImageFrameTypeSequence", "FrameType")
        for modality in ("CT", "MR")
    )
    kind = next((found for found in kinds if found), None)
    image_type = tuple(str(v).upper() for v in _values(kind or data.get("ImageType")))
    rescale_type = header_value(data, frame, "PixelValueTransformationSequence", "RescaleType")
    says_hounsfield = (
        slope not in (None, "")
        and intercept not in (None, "")
        and str(rescale_type or "").strip().upper() in HOUNSFIELD_TYPES
        and str(data.get("Modality", "") or "") == "CT"
    )
    study = str(data.get("StudyInstanceUID", ""))
    series = str(data.get("SeriesInstanceUID", ""))
    reference = str(data.get("FrameOfReferenceUID", ""))
    normal = normal_of(axes)
    corner = _corner(data, frame)
    found = Slice(
        name=file.name if frame is None else f"{file.stem}_{frame:03d}",
        file=file,
        frame=frame,
        rows=int(data.Rows),
        columns=int(data.Columns),
        samples=int(data.get("SamplesPerPixel", 1) or 1),
        modality=str(data.get("Modality", "") or ""),
        image_type=image_type,
        slope=float(slope if slope not in (None, "") else 1),
        intercept=float(intercept if intercept not in (None, "") else 0),
        says_hounsfield=says_hounsfield,
        patient=str(data.get("PatientID", "")) or study or reference or series or file.stem,
        series=series,
        volume=f"{study} {reference} {np.round(normal, 2).tolist()}",
        position=_position(data, frame, normal),
        spacing=(spacing[0], spacing[1]) if len(spacing) == 2 else None,
        description=" ".join(
            str(data.get(key, "") or "") for key in ("SeriesDescription", "ProtocolName")
        ).strip(),
        axes=tuple(axes) if len(axes) == 6 else (),
        corner=tuple(corner) if len(corner) == 3 else (),
    )
    _check_numbers(found)
    return found


def header_value(data: Any, frame: int | None, sequence: str, keyword: str) -> Any:
    """A field of a frame: from its functional group, from that of all frames, or from the top."""
    places = []
    frames = data.get("PerFrameFunctionalGroupsSequence") or []
    if len(frames) > (frame or 0):
        places.append(frames[frame or 0])
    places += list(data.get("SharedFunctionalGroupsSequence") or [])[:1]
    for place in places:
        group = place.get(sequence) or []
        if len(group) and keyword in group[0]:
            return group[0].get(keyword)
    return data.get(keyword)


def _values(field: Any) -> list[Any]:
    """The values of a field that has none, one, or several."""
    if field is None:
        return []
    return [field] if isinstance(field, (str, int, float)) else list(field)


def _numbers(field: Any) -> list[float]:
    return [float(value) for value in _values(field)]


def normal_of(axes: Sequence[float]) -> np.ndarray:
    """The direction across the slices; the same for axes that are flipped."""
    if len(axes) != 6:
        return np.array([0.0, 0.0, 1.0])
    normal: np.ndarray = np.cross(axes[:3], axes[3:])
    largest = normal[np.abs(normal).argmax()]
    return normal if largest >= 0 else -normal


def _corner(data: Any, frame: int | None) -> list[float]:
    return _numbers(header_value(data, frame, "PlanePositionSequence", "ImagePositionPatient"))


def _position(data: Any, frame: int | None, normal: np.ndarray) -> float | None:
    """The distance along the normal; else the place that the header gives the slice."""
    corner = _corner(data, frame)
    if len(corner) == 3:
        return float(np.dot(normal, corner))
    for keyword in ("SliceLocation", "InstanceNumber"):
        value = data.get(keyword)
        if value not in (None, "") and frame is None:
            return float(value)
    return None if frame is None else float(frame)


def _check_numbers(one: Slice) -> None:
    numbers = [one.slope, one.intercept, one.position or 0.0, *(one.spacing or ())]
    if not all(math.isfinite(number) for number in numbers):
        raise ValueError("a number of its header (position, spacing or rescaling) is not finite")
    if one.slope == 0:
        raise ValueError("its RescaleSlope is 0, which makes all pixels the same")
    if min(one.rows, one.columns) < 1:
        raise ValueError(f"it has {one.rows} rows and {one.columns} columns")
