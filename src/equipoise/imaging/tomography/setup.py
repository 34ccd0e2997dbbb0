"""From what the configuration and the file say to the numbers that a beam is made of.

Lengths in millimetres become pixels of the image, detectors are binned, views are chosen. The
configuration stands above the file, key by key.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from .conventions import layout
from .geometry import view_angles
from .scanner import ScannerGeometry
from .views import chosen_views

#: An image that shows less than this part of what every view sees, or more than that many times
#: as much, is not what a file's own pixel was meant for.
FIELD_OF_VIEW = (0.85, 1.3)
#: Options in pixels or detectors → those that say the same in millimetres, as a file does.
IN_MILLIMETRES = {
    "source_distance": "source_to_axis",
    "detector_distance": "source_to_detector",
    "pitch": "detector_pitch",
    "offset": "axis_offset",
    "pixel": "image_pixel",
}


@dataclass(frozen=True)
class Setup:
    """The numbers that a beam is made of. Lengths are in pixels, but for ``pixel``."""

    angles: tuple[float, ...]  #: of all views of a file, in degrees
    chosen: tuple[int, ...]  #: the views that are used
    binned: int  #: detectors of the file in one
    file_detectors: int | None  #: in a row of a file; None: not known
    detectors: int | None  #: after binning; None: enough for the image
    first: int  #: of the file's detectors that is used
    offset: float  #: of the binned detector's middle from the axis' shadow, in binned detectors
    pitch: float | None  #: of the binned detectors; None: as wide as a pixel (a pixel's shadow)
    pixel: float  #: side of a pixel, in the unit of the sinogram's lengths
    source_distance: float = 0.0
    detector_distance: float = 0.0


def all_angles(settings: Any, period: float) -> tuple[float, ...]:
    """Of every view in a file, in degrees: as configured, or else as the file says, or else a
    number of them evenly spread; turned as ``sense`` and ``start`` say."""
    read: ScannerGeometry | None = settings.read
    if settings.angles is not None:
        angles = view_angles(settings.angles, period)
    elif read is not None and read.angles is not None:
        angles = read.angles
    else:
        angles = view_angles(settings.usual_views, period)
    angles = tuple(settings.sense * angle for angle in angles)
    if settings.start is not None:
        angles = tuple(angle - angles[0] + settings.start for angle in angles)
    return angles


def parallel_setup(settings: Any, size: tuple[int, int]) -> Setup:
    """What a :class:`ParallelBeam` for images of ``size`` is made of.

    Raises:
        ValueError: the settings contradict each other.
    """
    angles = all_angles(settings, 180.0)
    count, first, used = _detectors(settings)
    pitch_mm = _first(settings.detector_pitch, _read(settings, "detector_pitch"))
    pixel = _pixel(settings, size, pitch_mm, None if count is None else pitch_mm)
    pitch = _pitch_in_pixels(settings, pitch_mm, pixel)
    native = 1 / settings.bin if pitch is None else pitch / settings.bin
    return Setup(
        angles=angles,
        chosen=tuple(chosen_views(settings.views, len(angles))),
        binned=settings.bin,
        file_detectors=count,
        detectors=used,
        first=first,
        offset=_offset(settings, "parallel", size, count, used, first, native * pixel),
        pitch=pitch,
        pixel=pixel,
    )


def fan_setup(settings: Any, size: tuple[int, int]) -> Setup:
    """What a :class:`FanBeam` for images of ``size`` is made of.

    Raises:
        ValueError: a distance is missing, or the settings contradict each other.
    """
    angles = all_angles(settings, 360.0)
    count, first, used = _detectors(settings)
    pitch_mm = _first(settings.detector_pitch, _read(settings, "detector_pitch"))
    near = _first(settings.source_to_axis, _read(settings, "source_to_axis"))
    far = _first(settings.source_to_detector, _read(settings, "source_to_detector"))
    in_pixels = settings.source_distance is not None
    at_axis = None
    if pitch_mm is not None and near is not None and far is not None and not in_pixels:
        at_axis = pitch_mm * near / far
    pixel = _pixel(settings, size, at_axis, at_axis)
    source = _first(settings.source_distance, near and near / pixel)
    if source is None:
        raise ValueError(
            "source_to_axis is missing, and no file says it; set physics.source_to_axis and "
            "physics.source_to_detector (millimetres), or physics.source_distance and "
            "physics.detector_distance (pixels)"
        )
    detector = settings.detector_distance
    if detector is None:
        if far is None:
            raise ValueError(
                "source_to_detector is missing, and no file says it; set "
                "physics.source_to_detector (millimetres) or physics.detector_distance (pixels)"
            )
        detector = far / pixel - source
        if detector < -1e-9 * source:
            raise ValueError(
                f"source_to_detector must be at least source_to_axis ({source * pixel:g} mm), got "
                f"{far:g} mm"
            )
        detector = max(detector, 0.0)
    pitch = _pitch_in_pixels(settings, pitch_mm, pixel)
    shadow = (source + detector) / source
    native = (shadow if pitch is None else pitch) / settings.bin
    return Setup(
        angles=angles,
        chosen=tuple(chosen_views(settings.views, len(angles))),
        binned=settings.bin,
        file_detectors=count,
        detectors=used,
        first=first,
        offset=_offset(settings, "fan", size, count, used, first, native * pixel),
        pitch=pitch,
        pixel=pixel,
        source_distance=source,
        detector_distance=detector,
    )


def _read(settings: Any, name: str) -> Any:
    return None if settings.read is None else getattr(settings.read, name)


def _first(*values: Any) -> Any:
    """The first that is not None, or None."""
    return next((value for value in values if value is not None), None)


def _detectors(settings: Any) -> tuple[int | None, int, int | None]:
    """How many a file has, the first that is used, and how many are left after binning. What is
    left over in binning is left out on both sides."""
    count = _first(settings.detectors, _read(settings, "detectors"))
    if count is None:
        return None, 0, None
    used = count // settings.bin
    if used < 1:
        raise ValueError(f"bin must be in [1, {count}] for {count} detectors, got {settings.bin}")
    return count, (count - used * settings.bin) // 2, used


def _pixel(
    settings: Any, size: tuple[int, int], detector_mm: float | None, known_mm: float | None
) -> float:
    """The side of a pixel in millimetres; 1 where nothing says a length.

    What the file says is for its own detectors, and grows as they are binned. Where an image of
    ``size`` would then show far less, or far more, than the detector sees, the image is as wide as
    what it sees.

    Args:
        detector_mm: the file's detector at the axis, None where it is not known.
        known_mm: the same, where the file's number of detectors is known too.
    """
    said = _first(settings.image_pixel, settings.pixel)
    if said is not None:
        return float(said)
    own = _first(_read(settings, "image_pixel"), detector_mm)
    if own is None:
        _refuse_millimetres_without_a_pixel(settings)
        return 1.0
    own = float(own) * settings.bin
    count, _, _ = _detectors(settings)
    if known_mm is None or count is None:
        return own
    seen = count * known_mm
    low, high = FIELD_OF_VIEW
    if low * seen <= own * max(size) <= high * seen:
        return own
    return seen / max(size)


def _refuse_millimetres_without_a_pixel(settings: Any) -> None:
    """Raises a ValueError where lengths are in millimetres, and nothing says how many of them a
    pixel has."""
    for name in ("source_to_axis", "source_to_detector", "detector_pitch", "axis_offset"):
        value = getattr(settings, name, None)
        if value is None and settings.read is not None:
            value = getattr(settings.read, name)
        if value is not None:
            raise ValueError(
                f"image_pixel is missing: {name} is {value:g} mm, but nothing says how large a "
                "pixel is; set physics.image_pixel (millimetres)"
            )


def _pitch_in_pixels(settings: Any, pitch_mm: float | None, pixel: float) -> float | None:
    """Of the binned detectors."""
    if settings.pitch is not None:
        return float(settings.pitch) * settings.bin
    if pitch_mm is None:
        return None
    return float(pitch_mm) * settings.bin / pixel


def _offset(
    settings: Any,
    beam: Literal["parallel", "fan"],
    size: tuple[int, int],
    count: int | None,
    used: int | None,
    first: int,
    pitch_mm: float,
) -> float:
    """Of the middle of the binned detectors, in binned detectors, beside what the convention puts
    there itself.

    Args:
        pitch_mm: of the file's detectors, in the unit of ``pixel``.
    """
    millimetres = settings.axis_offset
    asked = settings.axis_found if settings.offset == "auto" else settings.offset
    if asked is not None:
        own = float(asked)
    else:
        millimetres = _first(millimetres, _read(settings, "axis_offset"))
        own = 0.0 if millimetres is None else float(millimetres) / pitch_mm
    if count is None or used is None:
        return own / settings.bin
    own += layout(settings.convention, beam, *size, count).offset
    moved = first + (used * settings.bin - count) / 2
    return (own + moved) / settings.bin - layout(settings.convention, beam, *size, used).offset


def scaled_words(settings: Any) -> list[str]:
    """What the configuration says otherwise than the file, a sentence each."""
    read: ScannerGeometry | None = settings.read
    if read is None:
        return []
    words = []
    for name, unit in (
        ("source_to_axis", "mm"),
        ("source_to_detector", "mm"),
        ("detector_pitch", "mm"),
        ("axis_offset", "mm"),
        ("image_pixel", "mm"),
        ("detectors", "detectors"),
    ):
        said, asked = getattr(read, name), getattr(settings, name, None)
        if said is None or asked is None or math.isclose(said, asked, rel_tol=1e-6):
            continue
        words.append(f"physics.{name}={asked:g} {unit} stands above {said:g} {unit} in the file")
    for name, other in IN_MILLIMETRES.items():
        asked, said = getattr(settings, name, None), getattr(read, other)
        if asked is not None and asked != "auto" and said is not None:
            words.append(f"physics.{name}={asked:g} stands above {other}={said:g} mm in the file")
    if settings.angles is not None and read.angles is not None:
        words += _angle_words(settings.angles, read.angles, settings.usual_period)
    return words


def _angle_words(asked: int | Sequence[float], said: tuple[float, ...], period: float) -> list[str]:
    angles = view_angles(asked, period)
    same = len(angles) == len(said) and all(
        abs(a - b) < 1e-6 * max(1, abs(b)) for a, b in zip(angles, said)
    )
    if same:
        return []
    return [
        f"physics.angles ({len(angles)} views, {min(angles):g}° … {max(angles):g}°) stand above "
        f"those in the file ({len(said)} views, {min(said):g}° … {max(said):g}°)"
    ]
