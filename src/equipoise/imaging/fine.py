"""Measuring images that have more pixels than those that are reconstructed.

What is measured with the operator that reconstructs fits it as no measurement ever does (the
"inverse crime": Kaipio and Somersalo, Statistical and Computational Inverse Problems, 2005).
"""

from __future__ import annotations

from typing import Any

import torch
from deepinv.physics import MRI, DynamicMRI, LinearPhysics, MultiCoilMRI, NonCartesianMRI
from torch import Tensor

from ..errors import UserError
from .scaled import Scaled, with_noise_where_measured
from .tomography import Tomography
from .tomography.geometry import refined

#: How many pixels, each way, become one.
TIMES = 2


def coarser(x: Tensor) -> Tensor:
    """(…, 2H, 2W) → (…, H, W), the means of 2 × 2 pixels."""
    rows, columns = x.shape[-2] // TIMES, x.shape[-1] // TIMES
    blocks = x.reshape(*x.shape[:-2], rows, TIMES, columns, TIMES)
    return blocks.mean((-3, -1))


def finer(physics: Any) -> LinearPhysics:
    """What measures (B, C, …, 2H, 2W) as ``physics`` measures the means of 2 × 2 pixels, but on the
    grid that it is given: rays cross smaller pixels (two of them for each ray of a detector), and
    k-space is cut out of a larger one.

    Raises:
        UserError: this operator has no finer grid.
    """
    if isinstance(physics, Scaled):
        return Scaled(finer(physics.physics), physics.factor)
    if isinstance(physics, Tomography):
        return _finer_rays(physics)
    if isinstance(physics, MultiCoilMRI):
        return FineCoils(physics)
    if isinstance(physics, MRI | DynamicMRI | NonCartesianMRI):
        return FineKspace(physics)
    raise UserError(
        f"data.simulate=fine: {type(physics).__name__} is made for one grid; rays and MRI have "
        "finer ones; set data.simulate=same"
    )


def _finer_rays(physics: Tomography) -> Tomography:
    geometry = refined(physics.geometry, TIMES, rays=TIMES * physics.geometry.per_detector)
    fine = Tomography(geometry, physics.pixel / TIMES, normalize=False)
    fine.scale = physics.scale / TIMES
    fine.gain = physics.gain
    fine.register_buffer("seen", physics.seen)
    return fine


class FineKspace(LinearPhysics):
    """Of what a scanner measures, the part that the coarse operator has lines for."""

    def __init__(self, physics: LinearPhysics):
        super().__init__()
        self.physics = physics

    def noise(self, x: Tensor, **kwargs: Any) -> Tensor:
        """Clean measurements with noise, where the coarse operator measures."""
        noisy: Tensor = with_noise_where_measured(self.physics, self.noise_model, x, **kwargs)
        return noisy

    def A(self, x: Tensor, **kwargs: Any) -> Tensor:
        image = torch.view_as_complex(x.movedim(1, -1).contiguous())
        y: Tensor = self.physics.A(torch.view_as_real(_band_limited(image)).movedim(-1, 1))
        return y


class FineCoils(FineKspace):
    """The same, with coils whose sensitivities are interpolated."""

    physics: MultiCoilMRI

    def A(self, x: Tensor, **kwargs: Any) -> Tensor:
        image = torch.view_as_complex(x.movedim(1, -1).contiguous())
        maps = torch.view_as_real(self.physics.coil_maps)  # (B or 1, coils, H, W, 2)
        flat = maps.movedim(-1, 1).flatten(0, 1)
        flat = torch.nn.functional.interpolate(flat, scale_factor=TIMES, mode="bilinear")
        pairs = flat.unflatten(0, (-1, 2)).movedim(1, -1).contiguous()
        seen = _band_limited(torch.view_as_complex(pairs) * image[:, None])
        kspace = self.physics.from_torch_complex(self.physics.fft(seen))
        out: Tensor = self.physics.mask[:, :, None] * kspace
        return out


def _band_limited(image: Tensor) -> Tensor:
    """A complex image (…, 2H, 2W) as the middle of its k-space has it, on (…, H, W) pixels."""
    for dim in (-2, -1):
        image = _band_limited_along(image, dim)
    return image


def _band_limited_along(image: Tensor, dim: int) -> Tensor:
    image = image.movedim(dim, -1)
    many = image.shape[-1]
    few = many // TIMES
    kspace = torch.fft.fftshift(torch.fft.fft(image), dim=-1)
    first = many // 2 - few // 2
    kspace = kspace[..., first : first + few]
    # The middle of 2 × 2 pixels is half a pixel on from the first of them.
    frequency = (torch.arange(few, device=image.device) - few // 2) / many
    kspace = kspace * torch.exp(1j * torch.pi * (TIMES - 1) * frequency)
    few_pixels = torch.fft.ifft(torch.fft.ifftshift(kspace, dim=-1)) / TIMES
    return few_pixels.movedim(-1, dim)
