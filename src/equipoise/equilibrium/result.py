"""What is asked of a solve, and what it reports."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Literal

from torch import Tensor

#: A state is one tensor, or a tuple of tensors that share their first (batch) dimension.
State = Tensor | tuple[Tensor, ...]
OnFailure = Literal["warn", "raise", "ignore"]


@dataclass(frozen=True)
class Stop:
    """When a sample's solve ends: at a relative residual ``rtol``, or after ``max_steps``
    evaluations of f."""

    rtol: float = 1e-4
    max_steps: int = 100

    def __post_init__(self) -> None:
        if not (math.isfinite(self.rtol) and self.rtol >= 0):
            raise ValueError(
                f"rtol must be a finite number >= 0, got {self.rtol}; 1e-4 suits float32, 1e-10 "
                "float64"
            )
        if isinstance(self.max_steps, bool) or self.max_steps % 1 != 0 or self.max_steps < 1:
            raise ValueError(f"max_steps must be an integer >= 1, got {self.max_steps}")


class Status(IntEnum):
    """How a sample's solve ended."""

    CONVERGED = 0
    MAX_STEPS = 1
    NONFINITE = 2


class EquilibriumWarning(UserWarning):
    """Some sample did not reach its equilibrium."""


class EquilibriumError(RuntimeError):
    """Some sample did not reach its equilibrium, and ``on_failure="raise"`` was asked for."""


@dataclass
class Equilibrium:
    """The outcome of a solve of z = f(z), sample by sample (B samples, K evaluations).

    ``value`` is the iterate whose residual is reported (where the solve failed, the best finite
    one).
    """

    value: Any  #: (B, …), or a tuple of such
    residual: Tensor  #: (B,)  ‖f(z) − z‖ / ‖f(z)‖ at ``value``
    steps: Tensor  #: (B,)  evaluations of f that this sample took part in
    status: Tensor  #: (B,)  :class:`Status`
    trace: Tensor  #: (K, B) residual of each evaluation; a finished sample keeps its last
    #: The record of the adjoint solve, once it is made. In a list of its own, so that the backward
    #: node that fills it keeps no reference to the tensor it belongs to (nothing waits for the
    #: cycle collector).
    _adjoint: list[Equilibrium] = field(default_factory=list, repr=False)

    @property
    def adjoint(self) -> Equilibrium | None:
        """None; after backward, the same record of the adjoint solve."""
        return self._adjoint[-1] if self._adjoint else None

    @property
    def converged(self) -> Tensor:
        """(B,) bool."""
        return self.status == Status.CONVERGED

    def report(self, on_failure: OnFailure, stop: Stop, what: str = "forward") -> None:
        """Warn or raise, as ``on_failure`` says, when some sample failed."""
        if on_failure == "ignore" or bool(self.converged.all()):
            return
        message = failure_message(self, stop, what)
        if on_failure == "raise":
            raise EquilibriumError(message)
        warnings.warn(message, EquilibriumWarning, stacklevel=4)


def check_on_failure(on_failure: str) -> None:
    if on_failure not in ("warn", "raise", "ignore"):
        raise ValueError(f'on_failure must be "warn", "raise" or "ignore", got {on_failure!r}')


def failure_message(result: Equilibrium, stop: Stop, what: str) -> str:
    """One paragraph: how many samples failed, by how much, and what may help."""
    batch = len(result.status)
    parts = []
    not_finite = result.status == Status.NONFINITE
    unfinished = result.status == Status.MAX_STEPS
    if count := int(not_finite.sum()):
        parts.append(
            f"{count} of {batch} samples met a value that is not finite (first after "
            f"{int(result.steps[not_finite].min())} evaluations of f): check the input for NaN, "
            "lower the step size, or control the contraction of f"
        )
    if count := int(unfinished.sum()):
        worst = float(result.residual[unfinished].max())
        last = result.trace[-1][unfinished]
        smallest = result.trace.min(0).values[unfinished]
        if bool((last > 2 * smallest).any()):
            advice = (
                "the residual grew, so f is probably no contraction there: lower the step size or "
                "add contraction control"
            )
        else:
            advice = (
                "raise max_steps or rtol, use Anderson instead of Picard, or make f contract more"
            )
        parts.append(
            f"{count} of {batch} samples stopped at max_steps={stop.max_steps} with a relative "
            f"residual up to {worst:.1e} (rtol={stop.rtol:.1e}): {advice}"
        )
    return f"{what} solve of z = f(z) did not converge: " + "; ".join(parts)
