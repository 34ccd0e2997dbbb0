"""Solvers of z = f(z): an ``init`` and a ``step`` each, and no loop.

A solver works on flat real states of shape (B, N). ``step(z, fz, state)`` sees one new evaluation ``fz = f(z)`` and
answers where to evaluate next. Tensors in a solver's state have the batch first, so that the loop can drop the samples
that are done, and no sample's arithmetic depends on its batchmates. In what follows g(z) = f(z) − z is the residual.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor


class Solver(Protocol):
    """``init(z)`` makes the state for a start ``z`` (B, N); ``step`` gives the next point and the next state."""

    def init(self, z: Tensor) -> Any: ...

    def step(self, z: Tensor, fz: Tensor, state: Any) -> tuple[Tensor, Any]: ...


def _check_memory(memory: int) -> None:
    if isinstance(memory, bool) or int(memory) != memory or memory < 1:
        raise ValueError(f"memory must be an integer >= 1, got {memory}; each unit holds two copies of the state")


def _inverse(norm: Tensor) -> Tensor:
    """1/norm, and 0 where the norm is zero: a degenerate direction drops out instead of dividing by zero."""
    return torch.where(norm > 0, norm.reciprocal(), torch.zeros_like(norm))


def _norm(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x, dim=-1)


def _times(M: Tensor, v: Tensor) -> Tensor:
    """(B, m, N) · (B, N) → (B, m)"""
    return torch.bmm(M, v[:, :, None])[:, :, 0]


def _combine(base: Tensor, M: Tensor, c: Tensor) -> Tensor:
    """base − Mᵀ c, for (B, N), (B, m, N), (B, m)"""
    return torch.baddbmm(base[:, None], c[:, None], M, alpha=-1)[:, 0]


def _clear(bad: Tensor, *memories: Tensor) -> None:
    """Forget the memory of the samples in ``bad`` (B,): a zero column has no effect anywhere below."""
    for memory in memories:
        memory[bad] = 0


@dataclass(frozen=True)
class Picard:
    """Picard iteration, damped: ``z ← (1 − β) z + β f(z)`` (Krasnosel'skii–Mann for β < 1).

    One evaluation a step, no memory. Converges for every contraction with β = 1, and for nonexpansive f that have a
    fixed point with β < 1.
    """

    damping: float = 1.0  #: β in (0, 1]

    def __post_init__(self) -> None:
        if not 0 < self.damping <= 1:
            raise ValueError(f"damping must be in (0, 1], got {self.damping}; 1 is the undamped iteration")

    def init(self, z: Tensor) -> tuple[()]:
        return ()

    def step(self, z: Tensor, fz: Tensor, state: tuple[()]) -> tuple[Tensor, tuple[()]]:
        return (fz if self.damping == 1 else torch.lerp(z, fz, self.damping)), state


# The residual may grow at an accelerated step by this factor over the smallest since the last restart; beyond it the
# step is taken back, the memory cleared, and the next step is Picard's. Accelerated residuals are not monotone even
# where they converge fast, so a factor near 1 would throw good steps away; safeguarding against the plain iteration is
# from Zhang, O'Donoghue and Boyd, "Globally convergent type-I Anderson acceleration", SIAM J. Optim. 2020.
GROWTH = 2.0


class Trust(NamedTuple):
    """The last accepted evaluation, and how far the residual may grow from here."""

    z: Tensor  # (B, N)
    fz: Tensor  # (B, N)
    smallest: Tensor  # (B,)  ‖g‖, smallest since the last restart
    used: Tensor  # (B,)  bool: the step that led here used the memory

    @classmethod
    def start(cls, z: Tensor) -> Trust:
        return cls(z, z, z.new_full((len(z),), torch.inf), torch.zeros(len(z), dtype=torch.bool, device=z.device))

    def judge(self, z: Tensor, fz: Tensor) -> tuple[Tensor | None, Trust]:
        """The samples to take back (None if there are none), and the trust after this evaluation."""
        norm = _norm(fz - z)
        bad = self.used & (norm > GROWTH * self.smallest)
        if not bool(bad.any()):
            return None, Trust(z, fz, torch.minimum(self.smallest, norm), torch.ones_like(self.used))
        old = bad[:, None]
        smallest = torch.where(bad, _norm(self.fz - self.z), torch.minimum(self.smallest, norm))
        return bad, Trust(torch.where(old, self.z, z), torch.where(old, self.fz, fz), smallest, ~bad)


class AndersonState(NamedTuple):
    trust: Trust
    k: int
    dF: Tensor  # (B, m, N) differences of f(z), in a ring
    dG: Tensor  # (B, m, N) differences of g(z)
    gram: Tensor  # (B, m, m) ΔG ΔGᵀ


@dataclass(frozen=True)
class Anderson:
    """Anderson acceleration, type II, over the last ``memory`` differences:

        γ = argmin ‖g_k − ΔGᵀγ‖² + ridge,      z_{k+1} = f(z_k) − ΔFᵀγ

    (Walker and Ni, SIAM J. Numer. Anal. 2011, eq. 2.2). One evaluation a step; 2·memory·N numbers and one
    memory × memory Cholesky solve a sample. The ridge is relative to each difference's own size, because differences
    shrink with the residual: an absolute one would tie the accuracy to the data's scale. Safeguarded (``GROWTH``).
    """

    memory: int = 10
    ridge: float | None = None  #: relative; None: a few roundings of the state's precision

    def __post_init__(self) -> None:
        _check_memory(self.memory)
        if self.ridge is not None and not 0 <= self.ridge < 1:
            raise ValueError(f"ridge must be in [0, 1), got {self.ridge}; it is relative to the Gram matrix")

    def init(self, z: Tensor) -> AndersonState:
        b, n = z.shape
        m = self.memory
        return AndersonState(Trust.start(z), 0, z.new_zeros(b, m, n), z.new_zeros(b, m, n), z.new_zeros(b, m, m))

    def step(self, z: Tensor, fz: Tensor, state: AndersonState) -> tuple[Tensor, AndersonState]:
        trust, k, dF, dG, gram = state
        if k == 0:
            return fz, AndersonState(Trust(z, fz, _norm(fz - z), trust.used), 1, dF, dG, gram)
        g = fz - z
        bad, after = trust.judge(z, fz)
        slot = (k - 1) % self.memory
        torch.sub(fz, trust.fz, out=dF[:, slot])
        torch.sub(g, trust.fz - trust.z, out=dG[:, slot])
        row = _times(dG, dG[:, slot])
        gram[:, slot], gram[:, :, slot] = row, row
        if bad is not None:
            _clear(bad, dF, dG, gram)
        gamma = self._gamma(gram, _times(dG, g))
        new = _combine(fz, dF, gamma)
        if bad is not None:
            new = torch.where(bad[:, None], after.fz, new)
        return new, AndersonState(after, k + 1, dF, dG, gram)

    def _gamma(self, gram: Tensor, rhs: Tensor) -> Tensor:
        """(ΔG ΔGᵀ + ridge) γ = ΔG g, with every difference scaled to length one; in float64, it is small."""
        ridge = 4 * torch.finfo(gram.dtype).eps if self.ridge is None else self.ridge
        H = gram.double()
        scale = _inverse(H.diagonal(dim1=1, dim2=2).clamp_min(0).sqrt())
        H = H * scale[:, :, None] * scale[:, None, :]
        # A cleared column has a zero on the diagonal; one there makes its γ exactly zero.
        H.diagonal(dim1=1, dim2=2).copy_(torch.ones_like(scale) * (1 + ridge))
        factor, info = torch.linalg.cholesky_ex(H)
        gamma = torch.cholesky_solve((scale * rhs.double())[:, :, None], factor)[:, :, 0] * scale
        usable = (info == 0)[:, None] & gamma.isfinite().all(1, keepdim=True)
        return torch.where(usable, gamma, torch.zeros_like(gamma)).to(rhs.dtype)


class BroydenState(NamedTuple):
    trust: Trust
    k: int
    U: Tensor  # (B, m, N)
    V: Tensor  # (B, m, N)   inverse Jacobian of g: H = −I + Uᵀ V


@dataclass(frozen=True)
class Broyden:
    """Broyden's good method with limited memory, on g(z) = f(z) − z:

        H ← H + (s − H y) sᵀH / (sᵀH y),   s = Δz, y = Δg,       z_{k+1} = z_k − H g_k,      H_0 = −I

    (Broyden 1965; the limited-memory form is Kelley's, "Solving Nonlinear Equations with Newton's Method", 2003). The
    first step is Picard's. One evaluation a step; 2·memory·N numbers. A full memory is cleared, and a short one does best:
    on ill-conditioned problems a long one only carries rounding errors along. Safeguarded (``GROWTH``).
    """

    memory: int = 10

    def __post_init__(self) -> None:
        _check_memory(self.memory)

    def init(self, z: Tensor) -> BroydenState:
        b, n = z.shape
        return BroydenState(Trust.start(z), 0, z.new_zeros(b, self.memory, n), z.new_zeros(b, self.memory, n))

    def step(self, z: Tensor, fz: Tensor, state: BroydenState) -> tuple[Tensor, BroydenState]:
        trust, k, U, V = state
        if k == 0:
            return fz, BroydenState(Trust(z, fz, _norm(fz - z), trust.used), 1, U, V)
        g = fz - z
        bad, after = trust.judge(z, fz)
        slot = (k - 1) % self.memory
        if slot == 0:
            U.zero_(), V.zero_()
        s, y = z - trust.z, g - (trust.fz - trust.z)
        Hy = -_combine(y, U, _times(V, y))
        sH = -_combine(s, V, _times(U, s))
        denominator = torch.linalg.vecdot(s, Hy)
        safe = denominator.abs() > 1e-10 * _norm(s) * _norm(Hy)
        U[:, slot] = (s - Hy) * torch.where(safe, denominator.reciprocal(), torch.zeros_like(denominator))[:, None]
        V[:, slot] = sH
        if bad is not None:
            _clear(bad, U, V)
        new = z + _combine(g, U, _times(V, g))
        if bad is not None:
            new = torch.where(bad[:, None], after.fz, new)
        return new, BroydenState(after, k + 1, U, V)


class GMRESState(NamedTuple):
    k: int
    z: Tensor  # (B, N) the last evaluation
    g: Tensor  # (B, N)
    Q: Tensor  # (B, m, N) orthonormal directions in the space of residuals
    P: Tensor  # (B, m, N) the steps that produce them: g(z + P) = g(z) + Q


@dataclass(frozen=True)
class GMRES:
    """GMRES, restarted after ``memory`` steps, for *affine* f, such as the adjoint equation:

        z̄ = argmin ‖g(z)‖ over z_0 + Krylov space,     z_{k+1} = z̄ + g(z̄)

    (Saad and Schultz 1986), in the form of generalised conjugate residuals (Eisenstat, Elman and Schultz 1983): the
    next point carries the new Krylov direction, so each evaluation is of a useful iterate and its residual is measured,
    not estimated. In exact arithmetic g(z̄) is GMRES's. One evaluation a step; 2·memory·N numbers.
    """

    memory: int = 20

    def __post_init__(self) -> None:
        _check_memory(self.memory)

    def init(self, z: Tensor) -> GMRESState:
        b, n = z.shape
        return GMRESState(0, z, z, z.new_zeros(b, self.memory, n), z.new_zeros(b, self.memory, n))

    def step(self, z: Tensor, fz: Tensor, state: GMRESState) -> tuple[Tensor, GMRESState]:
        k, z_last, g_last, Q, P = state
        g = fz - z
        if k == 0:
            return fz, GMRESState(1, z, g, Q, P)
        slot = (k - 1) % self.memory
        if slot == 0:
            Q.zero_(), P.zero_()
        used = max(slot, 1)
        p, q = z - z_last, g - g_last
        length = _norm(q)
        for _ in range(2):  # twice is enough (Giraud, Langou and Rozložník 2005)
            c = _times(Q[:, :used], q)
            p, q = _combine(p, P[:, :used], c), _combine(q, Q[:, :used], c)
        new_length = _norm(q)
        # A direction that is all rounding error is no direction.
        keep = new_length > 10 * torch.finfo(q.dtype).eps * length
        scale = torch.where(keep, _inverse(new_length), torch.zeros_like(length))[:, None]
        torch.mul(q, scale, out=Q[:, slot])
        torch.mul(p, scale, out=P[:, slot])
        c = _times(Q[:, : slot + 1], g)
        z_best, g_best = _combine(z, P[:, : slot + 1], c), _combine(g, Q[:, : slot + 1], c)
        return z_best + g_best, GMRESState(k + 1, z, g, Q, P)
