"""What deepinv's MRI physics lacks: masks, coils, and what a real acquisition does not say itself.

k-space is centred: frequency zero is at (rows // 2, columns // 2).
"""

from .coils import birdcage, estimate_coils
from .kspace import Acquisition, acquisition, edge_samples, noise_covariance, prewhiten
from .masks import (
    MASKS,
    calibration_size,
    cartesian_mask,
    poisson_disc_mask,
    radial_mask,
    sampled,
)

__all__ = [
    "MASKS",
    "Acquisition",
    "acquisition",
    "birdcage",
    "calibration_size",
    "cartesian_mask",
    "edge_samples",
    "estimate_coils",
    "noise_covariance",
    "poisson_disc_mask",
    "prewhiten",
    "radial_mask",
    "sampled",
]
