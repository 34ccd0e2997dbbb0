"""What numbers look like: counts, or the line integrals that they stand for."""

from __future__ import annotations

import numpy as np


def _ends_and_brightest(values: np.ndarray) -> tuple[float, float]:
    """The median at both ends of the detector, and what one value in a hundred exceeds."""
    finite = np.where(np.isfinite(values), values, np.nan)
    width = max(1, values.shape[-1] // 50)
    ends = np.concatenate([finite[..., :width], finite[..., -width:]], -1)
    ends = ends if np.isfinite(ends).any() else finite
    return float(np.nanmedian(ends)), float(np.nanpercentile(finite, 99))


def look_like_counts(values: np.ndarray) -> bool:
    """Whether a sinogram (…, views, detectors) is brightest where nothing is in the way, as counts
    and transmissions are: line integrals are smallest there."""
    values = np.asarray(values, dtype=np.float64)
    if not np.isfinite(values).any() or float(np.nanmin(values)) < 0:
        return False
    ends, brightest = _ends_and_brightest(values)
    darkest, dark = np.nanpercentile(values, [1, 20])
    return brightest > 0 and ends > 0.6 * brightest and dark < 0.9 * ends and darkest < 0.75 * ends


def look_like_line_integrals(transmission: np.ndarray) -> bool:
    """Whether what would be transmissions vanishes where nothing is in the way, or everywhere."""
    ends, brightest = _ends_and_brightest(transmission)
    return brightest < 1e-3 or ends < min(0.1 * brightest, float(np.nanmedian(transmission)))
