"""The gradient of one equivariant-imaging loss, against torchdeq and deepinv, in one run.

    pip install -e '.[bench]'
    python benchmarks/gradient.py [--contraction 0.9 0.98] [--weights initial] [--rounds 5]

Two passes: x̂ = f*(y), loss = |A x̂ − y|² + |T_g x̂ − f*(A T_g x̂)|², f = D(x − Aᵀ(A x − y)); gradient for the weights of
D(x) = ρ (x − R(x)), R six convolutions of 32 channels, as PyTorch initialises them or as `equipoise pretrain` trained them;
ρ is set so that the spectral radius of ∂f/∂x at the equilibrium is the one asked for. 64² CT, 20 views, batch 4 (real slices
if ../shared/data is there). Every library has the same D, physics, rotation and float64 reference; for each of its solvers
the loosest tolerances whose gradient is within 2e-3 are sought, and it counts with its fastest one. Times are medians of
rounds in which the libraries take turns. "channels-last": the same setting, the user having converted the network by hand
(ours does that by itself).

Evaluations are of the whole batch (those on some samples count in proportion): forward + vector–Jacobian products.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import time
import warnings
from collections.abc import Callable
from functools import cache
from itertools import pairwise, product
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch
from torch import nn

import equipoise as eq
from equipoise.equilibrium.flat import FlatMap
from equipoise.reconstruction.contraction import measure

#: The modules that run a solve.
LOOPS = [
    importlib.import_module(f"equipoise.equilibrium.{name}")
    for name in ("solve", "attach", "fixed_point")
]
GOAL = 2e-3
CT = Path(__file__).parents[2] / "shared" / "data" / "ct" / "train.h5"
THETA = torch.tensor([33.0, -71.0, 140.0, 12.0])


class Count(torch.autograd.Function):
    """The identity; counts the samples that pass forward and backward."""

    @staticmethod
    def forward(ctx, x, counts):
        ctx.counts = counts
        counts[0] += len(x)
        return x.clone()  # not a view: those do not keep a channels-last layout of one channel

    @staticmethod
    def backward(ctx, g):
        ctx.counts[1] += len(g)
        return g, None


class Denoiser(nn.Module):
    """D(x) = ρ (x − R(x)), counted; a plain PyTorch network, as anyone would write it."""

    def __init__(self, rho: float, trained: bool):
        super().__init__()
        torch.manual_seed(0)
        widths = [1, 32, 32, 32, 32, 32, 1]
        layers = [[nn.Conv2d(a, b, 3, padding=1), nn.SiLU()] for a, b in pairwise(widths)]
        self.R = nn.Sequential(*[layer for pair in layers for layer in pair][:-1])
        self.rho, self.counts = rho, [0, 0]
        if trained:
            shipped = eq.load_denoiser()
            for mine, its in zip(self.R[::2], shipped.convolutions):
                mine.load_state_dict(its.state_dict())
            with torch.no_grad():  # the noise level 0.02 is told by a bias
                self.R[0].bias += 0.2 * shipped.noise

    def forward(self, x, sigma=None):
        x = Count.apply(x, self.counts)
        return self.rho * (x - self.R(x))


def images() -> torch.Tensor:
    if not CT.is_file():
        print(f"{CT} is not there: phantoms instead")
        return eq.phantoms(4, 64)
    import h5py

    with h5py.File(CT) as file:
        hu = torch.from_numpy(file["hu"][:40:10].astype("float32"))[:, None]
    return nn.functional.avg_pool2d(((hu + 1000) / 2000).clip(0, 1), 4)


def contracting(radius: float, trained: bool, physics, y) -> Denoiser:
    """D with ρ such that ∂f/∂x has this spectral radius at the equilibrium (the largest over the batch)."""
    net, found = Denoiser(0.8, trained), 0.0
    for _ in range(6):
        model = eq.EquilibriumReconstructor(
            eq.GradientStep(net), stop=eq.Stop(1e-4, 300), on_failure="ignore"
        )
        r = model.equilibrium(y, physics)
        found = float(
            measure(
                model.step.bind(y, physics), r.value, 60, torch.Generator().manual_seed(0)
            ).radius.max()
        )
        if abs(found - radius) < 1e-3:
            break
        net.rho *= radius / found
    print(
        f"contraction {found:.3f}, {'trained' if trained else 'initial'} weights: ρ = {net.rho:.4f}"
    )
    return net


def ei_gradient(reconstruct, physics, y, net, theta=THETA) -> torch.Tensor:
    rotations = eq.Rotations()
    x = reconstruct(y)
    moved = rotations.transform(x, theta=theta.to(x))
    again = reconstruct(physics.A(moved))
    loss = (physics.A(x) - y).square().mean() + (again - moved).square().mean()
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(net.parameters()))])


def ours(net, physics, solver, stop, adjoint_solver, adjoint_stop):
    model = eq.EquilibriumReconstructor(
        eq.GradientStep(net, step_size=1.0),
        solver=solver,
        stop=stop,
        gradient=eq.Implicit(adjoint_solver, adjoint_stop),
        on_failure="ignore",
    )
    return lambda y: model(y, physics)


def torchdeq(net, physics, solver, f_tol, b_solver, b_tol):
    from torchdeq import get_deq

    deq = get_deq(
        ift=True, f_solver=solver, b_solver=b_solver, f_tol=f_tol, b_tol=b_tol,
        f_max_iter=400, b_max_iter=400, f_stop_mode="rel", b_stop_mode="rel",
    ).train()  # fmt: skip

    def reconstruct(y):
        def f(x):
            return net(x - physics.A_adjoint(physics.A(x) - y))

        return deq(f, physics.A_adjoint(y).detach())[0][-1]

    return reconstruct


def deepinv(net, physics, tol, backward, anderson):
    from deepinv.optim import L2 as Misfit
    from deepinv.optim import PGD, AndersonAccelerationConfig, DEQConfig, PnP

    model = PGD(
        data_fidelity=Misfit(), prior=PnP(net), stepsize=1.0, sigma_denoiser=0.02, unfold=True, early_stop=True,
        DEQ=DEQConfig(max_iter_backward=backward, anderson_acceleration_backward=anderson), thres_conv=tol, max_iter=600,
        anderson_acceleration=AndersonAccelerationConfig(history_size=5, beta=1.0, eps=1e-4) if anderson else False,
    )  # fmt: skip
    return lambda y: model(y, physics)


class Outside:
    """While active: the time spent in solves (``solves``), and in f and its products within them (``maps``)."""

    def __enter__(self):
        self.solves, self.maps, inside = 0.0, 0.0, False
        run, call = self.originals = LOOPS[0].run, FlatMap.__call__

        def timed_run(*args):
            nonlocal inside
            start, inside = time.perf_counter(), True
            out = run(*args)
            self.solves, inside = self.solves + time.perf_counter() - start, False
            return out

        def timed_call(F, z):
            start = time.perf_counter()
            out = call(F, z)
            if inside:
                self.maps += time.perf_counter() - start
            return out

        FlatMap.__call__ = timed_call
        for module in LOOPS:
            module.run = timed_run
        return self

    def __exit__(self, *_):
        run, FlatMap.__call__ = self.originals
        for module in LOOPS:
            module.run = run


FORWARD = [10 ** -(2 + k / 5) for k in range(21)]  # loose to tight, down to 1e-6
BACKWARD = [10 ** -(1 + k / 5) for k in range(16)]  # down to 1e-4
BACKWARD_STEPS = [round(5 * 2 ** (k / 2)) for k in range(14)]  # up to 453


def families(physics):
    """(library, name, (net, forward tolerance, backward setting) → reconstruct, backward settings from loose to tight)"""
    for solver in (eq.Anderson(), eq.Broyden()):

        def make(net, tol, b_tol, solver=solver):
            return ours(net, physics, solver, eq.Stop(tol, 400), eq.GMRES(), eq.Stop(b_tol, 400))

        yield "equipoise", f"{type(solver).__name__}({solver.memory}), GMRES(20)", make, BACKWARD
    for solver, backward in (
        ("broyden", "broyden"),
        ("anderson", "broyden"),
        ("fixed_point_iter", "fixed_point_iter"),
    ):

        def make(net, tol, b_tol, solver=solver, backward=backward):
            return torchdeq(net, physics, solver, tol, backward, b_tol)

        yield "torchdeq", f"{solver}, {backward}", make, BACKWARD

    for anderson in (False, True):

        def make(net, tol, steps, anderson=anderson):
            return deepinv(net, physics, tol, steps, anderson)

        yield "deepinv", f"PGD{', Anderson' * anderson}, backward steps", make, BACKWARD_STEPS


class Setting(NamedTuple):
    label: str
    reconstruct: Callable  # net → y → x̂
    error: float
    forward: float
    backward: float

    @property
    def evaluations(self):
        return self.forward + self.backward


def loosest(settings, reaches):
    """The index of the first of ``settings``, ordered from loose to tight, that reaches the goal; None if the last does not."""
    if not reaches(settings[-1]):
        return None
    low, high = 0, len(settings) - 1
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if reaches(settings[middle]) else (middle + 1, high)
    return high


def best_settings(net, physics, y, reference, only, verbose) -> dict[tuple[str, str], Setting]:
    """(library, family) → its setting that reaches the goal with the fewest evaluations.

    The loosest forward tolerance is sought by bisection with the tightest backward setting, then the loosest backward setting
    for it and for the three tolerances after it (for it alone, once that takes four times another family's evaluations).
    """
    best: dict[tuple[str, str], Setting] = {}
    for library, name, make, backwards in families(physics):
        if not library.startswith(only):
            continue

        @cache
        def attempt(tol, b, name=name, make=make, library=library):
            net.counts[:] = [0, 0]
            g = ei_gradient(make(net, tol, b), physics, y, net).double()
            error = float((g - reference).norm() / reference.norm())
            found = Setting(
                f"{name} {tol:.1e}, {b:.2g}",
                lambda net: make(net, tol, b),
                error,
                *(n / len(y) for n in net.counts),
            )
            if verbose:
                print(
                    f"    {library:<10}{found.label:<46} error {error:.1e}  {found.forward:.0f} + {found.backward:.0f}"
                )
            return found

        first = loosest(FORWARD, lambda tol: attempt(tol, backwards[-1]).error <= GOAL)
        if first is None:
            print(f"  {library:<10}{name}: no setting reached {GOAL:g}")
            continue
        found = []
        for tol in FORWARD[first : first + 4]:
            at = loosest(backwards, lambda b, tol=tol: attempt(tol, b).error <= GOAL)
            if at is not None:
                found.append(attempt(tol, backwards[at]))
            if (
                found
                and best
                and found[0].evaluations > 4 * min(s.evaluations for s in best.values())
            ):
                break
        best[library, name] = min(found, key=lambda setting: setting.evaluations)
    return best


def main() -> None:
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--contraction", type=float, nargs="+", default=[0.9, 0.98])
    p.add_argument("--weights", nargs="+", choices=["initial", "trained"], default=["initial"])
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--only", default="", help="the library whose name begins so")
    p.add_argument("--verbose", action="store_true", help="print every setting")
    a = p.parse_args()
    warnings.filterwarnings("ignore")
    physics = eq.ParallelBeam(64, 20, normalize=True)
    y = physics.A(images())
    tight = eq.Stop(1e-12, 5000)
    for weights, contraction in product(a.weights, a.contraction):
        net = contracting(contraction, weights == "trained", physics, y)
        exact = copy.deepcopy(net).double()
        reference = ei_gradient(
            ours(exact, physics, eq.Anderson(20), tight, eq.GMRES(60), tight),
            physics,
            y.double(),
            exact,
        )
        best = best_settings(net, physics, y, reference, a.only, a.verbose)
        converted = copy.deepcopy(net).to(memory_format=torch.channels_last)
        fewest = {
            library: min(s.evaluations for (of, _), s in best.items() if of == library)
            for library, _ in best
        }
        rows = []  # who, its setting, the network it is given
        for (library, _), setting in best.items():
            if setting.evaluations <= 2 * fewest[library]:
                rows.append((library, setting, net))
                if library != "equipoise":
                    rows.append((f"{library}, channels-last", setting, converted))
        times: list[list[float]] = [[] for _ in rows]
        for _ in range(a.rounds):  # in turns, so that what slows the machine slows all of them
            for (_, setting, network), taken in zip(rows, times):
                start = time.perf_counter()
                ei_gradient(setting.reconstruct(network), physics, y, network)
                taken.append(time.perf_counter() - start)
        fastest: dict[str, float] = {}
        for (who, setting, network), taken in sorted(
            zip(rows, times), key=lambda row: median(row[1])
        ):
            if who in fastest:
                continue
            fastest[who] = median(taken)
            line = f"  {who:<24}{setting.label:<46}{fastest[who] * 1e3:6.0f} ms"
            line += f"  error {setting.error:.1e}  evaluations {setting.forward:.0f} + {setting.backward:.0f}"
            if who == "equipoise":
                with Outside() as o:
                    start = time.perf_counter()
                    ei_gradient(setting.reconstruct(network), physics, y, network)
                    total = time.perf_counter() - start
                line += f"  outside f {(o.solves - o.maps) / total:.0%}"
            print(line)
        for suffix in ("", ", channels-last"):
            peers = [
                t for who, t in fastest.items() if who in (f"torchdeq{suffix}", f"deepinv{suffix}")
            ]
            if peers and "equipoise" in fastest:
                print(
                    f"  time over the best peer's{suffix}: {fastest['equipoise'] / min(peers):.2f} (goal 0.33)"
                )


if __name__ == "__main__":
    main()
