"""Proximal maps of any linear operator, and operators that are multiplied by a number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import deepinv.physics
import torch
from deepinv.physics import LinearPhysics
from torch import Tensor

from .kept import factors
from .linear import (
    Operator,
    at_least_single,
    full_precision,
    has_other_products,
    per_sample,
    proximal_l2,
    variant,
)
from .tomography import Tomography

#: deepinv's operators whose ``prox_l2`` is a formula that holds. (Others inherit a method of that
#: name which is an iteration, or a formula for orthonormal factors that theirs are not.)
CLOSED_FORM = (
    deepinv.physics.Denoising,
    deepinv.physics.Inpainting,
    deepinv.physics.Demosaicing,
    deepinv.physics.MRI,
    deepinv.physics.DynamicMRI,
    deepinv.physics.SequentialMRI,
    deepinv.physics.BlurFFT,
)


def closed_form_prox(physics: Any) -> bool:
    """Whether ``physics.prox_l2`` is a formula, exact and differentiable any number of times.

    Otherwise it is an iteration: in deepinv one that can be differentiated once, and that stops for
    all samples together.
    """
    kind = type(physics)
    if has_other_products(physics):
        return False
    if isinstance(physics, Scaled):
        return closed_form_prox(physics.physics)
    if isinstance(physics, Tomography):
        return physics.has_closed_prox
    if kind is deepinv.physics.Downsampling:
        return _downsampling_has_formula(physics)
    if kind.__module__.startswith("deepinv."):
        return kind in CLOSED_FORM
    return isinstance(physics, LinearPhysics) and _defines_its_prox(kind)


def _downsampling_has_formula(physics: Any) -> bool:
    """Zhao et al. (IEEE TIP 2016): for periodic filters that are no larger than the image, and
    sizes that the factor divides."""
    if physics.filter is None or physics.padding != "circular" or physics.imsize is None:
        return False
    sides = physics.imsize[-2:]
    return fits_inside(physics.filter, sides) and all(n % physics.factor == 0 for n in sides)


def fits_inside(filter: Tensor, sides: Sequence[int]) -> bool:
    """Whether a filter (…, rows, columns) is no larger than images of these sides; of one that is,
    deepinv's Fourier transform leaves a part out."""
    return all(width <= side for width, side in zip(filter.shape[-2:], sides, strict=True))


def _defines_its_prox(kind: type) -> bool:
    """Whether a user's class has a ``prox_l2`` of its own, written for its ``A`` and ``A_adjoint``
    and not for those of a class that it derives from."""

    def depth(name: str) -> int:
        return next(i for i, base in enumerate(kind.__mro__) if name in vars(base))

    home = kind.__mro__[depth("prox_l2")]
    is_own = not home.__module__.startswith("deepinv.")
    return is_own and depth("prox_l2") <= min(depth("A"), depth("A_adjoint"))


def proximal(
    physics: Any,
    d: Tensor,
    y: Any,
    strength: Tensor | float,
    tol: float = 1e-6,
    max_iter: int = 200,
    start: Tensor | None = None,
    precondition: Operator | None = None,
) -> Tensor:
    """argmin_u ½‖A u − y‖² + ½λ‖u − d‖², λ = ``strength``, for any linear operator.

    By its formula where it has one, else by conjugate gradients, sample by sample. Differentiable
    twice in d (B, …), y, λ (one number, or one for each sample) and in whatever the operator is
    made of.

    Args:
        physics: a deepinv LinearPhysics.
        d: (B, …) an image.
        y: what the operator measures of it: (B, …), or a list of such for stacked operators.
        strength: λ > 0.
        tol: relative residual of conjugate gradients.
        max_iter: of them.
        start: (B, …) an image near the solution, from which they begin; none: d.
        precondition: near (AᵀA + λ)⁻¹, for them.

    Warns:
        InexactSolveWarning: conjugate gradients reached ``max_iter`` before ``tol``.
    """
    with full_precision(d):
        d = at_least_single(d)
        y = at_least_single(y) if isinstance(y, Tensor) else y
        if closed_form_prox(physics):
            x: Tensor = physics.prox_l2(d, y, gamma=1 / per_sample(strength, d))
            return x
        A, At = physics.A, physics.A_adjoint
        return proximal_l2(A, At, d, y, strength, tol, max_iter, start, precondition)


def with_noise_where_measured(physics: Any, noise_model: Any, y: Any, **kwargs: Any) -> Any:
    """Clean measurements with the noise of ``noise_model`` where ``physics`` measures: MRI has none
    between its lines, and a reader would take noise there for lines. Of what is composed, where the
    last factor measures."""
    noisy = noise_model(y, **kwargs)
    if not isinstance(y, Tensor):
        return noisy
    clean: Any = variant(factors(physics)[-1])
    clean.noise_model = deepinv.physics.ZeroNoise()
    return noisy * (clean.noise(torch.ones_like(y)) != 0)


def unscaled(physics: Any) -> Any:
    """The operator that is multiplied by a number, or the operator itself."""
    return physics.physics if isinstance(physics, Scaled) else physics


class Scaled(LinearPhysics):
    """factor · A for another operator A, which keeps its own ways to solve with it.

    What changes A's parameters (``A(x, mask=…)``, ``update(mask=…)``) reaches A; the factor stays.
    """

    def __init__(self, physics: LinearPhysics, factor: float):
        super().__init__(img_size=getattr(physics, "img_size", None))
        self.physics, self.factor = physics, factor
        self.set_ls_solver(physics.solver, physics.max_iter, physics.tol)

    def A(self, x: Tensor, **kwargs: Any) -> Any:
        return self.factor * self.physics.A(x, **kwargs)

    def A_adjoint(self, y: Any, **kwargs: Any) -> Tensor:
        return self.factor * self.physics.A_adjoint(y, **kwargs)

    def A_adjoint_A(self, x: Tensor, **kwargs: Any) -> Tensor:
        return self.factor**2 * self.physics.A_adjoint_A(x, **kwargs)

    def A_A_adjoint(self, y: Any, **kwargs: Any) -> Any:
        return self.factor**2 * self.physics.A_A_adjoint(y, **kwargs)

    def noise(self, x: Any, **kwargs: Any) -> Any:
        """Clean measurements with noise, where A measures."""
        return with_noise_where_measured(self.physics, self.noise_model, x, **kwargs)

    def A_dagger(self, y: Any, **kwargs: Any) -> Tensor:
        return self.physics.A_dagger(y / self.factor, **kwargs)

    def prox_l2(
        self,
        z: Tensor | float | None,
        y: Any,
        gamma: Tensor | float,
        solver: str = "CG",
        max_iter: int | None = None,
        tol: float | None = None,
        verbose: bool = False,
        **kwargs: Any,
    ) -> Tensor:
        """argmin_x γ/2 ‖factor · A x − y‖² + ½‖x − z‖².

        A's own, with γ · factor². Where that is deepinv's iteration, ours takes its place for
        ``solver="CG"``: it stops sample by sample, and can be differentiated twice.
        """
        limits = {"solver": solver, "max_iter": max_iter, "tol": tol, "verbose": verbose}
        own = closed_form_prox(self.physics) or isinstance(self.physics, Tomography)
        if own or solver != "CG":
            gamma = gamma * self.factor**2
            return self.physics.prox_l2(z, y / self.factor, gamma=gamma, **limits, **kwargs)
        self.update_parameters(**kwargs)
        if not isinstance(z, Tensor) or z.ndim == 0:
            z = torch.zeros_like(self.A_adjoint(y)) + (0 if z is None else z)
        tol = self.tol if tol is None else tol
        max_iter = self.max_iter if max_iter is None else max_iter
        return proximal_l2(self.A, self.A_adjoint, z, y, 1 / per_sample(gamma, z), tol, max_iter)

    def update_parameters(self, **kwargs: Any) -> None:
        self.physics.update_parameters(**kwargs)

    def set_ls_solver(
        self, solver: str, max_iter: int | None = None, tol: float | None = None
    ) -> None:
        super().set_ls_solver(solver, max_iter, tol)
        self.physics.set_ls_solver(solver, max_iter, tol)
