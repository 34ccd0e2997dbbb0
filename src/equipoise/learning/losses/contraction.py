"""The penalty that keeps f a contraction near its equilibrium."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...equilibrium.flat import FlatMap
from ...reconstruction.contraction import row_norms, unit_rows
from .base import Example, LossValue, RecordedLoss


class JacobianPenalty(RecordedLoss):
    """weight · mean relu(‖Jᵀv‖ − bound)², J = ∂f/∂x at the equilibrium, v (of length one) near the
    direction in which Jᵀ gains most.

    A hinge: it does nothing while f contracts by ``bound`` or better along v, in which the adjoint
    equation converges most slowly. That direction is much the same for all images, so v is
    remembered from call to call: one step of the power method a call, which is the vector–Jacobian
    product that the penalty needs anyway, finds more than three steps from a random start would
    (``results/training.md``). Our trainer remembers v itself, and saves it; where another trainer
    calls the penalty, the penalty does.

    Args:
        weight: of the penalty in the loss.
        bound: the gain that is free.
    """

    def __init__(self, weight: float = 0.1, bound: float = 0.9):
        super().__init__()
        if not 0 < bound < 1:
            raise ValueError(f"bound must be in (0, 1), got {bound}")
        self.weight = weight
        self.bound = bound
        self._direction: Tensor | None = None  # between calls of forward

    def forward(self, x_net: Tensor, y: Any, physics: Any, model: Any, **kwargs: Any) -> Tensor:
        example = Example(x_net, y, physics, model, direction=self._direction)
        value, _, _, self._direction = self.evaluate(example)
        return value

    def evaluate(self, example: Example) -> LossValue:
        """Also ``gain`` (B,), ‖Jᵀv‖, and the ``direction`` (1, N) from which to go on."""
        step, physics = example.model.step, example.physics
        y = example.y.detach() if isinstance(example.y, Tensor) else example.y
        z = step.lift(example.x_net.detach(), y, physics)
        F = FlatMap(step.bind(y, physics), z)
        z = F.pack(z).detach().requires_grad_()
        v = example.direction
        if v is None or v.shape[1] != z.shape[1]:
            start = torch.Generator().manual_seed(0)
            v = torch.randn(1, z.shape[1], generator=start)
        v = unit_rows(v.to(z))
        with torch.enable_grad():
            (Jv,) = torch.autograd.grad(F(z), z, v.expand_as(z), create_graph=True)
        gain = row_norms(Jv)
        value = self.weight * torch.relu(gain - self.bound).square().mean()
        usable = bool((gain.isfinite() & (gain > 0)).all())
        # There always is a direction: processes that share a batch share it.
        direction = unit_rows(Jv.detach()[:1]) if usable else v
        return LossValue(value, gain=gain.detach(), direction=direction)
