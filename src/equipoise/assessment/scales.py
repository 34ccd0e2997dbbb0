"""The scales that images are shown on."""

from __future__ import annotations

import numpy as np

#: Scales cover this share of all pixels, so that a few outliers do not darken the others.
BRIGHTEST = 0.995


def ends(x: np.ndarray) -> tuple[float, float]:
    """Where the scale of an image begins and ends."""
    finite = x[np.isfinite(x)]
    if not finite.size:
        return 0.0, 1.0
    low, high = np.quantile(finite, [1 - BRIGHTEST, BRIGHTEST])
    return float(low), float(max(high, low + 1e-12))
