"""Tomography in deepinv's contract."""

from __future__ import annotations

import copy
import pickle

import deepinv
import numpy as np
import pytest
import torch

import equipoise as eq
from equipoise.imaging.linear import InexactSolveWarning
from equipoise.imaging.phantoms import phantoms
from equipoise.imaging.tomography import projector


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

    def test_a_view_that_is_not_there(self):
        physics = eq.ParallelBeam(16, 5)
        for index in ([5], [0, -6]):
            with pytest.raises(IndexError, match=rf"view {index[-1]} is not there.* 0 to 4"):
                physics.views(index)
        assert physics.views([-1]).geometry.angles == physics.geometry.angles[-1:]

    @pytest.mark.parametrize("gamma", [0, -1.0, torch.tensor([1.0, 0.0]), float("nan")])
    def test_gamma_is_positive(self, gamma):
        physics = eq.ParallelBeam(16, 5)
        y = physics.A(torch.rand(2, 1, 16, 16))
        with pytest.raises(ValueError, match="gamma must be positive, got"):
            physics.prox_l2(None, y, gamma)

    def test_views_are_part_of_the_scan(self):
        physics, x = eq.ParallelBeam(16, 8, normalize=True), torch.rand(2, 1, 16, 16)
        assert torch.allclose(physics.views([1, 4]).A(x), physics.A(x)[:, :, [1, 4]], atol=1e-6)

    @pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.complex64])
    def test_images_of_whole_and_of_complex_numbers(self, dtype):
        """Line integrals of whole numbers are none, and both parts of a complex image count."""
        physics = eq.FanBeam(12, 7, 40, 30, normalize=True)
        x = torch.randint(0, 200, (2, 1, 12, 12)).to(dtype)
        x = x * (1 - 2j) if x.is_complex() else x
        exact = physics.A(x.real.float() if x.is_complex() else x.float())
        expected = torch.complex(exact, -2 * exact) if x.is_complex() else exact
        assert torch.allclose(physics.A(x), expected, rtol=1e-6)
        y = expected if x.is_complex() else (10 * exact).round().long()
        back = physics.A_adjoint(y)
        assert back.dtype == expected.dtype
        real = physics.A_adjoint(y.real.float() if y.is_complex() else y.float())
        assert torch.allclose(back.real, real, rtol=1e-6)

    @pytest.mark.parametrize("angles", [7, torch.tensor([80.0, 10.0, 170.0, 100.0, 35.0])])
    def test_whoever_asks_first_training_may_ask_next(self, angles):
        """What is kept of an operator is no tensor of inference mode, which has no derivative."""
        projector.forget_matrices()
        physics = eq.ParallelBeam(14, angles, normalize=True)
        y = physics.A(phantoms(2, 14))
        model = eq.EquilibriumReconstructor(eq.ProximalStep(eq.load_denoiser(), strength=0.01))
        with torch.inference_mode():
            model(y, physics)
        x = model(y, physics)
        loss = eq.MeasurementConsistency()(x_net=x, y=y, physics=physics)
        loss = loss + eq.Equivariance(eq.Rotations())(x_net=x, physics=physics, model=model)
        loss.mean().backward()
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)

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


def without_eigenvectors(monkeypatch):
    monkeypatch.setattr("equipoise.imaging.tomography.physics.DIRECT_SIZE", 0)


def optimality(physics, x, z, y, gamma):
    """‖γ Aᵀ(A x − y) + x − z‖ of each sample, as a fraction of ‖x‖."""
    left = gamma.reshape(-1, 1, 1, 1) * physics.A_adjoint(physics.A(x) - y) + x - z
    return left.flatten(1).norm(dim=1) / x.flatten(1).norm(dim=1)


class TestDeepinvsContract:
    """What deepinv's own methods take, and its defaults."""

    @pytest.fixture
    def scan(self):
        physics = eq.ParallelBeam(4, 5, normalize=True)
        rng = torch.Generator().manual_seed(0)
        z = torch.randn(4, 1, 4, 4, generator=rng, dtype=torch.float64)
        y = torch.randn(4, *physics.measurement_shape, generator=rng, dtype=torch.float64)
        return physics, z, y

    @pytest.mark.parametrize("direct", [True, False])
    @pytest.mark.parametrize("shape", [(4,), (4, 1), (4, 1, 1, 1)])
    def test_a_gamma_for_each_sample(self, scan, direct, shape, monkeypatch):
        """As many samples as columns, so that a wrong axis would not show in the shapes."""
        if not direct:
            without_eigenvectors(monkeypatch)
        physics, z, y = scan
        gamma = torch.tensor([1.0, 5.0, 20.0, 80.0], dtype=torch.float64)
        x = physics.prox_l2(z, y, gamma.reshape(shape), tol=1e-12)
        assert (optimality(physics, x, z, y, gamma) < 1e-9).all()
        for i in range(4):
            alone = physics.prox_l2(z[i : i + 1], y[i : i + 1], float(gamma[i]), tol=1e-12)
            assert torch.allclose(alone[0], x[i], atol=1e-10)

    @pytest.mark.parametrize("direct", [True, False])
    def test_one_gamma(self, scan, direct, monkeypatch):
        if not direct:
            without_eigenvectors(monkeypatch)
        physics, z, y = scan
        exact = physics.prox_l2(z, y, 7.0, tol=1e-12)
        for gamma in (7, torch.tensor(7.0).double(), torch.full((1,), 7.0).double()):
            assert torch.allclose(physics.prox_l2(z, y, gamma, tol=1e-12), exact)
        assert (optimality(physics, exact, z, y, torch.tensor([7.0])) < 1e-9).all()
        image = torch.full_like(z, 7.0)
        assert torch.allclose(physics.prox_l2(z, y, image, tol=1e-12), exact)
        with pytest.raises(ValueError, match="one for each of 4 samples"):
            physics.prox_l2(z, y, torch.ones(3))

    @pytest.mark.parametrize("direct", [True, False])
    def test_a_start_that_is_none_or_a_number(self, scan, direct, monkeypatch):
        if not direct:
            without_eigenvectors(monkeypatch)
        physics, z, y = scan
        for start, same in ((None, 0.0), (0, 0.0), (0.5, 0.5), (torch.tensor(2.0), 2.0)):
            x = physics.prox_l2(start, y, 3.0, tol=1e-12)
            assert torch.allclose(x, physics.prox_l2(torch.full_like(z, same), y, 3.0, tol=1e-12))

    def test_defaults_that_are_none(self, scan):
        physics, z, y = scan
        assert torch.equal(
            physics.prox_l2(z, y, 3.0, solver=None, max_iter=None, tol=None, verbose=False),
            physics.prox_l2(z, y, 3.0),
        )
        assert torch.equal(physics.A_dagger(y, max_iter=None, tol=None), physics.A_dagger(y))
        assert torch.equal(physics.A_dagger(y), physics.least_squares(y).value)

    @pytest.mark.parametrize("solver", ["CG", "lsqr", "minres", "BiCGStab"])
    def test_deepinvs_solvers(self, scan, solver):
        physics, z, _ = scan
        y = physics.A(z)
        x = physics.A_dagger(y, solver=solver, max_iter=200, tol=1e-9)
        assert (physics.A(x) - y).norm() < 1e-3 * y.norm()
        u = physics.prox_l2(z, y, 3.0, solver=solver, max_iter=200, tol=1e-10)
        assert (optimality(physics, u, z, y, torch.tensor([3.0])) < 1e-5).all()
        with pytest.raises(ValueError, match="not recognized"):
            physics.A_dagger(y, solver="magic")

    @pytest.mark.parametrize("how", ["constructor", "set_ls_solver", "attributes"])
    def test_settings_are_used(self, scan, how, monkeypatch):
        without_eigenvectors(monkeypatch)
        _, z, y = scan
        limits = {"max_iter": 3, "tol": 1e-9}
        if how == "constructor":
            physics = eq.ParallelBeam(4, 5, normalize=True, **limits)
        else:
            physics = eq.ParallelBeam(4, 5, normalize=True)
        if how == "set_ls_solver":
            physics.set_ls_solver("CG", **limits)
        if how == "attributes":
            physics.max_iter, physics.tol = 3, 1e-9
        assert torch.equal(physics.A_dagger(y), physics.least_squares(y, **limits).value)
        with pytest.warns(InexactSolveWarning, match="max_iter=3, before tol=1e-09"):
            x = physics.prox_l2(z, y, 50.0)
        account = physics.prox_account(z, y, 50.0, **limits)
        assert torch.equal(x, account.value)
        assert account.iterations == 3

    def test_the_solver_is_used(self, scan, monkeypatch):
        physics, _, y = scan
        used = []
        original = deepinv.physics.LinearPhysics.A_dagger

        def noted(self, y, **options):
            used.append(options["solver"])
            return original(self, y, **options)

        monkeypatch.setattr(deepinv.physics.LinearPhysics, "A_dagger", noted)
        physics.A_dagger(y)
        physics.set_ls_solver("minres")
        physics.A_dagger(y)
        eq.ParallelBeam(4, 5, solver="lsqr").A_dagger(y)
        assert used == ["minres", "lsqr"]
        assert (physics.max_iter, physics.tol) == (None, None)  # a call's settings stay in the call

    def test_misspelt_settings_are_refused(self):
        with pytest.raises(TypeError, match="max_iterations"):
            eq.ParallelBeam(16, 8, max_iterations=3)
        with pytest.raises(TypeError, match="detector"):
            eq.FanBeam(16, 8, 60.0, 40.0, detector=9)

    def test_parameters(self, scan):
        """Its own cannot be changed, those of other operators are theirs to use."""
        physics, z, _ = scan
        assert torch.equal(physics.A(z, mask=torch.zeros(1), angles=None), physics.A(z))
        for method in (lambda **k: physics.A(z, **k), physics.update, physics.update_parameters):
            with pytest.raises(ValueError, match="angles of a ParallelBeam cannot be changed"):
                method(angles=torch.zeros(3))
        noisy = eq.ParallelBeam(4, 5, noise_model=deepinv.physics.GaussianNoise(0.1))
        noisy.update(sigma=torch.tensor(0.7))
        assert float(noisy.noise_model.sigma) == pytest.approx(0.7)

    def test_verbose_prints_the_account(self, scan, capsys):
        physics, z, y = scan
        physics.A_dagger(y, verbose=True)
        physics.prox_l2(z, y, 3.0, verbose=True)
        printed = capsys.readouterr().out.splitlines()
        assert printed[0].startswith("conjugate gradients: ")
        assert printed[1].startswith("solved through eigenvectors: ")

    def test_no_noise_model_is_shared(self):
        a, b = eq.ParallelBeam(4, 5), eq.ParallelBeam(4, 6)
        assert a.noise_model is not b.noise_model

    def test_sensor(self):
        physics = eq.ParallelBeam(4, 5, sensor_model=lambda y: y.clamp_max(0.5))
        assert float(physics(torch.ones(1, 1, 4, 4)).max()) == 0.5


class TestPseudoInverse:
    @pytest.mark.parametrize(
        "scan",
        [(3, 7, 5), (5, 2, 4), (4, [0.0, 0.0, 90.0], 8)],
        ids=["more rays", "more pixels", "neither has full rank"],
    )
    def test_value_and_derivatives(self, scan):
        size, angles, detectors = scan
        physics = eq.ParallelBeam(size, angles, detectors, normalize=True)
        eye = torch.eye(size**2, dtype=torch.float64).reshape(-1, 1, size, size)
        A = physics.A(eye).flatten(1).T
        inverse = torch.linalg.pinv(A, rtol=1e-6)
        y = torch.randn(2, *physics.measurement_shape, dtype=torch.float64, requires_grad=True)

        def dagger(y):
            return physics.A_dagger(y, tol=1e-13, max_iter=400)

        assert torch.allclose(dagger(y).flatten(1), y.flatten(1) @ inverse.T, atol=1e-6)
        g = torch.randn(2, 1, size, size, dtype=torch.float64)
        (found,) = torch.autograd.grad((dagger(y) * g).sum(), y)
        assert torch.allclose(found.flatten(1), g.flatten(1) @ inverse, atol=1e-6)
        assert torch.autograd.gradgradcheck(lambda y: dagger(y).square(), y, fast_mode=True)


class TestProximalMap:
    def test_the_smaller_side_has_the_eigenvectors(self):
        """Limited angle: more rays than pixels."""
        few, many = eq.ParallelBeam(6, 3, 7), eq.ParallelBeam(6, torch.linspace(0, 30, 9), 7)
        assert not few.matrix.fewer_pixels
        assert few.matrix.smaller_side == 21
        assert many.matrix.fewer_pixels
        assert many.matrix.smaller_side == 36

    @pytest.mark.parametrize("views", [3, 9])
    def test_eigenvectors_and_conjugate_gradients_agree(self, views, monkeypatch):
        physics = eq.FanBeam(6, views, 20.0, 10.0, 9, normalize=True)
        z = torch.randn(2, 1, 6, 6, dtype=torch.float64)
        y = torch.randn(2, *physics.measurement_shape, dtype=torch.float64)
        gamma = torch.tensor([3.0, 300.0], dtype=torch.float64)
        direct = physics.prox_l2(z, y, gamma)
        assert physics.prox_account(z, y, gamma).iterations == 0
        without_eigenvectors(monkeypatch)
        assert torch.allclose(physics.prox_l2(z, y, gamma, tol=1e-13), direct, atol=1e-9)

    @pytest.mark.parametrize("direct", [True, False])
    @pytest.mark.parametrize("views", [3, 9])
    def test_derivatives(self, views, direct, monkeypatch):
        if not direct:
            without_eigenvectors(monkeypatch)
        physics = eq.ParallelBeam(5, views, 6, normalize=True)
        z = torch.randn(2, 1, 5, 5, dtype=torch.float64, requires_grad=True)
        y = torch.randn(2, *physics.measurement_shape, dtype=torch.float64, requires_grad=True)
        gamma = torch.tensor([3.0, 30.0], dtype=torch.float64, requires_grad=True)

        def prox(z, y, gamma):
            return physics.prox_l2(z, y, gamma, tol=1e-14)

        assert torch.autograd.gradcheck(prox, (z, y, gamma), fast_mode=True)
        assert torch.autograd.gradgradcheck(prox, (z, y, gamma), fast_mode=True)


class TestPrecision:
    @pytest.mark.parametrize("direct", [True, False])
    def test_autocast(self, direct, monkeypatch):
        """All of it in float32, whatever goes in."""
        if not direct:
            without_eigenvectors(monkeypatch)
        physics, x = eq.ParallelBeam(16, 12, normalize=True), phantoms(2, 16)
        y = physics.A(x).detach()

        def everything(x, y):
            return [
                physics.A(x),
                physics.A_adjoint(y),
                physics.fbp(y),
                physics.A_dagger(y),
                physics.prox_l2(x, y, 30.0),
                torch.tensor(physics.norm()),
            ]

        exact = everything(x, y)
        with torch.autocast("cpu", torch.bfloat16):
            out = everything(x, y)
            half = everything(x.bfloat16(), y.bfloat16())
            fan = eq.FanBeam(16, 90, 60.0, 40.0)
            assert fan.fbp(fan.A(x)).dtype == torch.float32
        for a, b, c in zip(exact, out, half):
            assert b.dtype == c.dtype == torch.float32
            assert torch.allclose(a, b, rtol=1e-5, atol=1e-6)
            assert (a - c).norm() < 0.05 * a.norm()

    def test_a_model_under_autocast(self):
        physics, x = eq.ParallelBeam(16, 12, normalize=True), phantoms(2, 16)
        network = torch.nn.Conv2d(1, 1, 3, padding=1)

        class Denoiser(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.network = network

            def forward(self, x, sigma):
                return 0.5 * x + 0.1 * self.network(x)

        for step in (eq.ProximalStep(Denoiser()), eq.GradientStep(Denoiser())):
            model = eq.EquilibriumReconstructor(step, on_failure="ignore")
            with torch.autocast("cpu", torch.bfloat16):
                out = model(physics.A(x), physics)
            out.square().mean().backward()
            assert out.isfinite().all()
            assert network.weight.grad.isfinite().all()

    def test_half_precision_stays_half(self):
        physics = eq.ParallelBeam(8, 5)
        assert physics.A(torch.rand(1, 1, 8, 8).bfloat16()).dtype == torch.bfloat16


class TestMatrices:
    def test_parts_are_rows_of_the_whole(self):
        projector.forget_matrices()
        physics = eq.FanBeam(12, 9, 40.0, 20.0, curved=True)
        part = physics.views([7, 0, -2])
        angles = [physics.geometry.angles[i] for i in (7, 0, 7)]
        assert part.geometry.angles == tuple(angles)
        x = torch.rand(2, 1, 12, 12, dtype=torch.float64)
        # To rounding, not to the bit: a processor may add up the numbers of a row in blocks.
        assert torch.allclose(part.A(x), physics.A(x)[:, :, [7, 0, 7]], rtol=1e-13, atol=1e-14)
        y = torch.rand(2, *part.measurement_shape, dtype=torch.float64)
        alone = eq.FanBeam(12, angles, 40.0, 20.0, curved=True)
        assert torch.allclose(part.A_adjoint(y), alone.A_adjoint(y), rtol=1e-13)

    def test_many_parts_are_made_once(self, monkeypatch):
        """More than the 32 entries that a cache of a fixed length had."""
        physics = eq.ParallelBeam(8, 50)
        made = []
        original = projector.SystemMatrix.__init__

        def noted(self, *args):
            made.append(args)
            original(self, *args)

        monkeypatch.setattr(projector.SystemMatrix, "__init__", noted)
        for _ in range(3):
            for k in range(50):
                physics.views([i for i in range(50) if i != k])
        assert len(made) == 50

    def test_memory_is_bounded(self, monkeypatch):
        projector.forget_matrices()
        first = eq.ParallelBeam(8, 10)
        monkeypatch.setattr(projector, "MEMORY", 5 * first.matrix.nbytes)
        others = [eq.ParallelBeam(8, 10, offset=0.1 * i) for i in range(1, 12)]
        assert len(projector._matrices) <= 5
        assert eq.ParallelBeam(8, 10, offset=1.1).matrix is others[-1].matrix
        assert eq.ParallelBeam(8, 10).matrix is not first.matrix
        large = eq.ParallelBeam(64, 10)  # more than all the memory: remembered alone
        assert eq.ParallelBeam(64, 10).matrix is large.matrix
        assert len(projector._matrices) == 1
        projector.forget_matrices()

    def test_memory_counts_what_is_made_later(self):
        projector.forget_matrices()
        matrix = eq.ParallelBeam(8, 10).matrix
        before = matrix.nbytes
        matrix.spectrum(torch.float64, torch.device("cpu"))
        made = 8 * (2 * 32**2 + 64)  # in two halves
        assert matrix.nbytes - before == made
        matrix.on(False, torch.float64, torch.device("cpu"))
        assert matrix.nbytes > before + made


@pytest.mark.parametrize("shape", [(-1,), (-1, 1, 1, 1)])
@pytest.mark.parametrize("count", [1, 3])
def test_a_strength_of_each_sample_is_that_sample_s(count, shape):
    """In closed form and by iteration, of one image as of several."""
    physics = eq.ParallelBeam(8, 6, normalize=True)
    x = torch.rand(count, 1, 8, 8, dtype=torch.float64)
    y = physics.A(x)
    gamma = torch.linspace(2.0, 5.0, count, dtype=torch.float64)
    together = physics.prox_l2(x / 2, y, gamma.reshape(shape))
    for i in range(count):
        alone = physics.prox_l2(x[i : i + 1] / 2, y[i : i + 1], float(gamma[i]))
        assert torch.allclose(together[i : i + 1], alone, atol=1e-6)
