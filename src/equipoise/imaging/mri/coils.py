"""Sensitivities of receive coils: simulated ones, and those that data tell."""

from __future__ import annotations

import torch
from torch import Tensor

from ...errors import UserError, need
from .masks import calibration_size, sampled

#: Side of ESPIRiT's kernel.
KERNEL = 6


def birdcage(coils: int, rows: int, columns: int) -> Tensor:
    """Of a ring of coils: (coils, rows, columns) complex, Σ |s|² = 1 (as in sigpy)."""
    simulated = need("sigpy.mri", "mri").birdcage_maps((coils, rows, columns))
    maps: Tensor = torch.from_numpy(simulated).to(torch.complex64)
    return maps / torch.linalg.vector_norm(maps, dim=0)


def estimate_coils(
    kspace: Tensor,
    calibration: int | None = None,
    crop: float = 0.9,
    mask: Tensor | None = None,
) -> Tensor:
    """Sensitivities (coils, rows, columns) by ESPIRiT (Uecker et al., MRM 2014).

    Through sigpy. They are scaled to Σ |s|² = 1, and zero where there is no object (eigenvalue
    below ``crop``).

    Args:
        kspace: (coils, rows, columns) complex.
        calibration: side of the fully sampled centre. None: as large as it is, 32 at most.
        crop: the eigenvalue below which there is no object.
        mask: (rows, columns), 1 where it was measured; None: where it is not zero.

    Raises:
        UserError: there is no fully sampled centre of at least 8×8 points, or no sigpy; or no
            object is found.
    """
    estimation = need("sigpy.mri.app", "mri")
    found = calibration_size(sampled(kspace) if mask is None else mask)
    size = min(found, 32) if calibration is None else calibration
    if size > found or size < 8:
        wanted = max(size, 8)
        raise UserError(
            f"coil maps need a fully sampled centre of {wanted}×{wanted} points; this k-space has "
            f"{found}×{found}: give maps of your own, or acquire calibration lines"
        )
    samples = kspace.to(torch.complex64).numpy(force=True)
    # A kernel as wide as the centre finds too little in it: of 8 points and 6, no eigenvalue is
    # above 0.5 even where the object is; of 8 and 4, all are above 0.95.
    width = min(KERNEL, size // 2)
    maps = estimation.EspiritCalib(
        samples, calib_width=size, kernel_width=width, crop=crop, show_pbar=False
    ).run()
    if not maps.any():
        raise UserError(
            f"coil maps: no object is found in the fully sampled centre of {size}×{size} points "
            f"(no eigenvalue of ESPIRiT reaches {crop:g}): acquire more calibration lines, or, in "
            "Python, give maps of your own (coil_maps)"
        )
    return torch.from_numpy(maps).to(torch.complex64)
