"""Steps that solve argmin_u ½‖A u − y‖² + ½λ‖u − d‖² once each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from deepinv.physics import MultiCoilMRI
from torch import Tensor, nn

from ...equilibrium.result import State
from ...imaging.inner import Inner, Wanted, inner_solve
from ...imaging.linear import has_other_products, least_squares
from ...imaging.scaled import unscaled
from ...imaging.tomography import FanBeam, ParallelBeam
from ..denoisers import is_plain
from .base import BoundStep, Positive, Step, check_strength

#: Steps of conjugate gradients before the first evaluation, where one takes Chebyshev's.
START_STEPS = 8


class BoundProximal(BoundStep):
    """f(z) for some measurements, with the way in which its inner problem is solved."""

    step: _InnerStep

    def __init__(self, step: _InnerStep, y: Tensor, physics: Any, inner: Inner):
        super().__init__(step, y, physics)
        self.inner = inner

    @property
    def launches_alone(self) -> bool:
        """Whether an evaluation does nothing but launch kernels, the same each time: not where the
        inner problem is solved to a tolerance, and not for operators and networks that nobody
        knows."""
        physics = unscaled(self.physics)
        is_known = type(physics) in (ParallelBeam, FanBeam, MultiCoilMRI)
        is_known = is_known and type(self.step) is ProximalStep and is_plain(self.step.denoiser)
        is_changed = has_other_products(physics) or has_other_products(self.physics)
        return is_known and not is_changed and self.inner.method == "chebyshev"

    def __call__(self, z: State) -> State:
        out: State = self.step(z, self.y, self.physics, self.inner)
        return out

    def _restricted(self, physics_of: Callable[[Tensor], Any], index: Tensor) -> BoundProximal:
        step, inner = self.step.restricted(index), self.inner.select(index)
        return BoundProximal(step, self.y[index], physics_of(index), inner)


class _InnerStep(Step):
    """What these steps share: λ, and how the inner problem is solved."""

    inner: Wanted = "exact"

    def __init__(
        self, denoiser: nn.Module, strength: float, sigma: float, learnable: bool, tol: float
    ):
        super().__init__(denoiser, sigma)
        check_strength(strength)
        self.strength = Positive(strength, learnable)
        self.tol = tol

    def explain(self, y: Any, physics: Any) -> Inner:
        """How the inner problem is solved for these measurements, and why so.

        ``str`` of it is a line of words; what it holds depends on the operator, on λ and on the
        precision and shape of y alone.

        Raises:
            UserError: a number of steps is asked for, and the operator's spectrum has no bound.
        """
        strength = self.strength.log
        moving = strength.requires_grad
        return inner_solve(physics, y, float(strength.detach().exp()), self.inner, moving)

    def bind(self, y: Tensor, physics: Any) -> BoundProximal:
        return BoundProximal(self, y, physics, self.explain(y, physics))

    def _solve(
        self, inner: Inner | None, start: Tensor | None, d: Tensor, y: Tensor, A: Any
    ) -> Tensor:
        """argmin_u ½‖A u − y‖² + ½λ‖u − d‖²."""
        inner = self.explain(y, A) if inner is None else inner
        return inner.solve(A, start, d, y, self.strength(), self.tol)


class ProximalStep(_InnerStep):
    """f(x) = argmin_u ½‖A u − y‖² + ½λ‖u − D(x)‖²: half-quadratic splitting with a learned prior.

    (MoDL; Aggarwal, Mani and Jacob, IEEE TMI 2019.) How the inner problem is solved is up to
    ``inner``:

    - "exact": in closed form where the physics has one, else by preconditioned conjugate gradients
      from x to ``tol``, with its exact derivative.
    - N: N steps of a preconditioned Chebyshev iteration from x. That is another map with the same
      equilibria: x is left alone by the iteration if, and only if, it solves its equation. An
      evaluation is cheaper by far, and its derivative needs no tolerance. What is no equilibrium
      (a Jacobian-free, phantom or unrolled gradient, a trace) depends on N.
    - "auto": in closed form where the physics has one, else as many Chebyshev steps as the
      operator's spectrum asks for.

    The preconditioner and the interval that holds the spectrum are constants of the derivative.
    :meth:`explain` tells what is done for some measurements, and why.

    Args:
        denoiser: D, called as ``denoiser(x, sigma)``.
        strength: λ > 0, for physics with ‖A‖ = 1.
        sigma: the noise level that D is told.
        learnable: train λ too.
        tol: relative residual of conjugate gradients.
        inner: "exact", "auto" or N ≥ 1.
    """

    def __init__(
        self,
        denoiser: nn.Module,
        strength: float = 0.02,
        sigma: float = 0.05,
        learnable: bool = False,
        tol: float = 1e-5,
        inner: Wanted = "exact",
    ):
        super().__init__(denoiser, strength, sigma, learnable, tol)
        check_inner(inner)
        self.inner = inner

    def forward(self, x: Tensor, y: Tensor, A: Any, inner: Inner | None = None) -> Tensor:
        return self._solve(inner, x, self.denoise(x), y, A)

    def start(self, y: Tensor, physics: Any) -> Tensor:
        """The image from which a solve begins if nobody says.

        Where an evaluation takes a number of Chebyshev's steps anyway, as many of conjugate
        gradients are worth their while: eight instead of two save an evaluation (CT, 128²,
        ``benchmarks/native.py``).
        """
        if self.explain(y, physics).iteration is None:
            return super().start(y, physics)
        return least_squares(physics.A, physics.A_adjoint, y, max_iter=START_STEPS).value


class _ExactStep(_InnerStep):
    """What needs the exact map: in closed form, or by preconditioned conjugate gradients."""

    def __init__(
        self,
        denoiser: nn.Module,
        strength: float = 0.02,
        sigma: float = 0.05,
        learnable: bool = False,
        tol: float = 1e-5,
    ):
        super().__init__(denoiser, strength, sigma, learnable, tol)


class DouglasRachford(_ExactStep):
    """f(s) = s + D(2x − s) − x, where x = argmin_u ½‖A u − y‖² + ½λ‖u − s‖² is the image.

    Douglas–Rachford splitting with a learned prior (Ryu et al., ICML 2019). Its inner problem is
    solved exactly, in closed form or by preconditioned conjugate gradients. Arguments as
    :class:`ProximalStep`, but for ``inner``.
    """

    def forward(self, s: Tensor, y: Tensor, A: Any, inner: Inner | None = None) -> Tensor:
        x = self._solve(inner, None, s, y, A)
        return s + self.denoise(2 * x - s) - x

    def image(self, s: Tensor, y: Tensor, A: Any) -> Tensor:
        return self._solve(None, None, s, y, A)

    def lift(self, x: Tensor, y: Tensor, A: Any) -> Tensor:
        return x + A.A_adjoint(A.A(x) - y) / self.strength()


class ADMM(_ExactStep):
    """f(z, u) = (D(x + u), u + x − D(x + u)) with x = argmin_v ½‖A v − y‖² + ½λ‖v − z + u‖².

    The alternating direction method of multipliers with a learned prior (Venkatakrishnan et al.
    2013; Chan, Wang and Elgendy 2017); z is the image, from which conjugate gradients begin.
    Arguments as :class:`ProximalStep`, but for ``inner``.
    """

    def forward(
        self, state: tuple[Tensor, Tensor], y: Tensor, A: Any, inner: Inner | None = None
    ) -> tuple[Tensor, Tensor]:
        z, u = state
        x = self._solve(inner, z, z - u, y, A)
        z = self.denoise(x + u)
        return z, u + x - z

    def image(self, state: tuple[Tensor, Tensor], y: Tensor, A: Any) -> Tensor:
        return state[0]

    def lift(self, x: Tensor, y: Tensor, A: Any) -> tuple[Tensor, Tensor]:
        return x, A.A_adjoint(y - A.A(x)) / self.strength()


def check_inner(inner: Any) -> None:
    """
    Raises:
        ValueError: it is neither a way to solve the inner problem nor a number of steps.
    """
    if inner in ("auto", "exact"):
        return
    if isinstance(inner, bool) or not isinstance(inner, int) or inner < 1:
        raise ValueError(
            f'inner must be "auto", "exact" or a whole number of steps, at least 1, got {inner!r}'
        )
