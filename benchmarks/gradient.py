"""The gradient of one equivariant-imaging loss, against torchdeq and deepinv, in one run.

    pip install -e '.[bench]'
    python benchmarks/gradient.py [--contraction 0.9 0.98] [--weights initial] [--rounds 5]

Two passes: x̂ = f*(y), loss = |A x̂ − y|² + |T_g x̂ − f*(A T_g x̂)|², f = D(x − Aᵀ(A x − y)); gradient
for the weights of D(x) = ρ (x − R(x)), R six convolutions of 32 channels, as PyTorch initialises
them or as `equipoise pretrain` trained them; ρ is set so that the spectral radius of ∂f/∂x at the
equilibrium is the one asked for. 64² CT, 20 views, batch 4 (real slices if ../shared/data is
there). Every library has the same D, physics, rotation and float64 reference; for each of its
solvers the loosest tolerances whose gradient is within 2e-3 are sought, and it counts with its
fastest one. Times are medians of rounds in which the libraries take turns. "channels-last": the
same setting, the user having converted the network by hand (ours does that by itself).

Evaluations are of the whole batch (those on some samples count in proportion): forward +
vector–Jacobian products.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import time
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from itertools import pairwise, product
from statistics import median
from typing import Any, NamedTuple

import torch
from common import DATA, DEVICE, arguments, finish, machine, make_contract, parser
from torch import Tensor, nn

import equipoise as eq
from equipoise.equilibrium.flat import FlatMap

#: The modules that run a solve.
LOOPS = [
    importlib.import_module(f"equipoise.equilibrium.{name}")
    for name in ("solve", "attach", "fixed_point")
]
GOAL = 2e-3
VIEWS = 20
CT = DATA / "ct" / "train.h5"
THETA = torch.tensor([33.0, -71.0, 140.0, 12.0])
#: Tolerances, loose to tight: forward down to 1e-6, backward down to 1e-4.
FORWARD = [10 ** -(2 + k / 5) for k in range(21)]
BACKWARD = [10 ** -(1 + k / 5) for k in range(16)]
#: Where a library has a number of backward steps instead: up to 453.
BACKWARD_STEPS = [round(5 * 2 ** (k / 2)) for k in range(14)]

#: y → x̂
Reconstruct = Callable[[Tensor], Tensor]


# --------------------------------------------------------------------------------- the problem


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

    def __init__(self, factor: float, trained: bool):
        super().__init__()
        torch.manual_seed(0)
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise([1, 32, 32, 32, 32, 32, 1]):
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.SiLU()]
        self.R = nn.Sequential(*layers[:-1])
        self.factor = factor
        self.counts = [0, 0]
        if trained:
            self._load_shipped_weights()

    def _load_shipped_weights(self) -> None:
        shipped = eq.load_denoiser()
        for mine, its in zip(self.R[::2], shipped.convolutions):
            mine.load_state_dict(its.state_dict())
        with torch.no_grad():  # the noise level 0.02 is told by a bias
            self.R[0].bias += 0.2 * shipped.noise

    def forward(self, x, sigma=None):
        x = Count.apply(x, self.counts)
        return self.factor * (x - self.R(x))


def images(size: int) -> Tensor:
    if not CT.is_file():
        print(f"{CT} is not there: phantoms instead")
        return eq.phantoms(4, size)
    import h5py

    with h5py.File(CT) as file:
        hu = torch.from_numpy(file["hu"][:40:10].astype("float32"))[:, None]
    x = ((hu + 1000) / 2000).clip(0, 1)
    return nn.functional.adaptive_avg_pool2d(x, size)


def contracting(radius: float, trained: bool, physics: Any, y: Tensor) -> Denoiser:
    """D with ρ such that ∂f/∂x has this spectral radius at the equilibrium (the largest over the
    batch)."""
    net = Denoiser(0.8, trained).to(y.device)
    found = make_contract(net, eq.GradientStep(net), physics, y, radius)
    weights = "trained" if trained else "initial"
    print(f"contraction {found:.3f}, {weights} weights: ρ = {net.factor:.4f}, {machine()}")
    return net


def ei_gradient(
    reconstruct: Reconstruct, physics: Any, y: Tensor, net: nn.Module, theta: Tensor = THETA
) -> Tensor:
    rotations = eq.Rotations()
    x = reconstruct(y)
    moved = rotations.transform(x, theta=theta.to(x))
    again = reconstruct(physics.A(moved))
    loss = (physics.A(x) - y).square().mean() + (again - moved).square().mean()
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(net.parameters()))])


# ------------------------------------------------------------------------------- the libraries


def ours(net, physics, solver, stop, adjoint_solver, adjoint_stop) -> Reconstruct:
    model = eq.EquilibriumReconstructor(
        eq.GradientStep(net, step_size=1.0),
        solver=solver,
        stop=stop,
        gradient=eq.Implicit(adjoint_solver, adjoint_stop),
        on_failure="ignore",
    )
    return lambda y: model(y, physics)


def torchdeq(net, physics, solver, f_tol, b_solver, b_tol) -> Reconstruct:
    from torchdeq import get_deq

    deq = get_deq(
        ift=True,
        f_solver=solver,
        b_solver=b_solver,
        f_tol=f_tol,
        b_tol=b_tol,
        f_max_iter=400,
        b_max_iter=400,
        f_stop_mode="rel",
        b_stop_mode="rel",
    ).train()

    def reconstruct(y):
        def f(x):
            return net(x - physics.A_adjoint(physics.A(x) - y))

        return deq(f, physics.A_adjoint(y).detach())[0][-1]

    return reconstruct


def deepinv(net, physics, tol, backward, anderson) -> Reconstruct:
    from deepinv.optim import L2 as Misfit
    from deepinv.optim import PGD, AndersonAccelerationConfig, DEQConfig, PnP

    accelerated = AndersonAccelerationConfig(history_size=5, beta=1.0, eps=1e-4)
    model = PGD(
        data_fidelity=Misfit(),
        prior=PnP(net),
        stepsize=1.0,
        sigma_denoiser=0.02,
        unfold=True,
        early_stop=True,
        DEQ=DEQConfig(max_iter_backward=backward, anderson_acceleration_backward=anderson),
        thres_conv=tol,
        max_iter=600,
        anderson_acceleration=accelerated if anderson else False,
    )
    return lambda y: model(y, physics)


class Family(NamedTuple):
    """A solver of a library, with the tolerances to be sought."""

    library: str
    name: str
    make: Callable[..., Reconstruct]  # of (net, forward tolerance, backward setting)
    backwards: list  # backward settings, from loose to tight


def families(physics: Any) -> Iterator[Family]:
    for solver in (eq.Anderson(), eq.Broyden()):

        def with_ours(net, tol, b_tol, solver=solver):
            return ours(net, physics, solver, eq.Stop(tol, 400), eq.GMRES(), eq.Stop(b_tol, 400))

        name = f"{type(solver).__name__}({solver.memory}), GMRES(20)"
        yield Family("equipoise", name, with_ours, BACKWARD)
    for solver, backward in (
        ("broyden", "broyden"),
        ("anderson", "broyden"),
        ("fixed_point_iter", "fixed_point_iter"),
    ):

        def with_torchdeq(net, tol, b_tol, solver=solver, backward=backward):
            return torchdeq(net, physics, solver, tol, backward, b_tol)

        yield Family("torchdeq", f"{solver}, {backward}", with_torchdeq, BACKWARD)
    for anderson in (False, True):

        def with_deepinv(net, tol, steps, anderson=anderson):
            return deepinv(net, physics, tol, steps, anderson)

        name = f"PGD{', Anderson' * anderson}, backward steps"
        yield Family("deepinv", name, with_deepinv, BACKWARD_STEPS)


# -------------------------------------------------------------------------------- the settings


class Setting(NamedTuple):
    label: str
    reconstruct: Callable[[nn.Module], Reconstruct]
    error: float
    forward: float
    backward: float

    @property
    def evaluations(self) -> float:
        return self.forward + self.backward


def loosest(settings: list, reaches: Callable[[Any], bool]) -> int | None:
    """The index of the first of ``settings``, ordered from loose to tight, that reaches the goal;
    None if the last does not."""
    if not reaches(settings[-1]):
        return None
    low = 0
    high = len(settings) - 1
    while low < high:
        middle = (low + high) // 2
        if reaches(settings[middle]):
            high = middle
        else:
            low = middle + 1
    return high


class Search:
    """For a family, the setting that reaches the goal with the fewest evaluations.

    The loosest forward tolerance is sought by bisection with the tightest backward setting, then
    the loosest backward setting for it and for the three tolerances after it (for it alone, once
    that takes four times another family's evaluations).
    """

    def __init__(self, net: Denoiser, physics: Any, y: Tensor, reference: Tensor, verbose: bool):
        self.net = net
        self.physics = physics
        self.y = y
        self.reference = reference
        self.verbose = verbose

    def attempt(self, family: Family, tol: float, backward: float) -> Setting:
        self.net.counts[:] = [0, 0]
        reconstruct = family.make(self.net, tol, backward)
        g = ei_gradient(reconstruct, self.physics, self.y, self.net).double()
        error = float((g - self.reference).norm() / self.reference.norm())
        forward, back = (count / len(self.y) for count in self.net.counts)
        label = f"{family.name} {tol:.1e}, {backward:.2g}"
        found = Setting(label, lambda net: family.make(net, tol, backward), error, forward, back)
        if self.verbose:
            print(
                f"    {family.library:<10}{label:<46} error {error:.1e}  {forward:.0f} + {back:.0f}"
            )
        return found

    def best(self, family: Family, fewest: float) -> Setting | None:
        """``fewest``: evaluations of the best setting of the families before."""

        @cache
        def attempt(tol: float, backward: float) -> Setting:
            return self.attempt(family, tol, backward)

        tightest = family.backwards[-1]
        first = loosest(FORWARD, lambda tol: attempt(tol, tightest).error <= GOAL)
        if first is None:
            return None
        found: list[Setting] = []
        for tol in FORWARD[first : first + 4]:
            at = loosest(family.backwards, lambda b, tol=tol: attempt(tol, b).error <= GOAL)
            if at is not None:
                found.append(attempt(tol, family.backwards[at]))
            if found and found[0].evaluations > 4 * fewest:
                break
        return min(found, key=lambda setting: setting.evaluations)


def best_settings(search: Search, physics: Any, only: str) -> dict[str, list[Setting]]:
    """Library → the best setting of each of its families; those that take more than twice the
    evaluations of the library's best are left out."""
    best: dict[str, list[Setting]] = {}
    fewest = float("inf")
    for family in families(physics):
        if not family.library.startswith(only):
            continue
        try:
            setting = search.best(family, fewest)
        except ImportError:
            print(f"  skipped: {family.library} is not installed: pip install -e '.[bench]'")
            continue
        if setting is None:
            print(f"  {family.library:<10}{family.name}: no setting reached {GOAL:g}")
            continue
        fewest = min(fewest, setting.evaluations)
        best.setdefault(family.library, []).append(setting)
    return {
        library: [s for s in settings if s.evaluations <= 2 * min(t.evaluations for t in settings)]
        for library, settings in best.items()
    }


# ----------------------------------------------------------------------------------- the times


class Outside:
    """While active: the time spent in solves (``solves``), and in f and its products within them
    (``maps``)."""

    def __enter__(self) -> Outside:
        self.solves = 0.0
        self.maps = 0.0
        self.inside = False
        self.run = LOOPS[0].run
        self.call = FlatMap.__call__
        call = self.call

        def timed_run(*args):
            start = time.perf_counter()
            self.inside = True
            out = self.run(*args)
            self.solves += time.perf_counter() - start
            self.inside = False
            return out

        def timed_call(F, z):
            start = time.perf_counter()
            out = call(F, z)
            if self.inside:
                self.maps += time.perf_counter() - start
            return out

        FlatMap.__call__ = timed_call
        for module in LOOPS:
            module.run = timed_run
        return self

    def __exit__(self, *_: object) -> None:
        FlatMap.__call__ = self.call
        for module in LOOPS:
            module.run = self.run


class Runner(NamedTuple):
    """Who takes part in the rounds."""

    name: str
    setting: Setting
    net: nn.Module
    times: list[float]

    @property
    def median(self) -> float:
        return median(self.times)


def runners(best: dict[str, list[Setting]], net: Denoiser) -> list[Runner]:
    converted = copy.deepcopy(net).to(memory_format=torch.channels_last)
    rows = []
    for library, settings in best.items():
        for setting in settings:
            rows.append(Runner(library, setting, net, []))
            if library != "equipoise":
                rows.append(Runner(f"{library}, channels-last", setting, converted, []))
    return rows


def time_in_turns(rows: list[Runner], physics: Any, y: Tensor, rounds: int) -> None:
    """In turns, so that what slows the machine slows all of them."""
    for _ in range(rounds):
        for row in rows:
            start = time.perf_counter()
            ei_gradient(row.setting.reconstruct(row.net), physics, y, row.net)
            finish()
            row.times.append(time.perf_counter() - start)


def share_outside(row: Runner, physics: Any, y: Tensor) -> float:
    """The share of the time that goes into solving, but not into f."""
    with Outside() as outside:
        start = time.perf_counter()
        ei_gradient(row.setting.reconstruct(row.net), physics, y, row.net)
        total = time.perf_counter() - start
    return (outside.solves - outside.maps) / total


def report(rows: list[Runner], physics: Any, y: Tensor) -> None:
    fastest: dict[str, float] = {}
    for row in sorted(rows, key=lambda row: row.median):
        if row.name in fastest:
            continue
        fastest[row.name] = row.median
        setting = row.setting
        line = (
            f"  {row.name:<24}{setting.label:<46}{row.median * 1e3:6.0f} ms  error "
            f"{setting.error:.1e}  evaluations {setting.forward:.0f} + {setting.backward:.0f}"
        )
        if row.name == "equipoise":
            line += f"  outside f {share_outside(row, physics, y):.0%}"
        print(line)
    for suffix in ("", ", channels-last"):
        names = [f"torchdeq{suffix}", f"deepinv{suffix}"]
        peers = [fastest[name] for name in names if name in fastest]
        if peers and "equipoise" in fastest:
            ratio = fastest["equipoise"] / min(peers)
            print(f"  time over the best peer's{suffix}: {ratio:.2f} (goal 0.33)")


def compare(weights: str, contraction: float, a: argparse.Namespace) -> None:
    physics = eq.ParallelBeam(a.size, VIEWS, normalize=True)
    y = physics.A(images(a.size).to(DEVICE))
    net = contracting(contraction, weights == "trained", physics, y)
    exact = copy.deepcopy(net).double()
    tight = eq.Stop(1e-12, 5000)
    solved = ours(exact, physics, eq.Anderson(20), tight, eq.GMRES(60), tight)
    reference = ei_gradient(solved, physics, y.double(), exact)
    search = Search(net, physics, y, reference, a.verbose)
    rows = runners(best_settings(search, physics, a.only), net)
    time_in_turns(rows, physics, y, a.rounds)
    report(rows, physics, y)


def main() -> None:
    p = parser(__doc__)
    p.add_argument("--contraction", type=float, nargs="+", default=[0.9, 0.98])
    p.add_argument("--weights", nargs="+", choices=["initial", "trained"], default=["initial"])
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--size", type=int, default=64)
    p.add_argument("--only", default="", help="the library whose name begins so")
    p.add_argument("--verbose", action="store_true", help="print every setting")
    a = arguments(p, contraction=[0.5], rounds=1, size=16)
    warnings.filterwarnings("ignore")
    for weights, contraction in product(a.weights, a.contraction):
        compare(weights, contraction, a)


if __name__ == "__main__":
    main()
