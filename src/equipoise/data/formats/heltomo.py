"""The structs of the Helsinki Tomography Challenge and of HelTomo: a ``sinogram`` and the
``parameters`` of the scanner that measured it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ...imaging.tomography.scanner import MILLIMETRES, ScannerGeometry


class Described(NamedTuple):
    """What the parameters say."""

    geometry: ScannerGeometry
    turned: bool  #: whether the sinogram is detectors × views
    notes: tuple[str, ...]


def is_scan(value: Any) -> bool:
    """Whether it is a struct of a sinogram and its parameters."""
    if not isinstance(value, dict) or not isinstance(value.get("parameters"), dict):
        return False
    sinogram = value.get("sinogram")
    return isinstance(sinogram, np.ndarray) and sinogram.ndim == 2 and sinogram.dtype.kind in "buif"


def geometry_of(scan: dict[str, Any], file: Path) -> Described:
    """What the parameters say, in this package's terms. Their angles turn the other way.

    Raises:
        ValueError: a length is not a positive number, or its unit is not known.
    """
    parameters, shape = scan["parameters"], scan["sinogram"].shape
    unit = _unit(parameters)
    angles = _numbers(parameters, "angles")
    notes = []
    turned = False
    if angles is not None and len(angles) != shape[0]:
        turned = len(angles) == shape[1]
        if turned:
            notes.append(f"{file.name}: its sinogram is detectors × views, and was transposed")
        else:
            notes.append(
                f"{file.name}: names {len(angles)} angles for a sinogram of {shape[0]} × "
                f"{shape[1]}, so they are not used; set physics.angles"
            )
            angles = None
    columns = shape[0] if turned else shape[1]
    pitch = _pitch(parameters)
    near = _number(parameters, "distanceSourceOrigin")
    far = _number(parameters, "distanceSourceDetector")
    pixel = _number(parameters, "effectivePixelSizePost", "effectivePixelSize")
    parallel = str(parameters.get("geometryType", "")).lower().startswith("par")
    geometry = ScannerGeometry(
        source=f"{file.name} (parameters)",
        beam="parallel" if parallel else "fan",
        angles=None if angles is None else tuple(0.0 - float(a) for a in angles),
        source_to_axis=None if near is None or parallel else near * unit,
        source_to_detector=None if far is None or parallel else far * unit,
        detectors=columns,
        detector_pitch=None if pitch is None else pitch * unit,
        image_pixel=None if pixel is None else pixel * unit,
    )
    return Described(geometry, turned, tuple(notes))


def _unit(parameters: dict[str, Any]) -> float:
    """How many millimetres the file's unit of length has; millimetres where it does not say."""
    name = str(parameters.get("distanceUnit", "mm")).strip()
    if name not in MILLIMETRES:
        raise ValueError(f"distanceUnit must be one of {', '.join(MILLIMETRES)}, got {name!r}")
    return MILLIMETRES[name]


def _pitch(parameters: dict[str, Any]) -> float | None:
    """Of the detectors as they stand in the sinogram, which may have been binned."""
    own = _number(parameters, "pixelSizePost")
    if own is not None:
        return own
    raw = _number(parameters, "pixelSize")
    if raw is None:
        return None
    binned = _number(parameters, "binningPost")
    return raw * (1.0 if binned is None else binned)


def _number(parameters: dict[str, Any], *names: str) -> float | None:
    """The first of these that is one number."""
    for name in names:
        values = _numbers(parameters, name)
        if values is not None and len(values) == 1:
            return float(values[0])
    return None


def _numbers(parameters: dict[str, Any], name: str) -> np.ndarray | None:
    value = parameters.get(name)
    if value is None or isinstance(value, (str, dict)):
        return None
    array = np.asarray(value)
    if array.dtype.kind not in "uif" or array.size == 0:
        return None
    return array.astype(float).ravel()
