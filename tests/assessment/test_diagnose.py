"""Diagnoses, on maps whose answers are known."""

from __future__ import annotations

import math

import pytest
import torch

import equipoise as eq
from equipoise.assessment import diagnose as d
from equipoise.reconstruction.denoisers import Invariant, ProximalNetwork

N = 6


def linear(M):
    return lambda x: (x.flatten(1) @ M.T).reshape(x.shape)


@pytest.fixture
def x():
    return torch.randn(3, 1, N, N, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def matrix(seed=0):
    return torch.randn(
        N * N, N * N, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )


def symmetric(low, high):
    Q = torch.linalg.qr(matrix())[0]
    return Q @ torch.diag(torch.linspace(low, high, N * N, dtype=torch.float64)) @ Q.T


class TestJacobian:
    def test_products(self, x):
        M = matrix()
        J = d.Jacobian(linear(M), x)
        v = torch.randn_like(x)
        assert torch.allclose(J(v), linear(M)(v))
        assert torch.allclose(J.T(v), linear(M.T)(v))

    def test_linear_prox(self, x):
        J = d.Jacobian(linear(symmetric(0.1, 0.9)), x)
        assert float(d.asymmetry(J).value.max()) < 1e-12
        found = d.spectrum(J, steps=36)
        assert found.smallest.value == pytest.approx([0.1] * 3, abs=1e-8)
        assert found.largest.value == pytest.approx([0.9] * 3, abs=1e-8)
        assert found.norm.value == pytest.approx([0.9] * 3, abs=1e-8)

    def test_the_bound_holds_before_lanczos_has_converged(self, x):
        J = d.Jacobian(linear(symmetric(-0.3, 1.2)), x)
        found = d.spectrum(J, steps=8)
        assert ((found.smallest.value + 0.3).abs() <= found.smallest.error + 1e-12).all()
        assert ((found.largest.value - 1.2).abs() <= found.largest.error + 1e-12).all()
        assert float(found.smallest.error.max()) > 1e-6  # the bound says something

    @pytest.mark.parametrize("eigenvalues", [[0.8], [0.8, 0.3], [0.5, -0.2, 0.9]])
    def test_few_eigenvalues(self, x, eigenvalues):
        """Far more steps than there are eigenvalues find these, and no others."""
        diagonal = torch.tensor(eigenvalues, dtype=torch.float64)
        weights = diagonal.repeat(N * N)[: N * N].reshape(N, N)
        found = d.spectrum(d.Jacobian(lambda u: weights * u, x), steps=30)
        assert found.smallest.value == pytest.approx([min(eigenvalues)] * 3)
        assert found.largest.value == pytest.approx([max(eigenvalues)] * 3)
        assert found.norm.value == pytest.approx([max(abs(e) for e in eigenvalues)] * 3)
        assert float(found.smallest.error.max()) < 1e-9

    def test_the_zero_map(self, x):
        found = d.spectrum(d.Jacobian(lambda u: 0 * u, x), steps=5)
        assert found.smallest.value.tolist() == found.norm.value.tolist() == [0.0] * 3

    def test_soft_thresholding(self, x):
        J = d.Jacobian(lambda u: u.sign() * (u.abs() - 0.3).clamp_min(0), x)
        found = d.spectrum(J, steps=4)
        assert float(d.asymmetry(J).value.max()) == 0
        assert found.smallest.value == pytest.approx([0.0] * 3, abs=1e-9)
        assert found.norm.value == pytest.approx([1.0] * 3, abs=1e-9)

    def test_rows(self):
        found = d.Estimate(torch.tensor([1.0, -2.0, 4.0]), torch.tensor([0.1, 0.2, 0.6]))
        assert found.row()["value"] == pytest.approx(1)
        assert found.row("lowest") == pytest.approx(
            {"value": -2, "error": 0.2, "spread": 2.449}, rel=1e-3
        )
        assert found.row("highest")["error"] == pytest.approx(0.6)

    def test_rotation_of_the_plane(self, x):
        """By an angle t: symmetric part cos t, skew part sin t, norm 1."""
        t = 0.4
        turn = torch.tensor(
            [[math.cos(t), -math.sin(t)], [math.sin(t), math.cos(t)]], dtype=torch.float64
        )
        J = d.Jacobian(linear(torch.block_diag(*[turn] * (N * N // 2))), x)
        assert d.asymmetry(J).value == pytest.approx([math.tan(t)] * 3, rel=1e-9)
        found = d.spectrum(J, steps=3)
        assert found.smallest.value == pytest.approx([math.cos(t)] * 3)
        assert found.norm.value == pytest.approx([1.0] * 3)

    def test_asymmetry_of_a_matrix_within_its_error(self, x):
        M = matrix()
        exact = float((M - M.T).norm() / (M + M.T).norm())
        found = d.asymmetry(d.Jacobian(linear(M), x), probes=200)
        assert float((found.value - exact).abs().max()) < 4 * float(found.error.max())
        assert float(found.error.max()) < 0.05


class TestPrior:
    def test_of_soft_thresholding(self, x):
        """D = prox of 0.3 ‖·‖₁."""
        D = lambda u: u.sign() * (u.abs() - 0.3).clamp_min(0)  # noqa: E731
        found = d.prior(D, torch.zeros_like(x), x, points=4001)
        assert torch.allclose(found, 0.3 * D(x).abs().flatten(1).sum(1), rtol=1e-4)
        assert (
            float(d.path_dependence(D, torch.zeros_like(x), x, x.roll(1, 0), points=2001).max())
            < 1e-4
        )

    def test_of_a_linear_prox(self, x):
        M = symmetric(0.2, 0.8)
        inverse = torch.linalg.inv(M)
        u = linear(M)(x)
        exact = 0.5 * (u * (linear(inverse)(u) - u)).flatten(1).sum(1)
        assert torch.allclose(d.prior(linear(M), torch.zeros_like(x), x, points=3), exact)

    def test_of_the_learned_proximal_network(self, x):
        torch.manual_seed(0)
        net = ProximalNetwork(channels=4, layers=2).double()
        found = d.prior(lambda u: net(u, 0.05), torch.zeros_like(x), x, points=257)
        exact = net.prior(x, 0.05) - net.prior(torch.zeros_like(x), 0.05)
        assert torch.allclose(found, exact.detach(), rtol=1e-6)
        J = d.Jacobian(lambda u: net(u, 0.05), x)
        assert float(d.asymmetry(J).value.max()) < 1e-9
        assert float(d.spectrum(J, 20).smallest.value.min()) > 0

    def test_a_map_without_one_is_found_out(self, x):
        M = matrix() / 10
        assert (
            float(d.path_dependence(linear(M), torch.zeros_like(x), x, x.roll(1, 0)).min()) > 1e-3
        )


class TestInvariance:
    def test_commutes(self, x):
        torch.manual_seed(0)
        net = eq.load_denoiser().double()
        turn = dict(d.moves(x.shape)["turn"])[90.0]
        plain = d.commutes(lambda u: net(u, 0.1), x, turn)
        averaged = Invariant(net, eq.Rotations(multiples=90))
        assert float(plain.detach().min()) > 1e-3
        assert float(d.commutes(lambda u: averaged(u, 0.1), x, turn).detach().max()) < 1e-12

    def test_gap_of_an_exact_inverse_is_zero(self, x):
        physics = eq.ParallelBeam(N, 30, normalize=True).double()
        A = torch.stack(
            [
                physics.A(e.reshape(1, 1, N, N))[0].flatten()
                for e in torch.eye(N * N, dtype=torch.float64)
            ],
            1,
        )
        pinv = torch.linalg.pinv(A)
        for moves in d.moves(x.shape).values():
            for _, move in moves:
                gap = d.equivariance_gap(
                    lambda y: (y.flatten(1) @ pinv.T).reshape(-1, 1, N, N), physics, x, move
                )
                assert float(gap.max()) < 1e-6
        twice = d.equivariance_gap(
            lambda y: 2 * (y.flatten(1) @ pinv.T).reshape(-1, 1, N, N),
            physics,
            x,
            lambda u: u.flip(-1),
        )
        assert twice == pytest.approx([1.0] * len(x), abs=1e-6)


def test_range_and_null(x):
    physics = eq.ParallelBeam(N, 2, normalize=True).double()
    seen, unseen = d.range_and_null(physics, x)
    assert float(physics.A(unseen).norm() / physics.A(x).norm()) < 1e-4
    assert float((seen * unseen).sum() / x.square().sum()) < 1e-4
    parts = d.error_parts(physics, torch.zeros_like(x), x)
    assert parts["null_missing"] == pytest.approx(1)
    assert parts["range"] + parts["null"] == pytest.approx(float(x.square().mean()), rel=1e-3)
