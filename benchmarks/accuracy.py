"""What the accuracy of the solves inside a loss costs, and what it buys: error against evaluations.

    OMP_NUM_THREADS=1 python benchmarks/accuracy.py [--size 48] [--figure docs/accuracy.png]

Equivariance, splitting and equivariant splitting, on CT and MRI, in float64, with the default
denoiser × 0.97, which has equilibria. Each loss is solved to residuals from 1e-2 to 1e-7, with the
adjoint to a third of their root, and its value and its gradient are compared with those at 1e-9.
Evaluations are those of f, forward, and of products with its Jacobian, backward, of all solves of
the loss, a sample. The equivariance loss three ways:

- moved: its second solve starts at the moved image, its own answer in a perfect model;
- cold: it starts where any solve starts;
- two stages: only the second solve is that accurate, and what is moved is solved to 1e-3.

(A tolerance relative to the distance travelled stops elsewhere on the same curve.)
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import deepinv
import torch
from common import Shrunk, arguments, parser
from torch import Tensor

import equipoise as eq
from equipoise.imaging.draws import seeded
from equipoise.imaging.mri import cartesian_mask
from equipoise.learning.losses import AS_THE_MODEL, Example, evaluate
from equipoise.learning.losses.equivariance import measure_again, move
from equipoise.reconstruction.denoisers import ComplexDenoiser

EXACT = 1e-9
RESIDUALS = (1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 1e-5, 1e-6, 1e-7)


class Problem(NamedTuple):
    step: Any
    physics: Any
    y: Tensor


class Found(NamedTuple):
    value: float
    gradient: Tensor
    evaluations: float  #: a sample


def problem(kind: str, size: int, batch: int) -> Problem:
    x = eq.phantoms(batch, size, 900, ("thorax",) if kind == "ct" else ("brain",)).double()
    denoiser: Any = eq.load_denoiser("unet")
    if kind == "ct":
        physics: Any = eq.ParallelBeam(size, size // 3, normalize=True).double()
    else:
        mask = cartesian_mask(size, size, 4, 0.1)
        physics = deepinv.physics.MRI(mask=mask, img_size=(size, size)).double()
        denoiser = ComplexDenoiser(denoiser)
        x = torch.cat([x, 0.3 * x], 1)
    physics.noise_model = deepinv.physics.GaussianNoise(0.002)
    sigma, strength = (0.02, 0.002) if kind == "ct" else (0.05, 0.03)  # less, and MRI has none
    step = eq.ProximalStep(Shrunk(denoiser, 0.97), strength, sigma, inner="exact", tol=1e-12)
    torch.manual_seed(3)
    return Problem(step.double(), physics, physics(x))


def model_of(given: Problem, residual: float) -> eq.EquilibriumReconstructor:
    adjoint = eq.Stop(max(1e-10, min(1e-2, residual**0.5 * 0.3)), 1000)
    return eq.EquilibriumReconstructor(
        given.step,
        stop=eq.Stop(residual, 1000),
        gradient=eq.Implicit(stop=adjoint),
        on_failure="ignore",
    )


class Recorded:
    """Adds up the evaluations of all solves."""

    def __init__(self) -> None:
        self.solves: list[Any] = []

    def evaluations(self) -> float:
        forward = sum(float(s.steps.float().mean()) for s in self.solves)
        back = sum(float(s.adjoint.steps.float().mean()) for s in self.solves if s.adjoint)
        return forward + back


def solved(model: Any, y: Any, physics: Any, seen: Recorded, start: Tensor | None = None) -> Tensor:
    record = model.equilibrium(y, physics, x0=None if start is None else start.detach())
    seen.solves.append(record)
    value: Tensor = record.value
    return value


def images_like(given: Problem) -> Tensor:
    zero: Tensor = given.physics.A_adjoint(given.y) * 0
    return zero


def measured(way: str, given: Problem, residual: float) -> Found:
    """A loss and its gradient, solved to a residual, in one of the ways."""
    seen = Recorded()
    model = model_of(given, residual)
    with seeded((0, 0), range(len(given.y))):
        if way in SPLITTINGS:
            loss = eq.Splitting(5, floor=1e-3, accuracy=AS_THE_MODEL, group=SPLITTINGS[way])
            example = Example(images_like(given), given.y, given.physics, model)
            found = evaluate(loss, example)
            seen.solves += found.solves
            value = found.value.mean()
        else:
            first = model_of(given, 1e-3) if way == "two stages" else model
            x = solved(first, given.y, given.physics, seen)
            moved = move(eq.Rotations(), x)
            y = measure_again(moved, given.physics, True)
            again = solved(model, y, given.physics, seen, None if way == "cold" else moved)
            value = (again - moved.detach()).square().mean()
    parameters = [p for p in given.step.parameters() if p.requires_grad]
    grads = torch.autograd.grad(value, parameters, allow_unused=True)
    gradient = torch.cat([g.flatten() for g in grads if g is not None])
    if residual == EXACT and not all(bool(s.converged.all()) for s in seen.solves):
        print(f"{way}: the reference did not converge; its errors mean little")
    return Found(float(value.detach()), gradient, seen.evaluations())


SPLITTINGS: dict[str, Any] = {"splitting": None, "equivariant splitting": eq.Rotations()}
WAYS = ("moved", "cold", "two stages", *SPLITTINGS)


def curve(way: str, given: Problem) -> list[tuple[float, float, float, float]]:
    """(residual, evaluations, error of the value, error of the gradient), relative."""
    exact = measured(way if way in SPLITTINGS else "moved", given, EXACT)
    found = []
    for residual in RESIDUALS:
        one = measured(way, given, residual)
        value = abs(one.value - exact.value) / abs(exact.value)
        gradient = float((one.gradient - exact.gradient).norm() / exact.gradient.norm())
        found.append((residual, one.evaluations, value, gradient))
    return found


def draw(curves: dict[tuple[str, str], list[tuple[float, ...]]], path: Path) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(10, 7), sharex="col", sharey="row")
    for (kind, way), points in curves.items():
        column = 0 if kind == "ct" else 1
        label = way if way in SPLITTINGS else f"equivariance, {way}"
        for row in (0, 1):
            ax = axes[row][column]
            ax.plot([p[1] for p in points], [p[2 + row] for p in points], "o-", ms=4, label=label)
    for row, (what, allowed) in enumerate((("value", 0.01), ("gradient", 0.03))):
        for column, kind in enumerate(("CT", "MRI")):
            ax = axes[row][column]
            ax.axhline(allowed, color="black", lw=0.8, ls="--")
            ax.set_yscale("log")
            ax.set_title(f"{kind}: error of the {what}", fontsize=10)
            ax.grid(alpha=0.3)
    for ax in axes[1]:
        ax.set_xlabel("evaluations of f and products with Jᵀ, a sample")
    axes[0][1].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=130)


def main() -> None:
    p = parser(__doc__)
    p.add_argument("--size", type=int, default=48)
    p.add_argument("--batch", type=int, default=4)
    p.add_argument("--figure", type=Path, default=None)
    a = arguments(p, size=16, batch=2)
    print(f"{a.size}², {a.batch} samples, float64; errors relative to a residual of {EXACT:g}")
    head = ("", "way", "residual", "evaluations", "value", "gradient")
    print("{:<4} {:<22} {:>9} {:>12} {:>9} {:>9}".format(*head))
    curves: dict[tuple[str, str], list[tuple[float, ...]]] = {}
    for kind in ("ct", "mri"):
        given = problem(kind, a.size, a.batch)
        for way in WAYS:
            points = curve(way, given)
            curves[kind, way] = list(points)
            for residual, evaluations, value, gradient in points:
                print(
                    f"{kind:<4} {way:<22} {residual:>9.0e} {evaluations:>12.0f} {value:>9.1e} "
                    f"{gradient:>9.1e}",
                    flush=True,
                )
    if a.figure is not None:
        draw(curves, a.figure)


if __name__ == "__main__":
    main()
