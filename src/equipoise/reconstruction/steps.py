"""The learned steps f_θ(x; y): each reads as its equation."""

from __future__ import annotations

import math
from typing import Any

import torch
from deepinv.physics import LinearPhysics, Physics
from torch import Tensor, nn

from ..imaging.linear import least_squares, proximal_l2
from ..imaging.operators import select
from .denoisers import channels_last


class Positive(nn.Module):
    """A positive number, learnable on a logarithmic scale."""

    def __init__(self, value: float, learnable: bool):
        super().__init__()
        self.log = nn.Parameter(torch.tensor(math.log(value)), requires_grad=learnable)

    def forward(self) -> Tensor:
        return self.log.exp()


class BoundStep:
    """f(x) = step(x, y, physics), for some measurements: what a fixed-point solver is given."""

    def __init__(self, step: Step, y: Tensor, physics: Physics):
        self.step, self.y, self.physics = step, y, physics
        if not isinstance(y, Tensor):  # stacked physics take whole batches
            self.restrict = None

    def __call__(self, x: Tensor) -> Tensor:
        return self.step(x, self.y, self.physics)

    def restrict(self, index: Tensor) -> BoundStep:
        """The same map for the samples ``index`` alone."""
        return BoundStep(self.step, self.y[index], select(self.physics, index, len(self.y)))


class Step(nn.Module):
    """One learned step. ``denoiser`` is called as ``denoiser(x, sigma)``, deepinv's way."""

    def __init__(self, denoiser: nn.Module, sigma: float):
        super().__init__()
        if not sigma >= 0:
            raise ValueError(f"sigma must be >= 0, got {sigma}; it is the noise level the denoiser is told, for images in [0, 1]")
        self.denoiser, self.sigma = denoiser, float(sigma)
        self.any_layout = True  #: the denoiser may be given images whose channels are stored last

    def denoise(self, x: Tensor) -> Tensor:
        if self.any_layout:
            try:
                return self.denoiser(channels_last(x), self.sigma)
            except RuntimeError as error:  # it takes a .view of an activation, as some networks do
                if "view size" not in str(error):
                    raise
                self.any_layout = False
        return self.denoiser(x, self.sigma)

    def bind(self, y: Tensor, physics: Physics) -> BoundStep:
        return BoundStep(self, y, physics)

    def start(self, y: Tensor, physics: Any) -> Tensor:
        """Where a solve begins if nobody says: two steps of conjugate gradients from zero, less than one denoiser costs."""
        if not isinstance(physics, LinearPhysics):
            return physics.A_adjoint(y)
        return least_squares(physics.A, physics.A_adjoint, y, max_iter=2).value


class GradientStep(Step):
    """f(x) = D(x − η Aᵀ(A x − y)): proximal gradient descent with a learned prior.

    Args:
        denoiser: D, called as ``denoiser(x, sigma)``.
        step_size: η in (0, 2), for physics with ‖A‖ = 1.
        sigma: the noise level that D is told.
        learnable: train η too.
    """

    def __init__(self, denoiser: nn.Module, step_size: float = 1.0, sigma: float = 0.05, learnable: bool = False):
        super().__init__(denoiser, sigma)
        if not 0 < step_size < 2:
            raise ValueError(f"step_size must be in (0, 2.0), got {step_size}; normalise the physics (‖A‖ = 1) instead")
        self.step_size = Positive(step_size, learnable)

    def forward(self, x: Tensor, y: Tensor, A: Any) -> Tensor:
        eta = self.step_size()
        return self.denoise(x - eta * A.A_adjoint(A.A(x) - y))


class ProximalStep(Step):
    """f(x) = argmin_u ½‖A u − y‖² + ½λ‖u − D(x)‖²: half-quadratic splitting with a learned prior (MoDL; Aggarwal,
    Mani and Jacob, IEEE TMI 2019).

    The inner problem is solved exactly: in closed form where the physics has one, else by conjugate gradients to
    ``tol``, with its exact derivative.

    Args:
        denoiser: D, called as ``denoiser(x, sigma)``.
        strength: λ > 0, for physics with ‖A‖ = 1.
        sigma: the noise level that D is told.
        learnable: train λ too.
        tol: relative residual of the inner solve.
    """

    def __init__(
        self, denoiser: nn.Module, strength: float = 0.02, sigma: float = 0.05, learnable: bool = False, tol: float = 1e-5
    ):
        super().__init__(denoiser, sigma)
        if not strength > 0:
            raise ValueError(f"strength must be > 0, got {strength}")
        self.strength, self.tol = Positive(strength, learnable), tol

    def forward(self, x: Tensor, y: Tensor, A: Any) -> Tensor:
        return proximal(A, self.denoise(x), y, self.strength(), self.tol)


def proximal(physics: Any, d: Tensor, y: Tensor, strength: Tensor, tol: float) -> Tensor:
    """argmin_u ½‖A u − y‖² + ½λ‖u − d‖², by the physics' closed form if it has one."""
    own = getattr(type(physics), "prox_l2", LinearPhysics.prox_l2)
    if own is LinearPhysics.prox_l2:
        return proximal_l2(physics.A, physics.A_adjoint, d, y, strength, tol)
    return physics.prox_l2(d, y, gamma=1 / strength, tol=tol)
