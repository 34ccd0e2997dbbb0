"""Least squares with a linear operator: conjugate gradients, sample by sample, with an exact
derivative."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.forward_ad import unpack_dual

Operator = Callable[[Tensor], Tensor]


class InexactSolveWarning(UserWarning):
    """Conjugate gradients reached their last iteration before their tolerance."""


class CGResult(NamedTuple):
    """What conjugate gradients found, and how well."""

    value: Tensor  #: (B, …)
    iterations: int
    residual: Tensor  #: (B,)  ‖b − M x‖ / ‖b‖


def variant(module: Any, **buffers: Tensor) -> Any:
    """A shallow copy of an operator with other ``buffers``; what is set on it does not reach the
    original."""
    part = copy.copy(module)
    part._modules = dict(module._modules)
    part._parameters = dict(module._parameters)
    part._buffers = {**module._buffers, **buffers}
    return part


def has_other_products(operator: Any) -> bool:
    """Whether A or A_adjoint were set on this very operator, as deepinv's augmentation loss does:
    then neither its class nor its parameters say what they do."""
    return bool({"A", "A_adjoint"} & vars(operator).keys())


def full_precision(x: Tensor) -> torch.autocast:
    """A context in which ``torch.autocast`` is off, on x's kind of device: its inner products would
    be in bfloat16."""
    return torch.autocast(x.device.type, enabled=False)


def at_least_single(x: Tensor) -> Tensor:
    """x, in float32 if it is in half precision."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def per_sample(value: Tensor | float, x: Tensor) -> Tensor | float:
    """One number, or one for each sample in any of the shapes (B,), (B, 1), (B, 1, …), so shaped
    that it multiplies x (B, …); what has as many axes as x stays as it is.

    Raises:
        ValueError: there are neither one nor B numbers.
    """
    if not isinstance(value, Tensor) or value.ndim == x.ndim:
        return value
    if value.numel() == 1:
        return value.reshape(())
    if value.numel() == len(x):
        return value.reshape(-1, *[1] * (x.ndim - 1))
    raise ValueError(
        f"there must be one number, or one for each of {len(x)} samples, "
        f"got shape {tuple(value.shape)}"
    )


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """(B, 1, …) the inner products of the samples: real, also of complex numbers, as between
    vectors of conjugate gradients they are."""
    products = torch.linalg.vecdot(a.flatten(1), b.flatten(1)).real
    return products.reshape(-1, *[1] * (a.ndim - 1))


def conjugate_gradients(
    M: Operator,
    b: Tensor,
    tol: float = 1e-6,
    max_iter: int = 200,
    start: Tensor | None = None,
    precondition: Operator | None = None,
) -> CGResult:
    """Solve M x = b for symmetric positive definite M, until ‖b − M x‖ ≤ tol ‖b‖ for every sample
    (Hestenes and Stiefel 1952).

    A sample that has reached its tolerance stays as it is while others go on. Nothing here is
    differentiated.

    Args:
        M: (B, …) → (B, …).
        b: (B, …).
        tol: relative to ‖b‖, also where the start is near.
        max_iter: iterations at most.
        start: (B, …); none: zero.
        precondition: symmetric positive definite, near M⁻¹ (Saad 2003, section 9.2).
    """
    with torch.no_grad(), full_precision(b):
        x = torch.zeros_like(b) if start is None else start.clone()
        r = b.clone() if start is None else b - M(start)
        goal = _attainable(tol, b) ** 2 * _dot(b, b)
        z = r if precondition is None else precondition(r)
        p, rr, rz = z.clone(), _dot(r, r), _dot(r, z)
        k = 0
        while k < max_iter and bool((rr > goal).any()):
            Mp = M(p)
            pMp = _dot(p, Mp)
            moving = (rr > goal) & (pMp > 0)
            alpha = torch.where(moving, rz / pMp, 0)
            x = x + alpha * p
            r = r - alpha * Mp
            z = r if precondition is None else precondition(r)
            new = _dot(r, z)
            p = torch.where(moving, z + torch.where(moving, new / rz, 0) * p, p)
            rz = torch.where(moving, new, rz)
            rr = torch.where(moving, new if precondition is None else _dot(r, r), rr)
            k += 1
            if not bool(moving.any()):
                break
        norm = _dot(b, b).clamp_min(torch.finfo(b.dtype).tiny)
        return CGResult(x, k, (rr / norm).sqrt().flatten())


def _attainable(tol: float, b: Tensor) -> float:
    """Below the rounding of b there is nothing to gain, and directions are noise."""
    return max(tol, 4 * torch.finfo(b.dtype).eps)


def least_squares(
    A: Operator, At: Operator, y: Tensor, tol: float = 1e-4, max_iter: int = 50
) -> CGResult:
    """argmin ‖A x − y‖² of smallest norm: conjugate gradients on AᵀA x = Aᵀy from zero. Stopping
    early regularises."""
    return conjugate_gradients(lambda u: At(A(u)), At(y), tol=tol, max_iter=max_iter)


Known = Callable[[Tensor], Tensor | None]


def _nothing(b: Tensor) -> None:
    """Nothing is known of C b beforehand."""


class _Inverse(torch.autograd.Function):
    """C b for C = M⁻¹ with a symmetric M that is held constant, so that C is its own transpose.

    ``known(b)`` is the value of C b where it is known without ``solve``, and none elsewhere;
    ``known_back`` is the same for the gradient that comes back.
    """

    @staticmethod
    def forward(b: Tensor, solve: Operator, known: Known, known_back: Known) -> Tensor:
        value = known(b)
        return solve(b) if value is None else value

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, ctx.solve, _, ctx.known_back = inputs
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, g: Tensor | None) -> tuple[Any, ...]:
        if g is None:
            return None, None, None, None
        return _Inverse.apply(g, ctx.solve, ctx.known_back, _nothing), None, None, None

    @staticmethod
    def jvp(ctx: Any, db: Tensor, *_: Any) -> Tensor:
        return _Inverse.apply(db, ctx.solve, _nothing, _nothing)


class _Corrections:
    """What the two corrections of :func:`solve_spd` know of the gradients that come back.

    With g from outside, the first correction gets g − M C g: what conjugate gradients have left of
    g. Up to their tolerance that is zero, and need not be solved for.
    """

    def __init__(self, tol: float):
        self.tol = tol
        self.size: Tensor | None = None  # of g, (B, 1, …)

    def of_the_second(self, g: Tensor) -> None:
        self.size = _dot(g, g).sqrt()

    def of_the_first(self, left: Tensor) -> Tensor | None:
        size, self.size = self.size, None
        if size is None:
            return None
        small = 10 * _attainable(self.tol, left) * size
        return torch.zeros_like(left) if bool((_dot(left, left).sqrt() <= small).all()) else None


def solve_spd(
    M: Operator,
    b: Tensor,
    tol: float = 1e-6,
    max_iter: int = 200,
    start: Tensor | None = None,
    precondition: Operator | None = None,
) -> Tensor:
    """M⁻¹ b for symmetric positive definite M, by conjugate gradients, sample by sample.

    They begin at ``start``, if there is one, and are preconditioned by ``precondition``; neither
    changes the derivative.

    Differentiable any number of times in b, and twice in whatever M is made of. With C = M⁻¹ held
    constant, x₁ = x₀ + C (b − M x₀) has the first derivatives of M⁻¹ b and
    x₂ = x₁ + C (b − M x₁) the second ones too, because each step multiplies the error by I − C M,
    which is zero where the derivatives are taken. In value, all three are the same. What this
    costs is a solve for each derivative, and two more applications of M if it can be
    differentiated.

    Warns:
        InexactSolveWarning: the tolerance was not reached in ``max_iter`` iterations.
    """

    def solve_from(v: Tensor, begin: Tensor | None) -> Tensor:
        account = conjugate_gradients(M, v, tol, max_iter, begin, precondition)
        _warn_if_inexact(account, v, tol, max_iter)
        return account.value

    def solve(v: Tensor) -> Tensor:
        return solve_from(v, None)

    begin = None if start is None else start.detach()
    x: Tensor = _Inverse.apply(b, solve, lambda v: solve_from(v, begin), _nothing)
    if not torch.is_grad_enabled():
        return x
    with full_precision(b):
        x0 = x.detach()
        Mx0 = M(x0)
        if not _has_derivative(Mx0):
            return x
        back = _Corrections(tol)
        x1 = x0 + _Inverse.apply(b - Mx0, solve, torch.zeros_like, back.of_the_first)
        x2: Tensor = x1 + _Inverse.apply(b - M(x1), solve, torch.zeros_like, back.of_the_second)
        return x2


def inverse_form(M: Operator, b: Tensor, tol: float = 1e-6, max_iter: int = 200) -> Tensor:
    """⟨b, M⁻¹ b⟩ (B,) for symmetric positive definite M and b (B, N).

    It is the maximum over w of 2 ⟨w, b⟩ − ⟨w, M w⟩. So an error of w counts by its square, and the
    first derivatives need none of w: they cost no solve. Second derivatives do, and have it.

    Warns:
        InexactSolveWarning: as :func:`solve_spd`.
    """
    w: Tensor = _AtTheMaximum.apply(solve_spd(M, b, tol, max_iter))
    with full_precision(b):
        value: Tensor = torch.linalg.vecdot(w, 2 * b - M(w)).real
    return value


class _AtTheMaximum(torch.autograd.Function):
    """w, at which what comes back vanishes, as long as it is not differentiated again."""

    @staticmethod
    def forward(w: Tensor) -> Tensor:
        return w.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor | None:
        return g if torch.is_grad_enabled() else None

    @staticmethod
    def jvp(ctx: Any, dw: Tensor) -> Tensor:
        return dw.clone()


def _has_derivative(x: Tensor) -> bool:
    """In backward or in forward mode."""
    return x.requires_grad or unpack_dual(x).tangent is not None


def _warn_if_inexact(account: CGResult, b: Tensor, tol: float, max_iter: int) -> None:
    if account.iterations == max_iter and bool((account.residual > _attainable(tol, b)).any()):
        warnings.warn(
            f"conjugate gradients stopped at max_iter={max_iter}, before tol={tol:g}: what was "
            "solved for is inexact, and so are its derivatives; allow more iterations, or raise "
            "what regularises the problem (strength, floor, 1/gamma)",
            InexactSolveWarning,
            stacklevel=2,  # the same place each time, so that it is shown once
        )


def proximal_l2(
    A: Operator,
    At: Operator,
    d: Tensor,
    y: Any,
    strength: Tensor | float,
    tol: float = 1e-6,
    max_iter: int = 200,
    start: Tensor | None = None,
    precondition: Operator | None = None,
) -> Tensor:
    """argmin_u ½‖A u − y‖² + ½λ‖u − d‖², λ = ``strength``: u = d + (AᵀA + λ)⁻¹ Aᵀ(y − A d).

    Differentiable twice in d (B, …), y, λ (one number, or one for each sample) and whatever A is
    made of; see :func:`solve_spd`. ``start`` is an image near u, ``precondition`` near
    (AᵀA + λ)⁻¹.
    """
    weight = per_sample(strength, d)

    def M(u: Tensor) -> Tensor:
        return At(A(u)) + weight * u

    begin = None if start is None else (start - d).detach()
    return d + solve_spd(M, At(y - A(d)), tol, max_iter, begin, precondition)


def norm(
    A: Operator, At: Operator, example: Tensor, tol: float = 1e-5, max_iter: int = 500
) -> float:
    """The largest singular value of A, by power iteration on AᵀA from a fixed random start with the
    shape, precision and device of ``example``."""
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(example.shape, generator=rng, dtype=torch.float64).to(example)
    value = 0.0
    with torch.no_grad(), full_precision(example):
        for _ in range(max_iter):
            x = x / torch.linalg.vector_norm(x)
            x = At(A(x))
            new = float(torch.linalg.vector_norm(x)) ** 0.5
            if abs(new - value) <= tol * new:
                return new
            value = new
    return value
