"""The one loop that drives every solver: it ends for each sample on its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .flat import FlatMap, Map
from .frozen import frozen_modules
from .record import Record, Samples, take
from .result import Equilibrium, OnFailure, State, Stop, check_on_failure
from .solvers import Anderson, Solver


class Solved(NamedTuple):
    """What the loop answers, on packed states."""

    result: Equilibrium
    #: (B, N) where each sample's solver would go next: mostly one step better than the value, for
    #: no further evaluation. It is the value itself where the solve failed, had no step left, or
    #: began converged.
    ahead: Tensor
    vouched: bool  #: the solver vouches that ``ahead`` is no worse than the value
    largest: Tensor  #: (B,) ‖f(z)‖, the largest met: what rounding is relative to


def run(F: FlatMap, z: Tensor, solver: Solver, stop: Stop, rtol: Tensor | None = None) -> Solved:
    """The loop, on packed states (B, N). ``rtol`` (B,) replaces ``stop.rtol``."""
    record = Record(z, stop.max_steps)
    rtol = z.new_full((len(z),), stop.rtol) if rtol is None else rtol
    samples = Samples.start(z, rtol)
    state = solver.init(z)
    f: Callable[[Tensor], Tensor] = F
    for k in range(1, stop.max_steps + 1 if len(z) else 0):
        fz = f(z)
        samples = samples.observe(z, fz)
        record.evaluation(k, samples)
        if k == stop.max_steps:
            record.finish(samples, torch.ones_like(samples.finite), ahead=None)
            break
        over = samples.over
        z, state = solver.step(z, fz, state)
        if bool(over.any()):
            candidate = solver.candidate(state) if hasattr(solver, "candidate") else None
            record.vouched = candidate is not None
            further = z if candidate is None else candidate
            record.finish(samples, over, ahead=further if k > 1 else None)
            going_on = (~over).nonzero()[:, 0]
            if len(going_on) == 0:
                break
            z, samples, state = take((z, samples, state), going_on)
            f = F.restrict(samples.places, record.value)
    return Solved(record.result(), record.ahead, record.vouched, record.largest)


def solve(
    f: Map,
    z0: State,
    *,
    solver: Solver | None = None,
    stop: Stop | None = None,
    on_failure: OnFailure = "warn",
) -> Equilibrium:
    """Solve z = f(z) from ``z0``, without a gradient.

    Args:
        f: takes and returns a state like ``z0``. If it has ``restrict(index)``, samples that are
            done cost nothing.
        z0: (B, …) floating-point or complex, or a tuple of such that share B.
        solver: ``Picard``, ``Anderson`` (default), ``Broyden``; ``GMRES`` for affine f; or one of
            your own (:class:`~equipoise.equilibrium.solvers.Solver`).
        stop: per-sample tolerance and the largest number of evaluations.
        on_failure: "warn", "raise" or "ignore" when some sample does not converge.

    Raises:
        EquilibriumError: with ``on_failure="raise"``.
        TypeError, ValueError: f does not keep the shape or dtype of z0.
    """
    check_on_failure(on_failure)
    stop = Stop() if stop is None else stop
    with torch.no_grad(), frozen_modules():
        F = FlatMap(f, z0)
        solver = Anderson() if solver is None else solver
        result = run(F, F.pack(z0), solver, stop).result
        result.value = F.unpack(result.value)
    result.report(on_failure, stop)
    return result
