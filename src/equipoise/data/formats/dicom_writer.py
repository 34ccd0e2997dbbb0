"""Reconstructed slices as DICOM: the original's header, with what changed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import need
from ..item import HOUNSFIELD, Item, Placement
from .dicom_header import header_value
from .dicom_volume import decimal, first_frame, set_place

#: Fields that would be wrong beside new pixels, or that belong to several frames.
OUTDATED = (
    "SmallestImagePixelValue",
    "LargestImagePixelValue",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "NumberOfFrames",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
    "DimensionIndexSequence",
    "DimensionOrganizationSequence",
    "FloatPixelData",  # of the three kinds of pixels a file has one
    "DoubleFloatPixelData",
)
#: The storage classes of single slices.
SINGLE = {"CT": "1.2.840.10008.5.1.4.1.1.2", "MR": "1.2.840.10008.5.1.4.1.1.4"}
#: Values of MR whose largest is below this are stored as multiples of a fraction.
FEW_VALUES = 1000
#: What a frame's functional groups say of its place, and the sequence that it stands in.
GEOMETRY = {
    "ImagePositionPatient": "PlanePositionSequence",
    "ImageOrientationPatient": "PlaneOrientationSequence",
    "PixelSpacing": "PixelMeasuresSequence",
}


def write_slices(
    items: Sequence[Item], images: Sequence[np.ndarray], folder: Path, suffixes: tuple[str, ...]
) -> list[Path]:
    """One file an image (N, H, W), marked as derived: CT in Hounsfield units, MR in its own."""
    pydicom = need("pydicom", "dicom")
    new_uid = pydicom.uid.generate_uid
    new_series: dict[str, str] = {}
    slopes = _slopes(items, images)
    paths = []
    for item, image in zip(items, images, strict=True):
        data = pydicom.dcmread(item.file, force=True)
        is_cut = item.axis is not None
        if "SharedFunctionalGroupsSequence" in data or (item.index is not None and not is_cut):
            _make_single(data, first_frame(item.file) if is_cut else item.index or 0)
        if is_cut:
            set_place(data, item)
        placed = item.placement(image.shape)
        _set_pixels(data, image, _slope_of(image) if item.is_difference else slopes[item.series])
        if placed.pixel != (1.0, 1.0) or placed.start != (0.0, 0.0):
            _set_geometry(data, placed)
        kind = [str(value) for value in data.get("ImageType") or []]
        kept = [value for value in kind[2:] if not (is_cut and value == "AXIAL")]
        data.ImageType = ["DERIVED", "SECONDARY", *(["REFORMATTED"] if is_cut else []), *kept]
        data.DerivationDescription = "Reconstructed with Equipoise; not for clinical use"
        if item.meaning:
            data.SeriesDescription = f"{data.get('SeriesDescription', '')} {item.meaning}".strip()[
                :64
            ]
        series = str(data.get("SeriesInstanceUID", ""))
        data.SeriesInstanceUID = new_series.setdefault(series, new_uid())
        data.SOPInstanceUID = new_uid()
        data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
        has_suffix = item.name.lower().endswith(suffixes)
        path = folder / (item.name if has_suffix else f"{item.name}.dcm")
        data.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def _slopes(items: Sequence[Item], images: Sequence[np.ndarray]) -> dict[str, float]:
    """What a step of the stored values stands for, by series: 1, unless the values of MR are too
    large for 16 bits or too small to be whole numbers."""
    largest: dict[str, float] = {}
    for item, image in zip(items, images, strict=True):
        top = 0.0 if item.units == HOUNSFIELD else float(np.abs(image).max(initial=0))
        largest[item.series] = max(largest.get(item.series, 0.0), top)
    return {
        series: 1.0 if top == 0 or FEW_VALUES <= top <= 32767 else top / 32767
        for series, top in largest.items()
    }


def _make_single(data: Any, frame: int) -> None:
    """Turns the header of several frames into that of one."""
    found = {key: header_value(data, frame, group, key) for key, group in GEOMETRY.items()}
    for key, value in found.items():
        if value is not None:
            setattr(data, key, value)
    kind = header_value(data, frame, f"{_modality(data)}ImageFrameTypeSequence", "FrameType")
    if kind:
        data.ImageType = kind
    data.InstanceNumber = frame + 1
    data.SOPClassUID = SINGLE[_modality(data)]
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID


def _slope_of(image: np.ndarray) -> float:
    """The power of ten that 16 bits resolve these values to."""
    largest = max(float(np.abs(image).max()), 1e-6)
    return float(10.0 ** np.ceil(np.log10(largest / 32767)))


def _modality(data: Any) -> str:
    return "MR" if str(data.get("Modality", "") or "") == "MR" else "CT"


def _set_pixels(data: Any, image: np.ndarray, slope: float) -> None:
    """16 bits, signed, of which 1 is ``slope``: one Hounsfield unit of CT."""
    stored = np.clip(np.rint(image / slope), -32768, 32767).astype("<i2")
    data.file_meta.TransferSyntaxUID = need("pydicom.uid", "dicom").ExplicitVRLittleEndian
    for key in OUTDATED:
        if key in data:
            delattr(data, key)
    data.PixelData = stored.tobytes()
    data["PixelData"].VR = "OW"
    data.Rows, data.Columns = stored.shape
    data.BitsAllocated = 16
    data.BitsStored = 16
    data.HighBit = 15
    data.PixelRepresentation = 1
    data.SamplesPerPixel = 1
    data.PhotometricInterpretation = "MONOCHROME2"
    data.RescaleSlope = 1 if slope == 1 else decimal(slope)
    data.RescaleIntercept = 0
    data.RescaleType = "HU" if _modality(data) == "CT" else "US"  # unspecified


def _set_geometry(data: Any, placed: Placement) -> None:
    """The geometry of pixels that have other sides, and begin elsewhere."""
    spacing = data.get("PixelSpacing")
    if spacing is None:
        return
    rows, columns = (float(value) for value in spacing)
    data.PixelSpacing = [decimal(rows * placed.pixel[0]), decimal(columns * placed.pixel[1])]
    position, axes = data.get("ImagePositionPatient"), data.get("ImageOrientationPatient")
    if position is None or axes is None:
        return
    along_row = np.array(axes[:3], dtype=float)
    along_column = np.array(axes[3:], dtype=float)
    # The first pixel's centre moves by half of what a pixel grew, from where it begins.
    down, right = (
        start + (side - 1) / 2 for start, side in zip(placed.start, placed.pixel, strict=True)
    )
    moved = right * columns * along_row + down * rows * along_column
    data.ImagePositionPatient = [
        decimal(value) for value in np.array(position, dtype=float) + moved
    ]
