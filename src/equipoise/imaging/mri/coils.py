"""Sensitivities of receive coils: simulated ones, and those that data tell."""

from __future__ import annotations

import torch
from deepinv.physics import MultiCoilMRI
from torch import Tensor

from ...errors import UserError, need
from .masks import calibration_size, sampled


def birdcage(coils: int, rows: int, columns: int) -> Tensor:
    """Of a ring of coils: (coils, rows, columns) complex, Σ |s|² = 1 (as in sigpy)."""
    simulated = need("sigpy.mri", "mri").birdcage_maps((coils, rows, columns))
    maps: Tensor = torch.from_numpy(simulated).to(torch.complex64)
    return maps / torch.linalg.vector_norm(maps, dim=0)


def estimate_coils(kspace: Tensor, calibration: int | None = None, crop: float = 0.9) -> Tensor:
    """Sensitivities (coils, rows, columns) by ESPIRiT (Uecker et al., MRM 2014).

    Through deepinv and sigpy. They are scaled to Σ |s|² = 1, and zero where there is no object
    (eigenvalue below ``crop``).

    Args:
        kspace: (coils, rows, columns) complex.
        calibration: side of the fully sampled centre. None: found from the zeros in the data.
        crop: the eigenvalue below which there is no object.

    Raises:
        UserError: there is no fully sampled centre of at least 8×8 points, or no sigpy.
    """
    need("sigpy", "mri")
    found = calibration_size(sampled(kspace))
    size = min(found, 32) if calibration is None else calibration
    if size > found or size < 8:
        wanted = max(size, 8)
        raise UserError(
            f"coil maps need a fully sampled centre of {wanted}×{wanted} points; this k-space has "
            f"{found}×{found}: give maps of your own, or acquire calibration lines"
        )
    y = torch.view_as_real(kspace.to(torch.complex64)).movedim(-1, 0)[None]
    maps = MultiCoilMRI.estimate_coil_maps(y, calib_size=size, espirit_crop=crop)[0]
    return maps.to(torch.complex64)
