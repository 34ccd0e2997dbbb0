"""Where the rays run: lengths in pixels, angles in degrees, points (column, row) from the centre.

A ray is a point and a direction. At view angle θ the detector's axis is (cos θ, −sin θ) and the
(central) ray runs along (sin θ, cos θ): at 0° the columns are summed, and angles turn as in
``skimage.transform.radon`` and ``deepinv.physics.Tomography``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

#: Where the axis of rotation is, (column, row) from the image's middle, in pixels.
Axis = tuple[float, float]


@dataclass(frozen=True)
class ParallelGeometry:
    """A parallel beam."""

    height: int
    width: int
    angles: tuple[float, ...]  #: degrees
    detectors: int
    offset: float  #: of the detector's middle from the axis' shadow, in detectors
    pitch: float = 1.0  #: width of a detector; negative: they are counted the other way
    axis: Axis = (0.0, 0.0)
    per_detector: int = 1  #: rays, of which a detector measures the mean

    def positions(self) -> np.ndarray:
        """(detectors · per_detector,) where every ray meets the detector's axis, from the shadow of
        the axis of rotation."""
        return self.pitch * _indices(self)

    def rays(self, view: int) -> tuple[np.ndarray, np.ndarray]:
        """A point and a direction of every ray of a view, each (detectors · per_detector, 2); the
        rays of one detector follow each other."""
        theta = math.radians(self.angles[view])
        across = np.array([math.cos(theta), -math.sin(theta)])
        along = np.array([math.sin(theta), math.cos(theta)])
        point = self.positions()[:, None] * across + np.array(self.axis)
        return point, np.broadcast_to(along, point.shape)

    def half_width(self, by_either_side: bool = False) -> float:
        """How far from the axis every view sees, in pixels; or every view or its opposite."""
        reach = max(_sides(self)) if by_either_side else min(_sides(self))
        return abs(self.pitch) * max(0.0, reach)


@dataclass(frozen=True)
class FanGeometry:
    """A fan beam: the source turns at ``source_distance`` from the axis of rotation, the detector
    at ``detector_distance`` on the other side."""

    height: int
    width: int
    angles: tuple[float, ...]  #: degrees
    detectors: int
    source_distance: float
    detector_distance: float
    detector_pitch: float  #: negative: the detectors are counted the other way
    curved: bool
    offset: float  #: of the detector's middle from the axis' shadow, in detectors
    axis: Axis = (0.0, 0.0)
    per_detector: int = 1  #: rays, of which a detector measures the mean

    @property
    def source_to_detector(self) -> float:
        return self.source_distance + self.detector_distance

    def fan_angles(self) -> np.ndarray:
        """(detectors,) the angle of every detector's middle against the central ray, in radians."""
        return self._angle_of(_indices(replace(self, per_detector=1)))

    def _angle_of(self, index: np.ndarray) -> np.ndarray:
        position = index * self.detector_pitch
        if self.curved:
            return position / self.source_to_detector
        return np.arctan2(position, self.source_to_detector)

    def rays(self, view: int) -> tuple[np.ndarray, np.ndarray]:
        """The source and the direction of every ray of a view, each (detectors · per_detector, 2);
        the rays of one detector follow each other."""
        theta = math.radians(self.angles[view])
        across = np.array([math.cos(theta), -math.sin(theta)])
        along = np.array([math.sin(theta), math.cos(theta)])
        fan = self._angle_of(_indices(self))
        direction = np.cos(fan)[:, None] * along + np.sin(fan)[:, None] * across
        source = np.array(self.axis) - self.source_distance * along
        return np.broadcast_to(source, direction.shape), direction

    def half_width(self, by_either_side: bool = False) -> float:
        """How far from the axis every view sees, in pixels; or every view or its opposite."""
        reach = max(_sides(self)) if by_either_side else min(_sides(self))
        angle = abs(float(self._angle_of(np.array(max(0.0, reach)))))
        return self.source_distance * math.sin(angle)


def _indices(g: ParallelGeometry | FanGeometry) -> np.ndarray:
    """(detectors · per_detector,) the place of every ray on the detector, from the shadow of the
    axis of rotation, in detectors."""
    rays = g.detectors * g.per_detector
    return (np.arange(rays) - (rays - 1) / 2) / g.per_detector + g.offset


def _sides(g: ParallelGeometry | FanGeometry) -> tuple[float, float]:
    """How far the detector reaches to both sides of the axis' shadow, in detectors."""
    return g.detectors / 2 + g.offset, g.detectors / 2 - g.offset


Geometry = ParallelGeometry | FanGeometry


def refined(g: Geometry, times: int, binned: int = 1, rays: int = 1) -> Geometry:
    """The same beam on a grid ``times`` as fine, with ``binned`` times as many detectors, each of
    ``rays`` rays."""
    common: dict[str, Any] = {
        "height": g.height * times,
        "width": g.width * times,
        "detectors": g.detectors * binned,
        "offset": g.offset * binned,
        "axis": (g.axis[0] * times, g.axis[1] * times),
        "per_detector": rays,
    }
    if isinstance(g, FanGeometry):
        common["source_distance"] = g.source_distance * times
        common["detector_distance"] = g.detector_distance * times
        return replace(g, detector_pitch=g.detector_pitch * times / binned, **common)
    return replace(g, pitch=g.pitch * times / binned, **common)


def view_angles(angles: int | Tensor | Sequence[float], span: float) -> tuple[float, ...]:
    """Degrees: as given, or that many views spread evenly over [0°, ``span``)."""
    if isinstance(angles, Integral) and not isinstance(angles, bool):
        if angles < 1:
            raise ValueError(f"angles must be at least 1 view, got {angles}")
        return tuple(span * i / int(angles) for i in range(int(angles)))
    if isinstance(angles, (bool, float)) or getattr(angles, "ndim", 1) == 0:
        raise ValueError(
            f"angles must be a whole number of views or a sequence of degrees, got {angles!r}"
        )
    values = torch.as_tensor(angles, dtype=torch.float64)
    if values.ndim != 1:
        raise ValueError(
            f"angles must be one number of degrees for each view, got shape {tuple(values.shape)}"
        )
    if len(values) == 0:
        raise ValueError("angles must be at least one view, got none")
    if not bool(values.isfinite().all()):
        first = int((~values.isfinite()).nonzero()[0])
        raise ValueError(f"angles must be finite degrees, but view {first} is {values[first]}")
    return tuple(values.tolist())


def detector_count(detectors: int | None, extent: float, offset: float) -> int:
    """As given, or enough for ``extent`` (in detectors) on both sides of the offset."""
    if not math.isfinite(offset):
        raise ValueError(f"offset must be a finite number of detectors, got {offset}")
    if detectors is None:
        return math.ceil(extent + 2 * abs(offset))
    is_number = isinstance(detectors, Real) and not isinstance(detectors, bool)
    if not is_number or not float(detectors).is_integer() or detectors < 1:
        raise ValueError(f"detectors must be a whole number, at least 1, got {detectors!r}")
    return int(detectors)


def view_shares(angles: Sequence[float], period: float) -> np.ndarray:
    """(views,) the share of the circle that is nearest to each view, in radians; they sum to
    ``period`` (in degrees: 180 for parallel rays, which come back after half a turn, 360 for fans).

    This is the quadrature weight of a view (Voronoi). Views that are given twice, such as the ends
    of 0°, …, 180°, share what one of them would have.
    """
    gaps, order = view_gaps(angles, period)
    shares = np.empty(len(gaps))
    shares[order] = (gaps + np.roll(gaps, 1)) / 2
    return np.radians(shares)


def go_all_around(angles: Sequence[float]) -> bool:
    """Whether views cover the turn without a gap of more than a twelfth of it."""
    gaps, _ = view_gaps(angles, 360.0)
    return bool(np.max(gaps) <= 30.0)


def view_gaps(angles: Sequence[float], period: float) -> tuple[np.ndarray, np.ndarray]:
    """Degrees from each view to the next on a circle of ``period`` degrees, and the views' order
    there."""
    turned = np.mod(np.asarray(angles, dtype=np.float64), period)
    order = np.argsort(turned, kind="stable")
    ordered = turned[order]
    gaps = np.diff(np.append(ordered, ordered[0] + period))
    return gaps, order
