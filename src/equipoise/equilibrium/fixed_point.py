"""The solution of z = f(z), attached to its derivative."""

from __future__ import annotations

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .attach import attach
from .flat import FlatMap, Map, as_tuple
from .frozen import frozen_modules
from .gradient import Gradient, Implicit, Phantom, Unrolled
from .residual import change_and_size, relative_residual
from .result import Equilibrium, OnFailure, State, Status, Stop, check_on_failure
from .solve import run
from .solvers import GMRES, Anderson, Solver


def fixed_point(
    f: Map,
    z0: State,
    *,
    solver: Solver | None = None,
    stop: Stop | None = None,
    gradient: Gradient | Phantom | Unrolled | None = None,
    on_failure: OnFailure = "warn",
) -> Equilibrium:
    """Solve z = f(z) from ``z0``; the solution is differentiable with respect to everything f
    closes over.

    It can be differentiated any number of times in reverse, and in forward mode
    (``torch.func.jvp``); what forward mode gives has no reverse graph (use
    ``torch.autograd.functional.jvp`` for reverse over forward).

    Args:
        f: takes and returns a state like ``z0``. If it has ``restrict(index)``, samples that are
            done cost nothing.
        z0: (B, …) floating-point or complex, or a tuple of such that share B. No gradient flows to
            it (but see ``Unrolled``).
        solver: ``Picard``, ``Anderson`` (default), ``Broyden``; ``GMRES`` for affine f; or one of
            your own (:class:`~equipoise.equilibrium.solvers.Solver`).
        stop: per-sample tolerance and the largest number of evaluations.
        gradient: ``Implicit`` (default, exact), ``JacobianFree``, ``Neumann``, ``Phantom``,
            ``Unrolled``.
        on_failure: "warn", "raise" or "ignore" when some sample does not converge, forward or
            adjoint.

    Raises:
        EquilibriumError: with ``on_failure="raise"``; from backward, if the adjoint solve fails.
        TypeError, ValueError: f does not keep the shape or dtype of z0.
        RuntimeError: f changes while it is solved (dropout, batch statistics).
    """
    check_on_failure(on_failure)
    solver = Anderson() if solver is None else solver
    stop = Stop() if stop is None else stop
    gradient = Implicit() if gradient is None else gradient
    F = FlatMap(f, z0)
    with frozen_modules():
        start = F.pack(z0)
        if isinstance(gradient, Unrolled):
            result = _unroll(F, start, gradient.steps, stop.rtol, gradient.checkpointing)
            stop = Stop(stop.rtol, gradient.steps)
        elif forward_ad._current_level >= 0:
            result = _solve_with_tangent(F, start, solver, stop, gradient, on_failure)
        else:
            result = _solve_with_graph(F, start, solver, stop, gradient, on_failure)
        result.value = F.unpack(result.value)
    result.report(on_failure, stop)
    return result


def _solve_with_graph(
    F: FlatMap,
    start: Tensor,
    solver: Solver,
    stop: Stop,
    gradient: Gradient | Phantom,
    on_failure: OnFailure,
) -> Equilibrium:
    """For reverse mode."""
    with torch.no_grad():
        solved = run(F, start, solver, stop)
    result = solved.result
    if torch.is_grad_enabled() and len(start):
        if isinstance(gradient, Phantom):
            steps, damping = gradient.steps, gradient.damping
            result.value = _unroll(F, result.value, steps, stop.rtol, damping=damping).value
        else:
            attach(F, solved, gradient, stop, on_failure)
    return result


def _unroll(
    F: FlatMap,
    z: Tensor,
    steps: int,
    rtol: float,
    checkpointing: bool = False,
    damping: float = 1.0,
) -> Equilibrium:
    """``steps`` iterations that autograd sees."""
    trace: list[Tensor] = []

    def iterate(z: Tensor, count: int) -> tuple[Tensor, ...]:
        residuals = []
        for _ in range(count):
            fz = F(z)
            change, size = change_and_size(z.detach(), fz.detach())
            residuals.append(relative_residual(change, size, size))
            z = fz if damping == 1 else torch.lerp(z, fz, damping)
        return z, *residuals

    if checkpointing and torch.is_grad_enabled():
        block = max(1, round(steps**0.5))
    else:
        block = steps
    for start in range(0, steps, block):
        count = min(block, steps - start)
        if block < steps:
            z, *residuals = checkpoint(iterate, z, count, use_reentrant=False)
        else:
            z, *residuals = iterate(z, count)
        trace.extend(residuals)
    finite = z.detach().isfinite().all(1)
    status = torch.where(trace[-1] <= rtol, int(Status.CONVERGED), int(Status.MAX_STEPS))
    status = torch.where(finite, status, int(Status.NONFINITE))
    rows = torch.stack(trace)
    return Equilibrium(z, trace[-1], torch.full_like(status, steps), status, rows)


def _solve_with_tangent(
    F: FlatMap,
    start: Tensor,
    solver: Solver,
    stop: Stop,
    gradient: Gradient | Phantom,
    on_failure: OnFailure,
) -> Equilibrium:
    """For forward mode: the tangent w of the solution obeys w = J w + t, t the tangent of f at
    fixed z."""
    primal = F.with_map(lambda z: _primal(F.f(z)))
    with torch.no_grad():
        result = run(primal, forward_ad.unpack_dual(start).primal, solver, stop).result
        z = result.value

        def step(w: Tensor) -> Tensor:
            tangent = forward_ad.unpack_dual(F(forward_ad.make_dual(z, w))).tangent
            return torch.zeros_like(w) if tangent is None else tangent

        tangent_stop = gradient.stop if isinstance(gradient, Implicit) else stop
        solved = run(FlatMap(step, z), torch.zeros_like(z), GMRES(), tangent_stop)
        solved.result.report(on_failure, tangent_stop, "tangent")
        result.value = forward_ad.make_dual(z, solved.ahead)
    return result


def _primal(state: State) -> State:
    """The state without the tangents of forward-mode differentiation."""
    parts = [forward_ad.unpack_dual(part).primal for part in as_tuple(state)]
    return tuple(parts) if isinstance(state, tuple) else parts[0]
