"""A coarse copy of a scan, on which much can be tried in little time."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from .consistency import noise_share
from .geometry import FanGeometry, Geometry
from .moments import are_complete

#: An image of a truncated scan is this many times as wide as what all views see: what lies outside
#: is in the way, too.
BEYOND = 1.7


@dataclass(frozen=True)
class CoarseScan:
    """Some views of a scan, on fewer and wider detectors. The image is as wide as the detector's
    shadow, whatever the scan's own image is, and its pixels as wide as a detector's shadow."""

    geometry: Geometry  #: with the angles of the views ``rows`` alone
    values: np.ndarray  #: (B, views, detectors) float32
    factor: int  #: how many detectors of the scan are one of these
    rows: np.ndarray  #: which views of the scan these are
    noise: float  #: as a share of the values

    def at(self, offset: float, of: Geometry) -> Geometry:
        """The coarse geometry with the axis where the scan ``of`` has it at ``offset``."""
        moved = (offset - of.offset) / self.factor
        return replace(self.geometry, offset=self.geometry.offset + moved)


def coarsened(geometry: Geometry, sinograms: np.ndarray, size: int, views: int) -> CoarseScan:
    """At most ``size`` detectors and ``views`` views, the first and the last among them.

    Args:
        sinograms: (B, views, detectors).
    """
    count = len(geometry.angles)
    rows = np.unique(np.linspace(0, count - 1, min(count, views)).round().astype(int))
    factor = max(1, math.ceil(geometry.detectors / size))
    kept = geometry.detectors // factor
    left = (geometry.detectors - kept * factor) // 2
    values = sinograms[:, rows, left : left + kept * factor]
    values = values.reshape(*values.shape[:2], kept, factor).mean(-1)
    middle = geometry.offset + left + (kept * factor - geometry.detectors) / 2
    side = kept if are_complete(sinograms) else math.ceil(BEYOND * kept)
    changes: dict[str, Any] = {
        "height": side,
        "width": side,
        "angles": tuple(geometry.angles[row] for row in rows),
        "detectors": kept,
        "offset": middle / factor,
        **_lengths(geometry, factor),
    }
    noise = noise_share(sinograms) / math.sqrt(factor)
    return CoarseScan(replace(geometry, **changes), values.astype(np.float32), factor, rows, noise)


def _lengths(geometry: Geometry, factor: int) -> dict[str, Any]:
    """The lengths of a geometry in pixels that are ``factor`` detectors' shadows at the axis."""
    known = {field.name for field in fields(geometry)}
    plain = {"axis": (0.0, 0.0), "per_detector": 1}
    changes: dict[str, Any] = {name: value for name, value in plain.items() if name in known}
    if not isinstance(geometry, FanGeometry):
        sign = math.copysign(1.0, getattr(geometry, "pitch", 1.0))
        return {**changes, "pitch": sign} if "pitch" in known else changes
    near, far = geometry.source_distance, geometry.source_to_detector
    pixel = abs(geometry.detector_pitch) * near / far * factor
    return {
        **changes,
        "source_distance": near / pixel,
        "detector_distance": geometry.detector_distance / pixel,
        "detector_pitch": geometry.detector_pitch * factor / pixel,
    }
