"""What may be wrong with a tomographic set-up, and what each would mean: one trial a mistake.

A trial is the scan as it would be had the mistake been made. What no measurement can tell is not
tried: over a full turn a shift of all views only turns the image, the sense of rotation of a
parallel beam only mirrors it, and twice the distances are twice the image.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from ...imaging.tomography import FanGeometry
from ...imaging.tomography.axis import AxisEstimate, estimate_axis
from ...imaging.tomography.coarse import CoarseScan, coarsened
from ...imaging.tomography.consistency import ITERATIONS, inconsistency
from ...imaging.tomography.geometry import Geometry, ParallelGeometry, go_all_around
from ...imaging.tomography.moments import Moments, are_complete

#: Detectors and views of the copy of a scan that mistakes are tried on, and of the one on which a
#: number is looked for first.
COARSE, COARSER = (48, 48), (32, 32)
#: The scales that are tried: of the angles, and of the distances of a fan.
SCALES = np.exp(np.arange(-22, 23) * 0.04)
#: A nearer axis, in detectors, is not worth a word.
LEAST_AXIS = 0.35
#: More than a turn is not proposed, but for a view or two that are measured twice, in degrees.
MOST_SPAN = 370.0
#: What another magnification may leave to be named. Of thin walls and sharp edges a narrower fan
#: leaves 0.75 to 0.82 of what the right one leaves, since coarse pixels explain neither; where the
#: distances are wrong by a factor of two it is 0.4 over a full turn, and 0.7 over a third of one.
MENDS_AROUND, MENDS_LIMITED = 0.6, 0.74
DISTANCES = np.exp(np.arange(-10, 11) * 0.1)


@dataclass(frozen=True)
class Trial:
    """A scan as it would be, had one mistake been made."""

    name: str  #: of the mistake, such as "axis" or "order"
    what: str  #: the mistake, in a sentence
    remedy: str
    geometry: Geometry
    #: What becomes of the angles, of all views of a file; None: nothing.
    turn: Callable[[np.ndarray], np.ndarray] | None = None
    values: str = "as given"  #: what is done to the sinograms: a key of ``VALUES``
    #: The share of the inconsistency that it may leave to be named.
    mends: float = 0.85


def line_integrals(counts: np.ndarray) -> np.ndarray:
    """−log of counts, (B, views, detectors), over the brightest that there are: by detector, where
    all of them see past the object."""
    positive = np.maximum(counts, 1e-6 * np.abs(counts).max())
    open_beam = np.quantile(positive, 0.99, axis=(1, 2), keepdims=True)
    integrals: np.ndarray = -np.log(np.minimum(positive / open_beam, 1))
    return integrals


#: How the sinograms of a trial are made of those that are given.
VALUES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "as given": lambda y: y,
    "transposed": lambda y: y.swapaxes(-1, -2),
    "line integrals": line_integrals,
}


class Judge:
    """How inconsistent a scan is with a trial's geometry. Parallel views that are complete are
    judged by their moments, all others by the best image of a small copy.

    Args:
        geometry: as it is configured.
        y: (B, views, detectors).
    """

    def __init__(self, geometry: Geometry, y: np.ndarray):
        self.geometry, self.y = geometry, y
        self.by_moments = isinstance(geometry, ParallelGeometry) and are_complete(y)
        self.moments = Moments(y) if self.by_moments else None
        self._coarse: dict[tuple[str, tuple[int, int]], CoarseScan] = {}

    def __call__(self, trial: Trial) -> float:
        return self.of(trial.geometry, trial.values)

    def of(self, geometry: Geometry, values: str = "as given") -> float:
        if self.moments is not None and values == "as given":
            return self.moments.inconsistency(geometry.angles, geometry.offset)
        return self.by_fit(geometry, values)

    def roughly(self, geometry: Geometry) -> float:
        """The same in less time, to look for a number among many."""
        if self.moments is not None:
            return self.of(geometry)
        return self.by_fit(geometry, copy=COARSER, iterations=ITERATIONS // 2)

    def by_fit(
        self,
        geometry: Geometry,
        values: str = "as given",
        copy: tuple[int, int] = COARSE,
        iterations: int = ITERATIONS,
    ) -> float:
        """What the best image of a small copy leaves, and what its roughness costs."""
        key = values, copy
        if key not in self._coarse:
            self._coarse[key] = coarsened(self.geometry, VALUES[values](self.y), *copy)
        coarse = self._coarse[key]
        moved = coarse.at(geometry.offset, self.geometry)
        moved = replace(moved, angles=tuple(geometry.angles[row] for row in coarse.rows))
        if isinstance(moved, FanGeometry) and isinstance(geometry, FanGeometry):
            assert isinstance(self.geometry, FanGeometry)
            scale = geometry.source_distance / self.geometry.source_distance
            moved = with_distances(moved, scale)
        return inconsistency(moved, coarse.values, coarse.noise, iterations)


def with_distances(geometry: FanGeometry, scale: float) -> FanGeometry:
    """Source and detector that many times as far away, with detectors whose shadows at the axis
    are as wide as before: a fan that is so many times as narrow."""
    return replace(
        geometry,
        source_distance=scale * geometry.source_distance,
        detector_distance=scale * geometry.detector_distance,
    )


def trials(judge: Judge) -> Iterator[Trial]:
    """All that may be wrong, one by one."""
    yield from _axis(judge)
    yield from _angles(judge.geometry)
    yield from _span(judge)
    yield from _order(judge.geometry)
    if isinstance(judge.geometry, FanGeometry):
        yield from _fan(judge, judge.geometry)
    yield from _values(judge)


def _axis(judge: Judge) -> Iterator[Trial]:
    found = estimate_axis(judge.geometry, judge.y)
    moved = found.offset - judge.geometry.offset
    if found.is_told and abs(moved) > max(LEAST_AXIS, 1.5 * found.uncertainty):
        convention = _convention(judge.geometry, found)
        other = ", or physics.convention=skimage" if convention else ""
        yield Trial(
            "axis",
            f"the axis of rotation is {moved:+.1f} detectors from where it is assumed "
            f"({found}){convention}",
            f"add {moved:+.2f} to physics.offset, or set physics.offset=auto{other}",
            replace(judge.geometry, offset=round(found.offset, 3)),
            mends=0.92,
        )


def _convention(geometry: Geometry, found: AxisEstimate) -> str:
    is_even = geometry.detectors % 2 == 0
    if isinstance(geometry, ParallelGeometry) and is_even and abs(found.offset + 0.5) < 0.15:
        return ", as in sinograms of even size by skimage.transform.radon"
    return ""


def _angles(geometry: Geometry) -> Iterator[Trial]:

    def turned(
        name: str, what: str, remedy: str, turn: Callable[[np.ndarray], np.ndarray]
    ) -> Trial:
        return Trial(name, what, remedy, with_turned(geometry, turn), turn)

    yield turned(
        "radians",
        "the angles are in radians",
        "give physics.angles in degrees",
        np.degrees,
    )
    if 2 * _span_of(np.asarray(geometry.angles)) <= MOST_SPAN:
        yield turned(
            "span",
            "the views cover twice the angle",
            "double physics.angles (a list: views over 360° instead of 180°)",
            lambda angles: 2 * angles,
        )
    yield turned(
        "span",
        "the views cover half the angle",
        "halve physics.angles (a list: views over 180° instead of 360°)",
        lambda angles: angles / 2,
    )
    if isinstance(geometry, FanGeometry):
        yield turned(
            "sense",
            "the scanner turns the other way (or the views are stored in the opposite order, or "
            "the detectors are counted from the other end, as ASTRA counts them)",
            "negate physics.angles, or, if ASTRA made the sinograms, set physics.convention=astra: "
            "the images are each other's mirror image, which no measurement tells apart",
            lambda angles: -angles,
        )


def with_turned(geometry: Geometry, turn: Callable[[np.ndarray], np.ndarray]) -> Geometry:
    """The geometry with other angles."""
    return replace(geometry, angles=tuple(turn(np.asarray(geometry.angles)).tolist()))


def _scaled(scale: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda angles: angles[0] + scale * (angles - angles[0])


def _span(judge: Judge) -> Iterator[Trial]:
    """The views over another angle: the best of all scales, if it is none of the usual ones."""
    angles = np.asarray(judge.geometry.angles)

    def scaled(scale: float) -> Geometry:
        return with_turned(judge.geometry, _scaled(scale))

    def cost(scale: float) -> float:
        return judge.of(scaled(scale))

    costs = np.array([judge.roughly(scaled(scale)) for scale in SCALES])
    now = judge.roughly(judge.geometry)
    for best in _local_bottoms(costs):
        if costs[best] > 0.9 * now:
            continue
        scale = _refined(cost, float(SCALES[best]), 0.02)
        span = _span_of(angles)
        if abs(scale - 1) * span < 2 or scale * span > MOST_SPAN:
            continue
        yield Trial(
            "span",
            f"the views cover {scale * span:.0f}°, not {span:.0f}°",
            f"give physics.angles as a list of degrees, {len(angles)} of them over "
            f"{scale * span:.1f}°",
            scaled(scale),
            _scaled(scale),
        )


def _span_of(angles: np.ndarray) -> float:
    """What the views cover, with the share of the last one."""
    count = max(len(angles) - 1, 1)
    return float(abs(angles[-1] - angles[0])) * len(angles) / count


def _local_bottoms(costs: np.ndarray) -> list[int]:
    """The two deepest places that are lower than both of their neighbours."""
    padded = np.concatenate([[np.inf], costs, [np.inf]])
    inside = (padded[1:-1] <= padded[:-2]) & (padded[1:-1] <= padded[2:])
    places = np.flatnonzero(inside)
    return [int(place) for place in places[np.argsort(costs[places])][:2]]


def _refined(cost: Callable[[float], float], middle: float, step: float) -> float:
    """A scale near ``middle`` where the cost is smallest, to an eighth of the relative ``step``."""
    while step > 0.0025:
        middle = min((middle * (1 - step), middle, middle * (1 + step)), key=cost)
        step /= 2
    return middle


def _order(geometry: Geometry) -> Iterator[Trial]:
    """The rows of the sinograms in another order than the angles."""
    count = len(geometry.angles)
    rows = np.arange(count)
    halves = np.concatenate([rows[::2], rows[1::2]])
    pairs = rows.copy()
    pairs[: count // 2 * 2] = rows[: count // 2 * 2].reshape(-1, 2)[:, ::-1].ravel()
    orders = {
        "the first view stands last": np.roll(rows, -1),
        "the last view stands first": np.roll(rows, 1),
        "the first two views stand last": np.roll(rows, -2),
        "the last two views stand first": np.roll(rows, 2),
        "the second half of the views stands first": np.roll(rows, count // 2),
        "neighbouring views are swapped": pairs,
        "every other view stands first, and the others follow": halves,
        "the views are in order, their angles are not": rows,
        "the views are interleaved (the second half of them between the first)": np.argsort(halves),
    }
    steps = np.diff(geometry.angles)
    if bool((steps > 0).all() or (steps < 0).all()):
        orders = {what: order for what, order in orders.items() if "in order" not in what}
    for what, order in orders.items():
        turn = _put_in(order, first_sorted="in order" in what)
        other = with_turned(geometry, turn)
        if other == geometry:
            continue
        yield Trial(
            "order",
            what,
            "put the rows of each sinogram in the order of physics.angles, or give physics.angles "
            "as a list in the order of the rows",
            other,
            turn,
        )


def _put_in(order: np.ndarray, first_sorted: bool) -> Callable[[np.ndarray], np.ndarray]:
    """Angles in the order that rows are in; of another number of them, as they are."""

    def turn(angles: np.ndarray) -> np.ndarray:
        if len(angles) != len(order):
            return angles
        ordered: np.ndarray = (np.sort(angles) if first_sorted else angles)[order]
        return ordered

    return turn


def _fan(judge: Judge, geometry: FanGeometry) -> Iterator[Trial]:
    """Another magnification: all that a fan tells of it is how wide it opens."""

    def cost(scale: float) -> float:
        return judge.of(with_distances(geometry, scale))

    best = min(DISTANCES, key=lambda scale: judge.roughly(with_distances(geometry, scale)))
    if abs(math.log(best)) < 0.05:
        return
    best = _refined(cost, float(best), 0.05)
    if abs(math.log(best)) < 0.1:
        return
    other = with_distances(geometry, best)
    wider = "wider" if best < 1 else "narrower"
    yield Trial(
        "magnification",
        f"the fan is {wider} than the distances say: of source and detector, in detectors' "
        f"shadows at the axis, they would be about {best:.2f} times as large",
        "check physics.source_distance, physics.detector_distance and the detectors' width (they "
        "must be in pixels; their common scale cannot be told)",
        other,
        mends=MENDS_AROUND if go_all_around(geometry.angles) else MENDS_LIMITED,
    )


def pairs(judge: Judge) -> Iterator[Trial]:
    """Mistakes that hide each other: the sense of rotation of a fan, or the angle that views cover,
    while the axis is elsewhere. The first of both is named; the axis is found once it is mended."""
    for trial in _angles(judge.geometry):
        found = estimate_axis(trial.geometry, judge.y)
        if found.is_told:
            moved = replace(trial.geometry, offset=found.offset)
            what = f"{trial.what}, and the axis of rotation is not where it is assumed, either"
            yield replace(trial, what=what, geometry=moved, mends=0.6)


def _values(judge: Judge) -> Iterator[Trial]:
    y, geometry = judge.y, judge.geometry
    if y.shape[-1] == y.shape[-2]:
        yield Trial(
            "axes",
            "views and detectors are swapped",
            "transpose the sinograms",
            geometry,
            values="transposed",
        )
    if is_brighter_outside(y):
        yield Trial(
            "counts",
            "these are counts behind the object, not line integrals",
            "take −log(counts / counts without the object), and set data.peak anew",
            geometry,
            values="line integrals",
            mends=1.3,  # that they are brightest outside says most of it
        )


def is_brighter_outside(y: np.ndarray) -> bool:
    """Whether sinograms (B, views, detectors) are positive, and smaller in the middle of the
    detector than at its ends: so are counts, and line integrals are the other way round."""
    if float(np.quantile(y, 0.01)) <= 0:
        return False
    profile = y.mean((0, 1))
    width = max(1, len(profile) // 20)
    ends = np.concatenate([profile[:width], profile[-width:]])
    return bool(ends.mean() > 1.05 * profile[len(profile) // 4 : -len(profile) // 4].mean())
