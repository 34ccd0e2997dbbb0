"""Why a tomographic operator does not explain its data: the usual causes are tried, one by one.

Each is tried on a coarse copy of the scan, of at most ``COARSE`` pixels a side: what mends the fit
there mends it here. What no measurement can tell is not tried: over a full turn, a shift of all
views only turns the image, and the sense of rotation of a parallel beam only mirrors it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from ..imaging.linear import least_squares
from ..imaging.tomography import Tomography
from ..imaging.tomography.geometry import FanGeometry, Geometry

COARSE = 64
#: Iterations of least squares; more of them fit what is wrong, too.
ITERATIONS = 20
#: How far off the axis is looked for, as a part of the detector.
FARTHEST = 0.12
#: A cause is named if it leaves at most this share of the misfit.
MENDS = 0.6
#: How precisely the axis is found, in detectors of the scan.
PRECISION = 0.05


@dataclass(frozen=True)
class Cause:
    """What would explain the data better, and the misfit ‖A x − y‖ / ‖y‖ that it would leave."""

    what: str
    remedy: str
    misfit: float


def likely_cause(physics: Tomography, y: Tensor) -> Cause | None:
    """The cause that explains measurements best, if one mends the fit.

    Args:
        physics: as it is configured.
        y: (B, 1, views, detectors), of which the first two are looked at.
    """
    geometry, values, factor = _coarse(physics.geometry, y[:2])
    now = misfit(geometry, values)
    found = [*_axis(geometry, values, factor), *_others(geometry, values)]
    best = min(found, key=lambda cause: cause.misfit, default=None)
    return best if best is not None and best.misfit < MENDS * now else None


def misfit(geometry: Geometry, y: Tensor) -> float:
    """What a few iterations of least squares leave of the measurements, ‖A x − y‖ / ‖y‖."""
    physics = Tomography(geometry, 1.0, normalize=True).to(y.dtype)
    x = least_squares(physics.A, physics.A_adjoint, y, 0.0, ITERATIONS).value
    return float((physics.A(x) - y).norm() / y.norm().clamp_min(1e-30))


def _coarse(geometry: Geometry, y: Tensor) -> tuple[Geometry, Tensor, int]:
    """The scan with larger pixels and detectors, its measurements, and how many times larger."""
    factor = max(1, math.ceil(max(geometry.height, geometry.width) / COARSE))
    count = geometry.detectors // factor
    spare = geometry.detectors - count * factor
    left = spare // 2
    binned = y[..., left : left + count * factor].unflatten(-1, (count, factor)).mean(-1)
    middle = geometry.offset + left + (count * factor - geometry.detectors) / 2
    changes: dict[str, Any] = {
        "height": max(1, geometry.height // factor),
        "width": max(1, geometry.width // factor),
        "detectors": count,
        "offset": middle / factor,
    }
    if isinstance(geometry, FanGeometry):
        changes["source_distance"] = geometry.source_distance / factor
        changes["detector_distance"] = geometry.detector_distance / factor
    return replace(geometry, **changes), binned, factor


def _axis(geometry: Geometry, y: Tensor, factor: int) -> Iterator[Cause]:
    """Another place of the axis of rotation on the detector."""

    def at(offset: float) -> float:
        return misfit(replace(geometry, offset=offset), y)

    reach = math.ceil(FARTHEST * geometry.detectors)
    first = geometry.offset - reach
    places = [first + step for step in range(2 * reach + 1)]
    middle = min(places, key=at)
    best = _golden_section(at, middle - 1, middle + 1, PRECISION / factor)
    moved = (best - geometry.offset) * factor
    if abs(moved) > 2 * PRECISION:
        yield Cause(
            f"the axis of rotation is {moved:+.1f} detectors from where it is assumed",
            f"add {moved:+.2f} to physics.offset",
            at(best),
        )


def _golden_section(f: Callable[[float], float], low: float, high: float, width: float) -> float:
    """Where a function with one valley between ``low`` and ``high`` is smallest."""
    ratio = (math.sqrt(5) - 1) / 2
    a, b = high - ratio * (high - low), low + ratio * (high - low)
    fa, fb = f(a), f(b)
    while high - low > width:
        if fa < fb:
            high, b, fb = b, a, fa
            a = high - ratio * (high - low)
            fa = f(a)
        else:
            low, a, fa = a, b, fb
            b = low + ratio * (high - low)
            fb = f(b)
    return (low + high) / 2


def _others(geometry: Geometry, y: Tensor) -> Iterator[Cause]:
    angles = geometry.angles
    trials = [
        (
            "the angles are in radians",
            "give physics.angles in degrees",
            [math.degrees(angle) for angle in angles],
        ),
        (
            "the views cover twice the angle",
            "double physics.angles (a list: views over 360° instead of 180°)",
            [2 * angle for angle in angles],
        ),
        (
            "the views cover half the angle",
            "halve physics.angles (a list: views over 180° instead of 360°)",
            [angle / 2 for angle in angles],
        ),
    ]
    if isinstance(geometry, FanGeometry):
        trials.append(
            (
                "the scanner turns the other way",
                "negate physics.angles",
                [-angle for angle in angles],
            )
        )
    for what, remedy, other in trials:
        yield Cause(what, remedy, misfit(replace(geometry, angles=tuple(other)), y))
    yield from _order(geometry, y)
    yield from _counts(geometry, y)


def _order(geometry: Geometry, y: Tensor) -> Iterator[Cause]:
    """The views in another order than their angles."""
    for what, remedy, other in (
        (
            "the first view stands last",
            "move the last row of each sinogram to its beginning",
            y.roll(1, -2),
        ),
        (
            "the last view stands first",
            "move the first row of each sinogram to its end",
            y.roll(-1, -2),
        ),
    ):
        yield Cause(what, remedy, misfit(geometry, other))
    if y.shape[-1] == y.shape[-2]:
        what, remedy = "views and detectors are swapped", "transpose the sinograms"
        yield Cause(what, remedy, misfit(geometry, y.mT))


def _counts(geometry: Geometry, y: Tensor) -> Iterator[Cause]:
    """Raw counts: largest where nothing is in the way, and falling exponentially elsewhere."""
    if float(y.min()) <= 0:
        return
    open_beam = y.flatten(1).quantile(0.99, dim=1).reshape(-1, 1, 1, 1)
    integrals = -(y / open_beam).clamp_max(1).log()
    if float(integrals.abs().max()) > 0:
        yield Cause(
            "these are counts behind the object, not line integrals",
            "take −log(counts / counts without the object), and set data.peak anew",
            misfit(geometry, integrals),
        )
