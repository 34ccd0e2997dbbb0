"""Rings: stripes of sinograms, removed by algotom (the extra ``rings``)."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from ...errors import UserError, need

#: Methods of Vo, Atwood and Drakopoulos, "Superior techniques for eliminating ring artifacts in
#: X-ray micro-tomography", Optics Express 26, 2018: what algotom calls them, and their windows, by
#: which detectors a stripe is told from the object.
METHODS: dict[str, tuple[str, dict[str, str]]] = {
    "all": ("remove_all_stripe", {"la_size": "large", "sm_size": "small"}),
    "sorting": ("remove_stripe_based_sorting", {"size": "small"}),
    "filtering": ("remove_stripe_based_filtering", {"size": "small"}),
    "fitting": ("remove_stripe_based_fitting", {}),
    "large": ("remove_large_stripe", {"size": "large"}),
    "dead": ("remove_dead_stripe", {"size": "large"}),
}
#: algotom's windows are for detectors of 600 and more pixels; narrower ones have a part of them, or
#: the object itself is smoothed: 21 of 128 detectors took away 7 % of a tooth, 5 of them 1 %.
WINDOWS = {"small": 21, "large": 51}
WIDE = 600
#: Stripes are no larger a share of the line integrals than this.
LARGEST_CHANGE = 0.25
Rings = Literal["none", "all", "sorting", "filtering", "fitting", "large", "dead"]


def without_rings(values: np.ndarray, how: Rings) -> np.ndarray:
    """A sinogram (views, detectors) without the stripes that detectors of another response leave.

    Raises:
        UserError: algotom is not installed, or its method changes more than stripes.
    """
    if how == "none":
        return values
    removal: Any = need("algotom.prep.removal", "rings")
    name, windows = METHODS[how]
    sizes = {key: _window(WINDOWS[size], values.shape[1]) for key, size in windows.items()}
    mended = getattr(removal, name)(np.array(values, dtype=np.float32), **sizes)
    change = float(np.linalg.norm(mended - values)) / max(float(np.linalg.norm(values)), 1e-30)
    if not change <= LARGEST_CHANGE:
        raise UserError(
            f"data.rings={how}: changes the line integrals by {change:.0%} of their size (at most "
            f"{LARGEST_CHANGE:.0%} are stripes); set another method, such as sorting, or none"
        )
    return np.asarray(mended, dtype=np.float32)


def _window(size: int, detectors: int) -> int:
    """An odd number of detectors."""
    return max(3, 2 * (min(size, size * detectors // WIDE) // 2) + 1)
