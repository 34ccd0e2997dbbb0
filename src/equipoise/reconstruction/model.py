"""x̂ = f*_θ(y): the equilibrium of a learned step, as a reconstructor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from deepinv.models import Reconstructor
from torch import Tensor, nn

from ..equilibrium import Anderson, Equilibrium, Implicit, Status, Stop, Unrolled, fixed_point
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

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> EquilibriumReconstructor:
        """The model in a folder that `equipoise export` made, ready to reconstruct.

        Raises:
            UserError: there is none, or its files are damaged.
        """
        from .assemble import from_pretrained

        return from_pretrained(folder)

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


class UntiedReconstructor(EquilibriumReconstructor):
    """Deep unrolling with weights of its own for each of ``steps``, which are taken once, in their order: no equilibrium, but
    what equilibrium models are compared with. Its ``step`` is the last."""

    def __init__(self, steps: Sequence[Step], on_failure: OnFailure = "warn"):
        super().__init__(steps[-1], gradient=Unrolled(len(steps)), on_failure=on_failure)
        self.before = nn.ModuleList(steps[:-1])

    def equilibrium(self, y: Tensor, physics: Any, x0: Tensor | None = None) -> Equilibrium:
        """What the last step makes; the residual is how far it moved the image."""
        trace: list[Tensor] = []
        step: Any
        with torch.no_grad():
            z = self.step.lift(self.step.start(y, physics) if x0 is None else x0, y, physics)
        for step in (*self.before, self.step):
            old = self.step.image(z, y, physics).detach()
            z = step.bind(y, physics)(z)
            x = self.step.image(z, y, physics)
            change, size = (torch.linalg.vector_norm(v.flatten(1), dim=1) for v in (x.detach() - old, x.detach()))
            trace.append(change / size.clamp_min(torch.finfo(x.dtype).tiny))
        status = torch.where(trace[-1] <= self.stop.rtol, int(Status.CONVERGED), int(Status.MAX_STEPS))
        return Equilibrium(x, trace[-1], torch.full_like(status, len(trace)), status, torch.stack(trace))
