"""Classical reconstructions: what a learned one must beat."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from deepinv.models import TVDenoiser
from torch import Tensor

from ..errors import UserError
from ..imaging.linear import least_squares
from ..imaging.scaled import unscaled
from ..imaging.tomography import NotMeasured, Tomography


def zero_filled(y: Tensor, physics: Any) -> Tensor:
    """Aᵀ y: what was not measured counts as zero. (B, …) → (B, C, …, H, W)."""
    x: Tensor = physics.A_adjoint(y)
    return x


def truncated_least_squares(y: Tensor, physics: Any, iterations: int) -> Tensor:
    """argmin ‖A x − y‖² by conjugate gradients, stopped early, which regularises."""
    return least_squares(physics.A, physics.A_adjoint, y, tol=0.0, max_iter=iterations).value


def total_variation(
    y: Tensor, physics: Any, weight: float, iterations: int = 120, inner: int = 15
) -> Tensor:
    """argmin ½‖A x − y‖² + weight · TV(x), ‖A‖ = 1: FISTA (Beck and Teboulle 2009) around deepinv's
    proximal map of the total variation.

    Args:
        y: (B, …) measurements.
        physics: what measured them.
        weight: of the total variation.
        iterations: of FISTA.
        inner: iterations of the proximal map, which goes on from its last dual variable.
    """
    prox = TVDenoiser(n_it_max=inner, tau=0.1)
    with torch.no_grad():
        x = physics.A_adjoint(y)
        z = x
        t = 1.0
        for _ in range(iterations):
            v = z - physics.A_adjoint(physics.A(z) - y)
            # Each channel is an image of its own.
            next_x = prox(v.reshape(-1, 1, *v.shape[-2:]), weight).reshape(v.shape)
            next_t = (1 + (1 + 4 * t * t) ** 0.5) / 2
            z = next_x + (t - 1) / next_t * (next_x - x)
            x, t = next_x, next_t
        return x


class NoBackprojection(UserError):
    """There is no filtered backprojection of these measurements; the message says why."""


def filtered_backprojection(y: Tensor, physics: Any, window: str = "ramp") -> Tensor:
    """The operator's own filtered backprojection, (B, …) → (B, 1, H, W).

    Args:
        y: measurements.
        physics: what measured them.
        window: of the ramp filter, where the operator knows windows.

    Raises:
        NoBackprojection: the operator has none, or its geometry is one that it is not made for.
    """
    if not hasattr(physics, "fbp"):
        kind = type(unscaled(physics)).__name__
        raise NoBackprojection(f"no filtered backprojection: {kind} has no method fbp")
    known = "window" in inspect.signature(physics.fbp).parameters
    try:
        x: Tensor = physics.fbp(y, window=window) if known else physics.fbp(y)
    except ValueError as error:
        if isinstance(unscaled(physics), Tomography) and not isinstance(error, NotMeasured):
            raise  # such as measurements of another shape
        raise NoBackprojection(f"no filtered backprojection: {error}") from error
    return x
