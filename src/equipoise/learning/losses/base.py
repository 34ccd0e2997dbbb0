"""What a loss is: deepinv's contract, and beside it a record of what a loss finds out."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from deepinv.loss import Loss
from torch import Tensor

from ...equilibrium import Equilibrium
from ...imaging.splitting import Split


@dataclass(frozen=True)
class Example:
    """A batch of measurements, and what the model made of them: what a loss is given.

    The first four are those of deepinv's contract; the rest is what our trainer knows beside.
    """

    x_net: Tensor  #: (B, C, H, W), x̂ = f*(y)
    y: Any = None  #: (B, …), or a list of such for stacked physics
    physics: Any = None
    model: Any = None
    x: Tensor | None = None  #: (B, C, H, W), the truth, for a supervised loss alone
    epoch: int = 0
    other_physics: Any = None  #: for each sample, the operator of another one
    direction: Tensor | None = None  #: (1, N), what the contraction penalty remembers
    split: Split | None = None  #: of all measurements; x̂, y and physics are of its larger part


class LossValue(NamedTuple):
    """What a loss is worth, and what it found out on the way."""

    value: Tensor  # (B,), (draws · B,) or a scalar
    solves: tuple[Equilibrium, ...] = ()  # without values; their adjoints are filled by backward
    gain: Tensor | None = None  # (B,) of the adjoint Jacobian, in ``direction``
    direction: Tensor | None = None  # (1, N) for the next step


class RecordedLoss(Loss):
    """A loss of ours: ``evaluate`` tells all; ``forward``, deepinv's contract, the value alone.

    ``takes_split``: where a splitting loss shares its image, this one is given that, with the
    measurements from which it was made. ``needs_gradient``: it is differentiated with respect to
    x̂; an image that no loss needs the gradient of is solved for without one.
    """

    takes_split = False
    needs_gradient = True

    def evaluate(self, example: Example) -> LossValue:
        """The value, and what was found out on the way."""
        raise NotImplementedError


def evaluate(loss: Callable[..., Tensor], example: Example) -> LossValue:
    """What any loss is worth: one of ours, one of deepinv's, or any other in their contract.

    The contract is ``loss(x_net=, x=, y=, physics=, model=) → (B,) or a scalar``; a loss that
    takes ``epoch``, as deepinv's schedulers do, is told that too.
    """
    if isinstance(loss, RecordedLoss):
        return loss.evaluate(example)
    more = {"epoch": example.epoch} if accepts(loss, "epoch") else {}
    value = loss(
        x_net=example.x_net,
        x=example.x,
        y=example.y,
        physics=example.physics,
        model=example.model,
        **more,
    )
    return LossValue(value)


def checked_weight(weight: float) -> float:
    """The weight of a loss.

    Raises:
        ValueError: it is no finite number, or negative.
    """
    if isinstance(weight, str) or not (math.isfinite(weight) and weight >= 0):
        raise ValueError(f"weight must be a finite number >= 0, got {weight!r}")
    return weight


def accepts(function: Any, name: str) -> bool:
    """Whether a function, or a module's ``forward``, takes an argument of this name."""
    parameters = inspect.signature(getattr(function, "forward", function)).parameters
    kinds = [parameter.kind for parameter in parameters.values()]
    return name in parameters or inspect.Parameter.VAR_KEYWORD in kinds


def mean_square(a: Tensor, b: Tensor) -> Tensor:
    """mean |a − b|² of each sample: (B,).

    Raises:
        ValueError: their shapes differ.
    """
    if a.shape != b.shape:
        raise ValueError(
            f"a loss compares what has one shape, got {tuple(a.shape)} and {tuple(b.shape)}"
        )
    return (a - b).abs().square().flatten(1).mean(1)
