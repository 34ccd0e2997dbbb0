"""Problems that several tests of fixed points share."""

from __future__ import annotations

import torch
from torch import nn

import equipoise as eq

TIGHT = eq.Stop(rtol=1e-13, max_steps=600)
SOLVERS = [
    eq.Picard(),
    eq.Picard(damping=0.7),
    eq.Anderson(memory=5),
    eq.Broyden(),
    eq.GMRES(memory=20),
]
NONLINEAR = SOLVERS[:-1]


def symmetric(n: int = 200, top: float = 0.99) -> tuple[torch.Tensor, torch.Tensor]:
    """A symmetric matrix with eigenvalues spread evenly over 0 … top, and a right-hand side."""
    rng = torch.Generator().manual_seed(0)
    Q, _ = torch.linalg.qr(torch.randn(n, n, generator=rng))
    return Q @ torch.diag(torch.linspace(0, top, n)) @ Q.T, torch.randn(1, n, generator=rng)


class Imaging(nn.Module):
    """A small learned gradient step, f(x) = 0.9 tanh(W (x − Aᵀ(A x − y))), differentiable in W, A
    and y."""

    def __init__(self, n: int = 16, m: int = 9):
        super().__init__()
        self.W = nn.Parameter(0.6 * torch.linalg.qr(torch.randn(n, n))[0] + 0.1 * torch.eye(n))
        A = torch.randn(m, n)
        self.A = nn.Parameter(A / torch.linalg.matrix_norm(A, 2))
        self.n = n

    def f(self, y):
        return lambda x: 0.9 * torch.tanh((x - (x @ self.A.T - y) @ self.A) @ self.W)

    def implicit(self, y, **kwargs):
        kwargs = {
            "gradient": eq.Implicit(stop=TIGHT),
            "stop": TIGHT,
            "on_failure": "ignore",
        } | kwargs
        return eq.fixed_point(self.f(y), torch.zeros(len(y), self.n), **kwargs).value

    def unrolled(self, y, steps=1500):
        x, f = torch.zeros(len(y), self.n), self.f(y)
        for _ in range(steps):
            x = f(x)
        return x


def ei_loss(net: Imaging, solve, y, passes: int = 2):
    """Measurement consistency, and "move (flip), measure, reconstruct" once or twice."""
    x = solve(y)
    loss = ((x @ net.A.T - y) ** 2).sum()
    for _ in range(passes - 1):
        moved = x.flip(1)
        x = solve(moved @ net.A.T)
        loss = loss + ((x - moved) ** 2).sum()
    return loss


def relative(a, b):
    return max(float((x - y).norm() / y.norm()) for x, y in zip(a, b))
