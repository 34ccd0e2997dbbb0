"""Least squares with a linear operator: conjugate gradients, sample by sample, with an exact
derivative."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

Operator = Callable[[Tensor], Tensor]


class CGResult(NamedTuple):
    """What conjugate gradients found, and how well."""

    value: Tensor  #: (B, …)
    iterations: int
    residual: Tensor  #: (B,)  ‖b − M x‖ / ‖b‖


def variant(physics: Any, **buffers: Tensor) -> Any:
    """A shallow copy of an operator with other ``buffers``; what is set on it does not reach the
    original."""
    part = copy.copy(physics)
    part._modules = dict(physics._modules)
    part._buffers = {**physics._buffers, **buffers}
    return part


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """(B, 1, …) the inner products of the samples."""
    products = torch.linalg.vecdot(a.flatten(1), b.flatten(1))
    return products.reshape(-1, *[1] * (a.ndim - 1))


def conjugate_gradients(M: Operator, b: Tensor, tol: float = 1e-6, max_iter: int = 200) -> CGResult:
    """Solve M x = b for symmetric positive definite M, from zero, until ‖b − M x‖ ≤ tol ‖b‖ for
    every sample (Hestenes and Stiefel 1952).

    A sample that has reached its tolerance stays as it is while others go on. Nothing here is
    differentiated.
    """
    with torch.no_grad():
        x, r = torch.zeros_like(b), b.clone()
        # Below the rounding of b there is nothing to gain, and directions are noise.
        goal = max(tol, 4 * torch.finfo(b.dtype).eps) ** 2 * _dot(b, b)
        p, rr = r.clone(), _dot(r, r)
        k = 0
        while k < max_iter and bool((rr > goal).any()):
            Mp = M(p)
            pMp = _dot(p, Mp)
            moving = (rr > goal) & (pMp > 0)
            alpha = torch.where(moving, rr / pMp, 0)
            x = x + alpha * p
            r = r - alpha * Mp
            new = _dot(r, r)
            p = torch.where(moving, r + torch.where(moving, new / rr, 0) * p, p)
            rr = torch.where(moving, new, rr)
            k += 1
            if not bool(moving.any()):
                break
        norm = _dot(b, b).clamp_min(torch.finfo(b.dtype).tiny)
        return CGResult(x, k, (rr / norm).sqrt().flatten())


def least_squares(
    A: Operator, At: Operator, y: Tensor, tol: float = 1e-4, max_iter: int = 50
) -> CGResult:
    """argmin ‖A x − y‖² of smallest norm: conjugate gradients on AᵀA x = Aᵀy from zero. Stopping
    early regularises."""
    return conjugate_gradients(lambda u: At(A(u)), At(y), tol=tol, max_iter=max_iter)


class _Solve(torch.autograd.Function):
    """x = M⁻¹ b with M symmetric: backward is the same solve again, so it can be differentiated any
    number of times."""

    generate_vmap_rule = False

    @staticmethod
    def forward(b: Tensor, M: Operator, tol: float, max_iter: int) -> Tensor:
        return conjugate_gradients(M, b, tol, max_iter).value

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, ctx.M, ctx.tol, ctx.max_iter = inputs

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
        return _Solve.apply(g, ctx.M, ctx.tol, ctx.max_iter), None, None, None

    @staticmethod
    def jvp(ctx: Any, db: Tensor, *_: Any) -> Tensor:
        return _Solve.apply(db, ctx.M, ctx.tol, ctx.max_iter)


def solve_spd(M: Operator, b: Tensor, tol: float = 1e-6, max_iter: int = 200) -> Tensor:
    """M⁻¹ b for a constant symmetric positive definite M, differentiable in b (Blondel et al. 2022,
    implicit)."""
    return _Solve.apply(b, M, tol, max_iter)


def proximal_l2(
    A: Operator,
    At: Operator,
    d: Tensor,
    y: Tensor,
    strength: Tensor | float,
    tol: float = 1e-6,
    max_iter: int = 200,
) -> Tensor:
    """argmin_u ½‖A u − y‖² + ½λ‖u − d‖², λ = ``strength``: u = d + (AᵀA + λ)⁻¹ Aᵀ(y − A d).

    Differentiable in d, y and λ: with λ₀ the value of λ, (AᵀA + λ)⁻¹ b solves
    u = (AᵀA + λ₀)⁻¹ (b − (λ − λ₀) u), and one such step from the solution carries its derivative.
    """
    b = At(y - A(d))
    fixed = float(strength) if not isinstance(strength, Tensor) else strength.detach()

    def M(u: Tensor) -> Tensor:
        return At(A(u)) + fixed * u

    u = solve_spd(M, b, tol=tol, max_iter=max_iter)
    if isinstance(strength, Tensor) and strength.requires_grad and torch.is_grad_enabled():
        u = u - solve_spd(M, (strength - fixed) * u, tol=tol, max_iter=max_iter)
    return d + u


def norm(A: Operator, At: Operator, like: Tensor, tol: float = 1e-5, max_iter: int = 500) -> float:
    """The largest singular value of A, by power iteration on AᵀA from a fixed random start shaped
    ``like``."""
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(like.shape, generator=rng, dtype=torch.float64).to(like)
    value = 0.0
    with torch.no_grad():
        for _ in range(max_iter):
            x = x / torch.linalg.vector_norm(x)
            x = At(A(x))
            new = float(torch.linalg.vector_norm(x)) ** 0.5
            if abs(new - value) <= tol * new:
                return new
            value = new
    return value
