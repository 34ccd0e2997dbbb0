"""When a sample counts as converged."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .residual import Residual
from .result import Stop

#: A tolerance that was met counts as lost beyond this factor: two evaluations at one point may
#: differ by rounding.
SLACK = 1.01


class Tolerance(NamedTuple):
    """What is asked of each sample: ‖f(z) − z‖ ≤ rtol ‖f(z)‖, or ≤ atol."""

    rtol: Tensor  # (B,)
    atol: Tensor  # (B,)

    @classmethod
    def from_stop(cls, stop: Stop, z: Tensor) -> Tolerance:
        """The same for all samples of z (B, N)."""
        return cls(z.new_full((len(z),), stop.rtol), z.new_full((len(z),), stop.atol))

    def met(self, residual: Residual, slack: float = 1.0) -> Tensor:
        """(B,) bool, with both tolerances multiplied by ``slack``."""
        return residual.within(slack * self.rtol, slack * self.atol)

    def broken(self, residual: Residual) -> Tensor:
        """(B,) bool: so far from met that rounding does not explain it, nor what is left of an
        iteration inside f."""
        rounding = 100 * torch.finfo(residual.change.dtype).eps
        return ~residual.within(2 * self.rtol + rounding, 2 * self.atol)


class Drift(NamedTuple):
    """Tells a residual that is small from one that is small only because the state is large.

    Where f(z) = z + c, ‖f(z) − z‖ / ‖f(z)‖ falls below any tolerance while nothing converges. So a
    relative residual counts only if ‖f(z) − z‖ is small against the *first* ‖f(z)‖ too, or has
    fallen by a tenth since an earlier evaluation, whose number is between a quarter and a half of
    the latest one's. (A contraction by ρ ≤ 1 − rtol that starts at zero has made it fall by a
    quarter by the time that the relative residual is rtol.)

    And where the state has become so large that all changes of before are but a few of its
    roundings, even f(z) = z says nothing.
    """

    number: int  # of evaluations so far
    eps: float  # the rounding of the state
    first_size: Tensor  # (B,)
    before: Tensor  # (B,) the change at the last but one evaluation whose number is a power of 2
    latest: Tensor  # (B,) at the last such evaluation
    largest: Tensor  # (B,) the largest change that was more than rounding

    @classmethod
    def start(cls, z: Tensor, eps: float) -> Drift:
        """Before the first evaluation, of z (B, N)."""
        infinite = z.new_full((len(z),), torch.inf)
        return cls(0, eps, infinite, infinite, infinite, torch.zeros_like(infinite))

    def observe(self, residual: Residual) -> Drift:
        """After one more evaluation."""
        change = residual.change
        number = self.number + 1
        resolved = change > self._resolution(residual)
        largest = torch.where(resolved, torch.maximum(self.largest, change), self.largest)
        after = self._replace(number=number, largest=largest)
        if number == 1:
            return after._replace(first_size=residual.size, before=change, latest=change)
        if number & (number - 1) == 0:
            return after._replace(before=self.latest, latest=change)
        return after

    def drifting(self, residual: Residual, rtol: Tensor | float) -> Tensor:
        """(B,) bool: ``residual``, of the last evaluation, is small only relative to the state."""
        as_large_as_before = residual.change > 0.9 * self.before
        drifts = as_large_as_before & (residual.change > rtol * self.first_size)
        lost_in_rounding = self.largest <= self._resolution(residual)
        return drifts | lost_in_rounding & (residual.size > 2 * self.first_size)

    def _resolution(self, residual: Residual) -> Tensor:
        """(B,) the change that is told from rounding, which is at most a fifth of it."""
        return 5 * self.eps * residual.size
