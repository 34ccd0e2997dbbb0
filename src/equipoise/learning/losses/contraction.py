"""The penalty that keeps f a contraction near its equilibrium."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from ...equilibrium.flat import FlatMap
from ...reconstruction.contraction import row_norms, unit_rows
from .base import Example, LossValue, RecordedLoss, checked_weight

#: Where the penalty looks.
Along = Literal["residual", "memory"]


class JacobianPenalty(RecordedLoss):
    """weight · mean relu(‖Jᵀv‖ − bound)², J = ∂f/∂x at the equilibrium, v (of length one) near the
    direction in which Jᵀ gains most.

    A hinge: it does nothing while f contracts by ``bound`` or better along v, in which the adjoint
    equation converges most slowly.

    - ``along="residual"``: what is left of a solve, f(z) − z, is where it was slowest. That tells v
      for each sample at once, but for one step of the power method. Chest CT at 256², before
      training: gains of 0.89 to 0.99 are seen; from a random start on, as many only after 20 to 30
      steps of the power method, and the direction is another one for each image.
    - ``along="memory"``, as before: v is the same for all samples, and remembered from call to
      call, one step of the power method each. Our trainer remembers v itself, and saves it; where
      another trainer calls the penalty, the penalty does.

    Args:
        weight: of the penalty in the loss.
        bound: the gain that is free.
        along: where v comes from.
    """

    takes_split = True  # whose adjoint is what has to converge
    needs_gradient = False

    def __init__(self, weight: float = 0.01, bound: float = 0.97, along: Along = "residual"):
        super().__init__()
        if not 0 < bound < 1:
            raise ValueError(f"bound must be in (0, 1), got {bound}")
        if along not in ("residual", "memory"):
            raise ValueError(f'along must be "residual" or "memory", got {along!r}')
        self.weight = checked_weight(weight)
        self.bound = bound
        self.along = along
        self._direction: Tensor | None = None  # between calls of forward

    def forward(self, x_net: Tensor, y: Any, physics: Any, model: Any, **kwargs: Any) -> Tensor:
        example = Example(x_net, y, physics, model, direction=self._direction)
        value, _, _, self._direction = self.evaluate(example)
        return value

    def evaluate(self, example: Example) -> LossValue:
        """Also ``gain`` (B,), ‖Jᵀv‖, and with a memory the ``direction`` (1, N) from which to go
        on."""
        step, physics = example.model.step, example.physics
        y = example.y.detach() if isinstance(example.y, Tensor) else example.y
        z = step.lift(example.x_net.detach(), y, physics)
        F = FlatMap(step.bind(y, physics), z)
        z = F.pack(z).detach().requires_grad_()
        if self.along == "residual":
            return self._along_residuals(F, z, step)
        return self._along_memory(F, z, example.direction)

    def _along_residuals(self, F: FlatMap, z: Tensor, step: nn.Module) -> LossValue:
        """The graph, which is the largest of a training step, is that of the samples that gain too
        much alone: often of none."""
        with torch.enable_grad():
            fz = F(z)
            v = _slowest(z, fz)
            (Jv,) = torch.autograd.grad(fz, z, v)
            gain = row_norms(Jv).detach()
            too_much = torch.nonzero(~(gain <= self.bound))[:, 0]  # what is not finite, too
            if not len(too_much):
                return LossValue(_zero(step).to(gain), gain=gain)
            some = z.detach()[too_much].requires_grad_()
            f_some = F.restrict(too_much, z.detach())(some)
            (J_some,) = torch.autograd.grad(f_some, some, v[too_much], create_graph=True)
            excess = torch.relu(row_norms(J_some) - self.bound).square().sum() / len(z)
        return LossValue(self.weight * excess, gain=gain)

    def _along_memory(self, F: FlatMap, z: Tensor, remembered: Tensor | None) -> LossValue:
        with torch.enable_grad():
            v = _remembered(remembered, z).expand_as(z)
            (Jv,) = torch.autograd.grad(F(z), z, v, create_graph=True)
        gain = row_norms(Jv)
        value = self.weight * torch.relu(gain - self.bound).square().mean()
        usable = bool((gain.isfinite() & (gain > 0)).all())
        # There always is a direction: processes that share a batch share it.
        direction = unit_rows(Jv.detach()[:1]) if usable else v[:1]
        return LossValue(value, gain=gain.detach(), direction=direction)


def _zero(module: nn.Module) -> Tensor:
    """0, which can be differentiated like any other value, without an evaluation."""
    parameter = next((p for p in module.parameters() if p.requires_grad), None)
    return torch.zeros(()) if parameter is None else 0 * parameter.sum()


def _remembered(direction: Tensor | None, z: Tensor) -> Tensor:
    """(1, N): what was found before, or a start at random, always the same."""
    if direction is None or direction.shape[1] != z.shape[1]:
        direction = _anywhere(z)
    return unit_rows(direction.to(z))


def _slowest(z: Tensor, fz: Tensor) -> Tensor:
    """(B, N): one step of the power method from what is left of each sample's solve; at random
    where nothing is left."""
    left = unit_rows(fz.detach() - z.detach())
    (turned,) = torch.autograd.grad(fz, z, _or_anywhere(left), retain_graph=True)
    return _or_anywhere(unit_rows(turned))


def _or_anywhere(v: Tensor) -> Tensor:
    """Unit rows v, with random ones where they are zero or not finite."""
    usable = v.isfinite().all(1, keepdim=True) & (v != 0).any(1, keepdim=True)
    return torch.where(usable, v, unit_rows(_anywhere(v)))


def _anywhere(z: Tensor) -> Tensor:
    """(1, N)"""
    start = torch.Generator().manual_seed(0)
    return torch.randn(1, z.shape[1], generator=start).to(z)
