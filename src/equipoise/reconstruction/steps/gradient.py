"""Steps that apply A and Aᵀ once each, and solve nothing."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .base import Positive, Step, check_strength


class GradientStep(Step):
    """f(x) = D(x − η Aᵀ(A x − y)): proximal gradient descent with a learned prior.

    Args:
        denoiser: D, called as ``denoiser(x, sigma)``.
        step_size: η in (0, 2), for physics with ‖A‖ = 1.
        sigma: the noise level that D is told.
        learnable: train η too.
    """

    def __init__(
        self,
        denoiser: nn.Module,
        step_size: float = 1.0,
        sigma: float = 0.05,
        learnable: bool = False,
    ):
        super().__init__(denoiser, sigma)
        if not 0 < step_size < 2:
            raise ValueError(
                f"step_size must be in (0, 2.0), got {step_size}; normalise the physics (‖A‖ = 1) "
                "instead"
            )
        self.step_size = Positive(step_size, learnable)

    def forward(self, x: Tensor, y: Tensor, A: Any) -> Tensor:
        eta = self.step_size()
        return self.denoise(x - eta * A.A_adjoint(A.A(x) - y))


class RED(Step):
    """f(x) = x − η (Aᵀ(A x − y) + λ (x − D(x))): regularisation by denoising.

    (Romano, Elad and Milanfar, SIIMS 2017.) Its equilibria are those of :class:`ProximalStep` with
    the same λ. Where A does not see, its steps are ηλ as long: a residual of 1e-4 is met far from
    there, so ask for ηλ times the tolerance.

    Args:
        denoiser: D, called as ``denoiser(x, sigma)``.
        strength: λ > 0, for physics with ‖A‖ = 1.
        step_size: η; default 1 / (1 + λ), the largest that is safe while D is non-expansive.
        sigma: the noise level that D is told.
        learnable: train λ too; η does not change the equilibrium.
    """

    def __init__(
        self,
        denoiser: nn.Module,
        strength: float = 0.02,
        step_size: float | None = None,
        sigma: float = 0.05,
        learnable: bool = False,
    ):
        super().__init__(denoiser, sigma)
        check_strength(strength)
        step_size = 1 / (1 + strength) if step_size is None else step_size
        largest = 2 / (1 + strength)
        if not 0 < step_size < largest:
            raise ValueError(
                f"step_size must be in (0, {largest:.3g}) for strength {strength}, got {step_size}"
            )
        self.strength = Positive(strength, learnable)
        self.ratio = step_size / largest  # so that a learnt λ keeps η safe

    def forward(self, x: Tensor, y: Tensor, A: Any) -> Tensor:
        strength = self.strength()
        step_size = self.ratio * 2 / (1 + strength)
        gradient = A.A_adjoint(A.A(x) - y) + strength * (x - self.denoise(x))
        return x - step_size * gradient


class PrimalDual(GradientStep):
    """f(x, v) = (x⁺, (v + σ (A(2x⁺ − x) − y)) / (1 + σ)) with x⁺ = D(x − η Aᵀ v).

    Primal–dual splitting with a learned prior (Chambolle and Pock 2011; Ono 2017). Its equilibria
    are those of :class:`GradientStep` with the same η. The state is (x, v), and x the image.

    Args:
        denoiser: D, called as ``denoiser(x, sigma)``.
        step_size: η in (0, 2), for physics with ‖A‖ = 1.
        sigma: the noise level that D is told.
        learnable: train η too.
        dual_step: σ in (0, 1/η]; default 1/η.
    """

    def __init__(
        self,
        denoiser: nn.Module,
        step_size: float = 1.0,
        sigma: float = 0.05,
        learnable: bool = False,
        dual_step: float | None = None,
    ):
        super().__init__(denoiser, step_size, sigma, learnable)
        dual_step = 1 / step_size if dual_step is None else dual_step
        if not 0 < dual_step * step_size <= 1:
            raise ValueError(
                f"dual_step must be in (0, {1 / step_size:.3g}] = (0, 1/step_size], got {dual_step}"
            )
        self.ratio = dual_step * step_size  # σ = ratio / η, so that a learnt η keeps the bound

    def forward(  # type: ignore[override]
        self, state: tuple[Tensor, Tensor], y: Tensor, A: Any
    ) -> tuple[Tensor, Tensor]:
        x, v = state
        eta = self.step_size()
        s = self.ratio / eta
        new = self.denoise(x - eta * A.A_adjoint(v))
        return new, (v + s * (A.A(2 * new - x) - y)) / (1 + s)

    def image(self, state: tuple[Tensor, Tensor], y: Tensor, A: Any) -> Tensor:
        return state[0]

    def lift(self, x: Tensor, y: Tensor, A: Any) -> tuple[Tensor, Tensor]:
        return x, A.A(x) - y


class MirrorStep(GradientStep):
    """f(x) = D(x · exp(−η Aᵀ(1 − y / (A x)) / Aᵀ1)): mirror descent on the Poisson likelihood.

    With the entropy as mirror map, and a learned prior (Hurault et al., NeurIPS 2023, with Burg's
    entropy; this one's gradient step with 1 − t for exp(−t) is the EM iteration of Shepp and Vardi
    1982). For counts: A, y and x are not negative.

    Args:
        denoiser: D, called as ``denoiser(x, sigma)``.
        step_size: η in (0, 2); 1 is the pace of EM.
        sigma: the noise level that D is told.
        learnable: train η too.
        floor: what x and A x are kept above.
    """

    is_pixel_by_pixel = True

    def __init__(
        self,
        denoiser: nn.Module,
        step_size: float = 1.0,
        sigma: float = 0.05,
        learnable: bool = False,
        floor: float = 1e-3,
    ):
        super().__init__(denoiser, step_size, sigma, learnable)
        if not floor > 0:
            raise ValueError(f"floor must be > 0, got {floor}")
        self.floor = floor

    def forward(self, x: Tensor, y: Tensor, A: Any) -> Tensor:
        x = x.clamp_min(self.floor)
        sensitivity = A.A_adjoint(torch.ones_like(y)).clamp_min(self.floor)
        gradient = A.A_adjoint(1 - y / A.A(x).clamp_min(self.floor)) / sensitivity
        return self.denoise(x * torch.exp(-self.step_size() * gradient.clamp(-2, 2)))
