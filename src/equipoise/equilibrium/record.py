"""The bookkeeping of the loop: what it knows of the samples that go on, and what it reports."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from .residual import change_and_size, relative_residual
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
    rtol: Tensor  # (A,)
    residual: Tensor  # (A,) of the last evaluation
    finite: Tensor  # (A,) bool: f was finite there
    best: Tensor  # (A, N) the iterate with the smallest residual
    best_residual: Tensor  # (A,)
    largest: Tensor  # (A,) ‖f(z)‖, the largest met

    @classmethod
    def start(cls, z: Tensor, rtol: Tensor) -> Samples:
        """All samples of the batch, before the first evaluation."""
        infinite = z.new_full((len(z),), torch.inf)
        return cls(
            places=torch.arange(len(z), device=z.device),
            rtol=rtol,
            residual=infinite,
            finite=torch.ones_like(infinite, dtype=torch.bool),
            best=z,
            best_residual=infinite,
            largest=torch.zeros_like(infinite),
        )

    def observe(self, z: Tensor, fz: Tensor) -> Samples:
        """After one more evaluation, fz = f(z)."""
        change, size = change_and_size(z, fz)
        finite = size.isfinite()
        largest = torch.where(finite, torch.maximum(self.largest, size), self.largest)
        residual = relative_residual(change, size, largest)
        better = residual < self.best_residual
        if bool(better.all()):
            best, best_residual = z, residual
        else:
            best = torch.where(better[:, None], z, self.best)
            best_residual = torch.where(better, residual, self.best_residual)
        return self._replace(
            residual=residual,
            finite=finite,
            best=best,
            best_residual=best_residual,
            largest=largest,
        )

    @property
    def converged(self) -> Tensor:
        """(A,) bool."""
        return self.finite & (self.residual <= self.rtol)

    @property
    def over(self) -> Tensor:
        """(A,) bool: nothing is left to do."""
        return self.converged | ~self.finite


class Trace:
    """The residual of every sample at every evaluation, written into memory that is set aside
    before the loop.

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
        self.largest = z.new_zeros(batch)
        self.steps = torch.zeros(batch, dtype=torch.long, device=z.device)
        self.status = torch.full_like(self.steps, int(Status.MAX_STEPS))
        self.trace = Trace(z, max_steps)

    def evaluation(self, k: int, samples: Samples) -> None:
        """The k-th evaluation was of these samples."""
        self.trace.add(samples.places, samples.residual)
        self.steps[samples.places] = k

    def finish(self, samples: Samples, ended: Tensor, ahead: Tensor | None) -> None:
        """The samples ``ended`` (A,) bool stop here.

        ``ahead`` (A, N) is where their solver would go next; None if it has no step left.
        """
        places = samples.places[ended]
        self.value[places] = samples.best[ended]
        self.residual[places] = samples.best_residual[ended]
        self.largest[places] = samples.largest[ended]
        self.status[samples.places[samples.converged]] = int(Status.CONVERGED)
        self.status[samples.places[~samples.finite]] = int(Status.NONFINITE)
        self.ahead[places] = self.value[places]
        if ahead is not None:
            further = samples.converged & ended & ahead.isfinite().all(1)
            self.ahead[samples.places[further]] = ahead[further]

    def result(self) -> Equilibrium:
        """The account of the solve, on packed states."""
        trace = self.trace.result()
        return Equilibrium(self.value, self.residual, self.steps, self.status, trace)
