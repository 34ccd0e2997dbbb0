"""What of an image the measurements determine, and what the prior adds."""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...imaging.linear import InexactSolveWarning, least_squares
from ...imaging.scaled import proximal

#: Conjugate gradients of an operator without a formula.
ITERATIONS = 200
#: More of an image's energy than this from the prior is worth a warning.
MUCH = 0.5


class Parts(NamedTuple):
    """Two images whose sum is x."""

    measured: Tensor  #: (B, C, …, H, W)
    invented: Tensor  #: (B, C, …, H, W)

    def share(self) -> Tensor:
        """(B,) how much of the energy of both the prior supplied."""
        invented = self.invented.double().square().flatten(1).sum(1)
        measured = self.measured.double().square().flatten(1).sum(1)
        return invented / (invented + measured).clamp_min(torch.finfo(torch.float64).tiny)


def along(part: Tensor, x: Tensor) -> Tensor:
    """The component of a complex part (B, 2, …, H, W) along the phase of x, (B, 1, …, H, W), so
    that parts whose sum is x sum to its magnitude; a real part as it is."""
    if x.shape[1] != 2:
        return part
    size = x.square().sum(1, keepdim=True).sqrt().clamp_min(torch.finfo(x.dtype).tiny)
    return (part * x).sum(1, keepdim=True) / size


def prior_in_words(shares: Tensor, names: list[str] | None = None) -> str:
    """Which images hold more of the prior than of the data; nothing where none does."""
    much = torch.nonzero(shares > MUCH).flatten().tolist()
    if not much:
        return ""
    shown = [f"image {b}" if names is None else names[b] for b in much[:3]]
    more = f" and {len(much) - 3} more" if len(much) > 3 else ""
    return (
        f"the prior supplies more than the data: {float(shares.max()):.0%} of the energy of "
        f"{', '.join(shown)}{more} is not determined by the measurements; measure more, or believe "
        "no detail that only the prior drew"
    )


def measured_and_invented(physics: Any, x: Tensor, variance: float) -> Parts:
    """AᵀA(AᵀA + δ)⁻¹ x, and the rest, δ(AᵀA + δ)⁻¹ x.

    A component that A passes with a gain well above the noise is in the first, one that it passes
    with a gain below the noise, or not at all, in the second. With δ = 0 they are the parts in the
    range of Aᵀ and in the null space of A. By a formula where the operator has one, else by
    conjugate gradients.

    Args:
        physics: a linear operator, with images of about unit contrast.
        x: (B, C, …, H, W).
        variance: δ, of the noise in each number that is measured.
    """
    with torch.no_grad(), warnings.catch_warnings():
        # What conjugate gradients do not reach are components that are hardly measured.
        warnings.simplefilter("ignore", InexactSolveWarning)
        y = physics.A(x)
        if variance > 0:
            nothing = 0 * y
            invented = proximal(physics, x, nothing, variance, max_iter=ITERATIONS)
        else:
            invented = x - least_squares(physics.A, physics.A_adjoint, y, 1e-6, ITERATIONS).value
        return Parts(x - invented, invented)
