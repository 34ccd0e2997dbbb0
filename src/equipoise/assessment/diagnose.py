"""Is a map the proximal map of an invariant prior? What can be measured of it, each with its
definition.

D is a proximal map exactly if it is the gradient of a convex function (Moreau 1965; Gribonval and
Nikolova 2020): its Jacobian J is symmetric and positive semidefinite, and ‖J‖ ≤ 1 if the prior is
convex. The prior is invariant if D commutes with T_g. Of a reconstructor f*, the map y ↦ A f*(y) is
looked at: if f*(y) = argmin ½‖A x − y‖² + φ(x), that is the proximal map of
h(z) = min {φ(x) : A x = z}, in the space of measurements.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from ..imaging.groups import Reflections, Rotations, Shifts
from ..imaging.linear import least_squares
from ..reconstruction.contraction import Jacobian

Map = Callable[[Tensor], Tensor]
#: Turns that are tried, in degrees.
ANGLES = (5.0, 15.0, 30.0, 45.0, 60.0, 75.0, 90.0, 120.0, 150.0, 180.0)


class Estimate(NamedTuple):
    """A value for each sample, and its standard error (or a bound of its error)."""

    value: Tensor  # (B,)
    error: Tensor  # (B,)

    def row(self, sample: Literal["mean", "lowest", "highest"] = "mean") -> dict[str, float]:
        """Of all samples, or of the one that says most: a single negative eigenvalue is enough."""
        value, error = self.value.mean(), self.error.mean()
        if sample != "mean":
            at = self.value.argmin() if sample == "lowest" else self.value.argmax()
            value, error = self.value[at], self.error[at]
        spread = float(self.value.std(unbiased=False))
        return {"value": float(value), "error": float(error), "spread": spread}


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).flatten(1).sum(1)


def _norm(a: Tensor) -> Tensor:
    return torch.linalg.vector_norm(a.flatten(1), dim=1)


def _times(c: Tensor, v: Tensor) -> Tensor:
    return c.reshape(-1, *[1] * (v.ndim - 1)) * v


def asymmetry(J: Jacobian, probes: int = 16, seed: int = 0) -> Estimate:
    """‖J − Jᵀ‖_F / ‖J + Jᵀ‖_F: 0 for a gradient, 1 for independent entries, unbounded for a skew J.

    Both norms from the same Gaussian probes v, E‖M v‖² = ‖M‖_F² (Hutchinson 1990); the error is
    that of the ratio of means, by linearisation.
    """
    rng = torch.Generator().manual_seed(seed)
    skew, symmetric = [], []
    for _ in range(probes):
        v = torch.randn(J.x.shape, generator=rng, dtype=J.x.dtype)
        forward, transposed = J(v), J.T(v)
        skew.append(_norm(forward - transposed).square())
        symmetric.append(_norm(forward + transposed).square())
    top = torch.stack(skew)
    bottom = torch.stack(symmetric).clamp_min(torch.finfo(J.x.dtype).tiny)
    ratio = top.mean(0) / bottom.mean(0)
    error = (top - ratio * bottom).std(0) / bottom.mean(0) / math.sqrt(probes)
    value = ratio.sqrt()
    return Estimate(value, error / (2 * value).clamp_min(1e-12))


def _lanczos(M: Map, start: Tensor, steps: int) -> tuple[Estimate, Estimate]:
    """Smallest and largest eigenvalue of symmetric M with residual bounds: Lanczos with full
    reorthogonalisation, from ``start``.

    A sample whose Krylov space is exhausted has its exact eigenvalues. What would follow is
    rounding: it goes on with its first diagonal entry, which lies between them, and no coupling.
    """
    v = _times(1 / _norm(start), start)
    basis = [v]
    diagonal: list[Tensor] = []
    coupling: list[Tensor] = []
    going = torch.ones(len(start), dtype=torch.bool)
    for _ in range(steps):
        w = M(v)
        size = _norm(w)
        entry = _dot(w, v)
        diagonal.append(torch.where(going, entry, diagonal[0]) if diagonal else entry)
        for _ in range(2):
            for b in basis:
                w = w - _times(_dot(w, b), b)
        rest = _norm(w)
        going = going & (rest > 10 * torch.finfo(w.dtype).eps * size)
        coupling.append(torch.where(going, rest, 0))
        v = _times(torch.where(going, 1 / rest, 0), w)
        basis.append(v)
    T = torch.diag_embed(torch.stack(diagonal, 1).double())
    if steps > 1:
        beside = torch.stack(coupling[:-1], 1).double()
        T = T + torch.diag_embed(beside, 1) + torch.diag_embed(beside, -1)
    values, vectors = torch.linalg.eigh(T)
    bound = coupling[-1].double()[:, None] * vectors[:, -1].abs()
    return Estimate(values[:, 0], bound[:, 0]), Estimate(values[:, -1], bound[:, -1])


class Spectrum(NamedTuple):
    smallest: Estimate  # eigenvalue of (J + Jᵀ) / 2: negative, if J is not monotone
    largest: Estimate  # eigenvalue of the same
    norm: Estimate  # largest singular value of J: above 1, if the prior is not convex


def spectrum(J: Jacobian, steps: int = 30, seed: int = 0) -> Spectrum:
    """Ends of the spectrum of the symmetric part, and the norm, by Lanczos iteration.

    Each error is a residual bound: some eigenvalue is that close. What is found lies within the
    spectrum, so the smallest may be smaller yet, and the largest and the norm larger, until more
    ``steps`` change nothing.
    """
    rng = torch.Generator().manual_seed(seed)
    start = torch.randn(J.x.shape, generator=rng, dtype=J.x.dtype)
    smallest, largest = _lanczos(lambda v: (J(v) + J.T(v)) / 2, start, steps)
    _, square = _lanczos(lambda v: J.T(J(v)), start, steps)
    value = square.value.clamp_min(0).sqrt()
    return Spectrum(smallest, largest, Estimate(value, square.error / (2 * value).clamp_min(1e-12)))


# ------------------------------------------------------------------------------ invariance


def moves(shape: torch.Size) -> dict[str, list[tuple[float, Map]]]:
    """Kind → (how far, T_g) to try: turns in degrees, shifts in pixels, flips."""
    rotations, shifts, flips = Rotations(), Shifts(subpixel=True), Reflections()

    def turn(angle: float) -> Map:
        return lambda x: rotations.transform(x, theta=torch.full((len(x),), angle))

    def shift(pixels: float) -> Map:
        def move(x: Tensor) -> Tensor:
            across = torch.full((len(x),), pixels)
            return shifts.transform(x, shift_x=across, shift_y=across / 2)

        return move

    def flip(axis: str) -> Map:
        def move(x: Tensor) -> Tensor:
            every = {f"flip_{axis}": torch.ones(len(x), dtype=torch.long)}
            return flips.transform(x, **every)

        return move

    distances = [float(pixels) for pixels in (1, 2, 4, shape[-1] // 8)]
    out = {"shift": [(pixels, shift(pixels)) for pixels in distances]}
    if shape[-1] == shape[-2]:
        out["turn"] = [(angle, turn(angle)) for angle in ANGLES]
    return {**out, "flip": [(0.0, flip("x")), (1.0, flip("y"))]}


def commutes(D: Map, x: Tensor, move: Map) -> Tensor:
    """‖D(T x) − T D(x)‖ / ‖D(x)‖, (B,)."""
    Dx = D(x)
    return _norm(D(move(x)) - move(Dx)) / _norm(Dx)


def equivariance_gap(reconstruct: Map, physics: Any, x: Tensor, move: Map) -> Tensor:
    """‖T x̂ − f*(A T x̂)‖ / ‖x̂‖ for x̂ = f*(y) (Chen, Tachella and Davies 2021), (B,)."""
    moved = move(x)
    return _norm(moved - reconstruct(physics.A(moved))) / _norm(x)


# ------------------------------------------------------------------------------- the prior


def envelope(D: Map, start: Tensor, end: Tensor, points: int = 33) -> Tensor:
    """e(end) − e(start), (B,): the integral of x − D(x) along the straight path, by Simpson's rule.

    If D = prox_φ, e is the Moreau envelope of φ, ∇e = id − D, and the integral depends on the ends
    alone. Otherwise it is a property of the path.
    """
    if points % 2 == 0:
        raise ValueError(f"points must be odd, got {points}")
    step, total = end - start, torch.zeros(len(start), dtype=torch.float64)
    for k in range(points):
        x = start + (k / (points - 1)) * step
        weight = (1 if k in (0, points - 1) else 4 if k % 2 else 2) / (3 * (points - 1))
        total = total + weight * _dot(x - D(x), step).double()
    return total


def prior(D: Map, start: Tensor, end: Tensor, points: int = 33) -> Tensor:
    """φ(D(end)) − φ(D(start)), (B,): the integral of D⁻¹ − id along the path of images D(x), since
    D⁻¹(D(x)) − D(x) = x − D(x).

    By parts, φ(D(x)) = e(x) − ½‖x − D(x)‖² with e of :func:`envelope`.
    """
    rest = [0.5 * _norm(x - D(x)).square().double() for x in (start, end)]
    return envelope(D, start, end, points) - rest[1] + rest[0]


def path_dependence(D: Map, a: Tensor, b: Tensor, c: Tensor, points: int = 33) -> Tensor:
    """|∮ (x − D(x)) dx| around the triangle a, b, c, relative to the sum of its sides' |∫|, (B,): 0
    where there is a prior."""
    sides = [envelope(D, p, q, points) for p, q in ((a, b), (b, c), (c, a))]
    scale = torch.stack([s.abs() for s in sides]).sum(0).clamp_min(1e-30)
    return torch.stack(sides).sum(0).abs() / scale


# ------------------------------------------------------------------------------- the error


def range_and_null(physics: Any, e: Tensor, iterations: int = 300) -> tuple[Tensor, Tensor]:
    """The parts of e that the operator sees, A⁺A e, and does not see, e − A⁺A e (conjugate
    gradients to 1e-5)."""
    with torch.no_grad():
        Ae = physics.A(e)
        visible = least_squares(physics.A, physics.A_adjoint, Ae, tol=1e-5, max_iter=iterations)
    return visible.value, e - visible.value


def error_parts(physics: Any, x: Tensor, truth: Tensor) -> dict[str, float]:
    """Mean squared error in the range of Aᵀ and in the null space of A, and what share of the
    truth's invisible part is missing."""
    visible_error, invisible_error = range_and_null(physics, x - truth)
    _, invisible = range_and_null(physics, truth)
    pixels = truth[0].numel()
    return {
        "range": float((_norm(visible_error).square() / pixels).mean()),
        "null": float((_norm(invisible_error).square() / pixels).mean()),
        "null_missing": float((_norm(invisible_error) / _norm(invisible)).mean()),
    }
