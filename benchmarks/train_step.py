"""One EI training step, ours against the same built from deepinv's own parts, in one run.

    python benchmarks/train_step.py [--map gradient|proximal] [--size 64] [--views 20]
    python benchmarks/train_step.py --accuracy 2e-3 --size 128 --views 30 [--map …]

Both: x̂ = f*(y), loss = |A x̂ − y|² + |T_g x̂ − f*(A T_g x̂)|², backward, Adam; the same denoiser and
weights, the same geometry. The map is that of a proximal gradient, f = D(x − η Aᵀ(A x − y)), or of
half-quadratic splitting, f = argmin ½|A u − y|² + ½λ|u − D(x)|². Theirs: PGD or HQS (DEQ=True,
unfold=True, early_stop=True), with Anderson acceleration where ``--anderson``; Tomography; bilinear
rotations.

The network is scaled so that ∂f/∂x has the spectral radius ``--rate`` at our equilibrium. The
tolerance of the relative residual is ``--rtol`` in both, forward and backward; or, with
``--accuracy``, for each the loosest of a list (and of theirs the fewest backward iterations, which
are a fixed number) whose gradient has that error. Errors are counted against a float64 solve to
1e-10 of the same loss with its own operator and rotations (deepinv's Tomography has float32 alone;
its reference stops at 1e-6).
"""

from __future__ import annotations

import argparse
import copy
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import deepinv
import torch
from common import DEVICE, Shrunk, arguments, finish, machine, make_contract, parser
from torch import Tensor
from torchvision.transforms import InterpolationMode

import equipoise as eq

warnings.filterwarnings("ignore")


#: Of the relative residual, for a gradient of a certain accuracy.
TOLERANCES = (1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 3e-6)
#: Backward iterations of theirs, likewise.
BACKWARD = (15, 25, 50, 100, 200)


class Single(deepinv.physics.LinearPhysics):
    """deepinv's operator between float64 and float64."""

    def __init__(self, physics):
        super().__init__()
        self.physics = physics

    def A(self, x, **kwargs):
        return self.physics.A(x.float()).double()

    def A_adjoint(self, y, **kwargs):
        return self.physics.A_adjoint(y.float()).double()


class Problem(NamedTuple):
    """What both solve."""

    net: Shrunk
    images: Tensor
    theta: Tensor  # of the rotations, in degrees


def our_loss(model: Any, physics: Any, y: Tensor, theta: Tensor) -> Tensor:
    x = model(y, physics)
    moved = eq.Rotations().transform(x, theta=theta)
    again = model(physics.A(moved), physics, x0=moved.detach())
    return (physics.A(x) - y).square().mean() + (again - moved).square().mean()


def their_loss(model: Any, physics: Any, y: Tensor, transform: Any, theta: Tensor) -> Tensor:
    x = model(y, physics)
    turned = [transform.transform(x[i : i + 1], theta=theta[i : i + 1]) for i in range(len(x))]
    moved = torch.cat(turned)
    again = model(physics.A(moved), physics)
    return (physics.A(x) - y).square().mean() + (again - moved).square().mean()


def seconds_of(loss: Callable[[], Tensor], net: Shrunk, repeats: int) -> float:
    """Median time of a training step."""
    optimizer = torch.optim.Adam(net.parameters(), 1e-12)

    def step() -> None:
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()

    step()
    finish()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        step()
        finish()
        times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 2]


def gradient(loss: Tensor, net: torch.nn.Module) -> Tensor:
    gradients = torch.autograd.grad(loss, list(net.parameters()))
    return torch.cat([g.flatten() for g in gradients]).double()


def relative_error(found: Tensor, exact: Tensor) -> float:
    return float((found - exact).norm() / exact.norm())


def exact_model(net: Shrunk, a: argparse.Namespace, stop: eq.Stop, tol: float = 1e-12) -> Any:
    """The same in float64; ``tol``: of the inner problem."""
    step = copy.deepcopy(step_of(net, a, "exact", tol)).double()
    implicit = eq.Implicit(stop=stop)
    return eq.EquilibriumReconstructor(step, stop=stop, gradient=implicit, on_failure="raise")


def step_of(net: Shrunk, a: argparse.Namespace, inner: str = "auto", tol: float = 1e-6) -> Any:
    if a.map == "gradient":
        return eq.GradientStep(net)
    return eq.ProximalStep(net, strength=a.strength, sigma=0.05, inner=inner, tol=tol)


class Tried(NamedTuple):
    """A tolerance, and what it gives."""

    words: str
    error: float
    loss: Callable[[], Tensor]
    evaluations: Callable[[], int]


def loosest(tries: Iterator[Tried], accuracy: float | None) -> Tried:
    """The first that is as accurate as that, or the most accurate; without an accuracy the
    first."""
    best: Tried | None = None
    for tried in tries:
        if best is None or tried.error < best.error:
            best = tried
        if accuracy is None or tried.error <= accuracy:
            return tried
    assert best is not None
    return best._replace(words=f"{best.words}; no tolerance reaches {accuracy:g}")


def report(name: str, tried: Tried, net: Shrunk, repeats: int) -> float:
    """Prints a line; seconds of a step."""
    seconds = seconds_of(tried.loss, net, repeats)
    print(
        f"{name:<10} {seconds * 1e3:8.0f} ms   gradient error {tried.error:.1e}   evaluations of D "
        f"in one solve {tried.evaluations()}   {tried.words}",
        flush=True,
    )
    return seconds


def ours(problem: Problem, a: argparse.Namespace) -> float:
    physics = eq.ParallelBeam(a.size, a.views, normalize=True)
    y = physics.A(problem.images)
    reference = exact_model(problem.net, a, eq.Stop(1e-10, 2000))
    exact_physics = copy.deepcopy(physics).double()
    exact_loss = our_loss(reference, exact_physics, y.double(), problem.theta.double())
    exact = gradient(exact_loss, reference.step.denoiser)

    def tries() -> Iterator[Tried]:
        for rtol in [a.rtol] if a.accuracy is None else TOLERANCES:
            model = eq.EquilibriumReconstructor(
                step_of(problem.net, a),
                stop=eq.Stop(rtol, 300),
                gradient=eq.Implicit(stop=eq.Stop(a.adjoint_rtol or rtol, 300)),
                on_failure="ignore",
            )

            def loss(model: Any = model) -> Tensor:
                return our_loss(model, physics, y, problem.theta)

            def evaluations(model: Any = model) -> int:
                problem.net.calls = 0
                with torch.no_grad():
                    model.equilibrium(y, physics)
                return problem.net.calls

            error = relative_error(gradient(loss(), problem.net), exact)
            yield Tried(f"rtol {rtol:g}", error, loss, evaluations)

    return report("equipoise", loosest(tries(), a.accuracy), problem.net, a.repeats)


def their_solver(net: Shrunk, a: argparse.Namespace, rtol: float, backward: int) -> Any:
    deq = deepinv.optim.DEQConfig(
        max_iter_backward=backward, anderson_acceleration_backward=a.anderson
    )
    options: dict[str, Any] = {
        "data_fidelity": deepinv.optim.L2(),
        "prior": deepinv.optim.PnP(net),
        "g_param": 0.05,
        "unfold": True,
        "DEQ": deq,
        "anderson_acceleration": a.anderson,
        "early_stop": True,
        "thres_conv": rtol,
        "max_iter": 300,
    }
    if a.map == "gradient":
        return deepinv.optim.PGD(stepsize=1.0, **options)
    return deepinv.optim.HQS(stepsize=1 / a.strength, g_first=True, **options)


def theirs(problem: Problem, a: argparse.Namespace) -> float:
    physics = deepinv.physics.Tomography(
        angles=a.views, img_width=a.size, circle=False, normalize=True, device=DEVICE
    )
    transform = deepinv.transform.Rotate(interpolation_mode=InterpolationMode.BILINEAR)
    y = physics.A(problem.images)
    reference = exact_model(problem.net, a, eq.Stop(1e-6, 500), tol=1e-7)
    theta = problem.theta.double()
    exact_loss = their_loss(reference, Single(physics), y.double(), transform, theta)
    exact = gradient(exact_loss, reference.step.denoiser)

    def tried(rtol: float, backward: int) -> Tried:
        solver = their_solver(problem.net, a, rtol, backward)

        def loss() -> Tensor:
            return their_loss(solver, physics, y, transform, problem.theta)

        def evaluations() -> int:
            problem.net.calls = 0
            with torch.no_grad():
                solver(y, physics)
            return problem.net.calls

        error = relative_error(gradient(loss(), problem.net), exact)
        return Tried(f"rtol {rtol:g}, {backward} backward", error, loss, evaluations)

    if a.accuracy is None:
        found = tried(a.theirs_rtol or a.rtol, a.backward)
    else:
        forward = loosest((tried(rtol, max(BACKWARD)) for rtol in TOLERANCES), a.accuracy)
        rtol = float(forward.words.split()[1].strip(","))
        found = loosest((tried(rtol, count) for count in BACKWARD), a.accuracy)
    return report("deepinv", found, problem.net, max(1, a.repeats // 2))


def main() -> None:
    p = parser(__doc__)
    p.add_argument("--map", choices=("gradient", "proximal"), default="gradient")
    p.add_argument("--strength", type=float, default=0.05, help="λ of the proximal map")
    p.add_argument("--size", type=int, default=64)
    p.add_argument("--views", type=int, default=20)
    p.add_argument("--batch", type=int, default=4)
    p.add_argument("--repeats", type=int, default=5)
    p.add_argument("--rate", type=float, default=0.9)
    p.add_argument("--rtol", type=float, default=1e-3)
    p.add_argument("--accuracy", type=float, help="of the gradient, in place of --rtol")
    text = "deepinv's backward iterations: their number is fixed (its default: 50)"
    p.add_argument("--backward", type=int, default=50, help=text)
    text = "theirs with Anderson acceleration, forward and backward"
    p.add_argument("--anderson", action="store_true", help=text)
    text = "ours alone, backward; none: --rtol. `equipoise train` takes 1e-2"
    p.add_argument("--adjoint-rtol", type=float, help=text)
    p.add_argument("--theirs-rtol", type=float, help="theirs alone; none: --rtol")
    text = "for measuring peak memory: /usr/bin/time -v python …"
    p.add_argument("--ours-alone", action="store_true", help=text)
    a = arguments(p, size=16, views=6, batch=2, repeats=1, rate=0.5, rtol=1e-2, backward=5)
    torch.manual_seed(0)
    theta = torch.tensor([33.0, -71.0, 140.0, 12.0]).repeat(a.batch // 4 + 1)[: a.batch]
    net = Shrunk(eq.load_denoiser(), a.rate).to(DEVICE)
    problem = Problem(net, eq.phantoms(a.batch, a.size).to(DEVICE), theta.to(DEVICE))
    physics = eq.ParallelBeam(a.size, a.views, normalize=True)
    y = physics.A(problem.images)
    radius = make_contract(net, step_of(net, a), physics, y, a.rate)
    wanted = f"rtol {a.rtol:g}" if a.accuracy is None else f"a gradient error of {a.accuracy:g}"
    print(
        f"{a.map} map, {a.size}², {a.views} views, batch {a.batch}, contraction {radius:.3f}, "
        f"{wanted}, {machine()}"
    )
    seconds = ours(problem, a)
    if not a.ours_alone:
        print(f"ratio      {theirs(problem, a) / seconds:8.1f} × faster")


if __name__ == "__main__":
    main()
