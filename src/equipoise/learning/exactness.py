"""Is what a step minimised what is written? The losses that solve again, beside their exact values,
now and then."""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import UserError
from ..imaging.draws import seeded
from ..imaging.operators import in_double
from ..imaging.selection import of_the_first
from ..reconstruction.model import EquilibriumReconstructor
from .batching import Part
from .losses import Accuracy, Example, SecondSolveLoss, accurate, evaluate

if TYPE_CHECKING:
    from ..data.scan import Scan

#: What counts as exact: this residual, in at most so many times the model's evaluations.
EXACT = Accuracy(rtol=1e-8, adjoint_rtol=1.0, effort=20)


def inexactness(
    model: EquilibriumReconstructor,
    losses: dict[str, Any],
    part: Part,
    draws: tuple[int, int],
) -> dict[str, float]:
    """By how much each loss that solves again differs from its value at a residual of 1e-8, as a
    share of that, both in float64 and with the step's own draws: what the tolerance of the step
    costs. Nothing of the model or of the losses changes.

    Args:
        model: as the step had it.
        losses: by name.
        part: measurements of the step.
        draws: the seed of the step's draws.
    """
    asked = {name: loss for name, loss in losses.items() if isinstance(loss, SecondSolveLoss)}
    if not asked:
        return {}
    double = copy.deepcopy(model).double()
    shape, other = tuple(part.y.shape[1:]), part.other_physics
    part = part._replace(
        y=_double(part.y),
        physics=in_double(part.physics, shape),
        other_physics=None if other is None else in_double(other, shape),
    )
    found = {}
    for name, loss in asked.items():
        used = accurate(model, loss.accuracy).stop
        effort = max(1, math.ceil(used.max_steps / double.stop.max_steps))
        rough = _value(loss, Accuracy(used.rtol, 1.0, effort), double, part, draws)
        exact = _value(loss, EXACT, double, part, draws)
        found[name] = abs(rough - exact) / max(abs(exact), torch.finfo(torch.float64).tiny)
    return found


def check_double(scan: Scan, check_every: int) -> None:
    """
    Raises:
        UserError: the operator cannot compute in float64, in which losses are checked.
    """
    try:
        in_double(of_the_first(scan.physics), scan.measurement_shape)
    except UserError as error:
        raise UserError(f"learning.check_every={check_every}: {error}; set it to 0") from error


def _value(
    loss: SecondSolveLoss,
    accuracy: Accuracy,
    model: EquilibriumReconstructor,
    part: Part,
    draws: tuple[int, int],
) -> float:
    """The mean of a loss over a part, with solves as accurate as that."""
    as_asked = copy.copy(loss)
    as_asked.accuracy = accuracy
    exact: EquilibriumReconstructor = accurate(model, accuracy)
    with torch.no_grad(), seeded(draws, part.places.tolist()):
        x = exact.equilibrium(part.y, part.physics).value
        example = Example(x, part.y, part.physics, exact, other_physics=part.other_physics)
        return float(evaluate(as_asked, example).value.mean())


def _double(y: Any) -> Any:
    if not isinstance(y, Tensor):
        return y
    return y.to(torch.complex128 if y.is_complex() else torch.float64)
