"""Sample-evaluations wasted on samples that have converged, in one run.

    python benchmarks/active.py        # needs the extra: pip install -e '.[bench]'

A batch of 16 contractions with rates spread over 0.3 … 0.99. A library that evaluates the whole batch until the slowest
sample is done wastes the difference to what each sample needed alone.
"""

from __future__ import annotations

import torch

import equipoise as eq


class Rates:
    """f(z) = rate · W tanh(z) + y, one rate a sample; it can be restricted to some samples, and counts its evaluations."""

    def __init__(self, rate, W, y, count):
        self.rate, self.W, self.y, self.count = rate, W, y, count

    def __call__(self, z):
        self.count.append(len(z))
        return self.rate * torch.tanh(z) @ self.W + self.y

    def restrict(self, index):
        return Rates(self.rate[index], self.W, self.y[index], self.count)


def main() -> None:
    torch.manual_seed(0)
    rate = torch.linspace(0.3, 0.99, 16)[:, None]
    W, y = torch.linalg.qr(torch.randn(100, 100))[0], 0.1 * torch.randn(16, 100)
    rtol, most = 1e-5, 3000
    print(f"16 contractions, rates 0.3 … 0.99, to a relative residual of {rtol:g}")
    for solver in (eq.Picard(), eq.Anderson(), eq.Broyden()):
        count: list[int] = []
        r = eq.solve(
            Rates(rate, W, y, count), torch.zeros(16, 100), solver=solver, stop=eq.Stop(rtol, most)
        )
        needed = sum(
            int(
                eq.solve(
                    Rates(rate[i : i + 1], W, y[i : i + 1], []),
                    torch.zeros(1, 100),
                    solver=solver,
                    stop=eq.Stop(rtol, most),
                ).steps
            )
            for i in range(16)
        )
        wasted = 1 - needed / sum(count)
        print(
            f"equipoise {type(solver).__name__:<9} {sum(count):6d} sample-evaluations, {needed:6d} needed, wasted {wasted:6.1%}"
        )
        assert r.converged.all()
    try:
        from torchdeq import get_deq
    except ImportError:
        print("torchdeq is not installed: pip install -e '.[bench]'")
        return
    for name in ("fixed_point_iter", "anderson", "broyden"):
        count = []
        deq = get_deq(f_solver=name, f_tol=rtol, f_max_iter=most, f_stop_mode="rel")
        with torch.no_grad():
            deq(Rates(rate, W, y, count), torch.zeros(16, 100))
        needed = 0
        for i in range(16):
            alone: list[int] = []
            with torch.no_grad():
                deq(Rates(rate[i : i + 1], W, y[i : i + 1], alone), torch.zeros(1, 100))
            needed += sum(alone)
        print(
            f"torchdeq  {name:<16} {sum(count):6d} sample-evaluations, {needed:6d} needed, wasted {1 - needed / sum(count):6.1%}"
        )


if __name__ == "__main__":
    main()
