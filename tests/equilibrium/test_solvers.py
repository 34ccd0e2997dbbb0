"""Laws of the solvers."""

from __future__ import annotations

import pytest
import torch
from fixed_point_problems import NONLINEAR, SOLVERS, symmetric

import equipoise as eq


class TestSolvers:
    @pytest.mark.parametrize("solver", SOLVERS, ids=repr)
    def test_reaches_the_solution(self, solver):
        M, b = symmetric(50, 0.9)
        r = eq.solve(
            lambda z: z @ M + b, torch.zeros(1, 50), solver=solver, stop=eq.Stop(1e-12, 2000)
        )
        exact = torch.linalg.solve(torch.eye(50) - M, b.T).T
        assert r.converged.all()
        assert (r.value - exact).norm() < 1e-10 * exact.norm()
        fz = r.value @ M + b
        assert float((fz - r.value).norm() / fz.norm()) == pytest.approx(
            float(r.residual), rel=1e-6
        )
        assert r.trace.shape == (int(r.steps.max()), 1)
        assert r.trace[-1] == r.residual

    @pytest.mark.parametrize(
        ("solver", "most"),
        [(eq.Anderson(memory=10), 130), (eq.Broyden(), 160), (eq.GMRES(memory=60), 70)],
        ids=repr,
    )
    def test_evaluations_on_the_symmetric_problem(self, solver, most):
        M, b = symmetric()
        r = eq.solve(
            lambda z: z @ M + b, torch.zeros(1, 200), solver=solver, stop=eq.Stop(1e-8, 2000)
        )
        assert r.converged.all()
        assert int(r.steps) <= most

    @pytest.mark.parametrize("solver", NONLINEAR, ids=repr)
    def test_a_sample_does_not_depend_on_its_batchmates(self, solver):
        rates = torch.tensor([0.3, 0.9, 0.6, 0.0])[:, None]
        W, y = torch.linalg.qr(torch.randn(30, 30))[0], torch.randn(4, 30)

        def f(rate, y):
            return lambda z: rate * torch.tanh(z @ W) + y

        together = eq.solve(f(rates, y), torch.zeros(4, 30), solver=solver, stop=eq.Stop(1e-9, 400))
        for i in range(4):
            alone = eq.solve(
                f(rates[i : i + 1], y[i : i + 1]),
                torch.zeros(1, 30),
                solver=solver,
                stop=eq.Stop(1e-9, 400),
            )
            assert (alone.value - together.value[i]).abs().max() <= 1e-10
            assert int(alone.steps) == int(together.steps[i])
            assert int(alone.status) == int(together.status[i])

    def test_finished_samples_are_left_out_where_f_allows_it(self):
        rates = torch.tensor([0.3, 0.9, 0.99])[:, None]
        seen = []

        class F:
            def __init__(self, rates, y):
                self.rates, self.y = rates, y

            def __call__(self, z):
                seen.append(len(z))
                return self.rates * torch.cos(z) + self.y

            def restrict(self, index):
                return F(self.rates[index], self.y[index])

        r = eq.solve(
            F(rates, torch.randn(3, 5)),
            torch.zeros(3, 5),
            solver=eq.Picard(),
            stop=eq.Stop(1e-8, 2000),
        )
        assert r.converged.all()
        assert sum(seen) == int(r.steps.sum())

    @pytest.mark.parametrize("solver", SOLVERS, ids=repr)
    @pytest.mark.parametrize("scale", [1e-6, 1e6])
    def test_scale_of_the_data_does_not_matter(self, solver, scale):
        M, b = symmetric(60, 0.95)
        steps = [
            int(
                eq.solve(
                    lambda z, s=s: z @ M + s * b,
                    torch.zeros(1, 60),
                    solver=solver,
                    stop=eq.Stop(1e-8, 3000),
                ).steps
            )
            for s in (1.0, scale)
        ]
        assert abs(steps[0] - steps[1]) <= 1

    @pytest.mark.parametrize("solver", [eq.Anderson(), eq.Broyden()], ids=repr)
    @pytest.mark.parametrize(
        ("rate", "rtol"), [(0.5, 1e-8), (0.9, 1e-8), (0.99, 1e-8), (0.999, 1e-3)]
    )
    @pytest.mark.parametrize(
        "kind",
        ["symmetric", "skew", "ill-conditioned", "relu", "kinks", "averaged", "averaged relu"],
    )
    def test_never_much_slower_than_picard(self, solver, rate, rtol, kind):
        rng = torch.Generator().manual_seed(3)
        n = 40
        G = torch.randn(n, n, generator=rng)
        b = torch.randn(2, n, generator=rng)
        Q, turn = torch.linalg.qr(G)[0], torch.linalg.matrix_exp(G - G.T)
        M = {
            "symmetric": symmetric(n, rate)[0],
            "ill-conditioned": Q @ torch.diag(rate * torch.logspace(-8, 0, n)) @ Q.T,
            "relu": G / torch.linalg.matrix_norm(G, 2) * rate,
        }.get(kind, rate * turn)

        def f(z):
            if kind == "relu":
                return torch.relu(z @ M + b)
            if kind == "kinks":
                return (z @ M).abs() + b
            if kind == "averaged":
                return 0.5 * z + 0.5 * (z @ M + b)
            if kind == "averaged relu":
                return 0.3 * z + 0.7 * torch.relu(z @ M + b)
            return z @ M + b

        stop = eq.Stop(rtol, 30000)
        picard = eq.solve(f, torch.zeros(2, n), solver=eq.Picard(), stop=stop)
        most = int(1.2 * picard.steps.max()) + 1
        other = eq.solve(
            f, torch.zeros(2, n), solver=solver, stop=eq.Stop(rtol, most), on_failure="ignore"
        )
        assert other.converged.all()
        assert (other.steps <= 1.2 * picard.steps + 1).all()

    def test_plain_windows_do_no_harm_where_the_plain_iteration_expands(self):
        """f = Q(1.05 z) has no contraction, but a fixed point that acceleration finds."""
        Q = torch.linalg.qr(torch.randn(30, 30))[0]
        r = eq.solve(
            lambda z: 1.05 * z @ Q + 1,
            torch.zeros(1, 30),
            solver=eq.Anderson(memory=40),
            stop=eq.Stop(1e-8, 200),
        )
        assert r.converged.all()

    def test_andersons_step_is_picards_where_its_least_squares_have_no_solution(self):
        """By rounding, a Gram matrix of nearly parallel differences may be indefinite."""
        indefinite = torch.tensor([[[1.0, 2.0], [2.0, 1.0]]])
        assert (eq.Anderson(2)._weights(indefinite, torch.ones(1, 2)) == 0).all()
        b = torch.tensor([[1.0], [2.0]])
        for ridge in (None, 0.0):
            solver = eq.Anderson(memory=5, ridge=ridge)
            r = eq.solve(lambda z: 0.9 * torch.cos(z) + b, 0 * b, solver=solver)
            assert r.converged.all()

    def test_exact_degeneracy_never_fails(self):
        for solver in SOLVERS:
            r = eq.solve(lambda z: z, torch.ones(3, 4), solver=solver)
            assert r.converged.all()
            assert (r.steps == 1).all()
            r = eq.solve(lambda z: torch.ones_like(z), torch.zeros(3, 4), solver=solver)
            assert r.converged.all()
            r = eq.solve(lambda z: z + 1, torch.zeros(3, 4), solver=solver, on_failure="ignore")
            assert r.value.isfinite().all()

    def test_bad_settings_are_refused(self):
        for make in (
            lambda: eq.Stop(rtol=-1),
            lambda: eq.Stop(max_steps=0),
            lambda: eq.Picard(damping=0),
            lambda: eq.Anderson(memory=0),
            lambda: eq.Anderson(ridge=2),
            lambda: eq.Phantom(steps=0),
            lambda: eq.Unrolled(steps=0),
            lambda: eq.Neumann(terms=-1),
        ):
            with pytest.raises(ValueError, match="must be"):
                make()
