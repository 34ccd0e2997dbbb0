"""Preconditioners: P near (AᵀA + λ)⁻¹, where AᵀA is nearly the same everywhere in the image.

There the Fourier transform F nearly diagonalises AᵀA: F AᵀA F⁻¹ ≈ c(ω), k/|ω| in tomography, the
sampling of k-space in MRI. P = F⁻¹ (c + λ)⁻¹ F is symmetric and positive definite for any c ≥ 0,
so a wrong c costs time and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .linear import Operator, full_precision
from .spectrum import random_image

#: Random images from which c is estimated. The standard error of a value is that of AᵀA's entries
#: off the diagonal, over the root of this.
PROBES = 8


@dataclass(frozen=True)
class Circulant:
    """F⁻¹ (c + λ)⁻¹ F on the last two axes."""

    name: str  #: what c is
    response: Tensor  #: c + λ > 0: (S, 1, …, H, W // 2 + 1), or W columns for complex images
    is_complex: bool  #: the two channels of an image are its real and its imaginary part
    width: int  #: W

    def __call__(self, x: Tensor) -> Tensor:
        """(B, C, …, H, W); S is 1 or B."""
        if not self.is_complex:
            spectrum = torch.fft.rfft2(x) / self.response
            return torch.fft.irfft2(spectrum, s=(x.shape[-2], self.width))
        z = torch.fft.ifft2(torch.fft.fft2(torch.complex(x[:, 0], x[:, 1])) / self.response)
        return torch.stack([z.real, z.imag], 1)

    def select(self, index: Tensor) -> Circulant:
        """That of the samples ``index``."""
        if len(self.response) == 1:
            return self
        return replace(self, response=self.response[index])

    def where(self, chosen: Tensor, other: Circulant | None) -> Circulant:
        """This one for the operators that are ``chosen`` (S,), the other, or none, for the rest."""
        names = [self.name]
        if not bool(chosen.all()):
            names.append("nothing" if other is None else other.name)
        rest = torch.ones_like(self.response) if other is None else other.response
        shape = (-1, *[1] * (self.response.ndim - 1))
        response = torch.where(chosen.to(rest.device).reshape(shape), self.response, rest)
        return replace(self, name=" or ".join(names), response=response)

    @property
    def nbytes(self) -> int:
        return self.response.nbytes


def circulants(AtA: Operator, example: Tensor, strength: float) -> Iterator[Circulant]:
    """Circulant preconditioners of AᵀA + ``strength``, fitted to what AᵀA does to random images.

    Which is best, and whether any is better than none, the spectrum of P (AᵀA + λ) tells.

    Args:
        AtA: AᵀA.
        example: (S, C, …, H, W), real; for complex images C is 2.
        strength: λ > 0.
    """
    if example.ndim < 4 or min(example.shape[-2:]) < 4:
        return
    # A real operator of two channels is one of complex images too.
    is_complex = example.shape[1] == 2
    width = example.shape[-1]
    c = _mean_response(AtA, example, is_complex)
    rings, distance = _over_rings(c, width)
    # c alone is a star of few views, with nothing between them, where AᵀA is not; rings and ramps
    # know no directions. Half of each is better conditioned than either: 446 with rings, 379 with a
    # ramp, where rings alone give 623 (CT, 128², 45 views, λ = 1e-4).
    smooth = {"its rings": rings}
    if not is_complex:  # Fourier samples are no rays
        smooth["a ramp"] = _ramp(rings, distance)
    for name, estimate in smooth.items():
        response = (c + estimate) / 2 + strength
        yield Circulant(f"AᵀA's mean response and {name}", response, is_complex, width)


def _mean_response(AtA: Operator, example: Tensor, is_complex: bool) -> Tensor:
    """The circulant matrix that is nearest to AᵀA (Chan, SIAM J. Sci. Stat. Comput. 1988), as its
    transform c(ω) ≥ 0: the diagonal of F AᵀA F⁻¹, from images whose spectra have modulus one."""
    total = example.new_zeros(())
    with torch.no_grad(), full_precision(example):
        for seed in range(PROBES):
            v = random_image(example, 100 + seed)
            before = _transform(v, is_complex)
            flat = before / before.abs().clamp_min(torch.finfo(v.dtype).tiny)
            after = _transform(AtA(_inverse(flat, is_complex, v)), is_complex)
            total = total + (flat.conj() * after).real
        mean = (total / PROBES).clamp_min(0)
        # The channels and frames of an image share one c.
        shared = tuple(range(1, mean.ndim - 2))
        return mean.mean(shared, keepdim=True) if shared else mean  # () would mean all axes


def _transform(x: Tensor, is_complex: bool) -> Tensor:
    if is_complex:
        return torch.fft.fft2(torch.complex(x[:, 0], x[:, 1]))
    return torch.fft.rfft2(x)


def _inverse(spectrum: Tensor, is_complex: bool, like: Tensor) -> Tensor:
    if is_complex:
        z = torch.fft.ifft2(spectrum)
        return torch.stack([z.real, z.imag], 1)
    return torch.fft.irfft2(spectrum, s=like.shape[-2:])


def _over_rings(c: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """c averaged over rings of frequencies, and (H, W) how far out in cycles a pixel each one is.

    Frequency zero counts as half a bin away: 1/|ω| is finite there.
    """
    height, columns = c.shape[-2:]
    rows = torch.fft.fftfreq(height, dtype=torch.float64)
    if columns == width:
        across = torch.fft.fftfreq(width, dtype=torch.float64)
    else:
        across = torch.fft.rfftfreq(width, dtype=torch.float64)
    distance = torch.hypot(rows[:, None], across)
    bins = (distance * max(height, width)).round().long().to(c.device)
    flat = c.flatten(-2)
    count = int(bins.max()) + 1
    sums = flat.new_zeros(*flat.shape[:-1], count).index_add(-1, bins.flatten(), flat)
    sizes = flat.new_zeros(count).index_add(0, bins.flatten(), flat.new_ones(bins.numel()))
    means = sums / sizes.clamp_min(1)
    nearest = 0.5 / max(height, width)
    return means[..., bins], distance.clamp_min(nearest).to(c)


def _ramp(rings: Tensor, distance: Tensor) -> Tensor:
    """k/|ω|, with k from the middle frequencies, where an operator of few views is still even."""
    middle = (distance > 0.02) & (distance < 0.4)
    products = (rings * distance)[..., middle]
    if products.shape[-1] == 0:
        products = (rings * distance).flatten(-2)
    k = products.median(-1).values[..., None, None]
    return k / distance
