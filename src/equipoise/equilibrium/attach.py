"""Gives a solution its derivative: one application of f with its graph, and the adjoint equation.

``Attach`` is the node that stands for the whole solve in the autograd graph. Backward, it turns
the incoming gradient g into u (``gradient.py``) and hands u to the graph of the one application.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .application import Application, apply
from .convergence import SLACK, Tolerance
from .flat import FlatMap
from .frozen import frozen_modules
from .gradient import LOOSEST, Gradient, Implicit
from .precision import exact_products, full_precision
from .residual import Residual
from .result import Equilibrium, OnFailure, Status, Stop
from .solve import Solved, run
from .transforms import refuse_transforms


@dataclass
class Call:
    """What the backward pass of a solve needs."""

    application: Application
    gradient: Gradient
    on_failure: OnFailure
    residual: Tensor  #: (A,) of the forward solve
    places: Tensor  #: (A,) of the samples in the batch
    batch: int  #: B
    records: list[Equilibrium]  #: where the account of the adjoint solve goes


class Gate(torch.autograd.Function):
    """The identity, through which gradients flow once it is open.

    Partial derivatives at a fixed z are taken while it is shut; how they depend on z flows to z
    after it was opened.
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor, opened: list[bool]) -> Tensor:
        ctx.opened = opened
        return z.clone()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Any, None]:
        return (g if ctx.opened else None), None


class Attach(torch.autograd.Function):
    """Forward: the solution z. Backward: u for ``out`` = f(z), whose graph does the rest.

    When the backward pass is itself differentiated, the graph of ``out`` will not do, since z is a
    constant in it: f is applied again at the *differentiable* z, and the gradients go straight to
    ``closed``, the tensors that f closes over.
    """

    @staticmethod
    def forward(ctx: Any, call: Call, out: Tensor, z: Tensor, *closed: Tensor) -> Tensor:
        ctx.call = call
        ctx.closed = closed
        ctx.set_materialize_grads(False)
        value = z.clone()
        ctx.save_for_backward(value)
        return value

    @staticmethod
    def backward(ctx: Any, g: Tensor | None) -> tuple[Any, ...]:
        call: Call = ctx.call
        nothing = [None] * len(ctx.closed)
        if g is None:
            return None, None, None, *nothing
        refuse_transforms({"Vmap"}, g)
        # What was computed under autocast has its precision; its derivative needs no other.
        with full_precision(g.device), exact_products():
            if torch.is_grad_enabled():
                (z,) = ctx.saved_tensors
                return None, None, None, *_differentiable_gradients(call, z, ctx.closed, g)
            adjoint = Adjoint(call, call.application.z, call.application.out)
            return None, call.gradient.cotangent(adjoint, g), None, *nothing


def _differentiable_gradients(
    call: Call, z: Tensor, closed: tuple[Tensor, ...], g: Tensor
) -> tuple[Tensor, ...]:
    """The gradients for ``closed`` as differentiable functions of g, z and ``closed``."""
    if not call.application.closed.complete:
        raise RuntimeError(
            "second derivatives: a tensor that needs a gradient enters f only inside a custom "
            "autograd.Function, where it cannot be seen; let it pass through an ordinary operation "
            "in f (y = y * 1), or make it a leaf"
        )
    opened: list[bool] = []
    with torch.enable_grad(), frozen_modules(take_step=False):
        z = Gate.apply(z, opened)
        out = call.application.f(z)
        u = call.gradient.cotangent(Adjoint(call, z, out), g)
        gradients = torch.autograd.grad(out, closed, u, create_graph=True, allow_unused=True)
    opened.append(True)
    return gradients


class Adjoint:
    """The adjoint equation u = Jᵀu + g, J = ∂f/∂z from the graph of ``out`` = f(z)."""

    def __init__(self, call: Call, z: Tensor, out: Tensor):
        self.call = call
        self.z = z
        self.out = out

    def vjp(self, u: Tensor) -> Tensor:
        """Jᵀu; differentiable where grad mode is on."""
        (product,) = torch.autograd.grad(
            self.out,
            self.z,
            u,
            retain_graph=True,
            create_graph=torch.is_grad_enabled(),
            allow_unused=True,
        )
        return torch.zeros_like(u) if product is None else product

    def solve(self, g: Tensor, gradient: Implicit) -> Tensor:
        """u (A, N), and the account of its solve into ``call.records``."""
        stop = gradient.stop
        if torch.is_grad_enabled():
            # u is a fixed point as well, and has a derivative as such.
            F = FlatMap(lambda u: self.vjp(u) + g, g)
            with torch.no_grad():
                solved = run(F, g, gradient.solver, stop)
            attached = attach(F, solved, gradient, stop, self.call.on_failure)
            u, shortened = shorten(attached, g, gradient.longest)
            value = solved.result.value.detach()
            self._record(replace(solved.result, value=value, shortened=shortened), stop)
            return u
        # The equation is linear: solved for g scaled to about one, tiny gradients do not underflow.
        scale = _power_of_two(g)
        rhs = g / scale
        tolerance = Tolerance.from_stop(stop, rhs)
        tolerance = tolerance._replace(atol=tolerance.atol / scale)
        if gradient.inexact:
            rtol = gradient.inexact * self.call.residual
            rtol = rtol.clamp(stop.rtol, max(stop.rtol, LOOSEST))
            tolerance = tolerance._replace(rtol=rtol)
            stop = replace(stop, rtol=float(rtol.max()))
        F = FlatMap(lambda u: self.vjp(u) + rhs, rhs)
        solved = run(F, rhs, gradient.solver, stop, tolerance)
        u = solved.ahead if solved.vouched else solved.result.value
        u, shortened = shorten(u * scale, g, gradient.longest)
        value = solved.result.value * scale
        self._record(replace(solved.result, value=value, shortened=shortened), stop)
        return u

    def _record(self, account: Equilibrium, stop: Stop) -> None:
        account.report(self.call.on_failure, stop, "adjoint")
        if len(self.call.places) < self.call.batch:
            account = _spread(account, self.call.places, self.call.batch)
        self.call.records[:] = [account]


def shorten(u: Tensor, g: Tensor, longest: float) -> tuple[Tensor, Tensor | None]:
    """u (A, N), no sample longer than ``longest`` times its g, and which were (A,)."""
    if math.isinf(longest):
        return u, None
    with torch.no_grad():
        bound = longest * torch.linalg.vector_norm(g, dim=1)
        length = torch.linalg.vector_norm(u, dim=1)
        is_longer = length > bound
        factor = torch.where(is_longer, bound / length, 1.0)
    return u * factor[:, None], is_longer


def _power_of_two(g: Tensor) -> Tensor:
    """A power of two near the largest entry of g that is finite; one if there is none.

    It is the same for all samples, so that the equation is the same even if they depend on each
    other.
    """
    largest = torch.where(g.isfinite(), g, 0).abs().amax()
    scale = torch.exp2(largest.log2().floor())
    return torch.where((scale > 0) & scale.isfinite(), scale, torch.ones_like(scale))


def _spread(account: Equilibrium, places: Tensor, batch: int) -> Equilibrium:
    """The account of some samples in that of the whole batch. The others met a value that is not
    finite in the forward solve: nothing flows back to them."""

    def spread(part: Tensor, filler: float) -> Tensor:
        whole = part.new_full((batch, *part.shape[1:]), filler)
        whole[places] = part
        return whole

    return Equilibrium(
        value=spread(account.value, 0.0),
        residual=spread(account.residual, float("inf")),
        steps=spread(account.steps, 0),
        status=spread(account.status, int(Status.NONFINITE)),
        trace=spread(account.trace.T, float("inf")).T,
        shortened=None if account.shortened is None else spread(account.shortened, False),
    )


def attach(
    F: FlatMap, solved: Solved, gradient: Gradient, stop: Stop, on_failure: OnFailure
) -> Tensor:
    """The value of the solution (B, N) with the derivative that ``gradient`` asks for; the record
    follows it.

    The application of f that carries the graph is an evaluation like any other, so it is made one
    step ahead of the iterate that converged. It measures the residual there; a sample that lost
    its tolerance by that step takes it back. A sample that met a value that is not finite has no
    derivative, and takes no part.
    """
    result = solved.result
    value = result.value.detach()
    places = finite_samples(result)
    if len(places) == 0:
        return value
    f = on_samples(F, places, value)
    z = solved.ahead[places]
    application = apply(f, z)
    if application is None:
        return value
    start = value[places]
    tolerance = Tolerance.from_stop(stop, start)
    converged = result.converged[places]
    measured = application.residual
    lost = converged & ~tolerance.met(measured)
    moved = (z != start).any(1)
    if bool((lost & moved).any()):
        moved = moved & ~lost
        z = torch.where(moved[:, None], z, start)
        application = apply(f, z) or application
        measured = application.residual
    _check_it_did_not_change(result, places, measured, tolerance)
    if bool(moved.any()):
        _count_the_step_ahead(result, places[moved], measured.relative[moved])
    call = Call(
        application,
        gradient,
        on_failure,
        result.residual[places],
        places,
        len(value),
        result._adjoint,
    )
    attached = Attach.apply(call, application.out, z, *application.closed.tensors)
    result.value = insert(value, places, attached)
    return result.value


def finite_samples(result: Equilibrium) -> Tensor:
    """(A,) the places of the samples that met finite values only."""
    return (result.status != Status.NONFINITE).nonzero()[:, 0]


def on_samples(F: FlatMap, places: Tensor, value: Tensor) -> Callable[[Tensor], Tensor]:
    """F on the samples at ``places`` (A,); ``value`` (B, N) stands for the others."""
    if len(places) == len(value):
        return F
    # Restricted at each call, so that what f closes over is restricted within it.
    return lambda z: F.restrict(places, value)(z)


def insert(value: Tensor, places: Tensor, rows: Tensor) -> Tensor:
    """``value`` (B, N) with these rows at ``places`` (A,)."""
    return rows if len(places) == len(value) else value.index_copy(0, places, rows)


def _check_it_did_not_change(
    result: Equilibrium, places: Tensor, measured: Residual, tolerance: Tolerance
) -> None:
    """What converged must be ``measured`` as converged with the graph, at the same point.

    A residual that rounding has lifted over its tolerance is told as it is.
    """
    lost = result.converged[places] & ~tolerance.met(measured, SLACK)
    if not bool(lost.any()):
        return
    if bool((lost & tolerance.broken(measured)).any()):
        raise RuntimeError(
            "f changed while it was solved: at the solution its residual was "
            f"{float(result.residual[places[lost]].max()):.1e} and is "
            f"{float(measured.relative[lost].max()):.1e} with the graph; call .eval() on what "
            "draws, counts or learns when it is called. If f has restrict(index), it must be the "
            "same map on those samples alone, and no sample may depend on another"
        )
    result.residual[places[lost]] = measured.relative[lost]
    result.status[places[lost]] = int(Status.MAX_STEPS)


def _count_the_step_ahead(result: Equilibrium, places: Tensor, residual: Tensor) -> None:
    """The samples at ``places`` made one more evaluation, with this ``residual``, (A,) both."""
    result.residual[places] = residual
    result.steps[places] += 1
    # Some samples may have finished before those that went on.
    rows = max(len(result.trace), int(result.steps.max()))
    numbers = torch.arange(rows, device=result.trace.device)
    trace = result.trace[numbers.clamp_max(len(result.trace) - 1)]
    later = numbers[:, None] >= result.steps[places] - 1
    trace[:, places] = torch.where(later, residual, trace[:, places])
    result.trace = trace
