"""Where the axis of rotation is on the detector, found from the measurements alone.

Of a parallel beam whose views are complete, by their moments: those of opposite views mirror each
other about the axis, and sparse views or a limited angle tell it as well. Of a fan, or of truncated
views, by the place that leaves the best image of a small copy of the scan.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from .coarse import CoarseScan, coarsened
from .consistency import inconsistency
from .geometry import Geometry, ParallelGeometry, go_all_around
from .moments import Moments, are_complete

#: How far from the detector's middle it is looked for first, as a share of the detector; and where
#: it is not found there by views that go all around, or by complete ones: such scans may have the
#: axis near an end of the detector, which doubles the field of view.
FARTHEST, FARTHEST_AROUND = 0.2, 0.5
#: An axis so far away has to leave less than this share of what the best one nearby leaves.
CLEARLY_BETTER = 0.5
#: An axis that is less certain than this, in detectors, is not told at all; far from the middle,
#: where few detectors see both sides of it, any that is known at all is far better than none.
TELLABLE, TELLABLE_FAR = 0.3, 1.0
#: What no statistics know of: pixels, rays that are not lines. In detectors.
LEAST_UNCERTAINTY = 0.02
#: Detectors and views of the small copies that are looked at, first and last.
SEARCHED, REFINED = (40, 40), (96, 60)
#: Views that disagree by more than this, as a share of their moments, tell no axis.
AGREEING = 0.2

Cost = Callable[[float], float]


@dataclass(frozen=True)
class AxisEstimate:
    """The axis of rotation, as ``offset`` of a geometry has it."""

    offset: float  #: of the detector's middle from the axis' shadow, in detectors
    uncertainty: float  #: twice the standard error, in detectors
    method: str  #: "moments", or "fit" of a small image
    reach: float = math.inf  #: how far from the detector's middle it was looked for, in detectors
    tellable: float = TELLABLE  #: the uncertainty up to which it is told

    @property
    def is_told(self) -> bool:
        """Whether the measurements tell it."""
        return self.uncertainty <= self.tellable

    def __str__(self) -> str:
        if not self.is_told:
            return "the measurements do not tell the axis of rotation"
        return f"offset {self.offset:+.2f} ± {self.uncertainty:.2f} detectors"


def estimate_axis(geometry: Geometry, sinograms: np.ndarray) -> AxisEstimate:
    """The axis that sinograms of one scan tell together.

    Args:
        geometry: its ``offset`` is where the search begins, and means nothing else.
        sinograms: (B, views, detectors), line integrals in any unit.

    Raises:
        ValueError: the sinograms do not have the geometry's views and detectors.
    """
    wanted = len(geometry.angles), geometry.detectors
    if sinograms.ndim != 3 or sinograms.shape[1:] != wanted:
        raise ValueError(
            f"sinograms must be (B, {wanted[0]} views, {wanted[1]} detectors), got "
            f"{sinograms.shape}"
        )
    if not np.any(sinograms) or len(geometry.angles) < 3:
        return AxisEstimate(geometry.offset, math.inf, "fit")
    if isinstance(geometry, ParallelGeometry) and are_complete(sinograms):
        found = _by_moments(geometry, sinograms)
        if found.is_told:
            return found
    found, left = _by_fit(geometry, sinograms, FARTHEST)
    if not found.is_told and go_all_around(geometry.angles):
        farther, left_there = _by_fit(geometry, sinograms, FARTHEST_AROUND)
        if left_there < CLEARLY_BETTER * left:
            return replace(farther, tellable=TELLABLE_FAR)
    return found


def _by_moments(geometry: ParallelGeometry, sinograms: np.ndarray) -> AxisEstimate:
    cost = Moments(sinograms).at(geometry.angles)
    reach = FARTHEST_AROUND * geometry.detectors
    places = np.linspace(-reach, reach, 1 + 2 * math.ceil(reach / 2))
    nearest = float(min(places, key=cost))
    step = float(places[1] - places[0])
    best, curvature, _ = _valley(cost, nearest, step)
    best, curvature, _ = _valley(cost, best, 0.25 * step)
    value = cost(best)
    if value > AGREEING:
        return AxisEstimate(best, math.inf, "moments", reach)
    error = _error(value**2, curvature, cost.freedom)
    return AxisEstimate(best, error, "moments", reach)


def _by_fit(geometry: Geometry, sinograms: np.ndarray, share: float) -> tuple[AxisEstimate, float]:
    """Coarse first, over the whole range, which is this share of the detector to both sides; then
    finer, about what was found. With what the best image leaves there."""
    rough = coarsened(geometry, sinograms, *SEARCHED)
    cost = _fit_cost(rough, geometry)
    reach = math.ceil(share * rough.geometry.detectors) * rough.factor
    places = np.arange(-reach, reach + 1, rough.factor, dtype=float)
    nearest = float(min(places, key=cost))
    fine = coarsened(geometry, sinograms, *REFINED)
    cost = _fit_cost(fine, geometry)
    best, *_ = _valley(cost, nearest, rough.factor / 2)
    step = max(0.5, fine.factor / 4)
    best, curvature, scatter = _valley(cost, best, step)
    freedom = fine.values.size
    error = _error(cost(best) ** 2, curvature, freedom)
    roughness = 2 * scatter / max(curvature * step**2, 1e-300) * step
    return AxisEstimate(best, math.hypot(error, roughness), "fit", reach), cost(best)


def _fit_cost(coarse: CoarseScan, geometry: Geometry) -> Cost:
    known: dict[float, float] = {}

    def cost(offset: float) -> float:
        if offset not in known:
            known[offset] = inconsistency(coarse.at(offset, geometry), coarse.values, coarse.noise)
        return known[offset]

    return cost


#: Places beside the middle at which a valley is measured, in steps.
PLACES = (-2.0, -1.0, 0.0, 1.0, 2.0)


def _valley(cost: Cost, middle: float, step: float) -> tuple[float, float, float]:
    """The bottom of the parabola through costs² about ``middle``, its curvature, and how far the
    costs² scatter about it. The bottom is not looked for farther than the places reach."""
    places = np.asarray(PLACES)
    values = np.asarray([cost(middle + step * place) ** 2 for place in places])
    lowest = places[int(values.argmin())]
    if abs(lowest) == max(PLACES):
        return middle + step * lowest, 0.0, math.inf
    a, b, c = np.polyfit(places, values, 2)
    scatter = float(np.sqrt(np.square(values - np.polyval((a, b, c), places)).sum() / 2))
    if a <= 0:
        return middle + step * lowest, 0.0, math.inf
    bottom = float(np.clip(-b / (2 * a), -2, 2))
    return middle + step * bottom, float(2 * a / step**2), scatter


def _error(lowest: float, curvature: float, freedom: int) -> float:
    """Twice the standard error of a least-squares estimate: where the sum of squares has grown by
    its share of one of its ``freedom``."""
    if curvature <= 0 or freedom <= 0:
        return math.inf
    return LEAST_UNCERTAINTY + 2 * math.sqrt(2 * lowest / (curvature * freedom))
