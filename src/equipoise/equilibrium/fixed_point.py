"""The solution of z = f(z), attached to its derivative."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .attach import attach, finite_samples, insert, on_samples
from .convergence import Drift
from .flat import FlatMap, Map, as_tuple
from .frozen import frozen_modules
from .gradient import Gradient, Implicit, Phantom, Unrolled, check_gradient
from .precision import exact_products
from .residual import Residual, measure
from .result import (
    UNROLLED,
    Equilibrium,
    OnFailure,
    State,
    Status,
    Stop,
    check_on_failure,
    check_stop,
)
from .solve import run
from .solvers import GMRES, Anderson, Solver, check_solver
from .transforms import refuse_nested_forward_mode, refuse_transforms


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
        RuntimeError: f changes while it is solved (dropout, batch statistics); or this is called
            inside ``torch.func.grad`` or ``vmap``.
    """
    check_on_failure(on_failure)
    refuse_transforms({"Grad", "Vmap"})
    solver = Anderson() if solver is None else solver
    stop = Stop() if stop is None else stop
    gradient = Implicit() if gradient is None else gradient
    check_solver(solver)
    check_stop(stop)
    check_gradient(gradient)
    F = FlatMap(f, z0)
    start = F.pack(z0)
    with frozen_modules(), exact_products():
        if isinstance(gradient, Unrolled):
            result = _solve_unrolled(F, start, gradient, stop)
            stop = replace(stop, max_steps=gradient.steps)
        elif forward_ad._current_level >= 0:
            result = _solve_with_tangent(F, start, solver, stop, gradient, on_failure)
        else:
            result = _solve_with_graph(F, start, solver, stop, gradient, on_failure)
    result.value = F.unpack(result.value)
    result.report(on_failure, stop, UNROLLED if isinstance(gradient, Unrolled) else "forward")
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
    solved = run(F, start, solver, stop)
    result = solved.result
    if torch.is_grad_enabled() and len(start):
        if isinstance(gradient, Phantom):
            result.value = _with_phantom_gradient(F, result, gradient)
        else:
            result.value = attach(F, solved, gradient, stop, on_failure)
    return result


def _with_phantom_gradient(F: FlatMap, result: Equilibrium, gradient: Phantom) -> Tensor:
    """The value (B, N) with the derivative of the iterations that follow it."""
    places = finite_samples(result)
    if len(places) == 0:
        return result.value
    f = on_samples(F, places, result.value)
    value = result.value[places]
    z = value
    for _ in range(gradient.steps):
        z = torch.lerp(z, f(z), gradient.damping)
    return insert(result.value, places, value + (z - z.detach()))


def _solve_unrolled(F: FlatMap, z: Tensor, gradient: Unrolled, stop: Stop) -> Equilibrium:
    """Iterations that autograd sees."""
    steps = gradient.steps
    trace: list[Residual] = []

    def iterate(z: Tensor, count: int) -> tuple[Tensor, ...]:
        changes_and_sizes: list[Tensor] = []
        for _ in range(count):
            fz = F(z)
            changes_and_sizes.extend(measure(z.detach(), fz.detach()))
            z = fz
        return z, *changes_and_sizes

    if gradient.checkpointing and torch.is_grad_enabled():
        block = max(1, round(steps**0.5))
    else:
        block = steps
    for start in range(0, steps, block):
        count = min(block, steps - start)
        if block < steps:
            z, *norms = checkpoint(iterate, z, count, use_reentrant=False)
        else:
            z, *norms = iterate(z, count)
        trace.extend(Residual(*pair) for pair in zip(norms[::2], norms[1::2]))
    with torch.no_grad():
        return _record_of_iterations(F, z, trace, stop)


def _record_of_iterations(F: FlatMap, z: Tensor, trace: list[Residual], stop: Stop) -> Equilibrium:
    """What is reported of the iterations that led to ``z``, given the residual of each."""
    drift = Drift.start(z, F.eps)
    for residual in trace:
        drift = drift.observe(residual)
    if bool(trace[-1].within(stop.rtol, stop.atol).any()):
        # Whatever is called converged has been evaluated.
        trace = [*trace, measure(z.detach(), F(z.detach()))]
        drift = drift.observe(trace[-1])
    last = trace[-1]
    converged = last.within(stop.rtol, stop.atol) & ~drift.drifting(last, stop.rtol)
    status = torch.where(converged, int(Status.CONVERGED), int(Status.MAX_STEPS))
    finite = z.isfinite().all(1) & last.finite
    status = torch.where(finite, status, int(Status.NONFINITE))
    rows = torch.stack([residual.relative for residual in trace])
    return Equilibrium(z, rows[-1], torch.full_like(status, len(rows)), status, rows)


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
    refuse_nested_forward_mode()
    primal = F.with_map(_primal_map(F.f))
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


def _primal_map(f: Map) -> Map:
    """f without the tangents of forward-mode differentiation."""

    def primal(z: State) -> State:
        out = f(z)
        parts = [forward_ad.unpack_dual(part).primal for part in as_tuple(out)]
        return tuple(parts) if isinstance(out, tuple) else parts[0]

    return primal
