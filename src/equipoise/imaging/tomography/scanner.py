"""What a file says about the scanner that wrote it, in millimetres and degrees.

A format that finds such words in its files fills a :class:`ScannerGeometry` and hands it over as
``Item.geometry``. The configuration stands above it, key by key (``setup.py``).
"""

from __future__ import annotations

import math
from typing import Literal

from pydantic import ConfigDict, Field

from ...settings import Settings

#: In a unit of length, as files write it.
MILLIMETRES = {"mm": 1.0, "cm": 10.0, "m": 1e3, "um": 1e-3, "µm": 1e-3, "μm": 1e-3, "nm": 1e-6}
MILLIMETRES |= {"micron": 1e-3, "microns": 1e-3, "micrometer": 1e-3, "meter": 1e3}


class ScannerGeometry(Settings):
    """Where the rays run, as a file has it: lengths in millimetres, angles in degrees; None where
    the file does not say.

    Angles turn as in this package (``geometry.py``); a reader of files that turn the other way
    negates them, and says so in :attr:`Item.notes`. Lengths are those of the array that the item
    holds: a reader that bins detectors states the pitch of the binned ones.
    """

    model_config = ConfigDict(frozen=True)

    source: str = Field("", description="where this was read, such as a file and its field")
    beam: Literal["parallel", "fan"] | None = Field(None, description="parallel rays, or a fan")
    angles: tuple[float, ...] | None = Field(
        None, min_length=1, description="of every view in the file, in degrees"
    )
    source_to_axis: float | None = Field(
        None, gt=0, description="from the source to the axis of rotation, in millimetres"
    )
    source_to_detector: float | None = Field(
        None, gt=0, description="from the source to the detector, in millimetres"
    )
    detectors: int | None = Field(None, ge=1, description="detectors in a row of the file")
    detector_pitch: float | None = Field(
        None, gt=0, description="from detector to detector, on the detector, in millimetres"
    )
    axis_offset: float | None = Field(
        None,
        description="of the detector's middle from the shadow of the axis, on the detector, in "
        "millimetres",
    )
    image_pixel: float | None = Field(
        None, gt=0, description="side of a pixel of the file's own image, in millimetres"
    )
    curved: bool | None = Field(None, description="the detector is an arc about the source")
    water: float | None = Field(None, gt=0, description="attenuation of water, per millimetre")

    def same_as(self, other: ScannerGeometry) -> bool:
        """Whether both say the same, wherever it was read: lengths to a millionth, angles to that
        of a turn."""
        return not self.differences(other)

    def differences(self, other: ScannerGeometry) -> list[str]:
        """What they say differently, such as "source_to_axis: 410.66 and 411"."""
        found = []
        for name in type(self).model_fields:
            mine, others = getattr(self, name), getattr(other, name)
            if name == "source" or _same(mine, others):
                continue
            if name == "angles" and mine is not None and others is not None:
                mine, others = _span(mine), _span(others)
            found.append(f"{name}: {mine} and {others}")
        return found


def _same(a: object, b: object) -> bool:
    if isinstance(a, float) and isinstance(b, float):
        return math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-9)
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(abs(x - y) <= 360e-6 for x, y in zip(a, b))
    return a == b


def _span(angles: tuple[float, ...]) -> str:
    return f"{len(angles)} views, {angles[0]:g}° … {angles[-1]:g}°"
