"""One EI training step, ours against the same built from deepinv's own parts, in one run.

    python benchmarks/train_step.py [--size 64] [--views 20] [--batch 4] [--repeats 5]

Both: x̂ = f*(y), loss = |A x̂ − y|² + |T_g x̂ − f*(A T_g x̂)|², backward, Adam; proximal-gradient equilibrium
f = D(x − η Aᵀ(A x − y)) with the same denoiser and weights, the same geometry, and the same tolerance on the relative
residual, forward and backward. Theirs: PGD(DEQ=True, …, early_stop=True), Tomography, EILoss with bilinear rotations.
Printed beside the times: the evaluations, and the error of each gradient against a float64 solve to 1e-10 of the same loss
with its own operator and rotations (deepinv's Tomography has float32 alone; its reference stops at 1e-6). ``--theirs-rtol``
sets their tolerance alone, for a comparison at equal gradient error.
"""

from __future__ import annotations

import argparse
import copy
import time
import warnings

import deepinv
import torch
from torchvision.transforms import InterpolationMode

import equipoise as eq

warnings.filterwarnings("ignore")


class Shrunk(torch.nn.Module):
    """The six-layer 32-channel network with its residual scaled, so that f contracts by about ``rate``."""

    def __init__(self, rate: float):
        super().__init__()
        self.denoiser, self.rate = eq.load_denoiser(), rate
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


def our_loss(model, physics, y, theta):
    x = model(y, physics)
    moved = eq.Rotations().transform(x, theta=theta)
    again = model(physics.A(moved), physics, x0=moved.detach())
    return (physics.A(x) - y).square().mean() + (again - moved).square().mean()


def their_loss(model, physics, y, transform, theta):
    x = model(y, physics)
    moved = torch.cat(
        [transform.transform(x[i : i + 1], theta=theta[i : i + 1]) for i in range(len(x))]
    )
    again = model(physics.A(moved), physics)
    return (physics.A(x) - y).square().mean() + (again - moved).square().mean()


def timed(step, repeats):
    step()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 2]


def gradient(loss, denoiser):
    return torch.cat(
        [g.flatten() for g in torch.autograd.grad(loss, list(denoiser.parameters()))]
    ).double()


def main() -> None:
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--size", type=int, default=64)
    p.add_argument("--views", type=int, default=20)
    p.add_argument("--batch", type=int, default=4)
    p.add_argument("--repeats", type=int, default=5)
    p.add_argument("--rate", type=float, default=0.9)
    p.add_argument("--rtol", type=float, default=1e-3)
    p.add_argument(
        "--backward",
        type=int,
        default=50,
        help="deepinv's backward iterations: their number is fixed (its default: 50)",
    )
    p.add_argument(
        "--adjoint-rtol",
        type=float,
        help="ours alone, backward; none: --rtol. `equipoise train` takes 1e-2",
    )
    p.add_argument("--theirs-rtol", type=float, help="theirs alone; none: --rtol")
    p.add_argument(
        "--ours-alone",
        action="store_true",
        help="for measuring peak memory: /usr/bin/time -v python …",
    )
    a = p.parse_args()

    torch.manual_seed(0)
    x = eq.phantoms(a.batch, a.size)
    theta = torch.tensor([33.0, -71.0, 140.0, 12.0]).repeat(a.batch // 4 + 1)[: a.batch]
    net = Shrunk(a.rate)
    stop, backward = eq.Stop(a.rtol, 300), eq.Stop(a.adjoint_rtol or a.rtol, 300)

    ours = eq.ParallelBeam(a.size, a.views, normalize=True)
    model = eq.EquilibriumReconstructor(
        eq.GradientStep(net), stop=stop, gradient=eq.Implicit(stop=backward), on_failure="ignore"
    )
    y = ours.A(x)
    optimizer = torch.optim.Adam(net.parameters(), 1e-12)

    def our_step():
        optimizer.zero_grad()
        our_loss(model, ours, y, theta).backward()
        optimizer.step()

    threads = torch.get_num_threads()
    print(
        f"{a.size}², {a.views} views, batch {a.batch}, contraction about {a.rate}, rtol {a.rtol:g}, {threads} threads"
    )
    our_time = timed(our_step, a.repeats)
    g = gradient(our_loss(model, ours, y, theta), net)
    reference = eq.EquilibriumReconstructor(
        copy.deepcopy(model.step).double(),
        stop=eq.Stop(1e-10, 2000),
        gradient=eq.Implicit(stop=eq.Stop(1e-10, 2000)),
    )
    exact = gradient(our_loss(reference, ours, y.double(), theta.double()), reference.step.denoiser)
    net.calls = 0
    r = model.equilibrium(y, ours)
    print(
        f"equipoise  {our_time * 1e3:8.0f} ms   gradient error {float((g - exact).norm() / exact.norm()):.1e}"
        f"   evaluations of D in one solve {net.calls}, residual {float(r.residual.max()):.1e}"
    )
    if a.ours_alone:
        return

    theirs = deepinv.physics.Tomography(
        angles=a.views, img_width=a.size, circle=False, normalize=True
    )
    solver = deepinv.optim.PGD(
        data_fidelity=deepinv.optim.L2(),
        prior=deepinv.optim.PnP(net),
        stepsize=1.0,
        g_param=0.05,
        unfold=True,
        DEQ=deepinv.optim.DEQConfig(max_iter_backward=a.backward),
        early_stop=True,
        thres_conv=a.theirs_rtol or a.rtol,
        max_iter=300,
    )
    transform = deepinv.transform.Rotate(interpolation_mode=InterpolationMode.BILINEAR)
    y2 = theirs.A(x)

    def their_step():
        optimizer.zero_grad()
        their_loss(solver, theirs, y2, transform, theta).backward()
        optimizer.step()

    their_time = timed(their_step, max(1, a.repeats // 2))
    g = gradient(their_loss(solver, theirs, y2, transform, theta), net)
    reference.stop, reference.gradient = eq.Stop(1e-6, 500), eq.Implicit(stop=eq.Stop(1e-6, 500))
    exact = gradient(
        their_loss(reference, Single(theirs), y2.double(), transform, theta.double()),
        reference.step.denoiser,
    )
    net.calls = 0
    with torch.no_grad():
        solver(y2, theirs)
    print(
        f"deepinv    {their_time * 1e3:8.0f} ms   gradient error {float((g - exact).norm() / exact.norm()):.1e}"
        f"   evaluations of D in one solve {net.calls}"
    )
    print(f"ratio      {their_time / our_time:8.1f} × faster")


if __name__ == "__main__":
    main()
