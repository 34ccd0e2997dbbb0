"""Seconds for one exact EI gradient at equal accuracy: Equipoise, torchdeq and deepinv, in one run.

    python benchmarks/gradient.py [--rates 0.9 0.98] [--repeats 5]    # needs the extra: pip install -e '.[bench]'

Two passes (x̂ = f*(y), then f*(A T_g x̂)), 64² CT (real slices where ../shared/data is), 20 views, batch 4, six-layer
32-channel CNN, f = D(x − Aᵀ(A x − y)). Every library solves the same map over a grid of its own settings; for each the
fastest one whose gradient (all weights) is within 2e-3 of a float64 reference is printed.
"""

from __future__ import annotations

import argparse
import copy
import time
import warnings
from pathlib import Path

import torch

import equipoise as eq

warnings.filterwarnings("ignore")
CT = Path(__file__).parents[1] / ".." / "shared" / "data" / "ct" / "val.h5"
THETA = torch.tensor([33.0, -71.0, 140.0, 12.0])
GOAL = 2e-3


class Scaled(torch.nn.Module):
    """A denoiser times a constant, so that f contracts by about that much; it counts and times its evaluations."""

    def __init__(self, denoiser, rate):
        super().__init__()
        self.denoiser, self.rate, self.calls, self.seconds = denoiser, rate, 0, 0.0

    def forward(self, x, sigma=0.02):
        start = time.perf_counter()
        out = self.rate * self.denoiser(x, sigma)
        self.calls, self.seconds = self.calls + 1, self.seconds + time.perf_counter() - start
        return out


def images() -> torch.Tensor:
    if not CT.exists():
        print("real data absent: phantoms instead")
        return eq.phantoms(4, 64)
    from equipoise.imaging.data import read_images

    return read_images(CT, 64).values[::4][:4]


def ei_loss(reconstruct, physics, y):
    x = reconstruct(y)
    moved = eq.Rotations().transform(x, theta=THETA.to(x))
    return (physics.A(x) - y).square().mean() + (reconstruct(physics.A(moved)) - moved).square().mean()


def gradient(loss, net):
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(net.parameters()))]).double()


def settings(net, physics):
    """(library, description, reconstruct) for every setting that is tried."""
    step = eq.GradientStep(net, step_size=1.0, sigma=0.02)
    for forward in (3e-3, 1e-3, 3e-4, 1e-4, 3e-5):
        for backward in (1e-2, 3e-3, 1e-3):
            model = eq.EquilibriumReconstructor(
                step, stop=eq.Stop(forward, 300), gradient=eq.Implicit(stop=eq.Stop(backward, 300)), on_failure="ignore"
            )
            yield "equipoise", f"rtol {forward:g}, adjoint {backward:g}", lambda y, m=model: m(y, physics)
    try:
        from torchdeq import get_deq
    except ImportError:
        print("torchdeq is not installed: pip install -e '.[bench]'")
    else:
        for solver in ("broyden", "anderson", "fixed_point_iter"):
            for tol in (3e-3, 1e-3, 3e-4, 1e-4):
                deq = get_deq(
                    ift=True,
                    f_solver=solver,
                    b_solver=solver,
                    f_tol=tol,
                    b_tol=tol,
                    f_max_iter=300,
                    b_max_iter=300,
                    f_stop_mode="rel",
                ).train()

                def solve(y, deq=deq):
                    f = lambda x: net(x - physics.A_adjoint(physics.A(x) - y), 0.02)  # noqa: E731
                    return deq(f, physics.A_adjoint(y).detach())[0][-1]

                yield "torchdeq", f"{solver}, tol {tol:g}", solve
    import deepinv

    for tol in (1e-3, 3e-4, 1e-4):
        for anderson in (False, True):
            pgd = deepinv.optim.PGD(
                data_fidelity=deepinv.optim.L2(),
                prior=deepinv.optim.PnP(net),
                stepsize=1.0,
                sigma_denoiser=0.02,
                unfold=True,
                DEQ=deepinv.optim.DEQConfig(anderson_acceleration_backward=anderson, max_iter_backward=300),
                early_stop=True,
                thres_conv=tol,
                max_iter=300,
            )
            yield "deepinv", f"thres {tol:g}, backward {'Anderson' if anderson else 'Picard'}", lambda y, m=pgd: m(y, physics)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--rates", type=float, nargs="+", default=[0.9, 0.98])
    p.add_argument("--repeats", type=int, default=5)
    a = p.parse_args()
    physics = eq.ParallelBeam(64, 20, normalize=True)
    x = images()
    y = physics.A(x)
    for rate in a.rates:
        net = Scaled(eq.load_denoiser(), rate)
        exact_net = copy.deepcopy(net).double()
        stop = eq.Stop(1e-11, 5000)
        exact_model = eq.EquilibriumReconstructor(
            eq.GradientStep(exact_net, sigma=0.02), stop=stop, gradient=eq.Implicit(stop=stop)
        )
        exact = gradient(ei_loss(lambda y: exact_model(y, physics), physics, y.double()), exact_net)
        print(
            f"\ncontraction about {rate}: 64², 20 views, batch 4, two passes, error ≤ {GOAL:g}, {torch.get_num_threads()} threads"
        )
        best: dict[str, tuple[float, str]] = {}
        for library, setting, reconstruct in settings(net, physics):
            error = float((gradient(ei_loss(reconstruct, physics, y), net) - exact).norm() / exact.norm())
            if error > GOAL:
                continue
            times = []
            for _ in range(a.repeats):
                net.calls, net.seconds, start = 0, 0.0, time.perf_counter()
                gradient(ei_loss(reconstruct, physics, y), net)
                times.append(time.perf_counter() - start)
            seconds = sorted(times)[len(times) // 2]
            if library not in best or seconds < best[library][0]:
                text = f"{seconds * 1e3:7.0f} ms  error {error:.1e}  {net.calls:3d} evaluations of D forward  ({setting})"
                best[library] = seconds, text
        for library, (_, text) in best.items():
            print(f"{library:<10}{text}")
        for library in ("torchdeq", "deepinv"):
            if library in best and "equipoise" in best:
                print(f"{library} / equipoise: {best[library][0] / best['equipoise'][0]:.2f}")


if __name__ == "__main__":
    main()
