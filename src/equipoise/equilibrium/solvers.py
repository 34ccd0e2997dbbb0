"""Solvers of z = f(z): where to evaluate f next. They step; the loop is in ``solve.py``.

A solver works on flat real states of shape (B, N). Tensors in its state have the batch first, so
that the loop can drop the samples that are done, and no sample's arithmetic depends on its
batchmates. In what follows g(z) = f(z) − z is the residual.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .result import whole_number
from .safeguard import Trust


class Solver:
    """What a solver answers. One of your own needs no more than ``init`` and ``step``; whether it
    is a subclass of this does not matter.

    The state is whatever the solver wants to remember: a tensor, or a tuple (or named tuple) of
    tensors whose first dimension is the batch; what is no tensor in it is shared by all samples.
    """

    def init(self, z: Tensor) -> Any:
        """The state before the first evaluation, for a start ``z`` (B, N)."""
        raise NotImplementedError

    def step(self, z: Tensor, fz: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Where to evaluate f next (B, N), and the next state, from one more evaluation
        ``fz`` = f(z).

        ``z`` is where the last step went, but for rounding; once in a solve it may be zero instead,
        where the states vanish. ``z`` and ``fz`` may be kept but not written into.
        """
        raise NotImplementedError

    def candidate(self, state: Any) -> Tensor | None:
        """After ``step``: a point (B, N) of which the solver can vouch that it is no worse than the
        last evaluated one, although f has not been evaluated there. None: it knows of none."""
        return None


def check_solver(solver: Solver) -> None:
    """Raises:
    TypeError: it is no solver, but a name or a class, say.
    """
    is_solver = hasattr(solver, "init") and hasattr(solver, "step")
    if isinstance(solver, type) or not is_solver:
        raise TypeError(
            f"a solver is an object with init and step, such as Anderson(memory=5), got {solver!r}"
        )


def _norm(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x, dim=-1)


def _products(rows: Tensor, *vectors: Tensor) -> tuple[Tensor, ...]:
    """The inner products of each row with each vector: (B, m, N), (B, N) → (B, m).

    A batched matrix product reads the rows once on a CPU; on a GPU it takes a hundred times as long
    as reading them does (``results/gpu.md``).
    """
    if rows.is_cuda:
        return tuple(torch.linalg.vecdot(rows, v[:, None]) for v in vectors)
    return torch.bmm(rows, torch.stack(vectors, 2)).unbind(2)


def _subtract(base: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
    """base − Σ weights · rows, for (B, N), (B, m, N), (B, m)."""
    return torch.baddbmm(base[:, None], weights[:, None], rows, alpha=-1)[:, 0]


@dataclass(frozen=True)
class Picard(Solver):
    """Picard iteration, damped: ``z ← (1 − β) z + β f(z)`` (Krasnosel'skii–Mann for β < 1).

    One evaluation a step, no memory. Converges for every contraction with β = 1, and for
    nonexpansive f that have a fixed point with β < 1.
    """

    damping: float = 1.0  #: β in (0, 1]

    def __post_init__(self) -> None:
        if not 0 < self.damping <= 1:
            raise ValueError(
                f"damping must be in (0, 1], got {self.damping}; 1 is the undamped iteration"
            )

    def init(self, z: Tensor) -> tuple[()]:
        return ()

    def step(self, z: Tensor, fz: Tensor, state: tuple[()]) -> tuple[Tensor, tuple[()]]:
        return (fz if self.damping == 1 else torch.lerp(z, fz, self.damping)), state


class AndersonState(NamedTuple):
    trust: Trust
    k: int
    dF: Tensor  # (B, m, N) differences of f(z), in a ring
    dG: Tensor  # (B, m, N) differences of g(z)
    gram: Tensor  # (B, m, m) ΔG ΔGᵀ


@dataclass(frozen=True)
class Anderson(Solver):
    """Anderson acceleration, type II, over the last ``memory`` differences:

        γ = argmin ‖g_k − ΔGᵀγ‖² + ridge,      z_{k+1} = f(z_k) − ΔFᵀγ

    (Walker and Ni, SIAM J. Numer. Anal. 2011, eq. 2.2). One evaluation a step; 2·memory·N numbers
    and one memory × memory Cholesky solve a sample. The ridge is relative to each difference's own
    size, because differences shrink with the residual: an absolute one would tie the accuracy to
    the data's scale. Safeguarded (``safeguard.py``).
    """

    memory: int = 10  #: each unit holds two copies of the state
    ridge: float | None = None  #: relative; None: a few roundings of the state's precision

    def __post_init__(self) -> None:
        object.__setattr__(self, "memory", whole_number("memory", self.memory, 1))
        if self.ridge is not None and not 0 <= self.ridge < 1:
            raise ValueError(
                f"ridge must be in [0, 1), got {self.ridge}; it is relative to the Gram matrix"
            )

    def init(self, z: Tensor) -> AndersonState:
        batch, n = z.shape
        m = self.memory
        return AndersonState(
            trust=Trust.start(z),
            k=0,
            dF=z.new_zeros(batch, m, n),
            dG=z.new_zeros(batch, m, n),
            gram=z.new_zeros(batch, m, m),
        )

    def step(self, z: Tensor, fz: Tensor, state: AndersonState) -> tuple[Tensor, AndersonState]:
        trust, k, dF, dG, gram = state
        if k == 0:
            return fz, state._replace(trust=trust.first(z, fz), k=1)
        g = fz - z
        back, plain, after = trust.judge(k, z, fz)
        slot = k % self.memory
        torch.sub(fz, trust.fz, out=dF[:, slot])
        torch.sub(g, trust.fz - trust.z, out=dG[:, slot])
        row, rhs = _products(dG, dG[:, slot], g)
        gram[:, slot] = row
        gram[:, :, slot] = row
        if back is not None:
            dG[back] = 0  # so that they have no weight from here on
        new = _subtract(fz, dF, self._weights(gram, rhs))
        if plain is not None:
            new = torch.where(plain[:, None], after.fz, new)
        return new, AndersonState(after, k + 1, dF, dG, gram)

    def _weights(self, gram: Tensor, rhs: Tensor) -> Tensor:
        """γ (B, m) of (ΔG ΔGᵀ + ridge) γ = ΔG g.

        In float64, for it is small; Cholesky's accuracy does not depend on the scales of ΔG.
        """
        ridge = 4 * torch.finfo(gram.dtype).eps if self.ridge is None else self.ridge
        H = gram.to(torch.float64, copy=True)
        diagonal = H.diagonal(dim1=1, dim2=2)
        # A cleared difference has a zero on the diagonal; one there makes its γ exactly zero.
        diagonal.copy_(torch.where(diagonal > 0, diagonal * (1 + ridge), 1.0))
        factor, info = torch.linalg.cholesky_ex(H)
        gamma = torch.cholesky_solve(rhs.double()[:, :, None], factor)[:, :, 0]
        usable = (info == 0)[:, None] & gamma.isfinite().all(1, keepdim=True)
        return torch.where(usable, gamma, 0.0).to(rhs.dtype)


class BroydenState(NamedTuple):
    trust: Trust
    k: int
    U: Tensor  # (B, m, N)
    V: Tensor  # (B, m, N) inverse Jacobian of g: H = −I + Uᵀ V


@dataclass(frozen=True)
class Broyden(Solver):
    """Broyden's good method with limited memory, on g(z) = f(z) − z:

        H ← H + (s − H y) sᵀH / (sᵀH y),   s = Δz, y = Δg,     z_{k+1} = z_k − H g_k,    H_0 = −I

    (Broyden 1965; the limited-memory form is Kelley's, "Solving Nonlinear Equations with Newton's
    Method", 2003). The first step is Picard's. One evaluation a step; 2·memory·N numbers. A full
    memory is cleared, and a short one does best: on ill-conditioned problems a long one only
    carries rounding errors along. Safeguarded (``safeguard.py``).
    """

    memory: int = 10

    def __post_init__(self) -> None:
        object.__setattr__(self, "memory", whole_number("memory", self.memory, 1))

    def init(self, z: Tensor) -> BroydenState:
        batch, n = z.shape
        U = z.new_zeros(batch, self.memory, n)
        return BroydenState(Trust.start(z), 0, U, torch.zeros_like(U))

    def step(self, z: Tensor, fz: Tensor, state: BroydenState) -> tuple[Tensor, BroydenState]:
        trust, k, U, V = state
        if k == 0:
            return fz, state._replace(trust=trust.first(z, fz), k=1)
        g = fz - z
        back, plain, after = trust.judge(k, z, fz)
        slot = (k - 1) % self.memory
        if slot == 0:
            V.zero_()
        s = z - trust.z
        y = g - (trust.fz - trust.z)
        Hy = -_subtract(y, U, *_products(V, y))
        sH = -_subtract(s, V, *_products(U, s))
        denominator = torch.linalg.vecdot(s, Hy)
        safe = denominator.abs() > 1e-10 * _norm(s) * _norm(Hy)
        factor = torch.where(safe, denominator.reciprocal(), torch.zeros_like(denominator))
        U[:, slot] = (s - Hy) * factor[:, None]
        V[:, slot] = sH
        if back is not None:
            V[back] = 0
        new = z + _subtract(g, U, *_products(V, g))
        if plain is not None:
            new = torch.where(plain[:, None], after.fz, new)
        return new, BroydenState(after, k + 1, U, V)


class GMRESState(NamedTuple):
    k: int
    last: Tensor  # (B, 2N) z beside g(z), of the last evaluation
    PQ: Tensor  # (B, m, 2N) steps P beside what they do, Q: g(z + P) = g(z) + Q; Q is orthonormal
    best: Tensor  # (B, N) z̄


@dataclass(frozen=True)
class GMRES(Solver):
    """GMRES, restarted after ``memory`` steps, for *affine* f, such as the adjoint equation:

        z̄ = argmin ‖g(z)‖ over z_0 + Krylov space,     z_{k+1} = z̄ + g(z̄)

    (Saad and Schultz 1986), in the form of generalised conjugate residuals (Eisenstat, Elman and
    Schultz 1983): the next point carries the new Krylov direction, so each evaluation is of a
    useful iterate and its residual is measured, not estimated. In exact arithmetic g(z̄) is
    GMRES's. One evaluation a step; 2·memory·N numbers.
    """

    memory: int = 20

    def __post_init__(self) -> None:
        object.__setattr__(self, "memory", whole_number("memory", self.memory, 1))

    def init(self, z: Tensor) -> GMRESState:
        batch, n = z.shape
        return GMRESState(0, z, z.new_zeros(batch, self.memory, 2 * n), z)

    def step(self, z: Tensor, fz: Tensor, state: GMRESState) -> tuple[Tensor, GMRESState]:
        k, last, PQ, _ = state
        g = fz - z
        here = torch.cat([z, g], 1)
        if k == 0:
            return fz, GMRESState(1, here, PQ, z)
        n = z.shape[1]
        slot = (k - 1) % self.memory
        pq = here - last
        length = _norm(pq[:, n:])
        if slot:
            for _ in range(2):  # twice is enough (Giraud, Langou and Rozložník 2005)
                pq = _subtract(pq, PQ[:, :slot], *_products(PQ[:, :slot, n:], pq[:, n:]))
        new_length = _norm(pq[:, n:])
        # A direction that is all rounding error is no direction, and drops out.
        direction = new_length > 10 * torch.finfo(pq.dtype).eps * length
        scale = torch.where(direction, new_length.reciprocal(), torch.zeros_like(length))
        torch.mul(pq, scale[:, None], out=PQ[:, slot])
        filled = PQ[:, : slot + 1]
        best = _subtract(here, filled, *_products(filled[:, :, n:], g))
        return best[:, :n] + best[:, n:], GMRESState(k + 1, here, PQ, best[:, :n])

    def candidate(self, state: GMRESState) -> Tensor:
        """z̄, whose residual the least squares make no larger than any evaluated one."""
        return state.best
