"""How an equilibrium is differentiated: ``Implicit`` and its cheaper, rougher stand-ins, behind :func:`fixed_point`.

At z = f(z; θ) the implicit function theorem gives dz = (I − J)⁻¹ (∂f/∂θ) dθ with J = ∂f/∂z. Backward: the incoming
gradient g becomes u with u = Jᵀu + g, and one ordinary backward through a *single* application of f carries u to all
that f closes over (arXiv 2511.18667, section 3; Bai, Kolter and Koltun 2019). What differs below is u.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

from .result import Equilibrium, OnFailure, State, Status, Stop, check_on_failure
from .solve import FlatMap, Map, Solved, change_and_size, relative_residual, run
from .solvers import GMRES, Anderson, Solver
from .still import standing_still

Linear = Callable[[Tensor], Tensor]


class Gradient(Protocol):
    """A way to differentiate the fixed point; those that need no solve of their own give ``cotangent``."""

    def cotangent(self, vjp: Linear, g: Tensor, call: _Call) -> Tensor:
        """u (B, N) from the incoming gradient g (B, N); ``vjp(u)`` is Jᵀu."""
        ...


@dataclass(frozen=True)
class Implicit:
    """The exact gradient: u = Jᵀu + g, solved by ``solver`` to ``stop``, each sample to its own tolerance.

    Memory: one application of f, whatever the number of iterations. Cost: one vector–Jacobian product (about one
    evaluation of f) a step. The error of the gradient is that of the equilibrium plus that of u, both their residuals
    divided by one minus the contraction: an adjoint solved much more accurately than the equilibrium is work for nothing.
    ``inexact`` = c > 0 ties the two: a sample's adjoint is solved to max(``stop.rtol``, c · its forward residual), at most
    0.1 (Pedregosa, ICML 2016, solves both to one tolerance). What that saves is measured in ``benchmarks/inexactness.py``.
    Where the backward pass is itself differentiated, ``stop`` holds.
    """

    solver: Solver = field(default_factory=GMRES)
    stop: Stop = field(default_factory=Stop)
    inexact: float = 0.0  #: c; 0 leaves the adjoint's tolerance at ``stop.rtol``

    def __post_init__(self) -> None:
        if not (math.isfinite(self.inexact) and self.inexact >= 0):
            raise ValueError(f"inexact must be a finite number >= 0, got {self.inexact}; 0 is exact, 1 to 10 saves evaluations")

    def cotangent(self, vjp: Linear, g: Tensor, call: _Call) -> Tensor:
        if torch.is_grad_enabled():  # somebody differentiates the backward pass: the adjoint is a fixed point as well
            result = fixed_point(
                lambda u: vjp(u) + g, g.detach(), solver=self.solver, stop=self.stop, gradient=self, on_failure=call.on_failure
            )
            call.adjoint[:] = [_without_graph(result)]
            return result.value
        # The equation is linear: solved for g scaled to one, tiny gradients do not underflow.
        scale = g.abs().amax(1, keepdim=True)
        scale = torch.where((scale > 0) & scale.isfinite(), scale, torch.ones_like(scale))
        rhs = g / scale
        F = FlatMap(lambda u: vjp(u) + rhs, rhs)
        loose = (self.inexact * call.residual).clamp(self.stop.rtol, max(self.stop.rtol, 0.1)) if self.inexact else None
        result, ahead, _ = run(F, rhs, self.solver, self.stop, loose)
        result.value = result.value * scale
        call.adjoint[:] = [result]
        asked = self.stop if loose is None else Stop(float(loose.max()), self.stop.max_steps)
        result.report(call.on_failure, asked, "adjoint")
        # Others than GMRES would only promise a better u.
        return ahead * scale if isinstance(self.solver, GMRES) else result.value


@dataclass(frozen=True)
class JacobianFree:
    """u = g: the gradient of one application of f (Fung et al. 2022). No adjoint solve; biased by what J does."""

    def cotangent(self, vjp: Linear, g: Tensor, call: _Call) -> Tensor:
        return g


@dataclass(frozen=True)
class Neumann:
    """u = Σ_{i ≤ terms} (Jᵀ)ⁱ g: the series cut short (Geng et al. 2021). ``terms=0`` is Jacobian-free."""

    terms: int = 5

    def __post_init__(self) -> None:
        if self.terms < 0:
            raise ValueError(f"terms must be >= 0, got {self.terms}")

    def cotangent(self, vjp: Linear, g: Tensor, call: _Call) -> Tensor:
        u = g
        for _ in range(self.terms):
            u = vjp(u) + g
        return u


@dataclass(frozen=True)
class Phantom:
    """The phantom gradient (Geng et al., NeurIPS 2021): from the equilibrium, ``steps`` damped applications
    z ← (1 − λ) z + λ f(z) are unrolled, λ = ``damping``. Memory: ``steps`` applications of f."""

    steps: int = 5
    damping: float = 0.5

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps must be >= 1, got {self.steps}")
        if not 0 < self.damping <= 1:
            raise ValueError(f"damping must be in (0, 1], got {self.damping}")


@dataclass(frozen=True)
class Unrolled:
    """Ordinary backpropagation through ``steps`` Picard iterations from z0; no equilibrium is asked for.

    Memory: ``steps`` applications of f, or about 2√steps with ``checkpointing`` (and one more forward pass). ``solver``
    and ``stop.max_steps`` have no effect; the record tells the residual that the last iteration started from.
    """

    steps: int = 10
    checkpointing: bool = False

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps must be >= 1, got {self.steps}")


class _Tie(torch.autograd.Function):
    """The identity, through which gradients flow only when ``switch[0]`` says so: partial derivatives at a fixed z are
    taken with it closed, and what they depend on flows to z once it is open."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, switch: list[bool]) -> Tensor:
        ctx.switch = switch
        return z.clone()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Any, None]:
        return (g if ctx.switch[0] else None), None


class _Attach(torch.autograd.Function):
    """Gives the solution z its derivative. Forward: z. Backward: u for ``out`` = f(z), whose graph does the rest.

    When the backward pass is itself differentiated, the graph of ``out`` will not do, since z is a constant in it: f is
    applied again at the *differentiable* z, and the gradients go straight to ``closed``, the tensors f closes over.
    """

    @staticmethod
    def forward(ctx: Any, call: _Call, out: Tensor, z: Tensor, *closed: Tensor) -> Tensor:
        ctx.call, ctx.closed = call, closed
        ctx.set_materialize_grads(False)
        value = z.clone()
        ctx.save_for_backward(value)
        return value

    @staticmethod
    def backward(ctx: Any, g: Tensor | None) -> tuple[Any, ...]:
        call: _Call = ctx.call
        nothing = [None] * len(ctx.closed)
        if g is None:
            return None, None, None, *nothing
        if not torch.is_grad_enabled():

            def vjp(u: Tensor) -> Tensor:
                (Ju,) = torch.autograd.grad(call.out, call.z, u, retain_graph=True, allow_unused=True)
                return torch.zeros_like(u) if Ju is None else Ju

            u = call.gradient.cotangent(vjp, g, call)
            return None, u, None, *nothing
        if not call.complete:
            raise RuntimeError(
                "second derivatives: a tensor that needs a gradient enters f only inside a custom autograd.Function, where "
                "it cannot be seen; let it pass through an ordinary operation in f (y = y * 1), or make it a leaf"
            )
        flows = [False]
        with torch.enable_grad(), standing_still(again=True):
            z = _Tie.apply(ctx.saved_tensors[0], flows)
            out = call.F(z)

            def vjp(u: Tensor) -> Tensor:
                (Ju,) = torch.autograd.grad(out, z, u, create_graph=True, allow_unused=True)
                return torch.zeros_like(u) if Ju is None else Ju

            u = call.gradient.cotangent(vjp, g, call)
            grads = torch.autograd.grad(out, ctx.closed, u, create_graph=True, allow_unused=True)
        flows[0] = True
        return None, None, None, *grads


@dataclass
class _Call:
    """What one differentiable solve needs in its backward pass. It belongs to the autograd node and dies with it."""

    gradient: Gradient
    F: FlatMap
    z: Tensor
    out: Tensor
    adjoint: list[Equilibrium]
    on_failure: OnFailure
    complete: bool
    residual: Tensor  #: (B,) of the forward solve


class _Watch(TorchFunctionMode):
    """Remembers the non-leaf tensors that torch functions are given."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[int, Tensor] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for arg in (*args, *(kwargs or {}).values()):
            for item in arg if isinstance(arg, (tuple, list)) else (arg,):
                if isinstance(item, Tensor):
                    self.seen[id(item)] = item
        return func(*args, **(kwargs or {}))


def _closed_over(out: Tensor, z: Tensor, seen: dict[int, Tensor], first: int) -> tuple[list[Tensor], bool]:
    """The tensors that the graph of ``out`` was built on, besides ``z``, and whether all of them could be named.

    A node made before f was applied (sequence number below ``first``) lies outside f; what crosses is closed over.
    """
    edges: dict[tuple[int, int], Any] = {}
    leaves: dict[int, Tensor] = {}
    stack, visited = [out.grad_fn], {out.grad_fn}
    while stack:
        for node, index in stack.pop().next_functions:  # type: ignore[union-attr]
            if node is None:
                continue
            if hasattr(node, "variable"):
                if node.variable is not z:
                    leaves[id(node.variable)] = node.variable
            elif node._sequence_nr() < first:
                edges[id(node), index] = node
            elif node not in visited:
                visited.add(node)
                stack.append(node)
    named: dict[tuple[int, int], Tensor] = {}
    for tensor in seen.values():
        if tensor.grad_fn is not None:
            key = (id(tensor.grad_fn), tensor.output_nr)
            if key in edges:
                named[key] = tensor
    return [*leaves.values(), *named.values()], len(named) == len(edges)


def _without_graph(result: Equilibrium) -> Equilibrium:
    value = result.value
    value = tuple(v.detach() for v in value) if isinstance(value, tuple) else value.detach()
    return Equilibrium(value, result.residual, result.steps, result.status, result.trace)


def _attach(F: FlatMap, solved: Solved, gradient: Gradient, stop: Stop, on_failure: OnFailure) -> None:
    """Gives the solution (packed) the derivative that ``gradient`` asks for.

    The application of f that carries the graph is an evaluation like any other, so it is made one step ``ahead`` of the
    iterate that converged. It measures the residual there; a sample that lost its tolerance by that step takes it back.
    """
    result, ahead, largest = solved
    value = result.value.detach()
    applied = _apply(F, ahead, gradient, result, on_failure)
    if applied is None:
        return
    call, closed = applied
    moved = (ahead != value).any(1)
    residual = relative_residual(*change_and_size(ahead, call.out.detach()), largest)
    lost = moved & ~(residual <= stop.rtol)
    if bool(lost.any()):
        moved = moved & ~lost
        ahead = torch.where(moved[:, None], ahead, value)
        call, closed = _apply(F, ahead, gradient, result, on_failure) or applied
        now = relative_residual(*change_and_size(ahead, call.out.detach()), largest)
        if bool((lost & ~(now <= 2 * stop.rtol + 100 * torch.finfo(now.dtype).eps)).any()):
            raise RuntimeError(
                f"f changed while it was solved: at the solution its residual was {float(result.residual[lost].max()):.1e} and is "
                f"{float(now[lost].max()):.1e} with the graph; call .eval() on what draws, counts or learns when it is called"
            )
    if bool(moved.any()):
        result.residual = torch.where(moved, residual, result.residual)
        result.steps = result.steps + moved
        row = torch.where(moved, residual, result.trace[-1])
        at = int(result.steps.max()) - 1  # some may have been ahead of those that went on
        rows = torch.arange(max(len(result.trace), at + 1), device=row.device)
        trace = result.trace[rows.clamp_max(len(result.trace) - 1)]
        result.trace = torch.where(moved & (rows[:, None] >= result.steps - 1), row, trace)
    call.residual = result.residual
    result.value = _Attach.apply(call, call.out, ahead, *closed)


def _apply(
    F: FlatMap, value: Tensor, gradient: Gradient, result: Equilibrium, on_failure: OnFailure
) -> tuple[_Call, list[Tensor]] | None:
    """One application of f with its graph, and the tensors it closes over; None if there is nothing to differentiate."""
    z = value.detach().clone().requires_grad_()
    first = (z * 1).grad_fn._sequence_nr()  # type: ignore[union-attr]
    # Inside torch.utils.checkpoint, saved tensors would be thrown away and the whole solve repeated for each adjoint
    # step; one application of f is all there is to save, so it is kept.
    keep = torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t)
    try:
        with _Watch() as watch, keep:
            out = F(z)
    except RuntimeError as error:
        if "saved tensor hooks" not in str(error):
            raise
        with _Watch() as watch:  # f calls torch.func, which cannot live with hooks
            out = F(z)
    if out.grad_fn is None:
        return None
    closed, complete = _closed_over(out, z, watch.seen, first)
    if not closed and complete:
        return None
    return _Call(gradient, F, z, out, result._adjoint, on_failure, complete, result.residual), closed


def _unroll(F: FlatMap, z: Tensor, steps: int, rtol: float, checkpointing: bool = False, damping: float = 1.0) -> Equilibrium:
    trace: list[Tensor] = []

    def iterate(z: Tensor, n: int) -> tuple[Tensor, ...]:
        rows = []
        for _ in range(n):
            fz = F(z)
            change, size = change_and_size(z.detach(), fz.detach())
            rows.append(relative_residual(change, size, size))
            z = fz if damping == 1 else torch.lerp(z, fz, damping)
        return z, *rows

    block = max(1, round(steps**0.5)) if checkpointing and torch.is_grad_enabled() else steps
    for start in range(0, steps, block):
        n = min(block, steps - start)
        z, *rows = checkpoint(iterate, z, n, use_reentrant=False) if block < steps else iterate(z, n)
        trace.extend(rows)
    batch = len(z)
    finite = z.detach().isfinite().all(1)
    status = torch.where(trace[-1] <= rtol, int(Status.CONVERGED), int(Status.MAX_STEPS))
    status = torch.where(finite, status, int(Status.NONFINITE))
    return Equilibrium(z, trace[-1], torch.full_like(status, steps), status, torch.stack(trace) if batch else z.new_zeros(steps, 0))


def _primal(F: FlatMap) -> FlatMap:
    """F without the tangents of forward-mode differentiation."""

    def f(z: State) -> State:
        out = F.f(z)
        parts = [forward_ad.unpack_dual(part).primal for part in (out if isinstance(out, tuple) else (out,))]
        return tuple(parts) if isinstance(out, tuple) else parts[0]

    return F.of(f)


def _tangent(F: FlatMap, z: Tensor, stop: Stop, on_failure: OnFailure) -> Tensor:
    """Forward mode: the tangent w of the solution obeys w = J w + t, t the tangent of f at fixed z."""

    def step(w: Tensor) -> Tensor:
        tangent = forward_ad.unpack_dual(F(forward_ad.make_dual(z, w))).tangent
        return torch.zeros_like(w) if tangent is None else tangent

    result, ahead, _ = run(FlatMap(step, z), torch.zeros_like(z), GMRES(), stop)
    result.report(on_failure, stop, "tangent")
    return ahead


def fixed_point(
    f: Map,
    z0: State,
    *,
    solver: Solver | None = None,
    stop: Stop | None = None,
    gradient: Implicit | JacobianFree | Neumann | Phantom | Unrolled | None = None,
    on_failure: OnFailure = "warn",
) -> Equilibrium:
    """Solve z = f(z) from ``z0``; the solution is differentiable with respect to everything f closes over.

    It can be differentiated any number of times in reverse, and in forward mode (``torch.func.jvp``); what forward mode
    gives has no reverse graph (use ``torch.autograd.functional.jvp`` for reverse over forward).

    Args:
        f: takes and returns a state like ``z0``. If it has ``restrict(index)``, samples that are done cost nothing.
        z0: (B, …) floating-point or complex, or a tuple of such that share B. No gradient flows to it (but see ``Unrolled``).
        solver: ``Picard``, ``Anderson`` (default), ``Broyden``; ``GMRES`` for affine f.
        stop: per-sample tolerance and the largest number of evaluations.
        gradient: ``Implicit`` (default, exact), ``JacobianFree``, ``Neumann``, ``Phantom``, ``Unrolled``.
        on_failure: "warn", "raise" or "ignore" when some sample does not converge, forward or adjoint.

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
    with standing_still():
        start = F.pack(z0)
        if isinstance(gradient, Unrolled):
            result = _unroll(F, start, gradient.steps, stop.rtol, gradient.checkpointing)
        elif forward_ad._current_level >= 0:
            with torch.no_grad():
                result = run(_primal(F), forward_ad.unpack_dual(start).primal, solver, stop).result
                tangent_stop = getattr(gradient, "stop", stop)
                result.value = forward_ad.make_dual(result.value, _tangent(F, result.value, tangent_stop, on_failure))
        else:
            with torch.no_grad():
                solved = run(F, start, solver, stop)
            result = solved.result
            if torch.is_grad_enabled() and len(start):
                if isinstance(gradient, Phantom):
                    result.value = _unroll(F, result.value, gradient.steps, stop.rtol, damping=gradient.damping).value
                else:
                    _attach(F, solved, gradient, stop, on_failure)
        result.value = F.unpack(result.value)
    if isinstance(gradient, Unrolled):
        stop = Stop(stop.rtol, gradient.steps)
    result.report(on_failure, stop)
    return result
