"""One EI training step, ours against the same built from deepinv's own parts, in one run.

    python benchmarks/train_step.py [--size 64] [--views 20] [--batch 4] [--repeats 5]

Both: x̂ = f*(y), loss = |A x̂ − y|² + |T_g x̂ − f*(A T_g x̂)|², backward, Adam; proximal-gradient
equilibrium f = D(x − η Aᵀ(A x − y)) with the same denoiser and weights, the same geometry, and the
same tolerance on the relative residual, forward and backward. Theirs: PGD(DEQ=True, …,
early_stop=True), Tomography, EILoss with bilinear rotations. Printed beside the times: the
evaluations, and the error of each gradient against a float64 solve to 1e-10 of the same loss with
its own operator and rotations (deepinv's Tomography has float32 alone; its reference stops at
1e-6). ``--theirs-rtol`` sets their tolerance alone, for a comparison at equal gradient error.
"""

from __future__ import annotations

import argparse
import copy
import time
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import deepinv
import torch
from common import arguments, parser
from torch import Tensor
from torchvision.transforms import InterpolationMode

import equipoise as eq

warnings.filterwarnings("ignore")


class Shrunk(torch.nn.Module):
    """The six-layer 32-channel network with its residual scaled, so that f contracts by about
    ``rate``."""

    def __init__(self, rate: float):
        super().__init__()
        self.denoiser = eq.load_denoiser()
        self.rate = rate
        self.calls = 0

    def forward(self, x, sigma=0.05):
        self.calls += 1
        return self.rate * self.denoiser(x, sigma)


class Single(torch.nn.Module):
    """deepinv's operator between float64 and float64."""

    def __init__(self, physics):
        super().__init__()
        self.physics = physics

    def A(self, x):
        return self.physics.A(x.float()).double()

    def A_adjoint(self, y):
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
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 2]


def gradient(loss: Tensor, net: torch.nn.Module) -> Tensor:
    gradients = torch.autograd.grad(loss, list(net.parameters()))
    return torch.cat([g.flatten() for g in gradients]).double()


def relative_error(found: Tensor, exact: Tensor) -> float:
    return float((found - exact).norm() / exact.norm())


def exact_model(net: Shrunk, stop: eq.Stop) -> eq.EquilibriumReconstructor:
    """The same in float64."""
    step = copy.deepcopy(eq.GradientStep(net)).double()
    return eq.EquilibriumReconstructor(step, stop=stop, gradient=eq.Implicit(stop=stop))


def ours(problem: Problem, a: argparse.Namespace) -> float:
    """Prints a line; seconds of a step."""
    physics = eq.ParallelBeam(a.size, a.views, normalize=True)
    y = physics.A(problem.images)
    backward = eq.Stop(a.adjoint_rtol or a.rtol, 300)
    model = eq.EquilibriumReconstructor(
        eq.GradientStep(problem.net),
        stop=eq.Stop(a.rtol, 300),
        gradient=eq.Implicit(stop=backward),
        on_failure="ignore",
    )

    def loss() -> Tensor:
        return our_loss(model, physics, y, problem.theta)

    seconds = seconds_of(loss, problem.net, a.repeats)
    found = gradient(loss(), problem.net)
    reference = exact_model(problem.net, eq.Stop(1e-10, 2000))
    exact_loss = our_loss(reference, physics, y.double(), problem.theta.double())
    exact = gradient(exact_loss, reference.step.denoiser)
    problem.net.calls = 0
    solved = model.equilibrium(y, physics)
    print(
        f"equipoise  {seconds * 1e3:8.0f} ms   gradient error {relative_error(found, exact):.1e}"
        f"   evaluations of D in one solve {problem.net.calls}, residual "
        f"{float(solved.residual.max()):.1e}",
        flush=True,
    )
    return seconds


def theirs(problem: Problem, a: argparse.Namespace) -> float:
    """Prints a line; seconds of a step."""
    physics = deepinv.physics.Tomography(
        angles=a.views, img_width=a.size, circle=False, normalize=True
    )
    solver = deepinv.optim.PGD(
        data_fidelity=deepinv.optim.L2(),
        prior=deepinv.optim.PnP(problem.net),
        stepsize=1.0,
        g_param=0.05,
        unfold=True,
        DEQ=deepinv.optim.DEQConfig(max_iter_backward=a.backward),
        early_stop=True,
        thres_conv=a.theirs_rtol or a.rtol,
        max_iter=300,
    )
    transform = deepinv.transform.Rotate(interpolation_mode=InterpolationMode.BILINEAR)
    y = physics.A(problem.images)

    def loss() -> Tensor:
        return their_loss(solver, physics, y, transform, problem.theta)

    seconds = seconds_of(loss, problem.net, max(1, a.repeats // 2))
    found = gradient(loss(), problem.net)
    reference = exact_model(problem.net, eq.Stop(1e-6, 500))
    theta = problem.theta.double()
    exact_loss = their_loss(reference, Single(physics), y.double(), transform, theta)
    exact = gradient(exact_loss, reference.step.denoiser)
    problem.net.calls = 0
    with torch.no_grad():
        solver(y, physics)
    print(
        f"deepinv    {seconds * 1e3:8.0f} ms   gradient error {relative_error(found, exact):.1e}"
        f"   evaluations of D in one solve {problem.net.calls}",
        flush=True,
    )
    return seconds


def main() -> None:
    p = parser(__doc__)
    p.add_argument("--size", type=int, default=64)
    p.add_argument("--views", type=int, default=20)
    p.add_argument("--batch", type=int, default=4)
    p.add_argument("--repeats", type=int, default=5)
    p.add_argument("--rate", type=float, default=0.9)
    p.add_argument("--rtol", type=float, default=1e-3)
    text = "deepinv's backward iterations: their number is fixed (its default: 50)"
    p.add_argument("--backward", type=int, default=50, help=text)
    text = "ours alone, backward; none: --rtol. `equipoise train` takes 1e-2"
    p.add_argument("--adjoint-rtol", type=float, help=text)
    p.add_argument("--theirs-rtol", type=float, help="theirs alone; none: --rtol")
    text = "for measuring peak memory: /usr/bin/time -v python …"
    p.add_argument("--ours-alone", action="store_true", help=text)
    a = arguments(p, size=16, views=6, batch=2, repeats=1, rate=0.5, rtol=1e-2, backward=5)
    torch.manual_seed(0)
    theta = torch.tensor([33.0, -71.0, 140.0, 12.0]).repeat(a.batch // 4 + 1)[: a.batch]
    problem = Problem(Shrunk(a.rate), eq.phantoms(a.batch, a.size), theta)
    threads = torch.get_num_threads()
    print(
        f"{a.size}², {a.views} views, batch {a.batch}, contraction about {a.rate}, rtol "
        f"{a.rtol:g}, {threads} threads"
    )
    seconds = ours(problem, a)
    if not a.ours_alone:
        print(f"ratio      {theirs(problem, a) / seconds:8.1f} × faster")


if __name__ == "__main__":
    main()
