"""A solver of one's own can be everything that ours are."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from fixed_point_problems import Imaging, relative, symmetric

import equipoise as eq
from equipoise.equilibrium import Solver


class Momentum:
    """The heavy ball: z ← f(z) + β (z − z_before). Its state is the iterate before."""

    def __init__(self, beta: float):
        self.beta = beta

    def init(self, z):
        return z

    def step(self, z, fz, before):
        return fz + self.beta * (z - before), z


class LineState(NamedTuple):
    z: torch.Tensor
    g: torch.Tensor
    best: torch.Tensor


class LineSearch(Solver):
    """For affine f: the smallest residual on the line through the last two points is known without
    an evaluation there."""

    def init(self, z):
        return LineState(z, torch.zeros_like(z), z)

    def step(self, z, fz, state):
        g = fz - z
        along, change = z - state.z, g - state.g
        square = change.square().sum(1)
        t = torch.where(square > 0, (g * change).sum(1) / square, 0)[:, None]
        best = torch.where(state.g.any(1, keepdim=True), z - t * along, z)
        g_best = torch.where(state.g.any(1, keepdim=True), g - t * change, g)
        return best + g_best, LineState(z, g, best)

    def candidate(self, state):
        return state.best


@pytest.mark.parametrize("solver", [Momentum(0.3), LineSearch()], ids=["momentum", "line search"])
class TestOwnSolver:
    def test_it_solves_and_no_sample_depends_on_its_batchmates(self, solver):
        M, b = symmetric(30, 0.9)
        b = torch.cat([b, 100 * b.flip(1), b**3, 0 * b])
        stop = eq.Stop(1e-10, 1000)
        r = eq.solve(lambda z: z @ M + b, torch.zeros_like(b), solver=solver, stop=stop)
        assert r.converged.all()
        exact = torch.linalg.solve(torch.eye(30) - M, b, left=False)
        assert (r.value - exact).norm() < 1e-8 * exact.norm()
        for i in range(4):
            alone = eq.solve(
                lambda z, i=i: z @ M + b[i : i + 1], torch.zeros(1, 30), solver=solver, stop=stop
            )
            assert int(alone.steps) == int(r.steps[i])
            assert (alone.value - r.value[i]).abs().max() <= 1e-10

    def test_it_is_differentiated_and_solves_the_adjoint(self, solver):
        net, y = Imaging(), torch.randn(3, 9, requires_grad=True)
        exact = torch.autograd.grad(net.unrolled(y).square().sum(), [net.W, net.A, y])
        forward = Momentum(0.1)  # the line search is for affine f
        stop = eq.Stop(1e-12, 2000)
        x = net.implicit(y, solver=forward, gradient=eq.Implicit(solver, stop))
        ours = torch.autograd.grad(x.square().sum(), [net.W, net.A, y])
        assert relative(ours, exact) < 1e-9


class Knowing(Momentum):
    """Knows the solution, wherever it is asked to go."""

    def __init__(self, solution):
        super().__init__(0.0)
        self.solution = solution

    def candidate(self, state):
        return self.solution.expand_as(state)


def test_what_a_solver_vouches_for_is_the_answer_of_the_adjoint():
    b = torch.ones(2, 3, requires_grad=True)
    exact = torch.tensor([[2.0, 2.0, 2.0]])
    gradient = eq.Implicit(Knowing(exact), eq.Stop(0.2, 100))
    r = eq.fixed_point(lambda z: 0.5 * z + b, torch.zeros(2, 3), gradient=gradient)
    (g,) = torch.autograd.grad(r.value.sum(), b)
    assert (g == 2).all()
    (g,) = torch.autograd.grad(
        eq.fixed_point(
            lambda z: 0.5 * z + b,
            torch.zeros(2, 3),
            gradient=eq.Implicit(Momentum(0.0), eq.Stop(0.2, 100)),
        ).value.sum(),
        b,
    )
    assert (g < 1.9).all()  # nobody vouches for more than was evaluated
