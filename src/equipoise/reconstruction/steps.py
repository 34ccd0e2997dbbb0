"""The learned steps f_θ(z; y): each reads as its equation. The state z is the image x, or holds what else the step needs."""

from __future__ import annotations

import math
from typing import Any

import torch
from deepinv.physics import LinearPhysics, Physics
from torch import Tensor, nn

from ..equilibrium.result import State
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
    """f(z) = step(z, y, physics), for some measurements: what a fixed-point solver is given."""

    def __init__(self, step: Step, y: Tensor, physics: Physics):
        self.step, self.y, self.physics = step, y, physics
        if not isinstance(y, Tensor):  # stacked physics take whole batches
            self.restrict = None

    def __call__(self, z: State) -> State:
        out: State = self.step(z, self.y, self.physics)
        return out

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
        self.precision: torch.dtype | None = None  #: of the denoiser's convolutions (bfloat16); none: that of the images

    def denoise(self, x: Tensor) -> Tensor:
        if self.precision is not None:
            with torch.autocast(x.device.type, self.precision):
                return self._denoise(x).to(x.dtype)
        return self._denoise(x)

    def _denoise(self, x: Tensor) -> Tensor:
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
        """The image from which a solve begins if nobody says: two steps of conjugate gradients from zero, less than one
        denoiser costs."""
        if not isinstance(physics, LinearPhysics):
            return physics.A_adjoint(y)
        return least_squares(physics.A, physics.A_adjoint, y, max_iter=2).value

    def lift(self, x: Tensor, y: Tensor, physics: Any) -> State:
        """The state whose image is x; exactly, where x is an equilibrium's."""
        return x

    def image(self, z: Any, y: Tensor, physics: Any) -> Tensor:
        """The image of a state."""
        out: Tensor = z
        return out


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


class RED(Step):
    """f(x) = x − η (Aᵀ(A x − y) + λ (x − D(x))): regularisation by denoising (Romano, Elad and Milanfar, SIIMS 2017).

    Its equilibria are those of :class:`ProximalStep` with the same λ. Where A does not see, its steps are ηλ as long: a
    residual of 1e-4 is met far from there, so ask for ηλ times the tolerance.

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
        if not strength > 0:
            raise ValueError(f"strength must be > 0, got {strength}")
        step_size, top = 1 / (1 + strength) if step_size is None else step_size, 2 / (1 + strength)
        if not 0 < step_size < top:
            raise ValueError(f"step_size must be in (0, {top:.3g}) for strength {strength}, got {step_size}")
        self.strength, self.ratio = Positive(strength, learnable), step_size / top  # so that a learnt λ keeps η safe

    def forward(self, x: Tensor, y: Tensor, A: Any) -> Tensor:
        strength = self.strength()
        step_size = self.ratio * 2 / (1 + strength.detach())
        return x - step_size * (A.A_adjoint(A.A(x) - y) + strength * (x - self.denoise(x)))


class DouglasRachford(ProximalStep):
    """f(s) = s + D(2x − s) − x, where x = argmin_u ½‖A u − y‖² + ½λ‖u − s‖² is the image: Douglas–Rachford splitting with a
    learned prior (Ryu et al., ICML 2019). Arguments as :class:`ProximalStep`."""

    def forward(self, s: Tensor, y: Tensor, A: Any) -> Tensor:
        x = self.image(s, y, A)
        return s + self.denoise(2 * x - s) - x

    def image(self, s: Tensor, y: Tensor, A: Any) -> Tensor:
        return proximal(A, s, y, self.strength(), self.tol)

    def lift(self, x: Tensor, y: Tensor, A: Any) -> Tensor:
        return x + A.A_adjoint(A.A(x) - y) / self.strength()


class ADMM(ProximalStep):
    """f(z, u) = (D(x + u), u + x − D(x + u)) with x = argmin_v ½‖A v − y‖² + ½λ‖v − z + u‖²; z is the image: the alternating
    direction method of multipliers with a learned prior (Venkatakrishnan et al. 2013; Chan, Wang and Elgendy 2017).
    Arguments as :class:`ProximalStep`."""

    def forward(self, state: tuple[Tensor, Tensor], y: Tensor, A: Any) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        z, u = state
        x = proximal(A, z - u, y, self.strength(), self.tol)
        z = self.denoise(x + u)
        return z, u + x - z

    def image(self, state: tuple[Tensor, Tensor], y: Tensor, A: Any) -> Tensor:
        return state[0]

    def lift(self, x: Tensor, y: Tensor, A: Any) -> tuple[Tensor, Tensor]:
        return x, A.A_adjoint(y - A.A(x)) / self.strength()


class PrimalDual(GradientStep):
    """f(x, v) = (x⁺, (v + σ (A(2x⁺ − x) − y)) / (1 + σ)) with x⁺ = D(x − η Aᵀ v): primal–dual splitting with a learned prior
    (Chambolle and Pock 2011; Ono 2017). Its equilibria are those of :class:`GradientStep` with the same η.

    Args:
        denoiser: as for :class:`GradientStep`, and so are ``step_size``, ``sigma`` and ``learnable``.
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
            raise ValueError(f"dual_step must be in (0, {1 / step_size:.3g}] = (0, 1/step_size], got {dual_step}")
        self.ratio = dual_step * step_size  # σ = ratio / η, so that a learnt η keeps the bound

    def forward(self, state: tuple[Tensor, Tensor], y: Tensor, A: Any) -> tuple[Tensor, Tensor]:  # type: ignore[override]
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
    """f(x) = D(x · exp(−η Aᵀ(1 − y / (A x)) / Aᵀ1)): mirror descent on the Poisson likelihood, with the entropy as mirror map,
    and a learned prior (Hurault et al., NeurIPS 2023, with Burg's entropy; this one's gradient step with 1 − t for exp(−t) is
    the EM iteration of Shepp and Vardi 1982). For counts: A, y and x are not negative.

    Args:
        denoiser: as for :class:`GradientStep`, and so are ``sigma`` and ``learnable``.
        step_size: η in (0, 1]; 1 is the pace of EM.
        floor: what x and A x are kept above.
    """

    def __init__(
        self, denoiser: nn.Module, step_size: float = 1.0, sigma: float = 0.05, learnable: bool = False, floor: float = 1e-3
    ):
        super().__init__(denoiser, step_size, sigma, learnable)
        if not floor > 0:
            raise ValueError(f"floor must be > 0, got {floor}")
        self.floor = floor

    def forward(self, x: Tensor, y: Tensor, A: Any) -> Tensor:
        x = x.clamp_min(self.floor)
        seen = A.A_adjoint(torch.ones_like(y)).clamp_min(self.floor)
        gradient = A.A_adjoint(1 - y / A.A(x).clamp_min(self.floor)) / seen
        return self.denoise(x * torch.exp(-self.step_size() * gradient.clamp(-2, 2)))


def proximal(physics: Any, d: Tensor, y: Tensor, strength: Tensor, tol: float) -> Tensor:
    """argmin_u ½‖A u − y‖² + ½λ‖u − d‖², by the physics' closed form if it has one."""
    own = getattr(type(physics), "prox_l2", LinearPhysics.prox_l2)
    if own is LinearPhysics.prox_l2:
        return proximal_l2(physics.A, physics.A_adjoint, d, y, strength, tol)
    return physics.prox_l2(d, y, gamma=1 / strength, tol=tol)
