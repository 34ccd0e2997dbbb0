"""Rings: stripes of sinograms, removed by algotom (the extra ``rings``)."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from ...errors import need

#: Methods of Vo, Atwood and Drakopoulos, "Superior techniques for eliminating ring artifacts in
#: X-ray micro-tomography", Optics Express 26, 2018, and what algotom calls them.
METHODS = {
    "all": "remove_all_stripe",
    "sorting": "remove_stripe_based_sorting",
    "filtering": "remove_stripe_based_filtering",
    "fitting": "remove_stripe_based_fitting",
    "large": "remove_large_stripe",
    "dead": "remove_dead_stripe",
}
Rings = Literal["none", "all", "sorting", "filtering", "fitting", "large", "dead"]


def without_rings(values: np.ndarray, how: Rings) -> np.ndarray:
    """A sinogram (views, detectors) without the stripes that detectors of another response leave.

    Raises:
        UserError: algotom is not installed.
    """
    if how == "none":
        return values
    removal: Any = need("algotom.prep.removal", "rings")
    mended = getattr(removal, METHODS[how])(np.array(values, dtype=np.float32))
    return np.asarray(mended, dtype=np.float32)
