"""The one loop that drives every solver: it ends for each sample on its own."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .convergence import Tolerance
from .flat import FilledIn, FlatMap, Map
from .frozen import frozen_modules
from .launch import OneLaunch, launches_at_once
from .precision import exact_products, full_precision
from .record import Record, Samples, take
from .result import Equilibrium, OnFailure, State, Stop, check_on_failure, check_stop
from .solvers import Anderson, Solver, check_solver
from .transforms import refuse_transforms


class Solved(NamedTuple):
    """What the loop answers, on packed states."""

    result: Equilibrium
    #: (B, N) where each sample's solver would go next: mostly one step better than the value, for
    #: no further evaluation. It is the value itself where the solve failed, had no step left, or
    #: began converged.
    ahead: Tensor
    vouched: bool  #: the solver vouches that ``ahead`` is no worse than the value


def run(
    F: FlatMap, z: Tensor, solver: Solver, stop: Stop, tolerance: Tolerance | None = None
) -> Solved:
    """The loop, on packed states (B, N), without a graph. ``tolerance`` replaces that of ``stop``.

    f is called first in the caller's grad mode: what it makes then and keeps for later calls has a
    graph if it needs one.
    """
    with_graph = torch.is_grad_enabled()
    with torch.no_grad(), full_precision(z.device):
        z = F.representable(z.detach())
        tolerance = Tolerance.from_stop(stop, z) if tolerance is None else tolerance
        if len(z) == 0:
            record = Record(z, stop.max_steps)
            return Solved(record.result(), z, vouched=False)
        with torch.set_grad_enabled(with_graph):
            fz = F(z).detach()
        if launches_at_once(F, z):
            F = OneLaunch(F)
        return _loop(F, z, fz, solver, stop.max_steps, tolerance)


def _loop(
    F: FlatMap, z: Tensor, fz: Tensor, solver: Solver, max_steps: int, tolerance: Tolerance
) -> Solved:
    """From the first evaluation, fz = f(z)."""
    record = Record(z, max_steps)
    samples = Samples.start(z, tolerance, F.eps)
    state = solver.init(z)
    f: FlatMap | FilledIn = F
    for k in range(1, max_steps + 1):
        if k > 1:
            fz = f(z)
        if isinstance(f, FilledIn):
            record.check_finished(f, tolerance)
        samples = samples.observe(z, fz)
        record.evaluation(k, samples)
        if k == max_steps:
            record.finish(samples, torch.ones_like(samples.converged), ahead=None)
            break
        over = samples.over
        z, state = solver.step(z, fz, state)
        z = F.representable(z)
        if bool(over.any()):
            candidate = solver.candidate(state) if hasattr(solver, "candidate") else None
            record.vouched = candidate is not None
            ahead = z if candidate is None else F.representable(candidate)
            record.finish(samples, over, ahead if k > 1 else None)
            if bool(over.all()):
                break
            going_on = (~over).nonzero()[:, 0]
            z, samples, state = take((z, samples, state), going_on)
            f = F.restrict(samples.places, record.value)
        z, samples = samples.try_zero(z)
    return Solved(record.result(), record.ahead, record.vouched)


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
    refuse_transforms({"Vmap"})
    solver = Anderson() if solver is None else solver
    stop = Stop() if stop is None else stop
    check_solver(solver)
    check_stop(stop)
    F = FlatMap(f, z0)
    with frozen_modules(), exact_products():
        result = run(F, F.pack(z0), solver, stop).result
    result.value = F.unpack(result.value)
    result.report(on_failure, stop)
    return result
