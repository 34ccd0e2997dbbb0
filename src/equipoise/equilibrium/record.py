"""The bookkeeping of the loop: what it knows of the samples that go on, and what it reports."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from .convergence import SLACK, Drift, Tolerance
from .flat import FilledIn
from .residual import Residual, measure
from .result import Equilibrium, Status


def take(state: Any, keep: Tensor) -> Any:
    """The samples ``keep`` (A,) of every tensor in a tuple of tensors, however nested.

    What is no tensor (a counter, say) belongs to all samples.
    """
    if isinstance(state, Tensor):
        return state[keep]
    if isinstance(state, tuple):
        parts = [take(part, keep) for part in state]
        return type(state)(*parts) if hasattr(state, "_fields") else tuple(parts)
    return state


class Samples(NamedTuple):
    """The A samples of the batch that go on, and what the evaluations so far have told of them."""

    places: Tensor  # (A,) in the batch
    tolerance: Tolerance  # (A,) each
    drift: Drift
    z: Tensor  # (A, N) where f was evaluated last
    residual: Residual  # (A,) of that evaluation
    best: Tensor  # (A, N) the iterate with the smallest ‖f(z) − z‖
    smallest: Residual  # (A,) there
    zero_tried: Tensor  # (A,) bool

    @classmethod
    def start(cls, z: Tensor, tolerance: Tolerance, eps: float) -> Samples:
        """All samples of the batch, before the first evaluation; ``eps``: the rounding of a
        state."""
        infinite = z.new_full((len(z),), torch.inf)
        unknown = Residual(infinite, infinite)
        return cls(
            places=torch.arange(len(z), device=z.device),
            tolerance=tolerance,
            drift=Drift.start(z, eps),
            z=z,
            residual=unknown,
            best=z,
            smallest=unknown,
            zero_tried=torch.zeros_like(infinite, dtype=torch.bool),
        )

    def observe(self, z: Tensor, fz: Tensor) -> Samples:
        """After one more evaluation, fz = f(z)."""
        residual = measure(z, fz)
        better = residual.change < self.smallest.change
        if bool(better.all()):
            best, smallest = z, residual
        else:
            best = torch.where(better[:, None], z, self.best)
            smallest = Residual(
                torch.where(better, residual.change, self.smallest.change),
                torch.where(better, residual.size, self.smallest.size),
            )
        return self._replace(
            z=z,
            residual=residual,
            best=best,
            smallest=smallest,
            drift=self.drift.observe(residual),
        )

    @property
    def converged(self) -> Tensor:
        """(A,) bool."""
        rtol, atol = self.tolerance
        drifting = self.drift.drifting(self.residual, rtol)
        small = (self.residual.relative <= rtol) & ~drifting
        tiny = (self.residual.change <= atol) & (atol > 0)
        return self.residual.finite & (small | tiny)

    @property
    def over(self) -> Tensor:
        """(A,) bool: nothing is left to do."""
        return self.converged | ~self.residual.finite

    def try_zero(self, z: Tensor) -> tuple[Tensor, Samples]:
        """``z`` (A, N), where to evaluate next, but zero itself where the states vanish.

        A solution that is zero has no relative residual, and an absolute tolerance would have to
        know the unit of the data. Where the state has become tiny against the first one, f is
        therefore evaluated at zero, once a solve: if f(0) = 0, that is the solution.
        """
        tiny = torch.finfo(z.dtype).eps ** 0.5
        vanishing = (self.residual.size <= tiny * self.drift.first_size) & ~self.zero_tried
        if bool(vanishing.any()):
            z = torch.where(vanishing[:, None], torch.zeros_like(z), z)
        return z, self._replace(zero_tried=self.zero_tried | vanishing)


class Trace:
    """The relative residual of every sample at every evaluation, written into memory that is set
    aside before the loop.

    One small tensor an evaluation, made while the large temporaries of a step live, would keep
    the allocator from giving their memory back.
    """

    def __init__(self, z: Tensor, max_steps: int):
        self.rows = z.new_empty(min(max_steps, 1000), len(z))
        self.count = 0

    def add(self, places: Tensor, residual: Tensor) -> None:
        """The residuals of the samples at ``places``; the others keep their last."""
        if self.count == len(self.rows):
            self.rows = torch.cat([self.rows, torch.empty_like(self.rows)])
        if self.count:
            self.rows[self.count] = self.rows[self.count - 1]
        self.rows[self.count, places] = residual
        self.count += 1

    def result(self) -> Tensor:
        """(K, B)"""
        return self.rows[: self.count].clone()


class Record:
    """What is reported of the whole batch, filled in as its samples finish."""

    def __init__(self, z: Tensor, max_steps: int):
        batch = len(z)
        self.value = z.clone()
        self.ahead = z.clone()
        self.vouched = False
        self.residual = z.new_full((batch,), torch.inf)
        self.steps = torch.zeros(batch, dtype=torch.long, device=z.device)
        self.status = torch.full_like(self.steps, int(Status.MAX_STEPS))
        self.trace = Trace(z, max_steps)

    def evaluation(self, k: int, samples: Samples) -> None:
        """The k-th evaluation was of these samples."""
        self.trace.add(samples.places, samples.residual.relative)
        self.steps[samples.places] = k

    def finish(self, samples: Samples, ended: Tensor, ahead: Tensor | None) -> None:
        """The samples ``ended`` (A,) bool stop here: at the last iterate if that converged, at the
        best one if not.

        ``ahead`` (A, N) is where their solver would go next; None if it has no step left.
        """
        converged = samples.converged & ended
        value = torch.where(converged[:, None], samples.z, samples.best)
        residual = torch.where(converged, samples.residual.relative, samples.smallest.relative)
        places = samples.places[ended]
        self.value[places] = value[ended]
        self.ahead[places] = value[ended]
        self.residual[places] = residual[ended]
        self.status[samples.places[converged]] = int(Status.CONVERGED)
        self.status[samples.places[ended & ~samples.residual.finite]] = int(Status.NONFINITE)
        if ahead is not None:
            further = converged & ahead.isfinite().all(1)
            self.ahead[samples.places[further]] = ahead[further]

    def check_finished(self, f: FilledIn, tolerance: Tolerance) -> None:
        """What has converged must stay converged while ``f`` is evaluated for the others.

        Raises:
            RuntimeError: it does not.
        """
        residual = measure(f.whole_z, f.whole_fz)
        lost = (self.status == Status.CONVERGED) & ~tolerance.met(residual, SLACK)
        if not bool(lost.any()):
            return
        if bool((lost & tolerance.broken(residual)).any()):
            raise RuntimeError(
                f"the samples of f depend on each other, or f draws at every call: a sample that "
                f"had converged has a residual of {float(residual.relative[lost].max()):.1e} now "
                "that the others went on. The first dimension of z0 is the batch, and every sample "
                "is solved on its own. If your state has no batch dimension, give it one: "
                "z0[None], and f(z[0])[None] for f(z); call .eval() on what normalises over the "
                "batch"
            )
        self.residual[lost] = residual.relative[lost]
        self.status[lost] = int(Status.MAX_STEPS)

    def result(self) -> Equilibrium:
        """The account of the solve, on packed states."""
        trace = self.trace.result()
        return Equilibrium(self.value, self.residual, self.steps, self.status, trace)
