"""A real acquisition: whitened, scaled, and with the operator that measured it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from deepinv.physics import MRI, MultiCoilMRI
from torch import Tensor

from ...errors import UserError
from .coils import estimate_coils
from .masks import calibration_size, sampled


def edge_samples(kspace: Tensor, fraction: float = 0.1, mask: Tensor | None = None) -> Tensor:
    """(coils, n): the measured samples farthest from the centre, nearly nothing but noise.

    ``kspace`` is (coils, rows, columns), complex; ``fraction`` of its samples are taken. ``mask``
    (rows, columns) is 1 where it was measured; none: where it is not zero.
    """
    rows, columns = kspace.shape[-2:]
    r, c = torch.meshgrid(
        torch.linspace(-1, 1, rows), torch.linspace(-1, 1, columns), indexing="ij"
    )
    mask = (sampled(kspace) if mask is None else mask) > 0
    if not bool(mask.any()):
        raise UserError("k-space is zero everywhere: nothing was measured")
    distance = (r**2 + c**2).sqrt()[mask]
    far = distance >= distance.quantile(1 - fraction)
    return kspace[:, mask][:, far]


def noise_covariance(noise: Tensor) -> Tensor:
    """(coils, coils): E n nᴴ of noise samples (coils, n), of a noise scan or ``edge_samples``."""
    coils, n = noise.shape
    if n < coils:
        raise UserError(f"{coils} coils need at least as many noise samples, got {n}")
    return noise @ noise.mH / n


def prewhiten(kspace: Tensor, covariance: Tensor) -> Tensor:
    """k-space (coils, rows, columns) mixed so that the coils' noise is uncorrelated.

    Its variance is 1 for each coil (complex): L⁻¹ k with covariance = L Lᴴ (Pruessmann et al., MRM
    2001).
    """
    L, info = torch.linalg.cholesky_ex(covariance)
    if int(info):
        raise UserError(
            "the noise covariance is singular: a coil measured nothing, or two coils the same; "
            "leave one out"
        )
    flat = torch.linalg.solve_triangular(L, kspace.flatten(1), upper=False)
    return flat.reshape(kspace.shape)


@dataclass
class Acquisition:
    """A real acquisition made ready, with mask, coil maps and noise level found from the data."""

    y: Tensor  #: (1, 2, coils, rows, columns); (1, 2, rows, columns) for one coil
    physics: MRI | MultiCoilMRI
    noise: float  #: standard deviation of the noise in the real and in the imaginary part
    scale: float  #: the image whose brightest parts are near 1, times this, is in whitened units
    calibration: int  #: side of the fully sampled centre


def acquisition(
    kspace: Tensor,
    coil_maps: Tensor | None = None,
    noise: Tensor | None = None,
    mask: Tensor | None = None,
    covariance: Tensor | None = None,
    calibration: Tensor | None = None,
) -> Acquisition:
    """What one needs to reconstruct ``kspace`` (coils, rows, columns), complex.

    Args:
        kspace: zero where nothing was measured.
        coil_maps: (coils, rows, columns) complex; None: found from the fully sampled centre.
        noise: (coils, n), a scan without signal; None: the outermost samples of ``kspace``.
        mask: (rows, columns), 1 where it was measured; None: where it is not zero.
        covariance: (coils, coils) of the noise in a sample, in place of ``noise``.
        calibration: (coils, rows, columns) whose fully sampled centre tells coil maps and scale, in
            place of that of ``kspace``.

    Raises:
        UserError: nothing was measured, or the fully sampled centre is too small.
    """
    mask = sampled(kspace) if mask is None else mask
    if covariance is None:
        covariance = noise_covariance(edge_samples(kspace, mask=mask) if noise is None else noise)
    white = prewhiten(kspace * mask, covariance)
    centre, inside = white, mask
    if calibration is not None:
        centre, inside = prewhiten(calibration, covariance), sampled(calibration)
    size = calibration_size(inside)
    if size < 8:
        raise UserError(
            f"k-space has a fully sampled centre of {size}×{size} points; at least 8×8 are needed "
            f"to find {'coils and scale' if len(white) > 1 else 'its scale'}: bring calibration "
            "lines, in the file (of ISMRMRD by their flags) or measured in the centre"
        )
    scale = _brightness(centre, size)
    if calibration is not None:
        strength = _relative_strength(white, centre)
        scale, centre = scale * strength, centre * strength
    white = white / scale
    y = torch.view_as_real(white).movedim(-1, 0)[None]
    # Complex noise of variance 1 has variance ½ in each of its two parts.
    sigma = 1 / (scale * math.sqrt(2))
    shape = tuple(mask.shape)
    if len(white) == 1:
        return Acquisition(y[:, :, 0], MRI(mask=mask, img_size=shape), sigma, scale, size)
    maps = coil_maps
    if maps is None:
        maps = estimate_coils(centre / scale, mask=inside)
    physics = MultiCoilMRI(mask=mask, coil_maps=maps, img_size=shape)
    return Acquisition(y, physics, sigma, scale, size)


def _relative_strength(kspace: Tensor, calibration: Tensor) -> float:
    """How much stronger the signal is than in a calibration scan, which may have another contrast:
    at the points that both have measured; 1 without any."""
    both = (sampled(kspace) * sampled(calibration)) > 0
    strengths = [float(torch.linalg.vector_norm(k[:, both])) for k in (kspace, calibration)]
    return strengths[0] / strengths[1] if min(strengths) > 0 else 1.0


def _brightness(kspace: Tensor, size: int) -> float:
    """How bright the brightest parts are of an image of the central ``size``² points."""
    rows, columns = kspace.shape[-2:]
    window = torch.zeros(rows, columns)
    hann = torch.hann_window(size + 2)[1:-1]
    top = rows // 2 - size // 2
    left = columns // 2 - size // 2
    window[top : top + size, left : left + size] = hann[:, None] * hann
    dims = (-2, -1)
    centred = torch.fft.ifftshift(kspace * window, dims)
    coarse = torch.fft.fftshift(torch.fft.ifft2(centred, norm="ortho"), dims)
    return float(torch.linalg.vector_norm(coarse, dim=0).flatten().quantile(0.99))
