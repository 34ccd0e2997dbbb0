"""Steps that solve argmin_u ½‖A u − y‖² + ½λ‖u − d‖² once each."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ...imaging.operators import proximal
from .base import Positive, Step, check_strength


class ProximalStep(Step):
    """f(x) = argmin_u ½‖A u − y‖² + ½λ‖u − D(x)‖²: half-quadratic splitting with a learned prior.

    (MoDL; Aggarwal, Mani and Jacob, IEEE TMI 2019.) The inner problem is solved exactly: in closed
    form where the physics has one, else by conjugate gradients to ``tol``, with its exact
    derivative.

    Args:
        denoiser: D, called as ``denoiser(x, sigma)``.
        strength: λ > 0, for physics with ‖A‖ = 1.
        sigma: the noise level that D is told.
        learnable: train λ too.
        tol: relative residual of the inner solve.
    """

    def __init__(
        self,
        denoiser: nn.Module,
        strength: float = 0.02,
        sigma: float = 0.05,
        learnable: bool = False,
        tol: float = 1e-5,
    ):
        super().__init__(denoiser, sigma)
        check_strength(strength)
        self.strength = Positive(strength, learnable)
        self.tol = tol

    def forward(self, x: Tensor, y: Tensor, A: Any) -> Tensor:
        return proximal(A, self.denoise(x), y, self.strength(), self.tol)


class DouglasRachford(ProximalStep):
    """f(s) = s + D(2x − s) − x, where x = argmin_u ½‖A u − y‖² + ½λ‖u − s‖² is the image.

    Douglas–Rachford splitting with a learned prior (Ryu et al., ICML 2019). Arguments as
    :class:`ProximalStep`.
    """

    def forward(self, s: Tensor, y: Tensor, A: Any) -> Tensor:
        x = self.image(s, y, A)
        return s + self.denoise(2 * x - s) - x

    def image(self, s: Tensor, y: Tensor, A: Any) -> Tensor:
        return proximal(A, s, y, self.strength(), self.tol)

    def lift(self, x: Tensor, y: Tensor, A: Any) -> Tensor:
        return x + A.A_adjoint(A.A(x) - y) / self.strength()


class ADMM(ProximalStep):
    """f(z, u) = (D(x + u), u + x − D(x + u)) with x = argmin_v ½‖A v − y‖² + ½λ‖v − z + u‖².

    The alternating direction method of multipliers with a learned prior (Venkatakrishnan et al.
    2013; Chan, Wang and Elgendy 2017); z is the image. Arguments as :class:`ProximalStep`.
    """

    def forward(  # type: ignore[override]
        self, state: tuple[Tensor, Tensor], y: Tensor, A: Any
    ) -> tuple[Tensor, Tensor]:
        z, u = state
        x = proximal(A, z - u, y, self.strength(), self.tol)
        z = self.denoise(x + u)
        return z, u + x - z

    def image(self, state: tuple[Tensor, Tensor], y: Tensor, A: Any) -> Tensor:
        return state[0]

    def lift(self, x: Tensor, y: Tensor, A: Any) -> tuple[Tensor, Tensor]:
        return x, A.A_adjoint(y - A.A(x)) / self.strength()
