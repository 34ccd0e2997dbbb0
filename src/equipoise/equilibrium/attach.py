"""Gives a solution its derivative: one application of f with its graph, and the adjoint equation.

``Attach`` is the node that stands for the whole solve in the autograd graph. Backward, it turns
the incoming gradient g into u (``gradient.py``) and hands u to the graph of the one application.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .closed_over import ClosedOver, Recorder, closed_over
from .flat import FlatMap
from .frozen import frozen_modules
from .gradient import Gradient, Implicit
from .residual import change_and_size, relative_residual
from .result import Equilibrium, OnFailure, Stop
from .solve import Solved, run


@dataclass
class Application:
    """One application out = f(z) with its graph, and what its backward pass needs.

    It belongs to the autograd node and dies with it.
    """

    F: FlatMap
    z: Tensor  #: (B, N) the leaf that f was applied to
    out: Tensor  #: (B, N)
    closed: ClosedOver
    gradient: Gradient
    on_failure: OnFailure
    residual: Tensor  #: (B,) of the forward solve
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
    def forward(
        ctx: Any, application: Application, out: Tensor, z: Tensor, *closed: Tensor
    ) -> Tensor:
        ctx.application = application
        ctx.closed = closed
        ctx.set_materialize_grads(False)
        value = z.clone()
        ctx.save_for_backward(value)
        return value

    @staticmethod
    def backward(ctx: Any, g: Tensor | None) -> tuple[Any, ...]:
        application: Application = ctx.application
        nothing = [None] * len(ctx.closed)
        if g is None:
            return None, None, None, *nothing
        if torch.is_grad_enabled():
            (z,) = ctx.saved_tensors
            return None, None, None, *_differentiable_gradients(application, z, ctx.closed, g)
        adjoint = Adjoint(application, application.z, application.out)
        return None, application.gradient.cotangent(adjoint, g), None, *nothing


def _differentiable_gradients(
    application: Application, z: Tensor, closed: tuple[Tensor, ...], g: Tensor
) -> tuple[Tensor, ...]:
    """The gradients for ``closed`` as differentiable functions of g, z and ``closed``."""
    if not application.closed.complete:
        raise RuntimeError(
            "second derivatives: a tensor that needs a gradient enters f only inside a custom "
            "autograd.Function, where it cannot be seen; let it pass through an ordinary operation "
            "in f (y = y * 1), or make it a leaf"
        )
    opened: list[bool] = []
    with torch.enable_grad(), frozen_modules(take_step=False):
        z = Gate.apply(z, opened)
        out = application.F(z)
        u = application.gradient.cotangent(Adjoint(application, z, out), g)
        gradients = torch.autograd.grad(out, closed, u, create_graph=True, allow_unused=True)
    opened.append(True)
    return gradients


class Adjoint:
    """The adjoint equation u = Jᵀu + g, J = ∂f/∂z from the graph of ``out`` = f(z)."""

    def __init__(self, application: Application, z: Tensor, out: Tensor):
        self.application = application
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
        """u, and the account of its solve into ``application.records``."""
        if torch.is_grad_enabled():
            return self._solve_differentiably(g, gradient)
        # The equation is linear: solved for g scaled to one, tiny gradients do not underflow.
        scale = g.abs().amax(1, keepdim=True)
        scale = torch.where((scale > 0) & scale.isfinite(), scale, torch.ones_like(scale))
        rhs = g / scale
        stop = gradient.stop
        rtol = None
        if gradient.inexact:
            rtol = gradient.inexact * self.application.residual
            rtol = rtol.clamp(stop.rtol, max(stop.rtol, 0.1))
            stop = Stop(float(rtol.max()), stop.max_steps)
        F = FlatMap(lambda u: self.vjp(u) + rhs, rhs)
        solved = run(F, rhs, gradient.solver, stop, rtol)
        result = solved.result
        result.value = result.value * scale
        self.application.records[:] = [result]
        result.report(self.application.on_failure, stop, "adjoint")
        return solved.ahead * scale if solved.vouched else result.value

    def _solve_differentiably(self, g: Tensor, gradient: Implicit) -> Tensor:
        """u is a fixed point as well, and has a derivative as such."""
        F = FlatMap(lambda u: self.vjp(u) + g, g)
        with torch.no_grad():
            solved = run(F, g.detach(), gradient.solver, gradient.stop)
        on_failure = self.application.on_failure
        attach(F, solved, gradient, gradient.stop, on_failure)
        solved.result.report(on_failure, gradient.stop, "adjoint")
        u: Tensor = solved.result.value
        account = Equilibrium(**(vars(solved.result) | {"value": u.detach()}))
        self.application.records[:] = [account]
        return u


def attach(
    F: FlatMap, solved: Solved, gradient: Gradient, stop: Stop, on_failure: OnFailure
) -> None:
    """Gives the solution (packed) the derivative that ``gradient`` asks for.

    The application of f that carries the graph is an evaluation like any other, so it is made one
    step ahead of the iterate that converged. It measures the residual there; a sample that lost
    its tolerance by that step takes it back.
    """
    result = solved.result
    value = result.value.detach()
    ahead = solved.ahead
    applied = _apply(F, ahead)
    if not applied:
        return
    z, out, closed = applied
    moved = (ahead != value).any(1)
    residual = relative_residual(*change_and_size(ahead, out.detach()), solved.largest)
    lost = moved & ~(residual <= stop.rtol)
    if bool(lost.any()):
        moved = moved & ~lost
        ahead = torch.where(moved[:, None], ahead, value)
        z, out, closed = _apply(F, ahead) or applied
        now = relative_residual(*change_and_size(ahead, out.detach()), solved.largest)
        _refuse_a_map_that_changed(result.residual, now, lost, stop)
    if bool(moved.any()):
        _count_the_step_ahead(result, moved, residual)
    application = Application(
        F, z, out, closed, gradient, on_failure, result.residual, result._adjoint
    )
    result.value = Attach.apply(application, out, ahead, *closed.tensors)


def _apply(F: FlatMap, value: Tensor) -> tuple[Tensor, Tensor, ClosedOver] | None:
    """One application of f with its graph: (z, out, what f closes over); None if there is nothing
    to differentiate."""
    z = value.detach().clone().requires_grad_()
    recorder = Recorder()
    # Inside torch.utils.checkpoint, saved tensors would be thrown away and the whole solve
    # repeated for each adjoint step; one application of f is all there is to save, so it is kept.
    keep = torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t)
    try:
        with recorder, keep:
            out = F(z)
    except RuntimeError:
        # Perhaps f calls torch.func, which refuses to work below such hooks. Any other error will
        # come again.
        with recorder:
            out = F(z)
    if out.grad_fn is None:
        return None
    closed = closed_over(out, z, recorder)
    if closed.complete and not closed.tensors:
        return None
    return z, out, closed


def _refuse_a_map_that_changed(before: Tensor, now: Tensor, lost: Tensor, stop: Stop) -> None:
    if bool((lost & ~(now <= 2 * stop.rtol + 100 * torch.finfo(now.dtype).eps)).any()):
        raise RuntimeError(
            "f changed while it was solved: at the solution its residual was "
            f"{float(before[lost].max()):.1e} and is {float(now[lost].max()):.1e} with the graph; "
            "call .eval() on what draws, counts or learns when it is called"
        )


def _count_the_step_ahead(result: Equilibrium, moved: Tensor, residual: Tensor) -> None:
    """The samples ``moved`` (B,) bool made one more evaluation, with this ``residual`` (B,)."""
    result.residual = torch.where(moved, residual, result.residual)
    result.steps = result.steps + moved
    row = torch.where(moved, residual, result.trace[-1])
    # Some samples may have finished before those that went on.
    rows = max(len(result.trace), int(result.steps.max()))
    numbers = torch.arange(rows, device=row.device)
    trace = result.trace[numbers.clamp_max(len(result.trace) - 1)]
    result.trace = torch.where(moved & (numbers[:, None] >= result.steps - 1), row, trace)
