"""The one loop that drives every solver: per-sample stopping, the best iterate, and what is said when it fails."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import reduce
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .result import Equilibrium, OnFailure, State, Status, Stop, check_on_failure
from .solvers import Anderson, Solver
from .still import standing_still

#: z ↦ f(z). A map may offer ``restrict(index)``: the same map for some samples (``index``: (A,) int64) alone.
Map = Callable[[Any], Any]


class FlatMap:
    """f on states packed into one real matrix (B, N): tuples side by side, complex numbers as pairs, half as float32."""

    def __init__(self, f: Callable[[Any], Any], like: State):
        parts = like if isinstance(like, tuple) else (like,)
        for part in parts:
            if not isinstance(part, Tensor):
                raise TypeError(f"z0 must be a tensor or a tuple of tensors, got {type(part).__name__}")
            if not (part.is_floating_point() or part.is_complex()):
                raise TypeError(f"z0 must be of a floating-point or complex dtype, got {part.dtype}; use z0.float()")
            if part.ndim < 1:
                raise ValueError("z0 must have a batch dimension first, got a scalar; use z0[None]")
        if not parts:
            raise ValueError("z0 is an empty tuple; a state needs at least one tensor")
        if len({len(part) for part in parts}) > 1:
            raise ValueError(f"all tensors of a state must share the batch size, got {[len(p) for p in parts]}")
        self.f = f
        self.single = not isinstance(like, tuple)
        self.shapes = [part.shape[1:] for part in parts]
        self.dtypes = [part.dtype for part in parts]
        self.dtype = reduce(torch.promote_types, self.dtypes, torch.float32).to_real()

    def of(self, f: Callable[[Any], Any]) -> FlatMap:
        """Another map on states of the same kind."""
        other = copy.copy(self)
        other.f = f
        return other

    def pack(self, z: State) -> Tensor:
        """State → (B, N)."""
        rows = [self._flat(part) for part in (z if isinstance(z, tuple) else (z,))]
        return rows[0] if self.single else torch.cat(rows, 1)

    def _flat(self, part: Tensor) -> Tensor:
        part = torch.view_as_real(part.resolve_conj()) if part.is_complex() else part
        return part.reshape(len(part), part[0].numel() if len(part) else part.shape[1:].numel()).to(self.dtype)

    def unpack(self, z: Tensor) -> State:
        """(B, N) → state, in the shapes and dtypes of the start."""
        parts, at = [], 0
        for shape, dtype in zip(self.shapes, self.dtypes):
            pair = 2 if dtype.is_complex else 1
            row = z[:, at : at + shape.numel() * pair] if not self.single else z
            at += shape.numel() * pair
            if dtype.is_complex:
                row = torch.view_as_complex(row.to(dtype.to_real()).reshape(len(z), *shape, 2).contiguous())
            parts.append(row.reshape(len(z), *shape).to(dtype))
        return parts[0] if self.single else tuple(parts)

    def __call__(self, z: Tensor) -> Tensor:
        out = self.f(self.unpack(z))
        self._check(out, len(z))
        return self.pack(out)

    def _check(self, out: Any, batch: int) -> None:
        parts = out if isinstance(out, tuple) else (out,)
        if isinstance(out, tuple) == self.single or len(parts) != len(self.shapes):
            wanted = "one tensor" if self.single else f"a tuple of {len(self.shapes)} tensors"
            raise TypeError(f"f must return {wanted}, like z0; got {type(out).__name__} of {len(parts)}")
        for part, shape, dtype in zip(parts, self.shapes, self.dtypes):
            if part.shape != (batch, *shape):
                raise ValueError(f"f must keep the shape of z: got {tuple(part.shape)} for {(batch, *shape)}")
            if part.dtype != dtype and not torch.is_autocast_enabled(part.device.type):
                raise TypeError(f"f must keep the dtype of z: got {part.dtype} for {dtype}; convert z0 or f's output")

    def restrict(self, index: Tensor, values: Tensor) -> Callable[[Tensor], Tensor]:
        """The map on the samples ``index`` alone; ``values`` (B, N) fills the others in if f cannot leave them out."""
        restricted = getattr(self.f, "restrict", None)
        if restricted is not None:
            return self.of(restricted(index))
        full = values.clone()

        def scattered(z: Tensor) -> Tensor:
            full[index] = z
            return self(full)[index]

        return scattered


def _take(state: Any, keep: Tensor) -> Any:
    """The same solver state for the samples ``keep`` alone."""
    if isinstance(state, Tensor):
        return state[keep]
    if isinstance(state, tuple):
        parts = [_take(part, keep) for part in state]
        return type(state)(*parts) if hasattr(state, "_fields") else tuple(parts)
    return state


def change_and_size(z: Tensor, fz: Tensor) -> tuple[Tensor, Tensor]:
    """‖f(z) − z‖ and ‖f(z)‖, row by row; infinite where f(z) is not finite."""
    change, size = (torch.linalg.vector_norm(row, dim=1) for row in (fz - z, fz))
    info = torch.finfo(size.dtype)
    safe = (size > info.tiny**0.5 / info.eps) & (torch.maximum(change, size) < info.max**0.5)
    if bool(safe.all()):
        return change, size
    # Squares of very small or large numbers are not representable: such rows are scaled to one first.
    largest = fz.abs().amax(1, keepdim=True) if fz.shape[1] else fz.new_ones(len(fz), 1)
    finite = largest.isfinite()
    scale = torch.where(finite, largest.clamp_min(info.tiny), torch.ones_like(largest))
    norms = torch.linalg.vector_norm(torch.stack([fz - z, fz]) / scale, dim=2) * scale[:, 0]
    norms = torch.where(finite[:, 0], norms, torch.inf)
    return torch.where(safe, change, norms[0]), torch.where(safe, size, norms[1])


def relative_residual(change: Tensor, size: Tensor, largest: Tensor) -> Tensor:
    """‖f(z) − z‖ / ‖f(z)‖; 0 where both are zero. A solution that is zero has no relative residual: what is below the
    rounding of ``largest``, the largest ‖f(z)‖ met, is counted against that."""
    size = torch.maximum(size, torch.finfo(size.dtype).eps * largest)
    return torch.where(change.isfinite(), torch.where(change == 0, change, change / size), torch.inf)


class Solved(NamedTuple):
    """What the loop answers, on packed states.

    ``ahead`` is where each sample's solver would go next (for GMRES its minimiser, which cannot be worse than ``value``):
    mostly one step better, for no further evaluation, but not measured. It is ``value`` itself where the solve failed, had
    no step left, or began converged.
    """

    result: Equilibrium
    ahead: Tensor  # (B, N)
    largest: Tensor  # (B,) ‖f(z)‖, the largest met: what rounding is relative to


def run(F: FlatMap, z: Tensor, solver: Solver, stop: Stop, rtol: Tensor | None = None) -> Solved:
    """The loop, on packed states (B, N). ``rtol`` (B,) replaces ``stop.rtol``."""
    batch, device = len(z), z.device
    value, residual = z.clone(), z.new_full((batch,), torch.inf)
    ahead, met = value.clone(), z.new_zeros(batch)
    steps = torch.zeros(batch, dtype=torch.long, device=device)
    status = torch.full((batch,), int(Status.MAX_STEPS), dtype=torch.long, device=device)
    last, trace = z.new_full((batch,), torch.inf), []
    active = torch.arange(batch, device=device)
    best, best_residual, largest = z, residual, z.new_zeros(batch)
    rtol = torch.full_like(residual, stop.rtol) if rtol is None else rtol.to(residual)
    f: Callable[[Tensor], Tensor] = F
    state = solver.init(z)
    for k in range(1, stop.max_steps + 1 if batch else 0):
        fz = f(z)
        change, size = change_and_size(z, fz)
        finite = size.isfinite()
        largest = torch.where(finite, torch.maximum(largest, size), largest)
        now = relative_residual(change, size, largest)
        better = now < best_residual
        if bool(better.all()):
            best, best_residual = z, now
        else:
            best, best_residual = torch.where(better[:, None], z, best), torch.where(better, now, best_residual)
        last = last.index_copy(0, active, now)
        trace.append(last)
        steps[active] = k
        done = (now <= rtol) | ~finite
        if k == stop.max_steps or bool(done.any()):
            out = torch.ones_like(done) if k == stop.max_steps else done
            left = active[out]
            value[left], residual[left], met[left] = best[out], best_residual[out], largest[out]
            status[active[done & finite]] = int(Status.CONVERGED)
            status[active[~finite]] = int(Status.NONFINITE)
            if k == stop.max_steps:
                ahead[left] = value[left]
                break
            z, state = solver.step(z, fz, state)
            further = getattr(state, "best", z)
            usable = done & finite & further.isfinite().all(1) & (k > 1)
            ahead[left] = torch.where(usable[out, None], further[out], value[left])
            keep = (~out).nonzero()[:, 0]
            if len(keep) == 0:
                break
            active, z, best, best_residual, largest, rtol = (t[keep] for t in (active, z, best, best_residual, largest, rtol))
            state = _take(state, keep)
            f = F.restrict(active, value)
        else:
            z, state = solver.step(z, fz, state)
    rows = torch.stack(trace) if trace else z.new_zeros((0, batch))
    return Solved(Equilibrium(value, residual, steps, status, rows), ahead, met)


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
        f: takes and returns a state like ``z0``. If it has ``restrict(index)``, samples that are done cost nothing.
        z0: (B, …) floating-point or complex, or a tuple of such that share B.
        solver: ``Picard``, ``Anderson`` (default), ``Broyden``; ``GMRES`` for affine f.
        stop: per-sample tolerance and the largest number of evaluations.
        on_failure: "warn", "raise" or "ignore" when some sample does not converge.

    Raises:
        EquilibriumError: with ``on_failure="raise"``.
        TypeError, ValueError: f does not keep the shape or dtype of z0.
    """
    check_on_failure(on_failure)
    stop = Stop() if stop is None else stop
    with torch.no_grad(), standing_still():
        F = FlatMap(f, z0)
        result = run(F, F.pack(z0), Anderson() if solver is None else solver, stop).result
        result.value = F.unpack(result.value)
    result.report(on_failure, stop)
    return result
