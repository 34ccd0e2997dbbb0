"""The interval that holds the spectrum of a preconditioned operator P M, sample by sample."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .linear import Operator, full_precision

#: Lanczos steps. From a random start they miss the largest eigenvalue of n by a tenth of it with a
#: probability of at most 1.65 √n exp(−√0.1 (2·30 − 1)) (Kuczyński and Woźniakowski, SIMAX 1992,
#: theorem 4.2): 3e-6 for an image of 256².
LANCZOS_STEPS = 30
MISSED = 0.1
#: ⟨M u, v⟩ and ⟨u, M v⟩ may differ by this fraction of ‖M u‖ ‖v‖.
ASYMMETRY = 1e-3


class Interval(NamedTuple):
    """What holds the eigenvalues of P M, one number for each of S operators."""

    low: Tensor  #: (S,) float64; the smallest is about this
    high: Tensor  #: (S,) float64; none is larger

    @property
    def condition(self) -> Tensor:
        """(S,) high / low."""
        return self.high / self.low


class SpectrumError(ValueError):
    """No interval can be found: the operator is not symmetric, not positive, or not finite."""


def spectrum_interval(M: Operator, P: Operator, example: Tensor) -> Interval:
    """Of P M for symmetric positive definite M and P, which map images like ``example`` (S, …).

    By Lanczos in the inner product of P⁻¹, in which P M is symmetric, from a fixed random start.
    The upper end is safe (see ``LANCZOS_STEPS``); the lower end is the smallest Ritz value, below
    which some eigenvalues may lie.

    Raises:
        SpectrumError: M is not symmetric (A_adjoint is not the transpose of A, say), not positive
            or not finite.
    """
    with torch.no_grad(), full_precision(example):
        _check_symmetry(M, example)
        alpha, beta = _lanczos(M, P, example, LANCZOS_STEPS)
    values = torch.linalg.eigvalsh(_tridiagonal(alpha, beta))
    low, high = values[:, 0], values[:, -1]
    if not bool((low > 0).all()):
        raise SpectrumError(
            f"an eigenvalue of AᵀA + λ is {float(low.min()):.1e}, where it must be at least λ"
        )
    return Interval(low, high / (1 - MISSED))


def random_image(example: Tensor, seed: int) -> Tensor:
    """Of the shape, precision and device of ``example`` (S, …), drawn from ``seed``: the same image
    S times, so that what is found of an operator does not depend on the others."""
    rng = torch.Generator().manual_seed(seed)
    image = torch.randn(example.shape[1:], generator=rng, dtype=torch.float64)
    return image.to(example).expand(example.shape).contiguous()


def _inner(a: Tensor, b: Tensor) -> Tensor:
    """(S,) in float64."""
    return torch.linalg.vecdot(a.flatten(1), b.flatten(1)).double()


def _check_symmetry(M: Operator, example: Tensor) -> None:
    u, v = random_image(example, 1), random_image(example, 2)
    Mu, Mv = M(u), M(v)
    if not bool(Mu.isfinite().all() & Mv.isfinite().all()):
        raise SpectrumError("Aᵀ(A u) is not finite")
    gap = (_inner(Mu, v) - _inner(u, Mv)).abs()
    size = (_inner(Mu, Mu) * _inner(v, v)).sqrt() + (_inner(Mv, Mv) * _inner(u, u)).sqrt()
    if bool((gap > ASYMMETRY * size).any()):
        raise SpectrumError(
            f"⟨AᵀA u, v⟩ and ⟨u, AᵀA v⟩ differ by {float((gap / size).max()):.0e} of their size "
            f"(allowed: {ASYMMETRY:g}): A_adjoint is not the transpose of A"
        )


def _lanczos(M: Operator, P: Operator, example: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """The diagonal (S, k) of the tridiagonal matrix and the entries beside it (S, k − 1).

    k is ``steps`` at most.

    Where the space is exhausted before, the rest of the matrix repeats its first entry.
    """
    axes = [1] * (example.ndim - 1)
    r = random_image(example, 0)
    z = P(r)
    beta = _inner(r, z).clamp_min(0).sqrt()
    before = torch.zeros_like(r)
    diagonal: list[Tensor] = []
    beside: list[Tensor] = []
    going = beta > 0
    for _ in range(steps):
        scale = torch.where(going, 1 / beta, 0).to(r).reshape(-1, *axes)
        q, p = z * scale, r * scale  # q = P p
        w = M(q) - beta.to(r).reshape(-1, *axes) * before if diagonal else M(q)
        alpha = _inner(w, q)
        diagonal.append(torch.where(going, alpha, diagonal[0] if diagonal else alpha))
        r = w - alpha.to(r).reshape(-1, *axes) * p
        z = P(r)
        before = p
        beta = _inner(r, z).clamp_min(0).sqrt()
        noise = 8 * torch.finfo(r.dtype).eps * diagonal[-1].abs()
        going = going & (beta > noise) & beta.isfinite()
        beside.append(torch.where(going, beta, 0))
        if not bool(going.any()):
            break
    return torch.stack(diagonal, 1), torch.stack(beside, 1)[:, :-1]


def _tridiagonal(diagonal: Tensor, beside: Tensor) -> Tensor:
    return torch.diag_embed(diagonal) + torch.diag_embed(beside, 1) + torch.diag_embed(beside, -1)
