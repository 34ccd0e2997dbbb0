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


# Two safeguards stand behind every accelerated step, after Zhang, O'Donoghue and Boyd, "Globally convergent type-I Anderson
# acceleration", SIAM J. Optim. 2020, who fall back on the plain iteration too. Accelerated residuals are not monotone even
# where they converge fast, so neither asks for a decrease at every step.
# 1. Where the residual exceeds the smallest since the last restart by this factor, the step is taken back, the memory
#    cleared, and the next step is Picard's.
GROWTH = 2.0
# 2. Every WINDOW evaluations, acceleration must have gained on Picard: where the residual fell less than it did over the last
#    plain window (PROGRESS, as long as there was none), what was lost is taken back and the next PAUSE windows are plain,
#    twice as many each time. For a contraction that bounds the waste to a fifth. Where the plain iteration makes the residual
#    grow, it ends at once.
WINDOW, PROGRESS, PAUSE = 10, 0.9, 5


class Trust(NamedTuple):
    """The last accepted evaluation, and what the safeguards remember of a sample."""

    z: Tensor  # (B, N)
    fz: Tensor  # (B, N)
    norm: Tensor  # (B,)  ‖g‖ there
    smallest: Tensor  # (B,)  ‖g‖, smallest since the last restart
    used: Tensor  # (B,)  bool: the step that led here used the memory
    mark: tuple[Tensor, Tensor, Tensor, Tensor]  # z, fz, norm where the window began, and ``smallest`` there
    gain: Tensor  # (B,)  by which factor the residual fell in the last plain window
    rest: Tensor  # (B,)  plain windows still to come
    pause: Tensor  # (B,)  how many the next failure brings
    resting: bool  # some sample has plain windows to come

    @classmethod
    def start(cls, z: Tensor) -> Trust:
        infinite = z.new_full((len(z),), torch.inf)
        never = torch.zeros(len(z), dtype=torch.bool, device=z.device)
        gain, rest, pause = (torch.full_like(infinite, value) for value in (PROGRESS, 0, PAUSE))
        return cls(z, z, infinite, infinite, never, (z, z, infinite, infinite), gain, rest, pause, False)

    def first(self, z: Tensor, fz: Tensor) -> Trust:
        norm = _norm(fz - z)
        return self._replace(z=z, fz=fz, norm=norm, smallest=norm, mark=(z, fz, norm, norm))

    def judge(self, k: int, z: Tensor, fz: Tensor) -> tuple[Tensor | None, Tensor | None, Trust]:
        """At evaluation ``k``: the samples to take back, those whose next step is Picard's (None if there are none), and
        the trust after this evaluation."""
        norm = _norm(fz - z)
        bad = self.used & (norm > GROWTH * self.smallest)
        smallest = torch.minimum(self.smallest, norm)
        back = bad if bool(bad.any()) else None
        if back is not None:
            z, fz = torch.where(bad[:, None], self.z, z), torch.where(bad[:, None], self.fz, fz)
            norm = torch.where(bad, self.norm, norm)
            smallest = torch.where(bad, norm, smallest)
        new = self._replace(z=z, fz=fz, norm=norm, smallest=smallest)
        if k % WINDOW == 0:
            lost, new = new._window()
            back = back | lost if back is not None else lost
        plain = back
        if new.resting:
            plain = (new.rest > 0) if back is None else back | (new.rest > 0)
        return back, plain, new._replace(used=torch.ones_like(bad) if plain is None else ~plain)

    def _window(self) -> tuple[Tensor, Trust]:
        z0, fz0, norm0, smallest0 = self.mark
        resting = self.rest > 0
        fell = torch.where(resting, self.norm / norm0, self.smallest / smallest0)
        failed = ~resting & ~(fell <= self.gain)
        lost = failed & (self.norm > norm0)
        z, fz = torch.where(lost[:, None], z0, self.z), torch.where(lost[:, None], fz0, self.fz)
        norm = torch.where(lost, norm0, self.norm)
        rest = torch.where(failed, self.pause, (self.rest - 1).clamp_min(0))
        rest = torch.where(resting & (fell >= 1), 0, rest)
        smallest = torch.where(failed | resting, norm, self.smallest)
        return lost, self._replace(
            z=z,
            fz=fz,
            norm=norm,
            smallest=smallest,
            mark=(z, fz, norm, smallest),
            gain=torch.where(resting, fell, self.gain),
            rest=rest,
            pause=torch.where(failed, 2 * self.pause, self.pause),
            resting=bool((rest > 0).any()),
        )


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
    shrink with the residual: an absolute one would tie the accuracy to the data's scale. Safeguarded (``Trust``).
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
            return fz, AndersonState(trust.first(z, fz), 1, dF, dG, gram)
        g = fz - z
        back, plain, after = trust.judge(k, z, fz)
        slot = (k - 1) % self.memory
        torch.sub(fz, trust.fz, out=dF[:, slot])
        torch.sub(g, trust.fz - trust.z, out=dG[:, slot])
        row, rhs = torch.bmm(dG, torch.stack([dG[:, slot], g], 2)).unbind(2)
        gram[:, slot], gram[:, :, slot] = row, row
        if back is not None:
            _clear(back, dF, dG, gram, rhs)
        new = _combine(fz, dF, self._gamma(gram, rhs))
        if plain is not None:
            new = torch.where(plain[:, None], after.fz, new)
        return new, AndersonState(after, k + 1, dF, dG, gram)

    def _gamma(self, gram: Tensor, rhs: Tensor) -> Tensor:
        """(ΔG ΔGᵀ + ridge) γ = ΔG g, in float64, for it is small; Cholesky's accuracy does not depend on the scales of ΔG."""
        ridge = 4 * torch.finfo(gram.dtype).eps if self.ridge is None else self.ridge
        H = gram.to(torch.float64, copy=True)
        size = H.diagonal(dim1=1, dim2=2)
        # A cleared column has a zero on the diagonal; one there makes its γ exactly zero.
        size.copy_(torch.where(size > 0, size * (1 + ridge), 1.0))
        factor, info = torch.linalg.cholesky_ex(H)
        gamma = torch.cholesky_solve(rhs.double()[:, :, None], factor)[:, :, 0]
        usable = (info == 0)[:, None] & gamma.isfinite().all(1, keepdim=True)
        return torch.where(usable, gamma, 0.0).to(rhs.dtype)


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
    on ill-conditioned problems a long one only carries rounding errors along. Safeguarded (``Trust``).
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
            return fz, BroydenState(trust.first(z, fz), 1, U, V)
        g = fz - z
        back, plain, after = trust.judge(k, z, fz)
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
        if back is not None:
            _clear(back, U, V)
        new = z + _combine(g, U, _times(V, g))
        if plain is not None:
            new = torch.where(plain[:, None], after.fz, new)
        return new, BroydenState(after, k + 1, U, V)


class GMRESState(NamedTuple):
    k: int
    last: Tensor  # (B, 2N) z beside g(z), of the last evaluation
    PQ: Tensor  # (B, m, 2N) steps P beside what they do, Q: g(z + P) = g(z) + Q; the Q are orthonormal
    best: Tensor  # (B, N) z̄


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
        return GMRESState(0, z, z.new_zeros(b, self.memory, 2 * n), z)

    def step(self, z: Tensor, fz: Tensor, state: GMRESState) -> tuple[Tensor, GMRESState]:
        k, last, PQ, _ = state
        g = fz - z
        here = torch.cat([z, g], 1)
        if k == 0:
            return fz, GMRESState(1, here, PQ, z)
        slot, n = (k - 1) % self.memory, z.shape[1]
        if slot == 0:
            PQ.zero_()
        pq = here - last
        length = _norm(pq[:, n:])
        if slot:
            for _ in range(2):  # twice is enough (Giraud, Langou and Rozložník 2005)
                pq = _combine(pq, PQ[:, :slot], _times(PQ[:, :slot, n:], pq[:, n:]))
        new_length = _norm(pq[:, n:])
        # A direction that is all rounding error is no direction.
        keep = new_length > 10 * torch.finfo(pq.dtype).eps * length
        scale = torch.where(keep, _inverse(new_length), torch.zeros_like(length))[:, None]
        torch.mul(pq, scale, out=PQ[:, slot])
        best = _combine(here, PQ[:, : slot + 1], _times(PQ[:, : slot + 1, n:], g))
        return best[:, :n] + best[:, n:], GMRESState(k + 1, here, PQ, best[:, :n])
