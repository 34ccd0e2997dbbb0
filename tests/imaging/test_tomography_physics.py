"""Tomography in deepinv's contract."""

from __future__ import annotations

import copy
import pickle

import deepinv
import numpy as np
import pytest
import torch

import equipoise as eq


class TestTomography:
    """Norm, proximal map, copies, parts and bad input."""

    def test_norm_and_normalize(self):
        physics = eq.ParallelBeam(16, 8)
        dense = physics.A(torch.eye(256).reshape(256, 1, 16, 16)).flatten(1)
        assert physics.norm() == pytest.approx(float(torch.linalg.matrix_norm(dense, 2)), rel=1e-3)
        before = physics.A(torch.ones(1, 1, 16, 16))
        assert physics.normalize().norm() == pytest.approx(1, rel=1e-3)
        assert torch.allclose(physics.A(torch.ones(1, 1, 16, 16)), before * physics.gain)

    @pytest.mark.parametrize("direct", [True, False])
    def test_proximal_map_and_its_derivatives(self, direct, monkeypatch):
        """x = argmin γ/2 ‖Ax − y‖² + ½‖x − z‖² satisfies its normal equation, and so on."""
        monkeypatch.setattr(
            "equipoise.imaging.tomography.physics.DIRECT_SIZE", 4096 if direct else 0
        )
        physics = eq.ParallelBeam(6, 4, normalize=True)
        z = torch.randn(2, 1, 6, 6, dtype=torch.float64, requires_grad=True)
        y = torch.randn(2, *physics.measurement_shape, dtype=torch.float64, requires_grad=True)
        gamma = torch.tensor(30.0, dtype=torch.float64, requires_grad=True)
        x = physics.prox_l2(z, y, gamma, tol=1e-13)
        assert (gamma * physics.A_adjoint(physics.A(x) - y) + x - z).norm() < 1e-9
        assert torch.autograd.gradcheck(lambda *a: physics.prox_l2(*a, tol=1e-14), (z, y, gamma))
        account = physics.prox_account(z.detach(), y.detach(), 30.0, tol=1e-9)
        assert torch.allclose(account.value, x, atol=1e-7)
        assert (account.residual < 1e-8).all()
        assert (account.iterations == 0) == direct

    def test_copies_share_the_matrix(self):
        physics = eq.ParallelBeam(16, 8)
        for other in (copy.deepcopy(physics), eq.ParallelBeam(16, 8)):
            assert other.matrix is physics.matrix
        assert pickle.loads(pickle.dumps(physics.matrix)) is physics.matrix

    def test_views_are_part_of_the_scan(self):
        physics, x = eq.ParallelBeam(16, 8, normalize=True), torch.rand(2, 1, 16, 16)
        assert torch.allclose(physics.views([1, 4]).A(x), physics.A(x)[:, :, [1, 4]], atol=1e-6)

    def test_bad_input(self):
        physics = eq.ParallelBeam(16, 8)
        with pytest.raises(ValueError, match=r"x must have shape \(B, 1, 16, 16\)"):
            physics.A(torch.zeros(1, 1, 16, 17))
        with pytest.raises(ValueError, match=r"y must have shape \(B, 1, 8, 23\)"):
            physics.A_adjoint(torch.zeros(1, 1, 9, 23))
        with pytest.raises(ValueError, match="at least 1 view"):
            eq.ParallelBeam(16, 0)
        with pytest.raises(ValueError, match="whole number of views"):
            eq.ParallelBeam(16, torch.tensor(20))
        assert eq.ParallelBeam(16, np.int64(6)).measurement_shape[1] == 6
        with pytest.raises(ValueError, match="source_distance"):
            eq.FanBeam(16, 8, 5.0, 5.0)

    def test_deepinv_takes_it(self):
        physics = eq.ParallelBeam(
            16, 8, normalize=True, noise_model=deepinv.physics.GaussianNoise(0.01)
        )
        x = torch.rand(1, 1, 16, 16)
        assert physics(x).shape == (1, 1, 8, 23)
        assert float(physics.adjointness_test(x)) < 1e-3
        assert physics.A_dagger(physics.A(x)).shape == x.shape

    def test_pickle_precision_and_state(self):
        physics = eq.FanBeam(
            16, 12, 60.0, 40.0, normalize=True, noise_model=deepinv.physics.GaussianNoise(0.01)
        )
        again = pickle.loads(pickle.dumps(physics))
        x = torch.rand(1, 1, 16, 16, dtype=torch.float64)
        assert torch.equal(again.A(x), physics.A(x))
        assert physics.A(x.float()).dtype == torch.float32
        again.load_state_dict(physics.state_dict())
        assert float(again.noise_model.sigma) == pytest.approx(0.01)
        assert (again(x.float()) - physics.A(x.float())).std() == pytest.approx(0.01, rel=0.3)
