"""Sample-evaluations wasted on samples that have converged, in one run.

    python benchmarks/active.py        # needs the extra: pip install -e '.[bench]'

A batch of 16 contractions with rates spread over 0.3 … 0.99. A library that evaluates the whole
batch until the slowest sample is done wastes the difference to what each sample needed alone.
"""

from __future__ import annotations

import torch
from common import arguments, parser

import equipoise as eq

BATCH, RTOL = 16, 1e-5


class Rates:
    """f(z) = rate · W tanh(z) + y, one rate a sample. It can be restricted to some samples, and
    notes how many samples each of its evaluations is of."""

    def __init__(self, rate, W, y, counts):
        self.rate = rate
        self.W = W
        self.y = y
        self.counts = counts

    def __call__(self, z):
        self.counts.append(len(z))
        return self.rate * torch.tanh(z) @ self.W + self.y

    def restrict(self, index):
        return Rates(self.rate[index], self.W, self.y[index], self.counts)

    def counted_anew(self):
        """The same map, and the counts of its evaluations from here on."""
        counts: list[int] = []
        return Rates(self.rate, self.W, self.y, counts), counts

    def sample(self, i: int):
        return self.restrict(torch.tensor([i]))


def report(name: str, together: int, needed: int) -> None:
    wasted = 1 - needed / together
    print(
        f"{name:<26} {together:6d} sample-evaluations, {needed:6d} needed, wasted {wasted:6.1%}",
        flush=True,
    )


def ours(f: Rates, max_steps: int) -> None:
    stop = eq.Stop(RTOL, max_steps)
    for solver in (eq.Picard(), eq.Anderson(), eq.Broyden()):
        batch, counts = f.counted_anew()
        solved = eq.solve(batch, torch.zeros(BATCH, 100), solver=solver, stop=stop)
        assert solved.converged.all()
        needed = 0
        for i in range(BATCH):
            alone = eq.solve(f.sample(i), torch.zeros(1, 100), solver=solver, stop=stop)
            needed += int(alone.steps)
        report(f"equipoise {type(solver).__name__}", sum(counts), needed)


def theirs(f: Rates, max_steps: int) -> None:
    try:
        from torchdeq import get_deq
    except ImportError:
        print("skipped: torchdeq is not installed: pip install -e '.[bench]'")
        return
    for name in ("fixed_point_iter", "anderson", "broyden"):
        deq = get_deq(f_solver=name, f_tol=RTOL, f_max_iter=max_steps, f_stop_mode="rel")
        batch, counts = f.counted_anew()
        with torch.no_grad():
            deq(batch, torch.zeros(BATCH, 100))
        needed = 0
        for i in range(BATCH):
            alone, alone_counts = f.sample(i).counted_anew()
            with torch.no_grad():
                deq(alone, torch.zeros(1, 100))
            needed += sum(alone_counts)
        report(f"torchdeq  {name}", sum(counts), needed)


def main() -> None:
    p = parser(__doc__)
    p.add_argument("--max-steps", type=int, default=3000)
    p.add_argument("--slowest", type=float, default=0.99, help="the largest rate")
    a = arguments(p, slowest=0.8)
    torch.manual_seed(0)
    rate = torch.linspace(0.3, a.slowest, BATCH)[:, None]
    W = torch.linalg.qr(torch.randn(100, 100))[0]
    f = Rates(rate, W, 0.1 * torch.randn(BATCH, 100), [])
    print(f"{BATCH} contractions, rates 0.3 … {a.slowest:g}, to a relative residual of {RTOL:g}")
    ours(f, a.max_steps)
    theirs(f, a.max_steps)


if __name__ == "__main__":
    main()
