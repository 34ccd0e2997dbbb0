"""What the model makes of another measurement inside a loss, and how accurately."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ...equilibrium import Equilibrium, Implicit, Stop, Unrolled, solve
from ...reconstruction.model import EquilibriumReconstructor
from .base import Example, RecordedLoss

#: A solution is an iterate ahead of the one that met the tolerance: twice that is near enough.
SLACK = 2.0
#: A residual of this many roundings can be reached by networks as they are trained: 6e-5 in
#: float32. What is asked for below, most of them wander about until their evaluations are used up.
RESOLVED = 512


@dataclass(frozen=True)
class Accuracy:
    """How accurately a loss needs the equilibria that it compares.

    A loss such as |T_g x̂ − f*(A T_g x̂)|² is the small difference of two solutions, so an error
    that does not matter in an image matters there. Solved to 1e-3, as is enough for an image, the
    loss was down to 0.73 of its true value, with a gradient that was wrong by more than its own
    length; where f hardly contracts, an error of 1e-5 still turned a sample's gradient by a third.
    With the values below the loss is exact to 1e-4, and its gradient to 1 % (float64; CT and MRI,
    proximal and gradient step: tests/learning/test_accuracy.py).
    """

    rtol: float = 1e-7  #: relative residual of the equilibria, where the numbers resolve it
    adjoint_rtol: float = 1e-4  #: and of their adjoint solves
    effort: int = 2  #: how many times as many evaluations as the model would take at most

    def __post_init__(self) -> None:
        for name in ("rtol", "adjoint_rtol"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} must be a finite number > 0, got {value}")
        if self.effort < 1:
            raise ValueError(f"effort must be at least 1, got {self.effort}")

    def tightest(self, other: Accuracy) -> Accuracy:
        """What satisfies both."""
        return Accuracy(
            min(self.rtol, other.rtol),
            min(self.adjoint_rtol, other.adjoint_rtol),
            max(self.effort, other.effort),
        )


DEFAULT_ACCURACY = Accuracy()
#: No better than the model is solved anyway.
AS_THE_MODEL = Accuracy(rtol=1.0, adjoint_rtol=1.0, effort=1)


class SecondSolveLoss(RecordedLoss):
    """A loss that has the model reconstruct again, and says how accurately."""

    def __init__(self, accuracy: Accuracy):
        super().__init__()
        self.accuracy = accuracy


def accurate(model: Any, accuracy: Accuracy) -> Any:
    """The model as accurate as a loss asks for: itself, or a copy that shares its parameters.

    No residual is asked for that float32 would not resolve. What is unrolled has no tolerance,
    bfloat16 cannot reach one, and any other model is its own affair: these stay as they are.
    """
    if not isinstance(model, EquilibriumReconstructor) or isinstance(model.gradient, Unrolled):
        return model
    if model.step.precision is not None:
        return model
    rtol = max(accuracy.rtol, RESOLVED * _eps(model))
    stop = _tightened(model.stop, rtol, accuracy.effort)
    gradient = model.gradient
    if isinstance(gradient, Implicit):
        adjoint_rtol = max(accuracy.adjoint_rtol, _eps(model) ** 0.5)
        adjoint_stop = _tightened(gradient.stop, adjoint_rtol, accuracy.effort)
        gradient = replace(gradient, stop=adjoint_stop)
    if stop == model.stop and gradient == model.gradient:
        return model
    tightened = copy.copy(model)
    tightened.stop, tightened.gradient = stop, gradient
    return tightened


def _eps(model: EquilibriumReconstructor) -> float:
    dtypes = [p.dtype for p in model.parameters() if p.is_floating_point()]
    return float(torch.finfo(dtypes[0] if dtypes else torch.get_default_dtype()).eps)


def _tightened(stop: Stop, rtol: float, effort: int) -> Stop:
    return stop if stop.rtol <= rtol else Stop(rtol, effort * stop.max_steps)


def refined(example: Example, accuracy: Accuracy) -> tuple[Tensor, tuple[Equilibrium, ...]]:
    """x̂ (B, C, …) as accurately as a loss needs it, and the record of the solve that made it so.

    Where x̂ is an equilibrium of y only to the model's own tolerance, as trainers of others solve
    it, its solve goes on from there. What is no equilibrium of y is left alone.
    """
    model, x, y, physics = example.model, example.x_net, example.y, example.physics
    exact = accurate(model, accuracy)
    if exact is model or y is None:
        return x, ()
    residual = _residual(model, x, y, physics)
    near = residual <= SLACK * model.stop.rtol
    rough = residual > SLACK * exact.stop.rtol
    if exact.gradient != model.gradient:
        rough = torch.ones_like(rough)  # its derivative is not accurate enough
    if not bool((near & rough).any()):
        return x, ()
    record = exact.equilibrium(y, physics, x0=x.detach())
    chosen = near.reshape(-1, *[1] * (x.ndim - 1))
    return torch.where(chosen, record.value, x), (replace(record, value=None),)


def _residual(model: EquilibriumReconstructor, x: Tensor, y: Any, physics: Any) -> Tensor:
    """(B,) ‖f(z) − z‖ / ‖f(z)‖ at the state z of the image x."""
    with torch.no_grad():
        z = model.step.lift(x.detach(), y, physics)
        f = model.step.bind(y, physics)
        once = Stop(model.stop.rtol, max_steps=1)
        return solve(f, z, stop=once, on_failure="ignore").residual


def reconstruct_again(
    model: Any, y: Any, physics: Any, accuracy: Accuracy, start: Tensor | None = None
) -> tuple[Tensor, tuple[Equilibrium, ...]]:
    """What the model makes of y (B, …), and the record of that solve, without its value.

    An equilibrium model is solved as accurately as ``accuracy`` says, from the image ``start``, if
    there is one; what is unrolled would remember it, and does not get it. Any other model is
    called, and leaves no record.
    """
    model = accurate(model, accuracy)
    if not isinstance(model, EquilibriumReconstructor):
        return model(y, physics), ()
    if start is not None:
        start = None if isinstance(model.gradient, Unrolled) else start.detach()
    record = model.equilibrium(y, physics, x0=start)
    return record.value, (replace(record, value=None),)
