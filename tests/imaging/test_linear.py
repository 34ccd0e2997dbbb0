"""Laws of the inner solvers."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from equipoise.imaging.linear import (
    InexactSolveWarning,
    conjugate_gradients,
    inverse_form,
    per_sample,
    proximal_l2,
    solve_spd,
)


def randn(*shape, seed=0, grad=True):
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=rng, dtype=torch.float64).requires_grad_(grad)


class Counted:
    """A map that counts how often it is applied."""

    def __init__(self, f):
        self.f, self.count = f, 0

    def __call__(self, v):
        self.count += 1
        return self.f(v)


class TestConjugateGradients:
    def test_reports(self):
        M = torch.diag(torch.linspace(1, 9, 20, dtype=torch.float64))
        b = torch.randn(3, 20, dtype=torch.float64)
        b[1] = 0
        r = conjugate_gradients(lambda v: v @ M, b, tol=1e-10)
        assert (r.residual < 1e-10).all()
        assert torch.allclose(r.value @ M, b)
        assert r.iterations <= 21

    def test_the_residual_is_that_of_what_is_returned(self):
        M = torch.diag(torch.logspace(-3, 0, 40, dtype=torch.float64))
        b = randn(3, 40, grad=False)
        r = conjugate_gradients(lambda v: v @ M, b, tol=1e-12, max_iter=9)
        true = (b - r.value @ M).norm(dim=1) / b.norm(dim=1)
        assert torch.allclose(r.residual, true, rtol=1e-6)
        assert r.iterations == 9

    def test_finished_samples_stay_as_they_are(self):
        """What one sample gets does not depend on how long the others take."""
        M = torch.diag(torch.logspace(-3, 0, 40, dtype=torch.float64))
        b = randn(4, 40, grad=False)
        b[0] *= torch.logspace(-6, 0, 40)  # mostly where M is large: soon within the tolerance
        b[2, 1:] = 0  # in one eigenspace: done, and exactly so, after one step
        together = conjugate_gradients(lambda v: v @ M, b, tol=1e-3)
        for i in range(4):
            alone = conjugate_gradients(lambda v: v @ M, b[i : i + 1], tol=1e-3)
            assert torch.allclose(together.value[i], alone.value[0], rtol=1e-13, atol=1e-13)
            assert float(together.residual[i]) == pytest.approx(float(alone.residual), rel=1e-9)
            if i in (0, 2):
                assert alone.iterations < together.iterations

    def test_in_full_precision_under_autocast(self):
        M = torch.diag(torch.logspace(-3, 0, 40))
        b = randn(2, 40, grad=False).float()
        with torch.autocast("cpu", torch.bfloat16):
            r = conjugate_gradients(lambda v: v @ M, b, tol=1e-4)
        assert (b - r.value @ M).norm() < 2e-4 * b.norm()


class TestSolve:
    """x = M⁻¹ b, for M = G Gᵀ + λ: derivatives in b, G and λ."""

    @staticmethod
    def solve(b, G, strength):
        return solve_spd(lambda v: v @ G @ G.T + strength * v, b, tol=1e-14)

    def test_value(self):
        b, G, strength = randn(2, 5), randn(5, 5, seed=1), torch.tensor(0.7, dtype=torch.float64)
        exact = torch.linalg.solve(G @ G.T + strength * torch.eye(5).double(), b.T).T
        assert torch.allclose(self.solve(b, G, strength), exact)

    def test_first_and_second_derivatives_in_all_it_is_made_of(self):
        b, G = randn(2, 4), randn(4, 4, seed=1)
        strength = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
        assert gradcheck(self.solve, (b, G, strength))
        assert gradgradcheck(self.solve, (b, G, strength))

    def test_derivatives_agree_with_dense_algebra(self):
        """As it is used: one number of the answer, its gradient, and the gradient's."""
        b, G = randn(2, 4), randn(4, 4, seed=1)
        strength = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)

        def dense(b, G, strength):
            return torch.linalg.solve(G @ G.T + strength * torch.eye(4).double(), b.T).T

        found = []
        for f in (self.solve, dense):
            value = f(b, G, strength).square().sum()
            first = torch.autograd.grad(value, (b, G, strength), create_graph=True)
            squares = sum(g.square().sum() for g in first)
            found.append([*first, *torch.autograd.grad(squares, (b, G, strength))])
        assert all(torch.allclose(a, e, rtol=1e-8) for a, e in zip(*found))

    def test_forward_derivative(self):
        b, G = randn(2, 4), randn(4, 4, seed=1)
        assert gradcheck(
            lambda b, G: self.solve(b, G, 0.7),
            (b, G),
            check_forward_ad=True,
            check_backward_ad=False,
        )

    def test_parameters_that_are_not_leaves(self):
        g = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)
        b, G = randn(2, 4, grad=False), randn(4, 4, seed=1, grad=False)
        assert gradcheck(lambda g: self.solve(b, g.exp() * G, g.square()), g)
        assert gradgradcheck(lambda g: self.solve(b, g.exp() * G, g.square()), g)

    @pytest.mark.parametrize("learnt", [False, True])
    def test_cost(self, learnt):
        """A solve forward and a solve backward; of M, one application more to see whether it can
        be differentiated, and one if it can."""
        G = randn(30, 30, seed=1, grad=learnt)
        M = Counted(lambda v: v @ G @ G.T + v)
        b = randn(2, 30)
        with torch.no_grad():
            solve_spd(M, b)
        one = M.count
        x = solve_spd(M, b)
        assert M.count == one + one + 1 + learnt
        before = M.count
        x.sum().backward()
        assert M.count - before <= one + 1

    def test_no_gradients_no_cost(self):
        M = Counted(lambda v: 2 * v)
        with torch.no_grad():
            solve_spd(M, randn(1, 3))
        assert M.count == 1

    def test_a_cap_that_is_hit_is_told(self):
        M = torch.diag(torch.logspace(-4, 0, 60, dtype=torch.float64))
        b = randn(2, 60)
        with pytest.warns(InexactSolveWarning, match=r"max_iter=7, before tol=1e-08"):
            x = solve_spd(lambda v: v @ M, b, tol=1e-8, max_iter=7)
        with pytest.warns(InexactSolveWarning):
            x.sum().backward()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            solve_spd(lambda v: v @ M, b, tol=1e-8, max_iter=200)

    def test_it_is_told_once(self):
        M = torch.diag(torch.logspace(-4, 0, 60, dtype=torch.float64))
        with warnings.catch_warnings(record=True) as shown:
            warnings.simplefilter("default")
            for seed in range(3):
                solve_spd(lambda v: v @ M, randn(2, 60, seed=seed), tol=1e-8, max_iter=6)
        assert len(shown) == 1


class TestInverseForm:
    """⟨b, M⁻¹ b⟩, for M = G Gᵀ + λ."""

    @staticmethod
    def form(b, G, strength, tol=1e-14):
        return inverse_form(lambda v: v @ G @ G.T + strength * v, b, tol)

    def test_value_and_derivatives(self):
        b, G = randn(2, 4), randn(4, 4, seed=1)
        strength = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)

        def dense(b, G, strength):
            M = G @ G.T + strength * torch.eye(4).double()
            return (b * torch.linalg.solve(M, b.T).T).sum(1)

        assert torch.allclose(self.form(b, G, strength), dense(b, G, strength), rtol=1e-10)
        assert gradcheck(self.form, (b, G, strength), check_forward_ad=True)
        assert gradgradcheck(self.form, (b, G, strength))
        found = []
        for f in (self.form, dense):
            first = torch.autograd.grad(f(b, G, strength).sum(), (b, G, strength))
            found.append(first)
        assert all(torch.allclose(a, e, rtol=1e-9) for a, e in zip(*found))

    def test_complex(self):
        b = torch.complex(randn(2, 4), randn(2, 4, seed=2)).detach().requires_grad_()
        scale = torch.linspace(1, 2, 4, dtype=torch.float64)
        value = inverse_form(lambda v: scale * v, b, 1e-14)
        assert torch.allclose(value, (b.abs().square() / scale).sum(1))
        (g,) = torch.autograd.grad(value.sum(), b)
        assert torch.allclose(g, 2 * b / scale)

    def test_an_error_counts_by_its_square(self):
        M = torch.diag(torch.logspace(-2, 0, 60, dtype=torch.float64))
        b = randn(2, 60, grad=False)
        exact = (b * (b / M.diagonal())).sum(1)
        rough = inverse_form(lambda v: v @ M, b, 1e-2)
        left_out = (b * conjugate_gradients(lambda v: v @ M, b, 1e-2, 200).value).sum(1)
        assert ((rough - exact).abs() / exact).max() < 1e-3
        assert (rough - exact).abs().max() <= (left_out - exact).abs().max() * 1.01

    def test_the_first_derivative_costs_no_solve(self):
        G = randn(30, 30, seed=1)
        M = Counted(lambda v: v @ G @ G.T + v)
        value = inverse_form(M, randn(2, 30))
        before = M.count
        value.sum().backward()
        assert M.count == before


class TestProximal:
    def test_matches_dense_algebra(self):
        A = torch.randn(5, 7, dtype=torch.float64)
        d, y = torch.randn(2, 7, dtype=torch.float64), torch.randn(2, 5, dtype=torch.float64)
        out = proximal_l2(lambda x: x @ A.T, lambda y: y @ A, d, y, 0.3, 1e-13)
        exact = torch.linalg.solve(A.T @ A + 0.3 * torch.eye(7).double(), (y @ A + 0.3 * d).T).T
        assert torch.allclose(out, exact)

    def test_an_operator_with_a_gain(self):
        """A = g · M: d/dg of the proximal map, as finite differences and dense algebra have it."""
        M, d, y = randn(5, 7, grad=False), randn(1, 7, seed=1, grad=False), randn(1, 5, seed=2)
        g = torch.tensor(1.1, dtype=torch.float64, requires_grad=True)

        def found(g):
            return proximal_l2(lambda x: g * (x @ M.T), lambda v: g * (v @ M), d, y, 0.3, 1e-14)

        A = g * M
        exact = torch.linalg.solve(A.T @ A + 0.3 * torch.eye(7).double(), (y @ A + 0.3 * d).T).T
        (right,) = torch.autograd.grad(exact.sum(), g)
        (ours,) = torch.autograd.grad(found(g).sum(), g)
        assert float(ours) == pytest.approx(float(right), rel=1e-9)
        assert gradgradcheck(found, g)

    @pytest.mark.parametrize("shape", [(), (1,), (3,), (3, 1), (3, 1, 1, 1)])
    def test_one_strength_or_one_for_each_sample(self, shape):
        """Also where there are as many samples as columns."""
        d, y = randn(3, 1, 3, 3), randn(3, 1, 3, 3, seed=1)
        strength = torch.linspace(0.5, 2, 3).double()[: max(1, torch.Size(shape).numel())]
        out = proximal_l2(lambda x: x, lambda v: v, d, y, strength.reshape(shape), 1e-12)
        weight = strength.reshape(-1, 1, 1, 1)
        assert torch.allclose(out, (y + weight * d) / (1 + weight))

    def test_other_numbers_of_strengths(self):
        with pytest.raises(ValueError, match=r"one for each of 3 samples, got shape \(2,\)"):
            per_sample(torch.ones(2), torch.zeros(3, 1, 4, 4))

    def test_lists_of_measurements(self):
        """Stacked operators: two of them, or one that measures all at once."""
        from deepinv.utils import TensorList

        A, C = randn(3, 6), randn(2, 6, seed=1)
        d, y, z = randn(2, 6, seed=2), randn(2, 3, seed=3), randn(2, 2, seed=4)

        def stacked(A, C, d, y, z):
            def forward(x):
                return TensorList([x @ A.T, x @ C.T])

            return proximal_l2(
                forward, lambda v: v[0] @ A + v[1] @ C, d, TensorList([y, z]), 0.4, 1e-14
            )

        both = torch.cat([A, C])
        whole = proximal_l2(
            lambda x: x @ both.T, lambda v: v @ both, d, torch.cat([y, z], 1), 0.4, 1e-14
        )
        assert torch.allclose(stacked(A, C, d, y, z), whole)
        assert gradcheck(stacked, (A, C, d, y, z))
