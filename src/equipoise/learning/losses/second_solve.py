"""What the model makes of another measurement, inside a loss."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from ...equilibrium import Equilibrium, Unrolled
from ...reconstruction.model import EquilibriumReconstructor


def reconstruct_again(
    model: Any, y: Tensor, physics: Any, near: Tensor
) -> tuple[Tensor, tuple[Equilibrium, ...]]:
    """What the model makes of y (B, …), and the record of that solve, without its value.

    An equilibrium model starts at ``near``, where its answer should be. What is unrolled remembers
    where it started, and must not start at an answer that has seen what is to be predicted. Any
    other model is called, and leaves no record.
    """
    if not isinstance(model, EquilibriumReconstructor):
        return model(y, physics), ()
    start = None if isinstance(model.gradient, Unrolled) else near.detach()
    record = model.equilibrium(y, physics, x0=start)
    return record.value, (replace(record, value=None),)
