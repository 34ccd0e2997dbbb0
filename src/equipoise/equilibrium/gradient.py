"""How an equilibrium is differentiated, as data: ``Implicit`` and its cheaper, rougher stand-ins.

At z = f(z; θ) the implicit function theorem gives dz = (I − J)⁻¹ (∂f/∂θ) dθ with J = ∂f/∂z.
Backward: the incoming gradient g becomes u with u = Jᵀu + g, and one ordinary backward through a
*single* application of f carries u to all that f closes over (arXiv 2511.18667, section 3; Bai,
Kolter and Koltun 2019). What differs below is u. ``attach.py`` does the rest.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from .result import Stop, check_stop, whole_number
from .solvers import GMRES, Solver, check_solver

#: The loosest tolerance of an adjoint whose equilibrium was hardly found: u has one digit.
LOOSEST = 0.1


class AdjointEquation(Protocol):
    """u = Jᵀu + g at a solution: what a :class:`Gradient` may ask of it."""

    def vjp(self, u: Tensor) -> Tensor:
        """Jᵀu (B, N)."""
        ...

    def solve(self, g: Tensor, gradient: Implicit) -> Tensor:
        """u (B, N), by the solver of ``gradient`` and to its tolerance."""
        ...


class Gradient(Protocol):
    """A way to differentiate the fixed point that needs u alone."""

    def cotangent(self, adjoint: AdjointEquation, g: Tensor) -> Tensor:
        """u (B, N) from the incoming gradient g (B, N)."""
        ...


@dataclass(frozen=True)
class Implicit:
    """The exact gradient: u = Jᵀu + g, solved by ``solver`` to ``stop``, each sample on its own.

    Memory: one application of f, whatever the number of iterations. Cost: one vector–Jacobian
    product (about one evaluation of f) a step. The error of the gradient is that of the equilibrium
    plus that of u, both their residuals divided by one minus the contraction: an adjoint solved
    much more accurately than the equilibrium is work for nothing. ``inexact`` = c > 0 ties the two:
    a sample's adjoint is solved to max(``stop.rtol``, c · its forward residual), at most
    ``LOOSEST`` (Pedregosa, ICML 2016, solves both to one tolerance). What that saves is measured in
    ``benchmarks/inexactness.py``. Where the backward pass is itself differentiated, ``stop`` holds.

    Where I − J is nearly singular, u is hundreds of times as long as g: true, and of no use to an
    optimiser, which is thrown off by the few samples that this happens to. ``longest`` = k shortens
    a sample's u to k ‖g‖. A map that contracts by ρ never gets there with k = 1/(1 − ρ). The
    default shortens nothing: the gradient is exact.
    """

    solver: Solver = field(default_factory=GMRES)
    stop: Stop = field(default_factory=Stop)
    inexact: float = 0.0  #: c; 0 leaves the adjoint's tolerance at ``stop.rtol``
    longest: float = math.inf  #: k: the largest ‖u‖ / ‖g‖ of a sample

    def __post_init__(self) -> None:
        check_solver(self.solver)
        check_stop(self.stop)
        if not (math.isfinite(self.inexact) and self.inexact >= 0):
            raise ValueError(
                f"inexact must be a finite number >= 0, got {self.inexact}; 0 is exact, 1 to 10 "
                "saves evaluations"
            )
        if not self.longest > 0:
            raise ValueError(
                f"longest must be > 0, got {self.longest}; inf keeps the gradient exact, 10 is "
                "what a contraction by 0.9 needs at most"
            )

    def cotangent(self, adjoint: AdjointEquation, g: Tensor) -> Tensor:
        return adjoint.solve(g, self)


@dataclass(frozen=True)
class JacobianFree:
    """u = g: the gradient of one application of f (Fung et al. 2022).

    No adjoint solve; biased by what J does.
    """

    def cotangent(self, adjoint: AdjointEquation, g: Tensor) -> Tensor:
        return g


@dataclass(frozen=True)
class Neumann:
    """u = Σ_{i ≤ terms} (Jᵀ)ⁱ g: the series cut short (Geng et al. 2021).

    ``terms=0`` is Jacobian-free.
    """

    terms: int = 5

    def __post_init__(self) -> None:
        object.__setattr__(self, "terms", whole_number("terms", self.terms, 0))

    def cotangent(self, adjoint: AdjointEquation, g: Tensor) -> Tensor:
        u = g
        for _ in range(self.terms):
            u = adjoint.vjp(u) + g
        return u


@dataclass(frozen=True)
class Phantom:
    """The phantom gradient (Geng et al., NeurIPS 2021).

    From the equilibrium, ``steps`` damped applications z ← (1 − λ) z + λ f(z) are unrolled,
    λ = ``damping``. They give the derivative; the value is the equilibrium's. Memory: ``steps``
    applications of f.
    """

    steps: int = 5
    damping: float = 0.5

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", whole_number("steps", self.steps, 1))
        if not 0 < self.damping <= 1:
            raise ValueError(f"damping must be in (0, 1], got {self.damping}")


@dataclass(frozen=True)
class Unrolled:
    """Ordinary backpropagation through ``steps`` Picard iterations from z0; no equilibrium is
    asked for.

    Memory: ``steps`` applications of f, or about 2√steps with ``checkpointing`` (and one more
    forward pass). ``solver`` and ``stop.max_steps`` have no effect. The record tells the residual
    that the last iteration started from; if that meets the tolerance, f is evaluated once more, at
    the value, which is what the record then tells.
    """

    steps: int = 10
    checkpointing: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", whole_number("steps", self.steps, 1))


def check_gradient(gradient: Gradient | Phantom | Unrolled) -> None:
    """Raises:
    TypeError: it is no way to differentiate, but a name or a class, say.
    """
    known = isinstance(gradient, (Phantom, Unrolled)) or hasattr(gradient, "cotangent")
    if isinstance(gradient, type) or not known:
        raise TypeError(
            "gradient must be Implicit(…), JacobianFree(), Neumann(…), Phantom(…) or Unrolled(…), "
            f"got {gradient!r}"
        )
