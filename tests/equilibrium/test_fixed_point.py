"""The application of f that carries the graph."""

from __future__ import annotations

import pytest
import torch
from fixed_point_problems import symmetric

import equipoise as eq


class Wild:
    """Picard, but where it would go from a residual below ``bound`` is far off."""

    def __init__(self, bound):
        self.bound = bound

    def init(self, z):
        return ()

    def step(self, z, fz, state):
        close = (fz - z).norm(dim=1, keepdim=True) < self.bound * fz.norm(dim=1, keepdim=True)
        return torch.where(close, fz + 100, fz), state


class TestOneStepAhead:
    """The application of f that carries the graph is made one step ahead of the iterate that
    converged."""

    def solve(self, solver, rtol=1e-4):
        M, b = symmetric(30, 0.9)
        b = torch.cat([b, 3 * b, b**3]).requires_grad_()
        seen = []

        def f(z):
            seen.append(z)
            return torch.tanh(z @ M) + b

        z0 = torch.zeros(3, 30)
        r = eq.fixed_point(f, z0, solver=solver, stop=eq.Stop(rtol, 300))
        count = len(seen)
        fz = f(r.value)
        return (
            r,
            eq.solve(f, z0, solver=solver, stop=eq.Stop(rtol, 300)),
            (fz - r.value).norm(dim=1) / fz.norm(dim=1),
            count,
        )

    @pytest.mark.parametrize("solver", [eq.Picard(), eq.Anderson(), eq.Broyden()], ids=repr)
    def test_it_is_an_evaluation_like_any_other(self, solver):
        r, plain, residual, count = self.solve(solver)
        assert r.converged.all()
        assert (r.residual <= plain.residual).all()
        assert (r.residual - residual.detach()).abs().max() < 1e-12
        assert (r.steps == plain.steps + 1).all()
        assert count == int(r.steps.max())  # none too many
        assert (r.trace[-1] == r.residual).all()
        assert r.trace.shape == (int(r.steps.max()), 3)

    def test_a_step_that_loses_the_tolerance_is_taken_back(self):
        r, plain, residual, _ = self.solve(Wild(1e-4))
        assert r.converged.all()
        assert (r.steps == plain.steps).all()
        assert (residual <= 1e-4).all()
        assert torch.equal(r.value.detach(), plain.value.detach())
        r.value.sum().backward()
        assert r.adjoint.converged.all()

    def test_a_converged_start_stays(self):
        b = torch.ones(2, 3, requires_grad=True)
        r = eq.fixed_point(
            lambda z: 0.5 * z + b, torch.full((2, 3), 2.0 + 1e-7), stop=eq.Stop(1e-4)
        )
        assert (r.steps == 1).all()
        assert (r.value == 2.0 + 1e-7).all()

    def test_a_residual_that_is_a_little_larger_with_the_graph_is_told_as_it_is(self):
        """By what an iteration inside f leaves, say; not by more than the tolerance."""
        b = torch.ones(2, 1, requires_grad=True)

        def solve(shift):
            return eq.fixed_point(
                lambda z: 0.5 * z + b + (shift if z.requires_grad else 0.0),
                torch.full((2, 1), 2.0),
                stop=eq.Stop(1e-3, 50),
                on_failure="ignore",
            )

        assert solve(torch.tensor([[1.9e-3], [0.0]])).converged.all()
        r = solve(torch.tensor([[3e-3], [0.0]]))
        assert r.status.tolist() == [eq.Status.MAX_STEPS, eq.Status.CONVERGED]
        assert r.residual[0] == pytest.approx(3e-3 / 2.003)
        with pytest.raises(RuntimeError, match="f changed"):
            solve(torch.tensor([[6e-3], [0.0]]))
