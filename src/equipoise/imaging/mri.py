"""What deepinv's MRI physics lacks: sampling masks, and all that a real acquisition does not say about itself.

k-space is centred: frequency zero is at (rows // 2, columns // 2).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from deepinv.physics import MRI, MultiCoilMRI
from torch import Tensor

from ..errors import UserError, need


def cartesian_mask(rows: int, columns: int, acceleration: float, center: float = 0.08, seed: int = 0) -> Tensor:
    """A variable-density mask of phase-encoding lines, (rows, columns) of 0 and 1: whole columns are kept.

    ``columns / acceleration`` lines: the central fraction ``center``, and others drawn without replacement with a density
    that falls off as (1 − |k|)², seeded.

    Raises:
        ValueError: the centre alone is more than the acceleration allows.
    """
    if not 1 <= acceleration <= columns:
        raise ValueError(f"acceleration must be in [1, {columns}] for {columns} lines, got {acceleration}")
    total = round(columns / acceleration)
    middle = max(1, round(center * columns))
    if middle > total:
        raise ValueError(
            f"center={center} keeps {middle} of {columns} lines, but acceleration={acceleration} allows {total} in all; "
            "lower one of them"
        )
    line = torch.arange(columns) - columns // 2
    density = (1 - line.abs() / (columns / 2 + 1)).square()
    start = columns // 2 - middle // 2
    density[start : start + middle] = 0
    keep = torch.zeros(columns)
    keep[start : start + middle] = 1
    if total > middle:
        rng = torch.Generator().manual_seed(seed)
        keep[torch.multinomial(density, total - middle, replacement=False, generator=rng)] = 1
    return keep.expand(rows, columns).clone()


def _check(rows: int, columns: int, acceleration: float, center: float) -> None:
    if not 1 <= acceleration <= rows * columns:
        raise ValueError(f"acceleration must be in [1, {rows * columns}] for {rows}×{columns} points, got {acceleration}")
    if center**2 > 1 / acceleration:
        raise ValueError(
            f"center={center} keeps {center**2:.1%} of k-space, but acceleration={acceleration} allows {1 / acceleration:.1%} in "
            "all; lower one of them"
        )


def poisson_disc_mask(rows: int, columns: int, acceleration: float, center: float = 0.08, seed: int = 0) -> Tensor:
    """A variable-density Poisson-disc mask of single points, (rows, columns) of 0 and 1, for two phase-encoding directions:
    points keep their distance, the more the farther out (Bridson 2007, as in sigpy).

    Raises:
        ValueError: the centre alone is more than the acceleration allows.
        UserError: sigpy is not installed.
    """
    _check(rows, columns, acceleration, center)
    if acceleration == 1:
        return torch.ones(rows, columns)
    sigpy = need("sigpy.mri", "mri")
    block = (max(1, round(center * rows)), max(1, round(center * columns)))
    try:
        mask = sigpy.poisson((rows, columns), acceleration, calib=block, crop_corner=False, seed=seed, tol=0.1 * acceleration)
    except ValueError as error:
        raise ValueError(
            f"no Poisson-disc mask of {rows}×{columns} points has acceleration={acceleration} within 10 % and center={center}: "
            'raise acceleration, lower center, or take mask="lines"'
        ) from error
    return torch.from_numpy(abs(mask)).float()


def radial_mask(rows: int, columns: int, acceleration: float, center: float = 0.08, seed: int = 0) -> Tensor:
    """Grid points along spokes through the centre, (rows, columns) of 0 and 1: each spoke is turned by the golden angle from
    the one before (Winkelmann et al., IEEE TMI 2007), the first by ``seed``; and a disc of the fraction ``center``.

    Spokes are added until rows·columns / ``acceleration`` points are measured.
    """
    _check(rows, columns, acceleration, center)
    r, c = torch.meshgrid(torch.arange(rows) - rows // 2, torch.arange(columns) - columns // 2, indexing="ij")
    mask = ((r / (center * rows / 2 + 0.5)) ** 2 + (c / (center * columns / 2 + 0.5)) ** 2 <= 1).float()
    along = torch.linspace(-1, 1, 4 * max(rows, columns) + 1, dtype=torch.float64)
    golden = math.pi * (math.sqrt(5) - 1) / 2
    turn = float(torch.rand((), generator=torch.Generator().manual_seed(seed))) * math.pi
    while float(mask.sum()) < rows * columns / acceleration:
        i = (rows // 2 + along * rows / 2 * math.sin(turn)).round().long()
        j = (columns // 2 + along * columns / 2 * math.cos(turn)).round().long()
        inside = (i >= 0) & (i < rows) & (j >= 0) & (j < columns)
        mask[i[inside], j[inside]] = 1
        turn += golden
        if turn > 1e4 * math.pi:  # the corners are never reached
            break
    return mask


MASKS: dict[str, Callable[[int, int, float, float, int], Tensor]] = {
    "lines": cartesian_mask,
    "poisson_disc": poisson_disc_mask,
    "radial": radial_mask,
}


def birdcage(coils: int, rows: int, columns: int) -> Tensor:
    """Simulated sensitivities of a ring of coils, (coils, rows, columns) complex, Σ |s|² = 1 (as in sigpy)."""
    maps: Tensor = torch.from_numpy(need("sigpy.mri", "mri").birdcage_maps((coils, rows, columns))).to(torch.complex64)
    return maps / torch.linalg.vector_norm(maps, dim=0)


def sampled(kspace: Tensor) -> Tensor:
    """The mask of an acquisition (…, rows, columns): 1 where some coil (of some slice) measured anything but zero."""
    return (kspace != 0).flatten(0, -3).any(0).float() if kspace.ndim > 2 else (kspace != 0).float()


def calibration_size(mask: Tensor) -> int:
    """The side of the largest fully sampled square around the centre of a mask (rows, columns)."""
    rows, columns = mask.shape
    full = 0
    for side in range(1, min(rows, columns) + 1):
        top, left = rows // 2 - side // 2, columns // 2 - side // 2
        if not bool(mask[top : top + side, left : left + side].all()):
            break
        full = side
    return full


def estimate_coils(kspace: Tensor, calibration: int | None = None, crop: float = 0.9) -> Tensor:
    """Coil sensitivities (coils, rows, columns) by ESPIRiT (Uecker et al., MRM 2014; through deepinv and sigpy).

    They are scaled to Σ |s|² = 1, and zero where there is no object (eigenvalue below ``crop``).

    Args:
        kspace: (coils, rows, columns) complex.
        calibration: side of the fully sampled centre. None: found from the zeros in the data.

    Raises:
        UserError: there is no fully sampled centre of at least 8×8 points; sigpy is not installed.
    """
    need("sigpy", "mri")
    found = calibration_size(sampled(kspace))
    size = min(found, 32) if calibration is None else calibration
    if size > found or size < 8:
        raise UserError(
            f"coil maps need a fully sampled centre of {max(size, 8)}×{max(size, 8)} points; this k-space has {found}×{found}: "
            "give maps of your own, or acquire calibration lines"
        )
    y = torch.view_as_real(kspace.to(torch.complex64)).movedim(-1, 0)[None]
    maps = MultiCoilMRI.estimate_coil_maps(y, calib_size=size, espirit_crop=crop)[0]
    return maps.to(torch.complex64)


def edge_samples(kspace: Tensor, fraction: float = 0.1) -> Tensor:
    """(coils, n): the measured samples farthest from the centre, where there is hardly anything but noise."""
    rows, columns = kspace.shape[-2:]
    r, c = torch.meshgrid(torch.linspace(-1, 1, rows), torch.linspace(-1, 1, columns), indexing="ij")
    mask = sampled(kspace) > 0
    if not bool(mask.any()):
        raise UserError("k-space is zero everywhere: nothing was measured")
    distance = (r**2 + c**2).sqrt()[mask]
    far = distance >= distance.quantile(1 - fraction)
    return kspace[:, mask][:, far]


def noise_covariance(noise: Tensor) -> Tensor:
    """(coils, coils): E n nᴴ of noise samples (coils, n), from a noise scan or from :func:`edge_samples`."""
    if noise.shape[1] < noise.shape[0]:
        raise UserError(f"{noise.shape[0]} coils need at least as many noise samples, got {noise.shape[1]}")
    return noise @ noise.mH / noise.shape[1]


def prewhiten(kspace: Tensor, covariance: Tensor) -> Tensor:
    """k-space (coils, rows, columns) mixed so that the coils' noise is uncorrelated, of variance 1 each (complex):
    L⁻¹ k with covariance = L Lᴴ (Pruessmann et al., MRM 2001)."""
    L, info = torch.linalg.cholesky_ex(covariance)
    if int(info):
        raise UserError("the noise covariance is singular: a coil measured nothing, or two coils the same; leave one out")
    flat = torch.linalg.solve_triangular(L, kspace.flatten(1), upper=False)
    return flat.reshape(kspace.shape)


@dataclass
class Acquisition:
    """A real acquisition, made ready: whitened, scaled, with mask, coil maps and noise level found from the data."""

    y: Tensor  #: (1, 2, coils, rows, columns); (1, 2, rows, columns) for one coil
    physics: MRI | MultiCoilMRI
    noise: float  #: standard deviation of the noise in the real and in the imaginary part
    scale: float  #: the image whose brightest parts are near 1, times this, is in the data's (whitened) units
    calibration: int  #: side of the fully sampled centre


def acquisition(kspace: Tensor, coil_maps: Tensor | None = None, noise: Tensor | None = None) -> Acquisition:
    """What one needs to reconstruct ``kspace`` (coils, rows, columns), complex.

    The noise's covariance comes from ``noise`` (coils, n), a scan without signal, or else from the outermost samples; an image
    of the fully sampled centre tells the scale.

    Raises:
        UserError: nothing was measured; no calibration region and no ``coil_maps``.
    """
    mask = sampled(kspace)
    white = prewhiten(kspace, noise_covariance(edge_samples(kspace) if noise is None else noise))
    size = calibration_size(mask)
    if size < 8:
        raise UserError(
            f"k-space has a fully sampled centre of {size}×{size} points; at least 8×8 are needed to find coils and scale"
        )
    rows, columns = mask.shape
    window = torch.zeros(rows, columns)
    hann = torch.hann_window(size + 2)[1:-1]
    top, left = rows // 2 - size // 2, columns // 2 - size // 2
    window[top : top + size, left : left + size] = hann[:, None] * hann
    dims = (-2, -1)
    coarse = torch.fft.fftshift(torch.fft.ifft2(torch.fft.ifftshift(white * window, dims), norm="ortho"), dims)
    scale = float(torch.linalg.vector_norm(coarse, dim=0).flatten().quantile(0.99))
    white = white / scale
    y = torch.view_as_real(white).movedim(-1, 0)[None]
    sigma = 1 / (scale * math.sqrt(2))
    if len(white) == 1:
        return Acquisition(y[:, :, 0], MRI(mask=mask, img_size=(rows, columns)), sigma, scale, size)
    maps = estimate_coils(white) if coil_maps is None else coil_maps
    return Acquisition(y, MultiCoilMRI(mask=mask, coil_maps=maps, img_size=(rows, columns)), sigma, scale, size)
