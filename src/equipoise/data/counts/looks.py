"""What numbers look like: counts, or the line integrals that they stand for."""

from __future__ import annotations

import numpy as np

#: Where nothing is in the way, what one value in ten exceeds is no more than this many times what
#: nine in ten do: noise of few photons, and a beam that fades.
STEADY = 1.7
#: Of the light at the ends, what one detector in five sees less than, and what the darkest does: of
#: numbers that may be line integrals, whose profile may be hollow where an object is wider than the
#: detector; and of larger ones than any line integral, of which little need be absorbed.
LESS_LIGHT, LITTLE_LIGHT = (0.9, 0.75), (0.98, 0.93)
#: A line integral of so much lets no photon through.
INTEGRAL = 50.0


def _ends_and_brightest(values: np.ndarray) -> tuple[np.ndarray, float]:
    """What is measured at both ends of the detector, and what one value in a hundred exceeds."""
    finite = np.where(np.isfinite(values), values, np.nan)
    width = max(1, values.shape[-1] // 50)
    ends = np.concatenate([finite[..., :width], finite[..., -width:]], -1)
    ends = ends if np.isfinite(ends).any() else finite
    return ends, float(np.nanpercentile(finite, 99))


def look_like_counts(values: np.ndarray) -> bool:
    """Whether a sinogram (views, detectors) is bright and steady at its ends, where nothing is in
    the way, and darker between them, as counts and transmissions are: line integrals are smallest
    there."""
    values = np.atleast_1d(np.asarray(values, dtype=np.float64))
    values = values.reshape(-1, values.shape[-1])
    if not np.isfinite(values).any() or float(np.nanmin(values)) < 0:
        return False
    at_ends, brightest = _ends_and_brightest(values)
    dimmest, ends, highest = np.nanpercentile(at_ends, [10, 50, 90])
    if not (ends > 0.6 * brightest and dimmest > 0 and highest < STEADY * dimmest):
        return False
    usual = np.nanmedian(np.where(np.isfinite(values), values, ends), axis=0)
    often, least = LITTLE_LIGHT if ends > INTEGRAL else LESS_LIGHT
    return (
        float(np.sort(usual)[len(usual) // 5]) < often * ends and float(usual.min()) < least * ends
    )


def look_like_line_integrals(transmission: np.ndarray) -> bool:
    """Whether what would be transmissions vanishes where nothing is in the way, or everywhere."""
    at_ends, brightest = _ends_and_brightest(transmission)
    ends = float(np.nanmedian(at_ends))
    return brightest < 1e-3 or ends < min(0.1 * brightest, float(np.nanmedian(transmission)))
