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


def whole_number(name: str, value: Any, at_least: int) -> int:
    """The value as an ``int``: 100.0 is 100.

    Raises:
        ValueError: it is no whole number, or too small.
    """
    if not isinstance(value, bool):
        try:
            number = int(value)
        except (TypeError, ValueError, OverflowError):
            number = at_least - 1
        if number == value and number >= at_least:
            return number
    raise ValueError(f"{name} must be an integer >= {at_least}, got {value!r}")


@dataclass(frozen=True)
class Stop:
    """When a sample's solve ends: where ‖f(z) − z‖ ≤ ``rtol`` ‖f(z)‖ or ‖f(z) − z‖ ≤ ``atol``, or
    after ``max_steps`` evaluations of f.

    The norms are Euclidean, over all numbers of a sample. ``atol`` is zero unless you know the unit
    of your data: it is for solutions that are zero but for the rounding in f. One that is exactly
    zero is found without: f is evaluated at zero once the state vanishes.
    """

    rtol: float = 1e-4
    max_steps: int = 100
    atol: float = 0.0

    def __post_init__(self) -> None:
        for name, value in (("rtol", self.rtol), ("atol", self.atol)):
            if isinstance(value, str) or not (math.isfinite(value) and value >= 0):
                raise ValueError(
                    f"{name} must be a finite number >= 0, got {value!r}; an rtol of 1e-4 suits "
                    "float32, of 1e-10 float64"
                )
        object.__setattr__(self, "max_steps", whole_number("max_steps", self.max_steps, 1))


#: What a solve is called whose steps are counted beforehand.
UNROLLED = "unrolled"


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
    #: (B,) bool, of an adjoint whose gradient has a ``longest``: whether u was shortened to it
    shortened: Tensor | None = None
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


def check_stop(stop: Stop) -> None:
    """Raises:
    TypeError: it is a number, say.
    """
    if not isinstance(stop, Stop):
        raise TypeError(f"stop must be a Stop(rtol=…, max_steps=…), got {stop!r}")


def check_on_failure(on_failure: str) -> None:
    """Raises:
    ValueError: it is none of the three.
    """
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
        if what == UNROLLED:
            advice = (
                "take more steps (Unrolled(steps=…)); if no equilibrium is asked for, "
                'on_failure="ignore"'
            )
        elif bool((last > 2 * smallest).any()):
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
