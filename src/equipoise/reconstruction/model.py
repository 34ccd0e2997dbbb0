"""x̂ = f*_θ(y): the equilibrium of a learned step, as a reconstructor."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from deepinv.models import Reconstructor
from torch import Tensor

from ..equilibrium import Anderson, Equilibrium, Implicit, Stop, fixed_point
from ..equilibrium.result import OnFailure
from ..equilibrium.solvers import Solver
from .steps import Step


class EquilibriumReconstructor(Reconstructor):
    """The reconstruction is the fixed point of ``step``: x̂ = f_θ(x̂; y).

    Args:
        step: ``GradientStep``, ``ProximalStep``, …
        solver: of the fixed-point equation; default ``Anderson()``.
        stop: tolerance and the most evaluations of f; default ``Stop(rtol=1e-4, max_steps=100)``.
        gradient: ``Implicit()`` (default, exact), ``JacobianFree()``, …
        on_failure: "warn", "raise" or "ignore" when some sample has not converged.
    """

    def __init__(
        self,
        step: Step,
        solver: Solver | None = None,
        stop: Stop | None = None,
        gradient: Any = None,
        on_failure: OnFailure = "warn",
    ):
        super().__init__()
        self.step = step
        self.solver = Anderson() if solver is None else solver
        self.stop = Stop() if stop is None else stop
        self.gradient = Implicit() if gradient is None else gradient
        self.on_failure: OnFailure = on_failure

    def forward(self, y: Tensor, physics: Any, x0: Tensor | None = None) -> Tensor:
        """Measurements y and the operator that made them → images (B, C, H, W). ``x0``: where to start the solve."""
        value: Tensor = self.equilibrium(y, physics, x0).value
        return value

    def equilibrium(self, y: Tensor, physics: Any, x0: Tensor | None = None) -> Equilibrium:
        """The :class:`Equilibrium` behind the image: value, residual, steps, status, trace; the adjoint after backward.

        Where the step's state holds more than the image (``ADMM``), the residual is that of the whole state."""
        f = self.step.bind(y, physics)
        with torch.no_grad():
            x0 = self.step.start(y, physics) if x0 is None else x0
            z0 = self.step.lift(x0, y, physics)
        how: Any = {"stop": self.stop, "gradient": self.gradient, "on_failure": self.on_failure}
        found = fixed_point(f, z0, solver=self.solver, **how)
        return replace(found, value=self.step.image(found.value, y, physics))
