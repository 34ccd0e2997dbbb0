"""Whether the views of a parallel beam agree with each other, without any reconstruction.

The n-th moment of a view over the detector, as a function of the view's angle θ, is a trigonometric
polynomial: its harmonics are n, n − 2, … and no others (Helgason 1965, Ludwig 1966). What else is
in it is noise, or an error of the angles, of their order, or of the axis of rotation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

#: The highest moment that is looked at: higher ones hold less of the object, and more noise.
HIGHEST = 8
#: The outermost part of the detector, on either side, where nothing should be in the way.
EDGE = 0.03
#: A view is complete if its edges hold at most this share of its largest values.
EMPTY = 0.05


class Moments:
    """The moments of sinograms, and how far they are from those of any image.

    Args:
        sinograms: (B, views, detectors), line integrals of parallel rays.
    """

    def __init__(self, sinograms: np.ndarray):
        self.y = without_background(sinograms.astype(np.float64))
        self.count, self.views, self.detectors = self.y.shape

    def inconsistency(self, angles: Sequence[float], offset: float) -> float:
        """The root mean square of what the moments have beyond the harmonics that they may have,
        as a share of the moments' own. Of noise alone it is that of the noise."""
        return self.at(angles)(offset)

    def at(self, angles: Sequence[float]) -> MomentsOfAngles:
        """The same for many places of the axis, and angles in degrees."""
        return MomentsOfAngles(self, angles)

    def about(self, offset: float) -> np.ndarray:
        """(B, views, HIGHEST + 1) the coefficients of orthonormal Legendre polynomials about the
        axis: white noise gives each of them the same variance."""
        s = np.arange(self.detectors) - (self.detectors - 1) / 2 + offset
        reach = np.abs(s).max()
        basis = np.polynomial.legendre.legvander(s / reach, HIGHEST)
        coefficients: np.ndarray = self.y @ (
            basis * np.sqrt((np.arange(HIGHEST + 1) + 0.5) / reach)
        )
        return coefficients


class MomentsOfAngles:
    """The inconsistency of moments whose views have given angles, for any place of the axis."""

    def __init__(self, moments: Moments, angles: Sequence[float]):
        self.moments = moments
        theta = np.radians(np.asarray(angles, dtype=np.float64))
        self.bases = [_orthonormal(_harmonics(theta, n)) for n in range(HIGHEST + 1)]
        room = [moments.views - basis.shape[1] for basis in self.bases]
        #: How many numbers tell an inconsistency.
        self.freedom = moments.count * sum(room)

    def __call__(self, offset: float) -> float:
        """See :meth:`Moments.inconsistency`."""
        coefficients = self.moments.about(offset)
        left = 0.0
        for n, basis in enumerate(self.bases):
            moment = coefficients[..., n]
            left += float(np.square(moment - (moment @ basis) @ basis.T).sum())
        whole = float(np.square(coefficients).sum())
        share = left / max(self.freedom, 1) * coefficients.size / max(whole, 1e-300)
        return math.sqrt(share)


def _harmonics(theta: np.ndarray, n: int) -> np.ndarray:
    """(views, n + 1) the harmonics that the n-th moment may have."""
    columns = []
    for k in range(n % 2, n + 1, 2):
        columns.append(np.cos(k * theta))
        if k:
            columns.append(np.sin(k * theta))
    return np.stack(columns, 1)


def _orthonormal(columns: np.ndarray) -> np.ndarray:
    """An orthonormal basis of what the columns span, though they may hardly differ."""
    u, sizes, _ = np.linalg.svd(columns, full_matrices=False)
    basis: np.ndarray = u[:, sizes > 1e-7 * sizes[0]]
    return basis


def _edges(sinograms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(B,) the typical value at the left and at the right end of the detector."""
    width = max(2, round(EDGE * sinograms.shape[-1]))
    left = np.median(sinograms[..., :width], axis=(-2, -1))
    right = np.median(sinograms[..., -width:], axis=(-2, -1))
    return left, right


def without_background(sinograms: np.ndarray) -> np.ndarray:
    """The sinograms without what is left of the open beam beside the object, which would draw the
    centre of mass to the detector's middle: a line from one edge to the other."""
    left, right = _edges(sinograms)
    place = np.linspace(0, 1, sinograms.shape[-1])
    background = left[:, None] * (1 - place) + right[:, None] * place
    result: np.ndarray = sinograms - background[:, None, :]
    return result


def are_complete(sinograms: np.ndarray) -> bool:
    """Whether the object ends within the detector in every view, (B, views, detectors)."""
    width = max(2, round(EDGE * sinograms.shape[-1]))
    largest = np.quantile(np.abs(sinograms), 0.99)
    ends = np.concatenate([sinograms[..., :width], sinograms[..., -width:]], -1)
    means = np.abs(ends.mean(-1))
    return bool(np.quantile(means, 0.98) <= EMPTY * largest)
