"""Laws of the operators and the groups."""

from __future__ import annotations

import copy
import pickle

import deepinv
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import equipoise as eq
from equipoise.errors import UserError
from equipoise.imaging.linear import conjugate_gradients, norm, proximal_l2
from equipoise.imaging.operators import prepared, select
from equipoise.imaging.phantoms import phantoms
from equipoise.imaging.splitting import split
from equipoise.imaging.tomography import WINDOWS


def psnr(a, b):
    return float((-10 * ((a - b) ** 2).flatten(1).mean(1).log10()).mean())


def scans(size=33):
    return [
        eq.ParallelBeam(size, 12),
        eq.ParallelBeam((size, size + 5), torch.tensor([0.0, 13.0, 45.0, 90.0, 171.0]), detectors=40, pixel=0.3),
        eq.FanBeam(size, 15, source_distance=60.0, detector_distance=40.0),
        eq.FanBeam(size, 15, source_distance=60.0, detector_distance=40.0, curved=True),
    ]


class TestTomography:
    @settings(max_examples=25, deadline=None)
    @given(
        h=st.integers(1, 24), w=st.integers(1, 24), views=st.integers(1, 9), detectors=st.integers(1, 40), seed=st.integers(0, 99)
    )
    def test_adjoint(self, h, w, views, detectors, seed):
        rng = torch.Generator().manual_seed(seed)
        physics = eq.ParallelBeam((h, w), torch.rand(views, generator=rng) * 360, detectors)
        x = torch.randn(2, 1, h, w, generator=rng, dtype=torch.float64)
        y = torch.randn(2, 1, views, detectors, generator=rng, dtype=torch.float64)
        left, right = (physics.A(x) * y).sum(), (x * physics.A_adjoint(y)).sum()
        scale = physics.A(x).norm() * y.norm() + x.norm() * physics.A_adjoint(y).norm()
        assert abs(left - right) <= 1e-13 * scale + 1e-300

    @pytest.mark.parametrize("physics", scans(), ids=lambda p: type(p).__name__)
    def test_fan_and_parallel_adjoint_and_derivative(self, physics):
        g = physics.geometry
        x = torch.randn(1, 1, g.height, g.width, dtype=torch.float64, requires_grad=True)
        y = torch.randn(1, *physics.measurement_shape, dtype=torch.float64)
        gap = ((physics.A(x) * y).sum() - (x * physics.A_adjoint(y)).sum()).abs()
        assert gap < 1e-12 * physics.A(x).norm() * y.norm()
        (grad,) = torch.autograd.grad((physics.A(x) * y).sum(), x)
        assert torch.allclose(grad, physics.A_adjoint(y), rtol=1e-13, atol=1e-13)

    def test_gradcheck(self):
        physics = eq.ParallelBeam(5, 3)
        x = torch.randn(2, 1, 5, 5, dtype=torch.float64, requires_grad=True)
        y = torch.randn(2, *physics.measurement_shape, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(physics.A, x, check_forward_ad=True)
        assert torch.autograd.gradgradcheck(lambda x: physics.A(x).square(), x)
        assert torch.autograd.gradcheck(physics.A_adjoint, y)

    def test_agrees_with_scikit_image(self):
        """On an odd grid, whose centre is a pixel for both."""
        transform = pytest.importorskip("skimage.transform")
        i, j = np.mgrid[:65, :65]
        image = np.exp(-((i - 40) ** 2 + (j - 25) ** 2) / 72) + 0.5 * np.exp(-((i - 20) ** 2 + (j - 36) ** 2) / 200)
        angles = torch.arange(0, 180, 7.5)
        theirs = transform.radon(image, theta=angles.numpy(), circle=True).T  # the image vanishes outside the circle
        ours = eq.ParallelBeam(65, angles, detectors=65).A(torch.from_numpy(image)[None, None])[0, 0].numpy()
        assert np.linalg.norm(ours - theirs) < 0.01 * np.linalg.norm(theirs)

    def test_agrees_with_astra(self):
        """Its `linear` projector is Joseph's method too; its detector runs the other way."""
        astra = pytest.importorskip("astra", reason="astra-toolbox comes with equipoise[bench]")
        x, physics = phantoms(1, 64), eq.ParallelBeam(64, 20)
        geometry = astra.create_proj_geom("parallel", 1.0, 91, np.deg2rad(physics.angles.numpy()))
        operator = astra.optomo.OpTomo(astra.create_projector("linear", geometry, astra.create_vol_geom(64, 64)))
        theirs, ours = operator.FP(x[0, 0].numpy()), physics.A(x)[0, 0].numpy()
        assert min(np.linalg.norm(ours - s) for s in (theirs, theirs[:, ::-1])) < 0.01 * np.linalg.norm(ours)

    def test_is_deterministic(self):
        x, physics = torch.randn(3, 1, 32, 32), eq.FanBeam(32, 20, 60.0, 40.0)
        y = physics.A(x)
        assert all(torch.equal(physics.A(x), y) for _ in range(5))
        assert all(torch.equal(physics.A_adjoint(y), physics.A_adjoint(y)) for _ in range(5))

    def test_agrees_with_the_analytic_sinogram_of_a_gaussian(self):
        """∫ exp(−r²/2s²) along a line at distance t is √(2π) s exp(−t²/2s²), in the unit of ``pixel``."""
        line = torch.arange(64, dtype=torch.float64) - 31.5
        s, x0, y0 = 5.0, 7.3, -4.1  # columns right, rows down
        image = torch.exp(-((line[None] - x0) ** 2 + (line[:, None] - y0) ** 2) / (2 * s * s))
        physics = eq.ParallelBeam(64, 24, pixel=0.5)
        theta = torch.deg2rad(physics.angles.double())
        t = torch.arange(physics.geometry.detectors) - (physics.geometry.detectors - 1) / 2
        centre = x0 * theta.cos() - y0 * theta.sin()
        exact = 0.5 * (2 * torch.pi) ** 0.5 * s * torch.exp(-((t[None] - centre[:, None]) ** 2) / (2 * s * s))
        assert (physics.A(image[None, None])[0, 0] - exact).norm() < 0.005 * exact.norm()

    @pytest.mark.parametrize("window", WINDOWS)
    def test_fbp_inverts_many_views(self, window):
        x = phantoms(2, 64)
        for physics in (
            eq.ParallelBeam(64, 180, pixel=0.7),
            eq.FanBeam(64, 360, 100.0, 80.0),
            eq.FanBeam(64, 360, 100.0, 80.0, curved=True),
        ):
            out = physics.fbp(physics.A(x), window)
            assert psnr(out, x) > (34 if window == "ramp" else 27)
            assert float(out.mean() / x.mean()) == pytest.approx(1, abs=0.01)
        with pytest.raises(ValueError, match="window must be one of"):
            physics.fbp(physics.A(x), "boxcar")
        with pytest.raises(ValueError, match="evenly"):
            eq.FanBeam(16, torch.linspace(0, 90, 10), 100.0, 80.0).fbp(torch.zeros(1, 1, 10, 23))

    def test_norm_and_normalize(self):
        physics = eq.ParallelBeam(16, 8)
        dense = physics.A(torch.eye(256).reshape(256, 1, 16, 16)).flatten(1)
        assert physics.norm() == pytest.approx(float(torch.linalg.matrix_norm(dense, 2)), rel=1e-3)
        before = physics.A(torch.ones(1, 1, 16, 16))
        assert physics.normalize().norm() == pytest.approx(1, rel=1e-3)
        assert torch.allclose(physics.A(torch.ones(1, 1, 16, 16)), before * physics.gain)

    @pytest.mark.parametrize("direct", [True, False])
    def test_proximal_map_and_its_derivatives(self, direct, monkeypatch):
        """x = argmin γ/2 ‖Ax − y‖² + ½‖x − z‖² satisfies its normal equation; gradcheck in z, y and γ."""
        monkeypatch.setattr("equipoise.imaging.tomography.DIRECT_RAYS", 4096 if direct else 0)
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

    def test_conjugate_gradients_reports(self):
        M = torch.diag(torch.linspace(1, 9, 20, dtype=torch.float64))
        b = torch.randn(3, 20, dtype=torch.float64)
        b[1] = 0
        r = conjugate_gradients(lambda v: v @ M, b, tol=1e-10)
        assert (r.residual < 1e-10).all()
        assert torch.allclose(r.value @ M, b)
        assert r.iterations <= 21

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
        physics = eq.ParallelBeam(16, 8, normalize=True, noise_model=deepinv.physics.GaussianNoise(0.01))
        x = torch.rand(1, 1, 16, 16)
        assert physics(x).shape == (1, 1, 8, 23)
        assert float(physics.adjointness_test(x)) < 1e-3
        assert physics.A_dagger(physics.A(x)).shape == x.shape


def test_proximal_l2_matches_dense_algebra():
    A = torch.randn(5, 7, dtype=torch.float64)
    d, y = torch.randn(2, 7, dtype=torch.float64), torch.randn(2, 5, dtype=torch.float64)
    out = proximal_l2(lambda x: x @ A.T, lambda y: y @ A, d, y, 0.3, 1e-13)
    exact = torch.linalg.solve(A.T @ A + 0.3 * torch.eye(7), (y @ A + 0.3 * d).T).T
    assert torch.allclose(out, exact)


class TestFanBeamScans:
    """Short scans, offset detectors, flat and curved ones."""

    @pytest.mark.parametrize("curved", [False, True])
    @pytest.mark.parametrize("offset", [0.0, 2.25])
    def test_short_scan(self, curved, offset):
        x = phantoms(1, 64)
        short = torch.linspace(20, 20 + 180 + 70, 300)
        physics = eq.FanBeam(64, short, 100.0, 80.0, curved=curved, offset=offset)
        assert psnr(physics.fbp(physics.A(x)), x) > 33
        full = eq.FanBeam(64, 360, 100.0, 80.0, curved=curved, offset=offset)
        assert psnr(full.fbp(full.A(x)), x) > 33
        with pytest.raises(ValueError, match=r"at least 193° of it; these 30 views cover 150°"):
            eq.FanBeam(16, torch.arange(30) * 5.0, 100.0, 80.0).fbp(torch.zeros(1, 1, 30, 23))
        with pytest.raises(ValueError, match="evenly"):
            eq.FanBeam(16, [0.0, 1.0, 5.0], 100.0, 80.0).fbp(torch.zeros(1, 1, 3, 23))

    def test_what_a_detector_does_not_see(self):
        with pytest.raises(ValueError, match="leaves one side of the image unseen"):
            eq.FanBeam(32, 180, 60.0, 30.0, detectors=30, offset=12.0).fbp(torch.zeros(1, 1, 180, 30))
        with pytest.raises(ValueError, match="no ray meets the image"):
            eq.FanBeam(16, 8, 60.0, 30.0, detectors=3, offset=1000.0, normalize=True)

    def test_offset_moves_the_sinogram(self):
        x = phantoms(1, 32)
        plain, moved = eq.ParallelBeam(32, 9, detectors=60), eq.ParallelBeam(32, 9, detectors=60, offset=3)
        assert torch.allclose(moved.A(x)[..., :-3], plain.A(x)[..., 3:], atol=1e-5)
        with pytest.raises(ValueError, match="offset must be a finite number"):
            eq.ParallelBeam(32, 9, offset=float("nan"))

    @settings(max_examples=15, deadline=None)
    @given(
        size=st.integers(2, 20),
        views=st.integers(1, 7),
        detectors=st.integers(1, 30),
        offset=st.floats(-9, 9),
        curved=st.booleans(),
        seed=st.integers(0, 99),
    )
    def test_adjoint(self, size, views, detectors, offset, curved, seed):
        rng = torch.Generator().manual_seed(seed)
        angles = torch.rand(views, generator=rng) * 360
        physics = eq.FanBeam(size, angles, 30.0, 10.0, detectors, curved=curved, offset=offset)
        x = torch.randn(1, 1, size, size, generator=rng, dtype=torch.float64)
        y = torch.randn(1, 1, views, detectors, generator=rng, dtype=torch.float64)
        gap = abs((physics.A(x) * y).sum() - (x * physics.A_adjoint(y)).sum())
        assert gap <= 1e-13 * (physics.A(x).norm() * y.norm() + x.norm() * physics.A_adjoint(y).norm()) + 1e-300

    def test_pickle_precision_and_state(self):
        physics = eq.FanBeam(16, 12, 60.0, 40.0, normalize=True, noise_model=deepinv.physics.GaussianNoise(0.01))
        again = pickle.loads(pickle.dumps(physics))
        x = torch.rand(1, 1, 16, 16, dtype=torch.float64)
        assert torch.equal(again.A(x), physics.A(x))
        assert physics.A(x.float()).dtype == torch.float32
        again.load_state_dict(physics.state_dict())
        assert float(again.noise_model.sigma) == pytest.approx(0.01)
        assert (again(x.float()) - physics.A(x.float())).std() == pytest.approx(0.01, rel=0.3)

    def test_analytic_ellipse(self):
        """The chords of an ellipse, in a parallel and in a fan beam, against a finely drawn one."""
        size, a, b, x0, y0 = 256, 70.0, 40.0, 20.0, -30.0
        line = torch.arange(4 * size, dtype=torch.float64) / 4 - (size - 0.25) / 2
        inside = (((line[None] - x0) / a) ** 2 + ((line[:, None] - y0) / b) ** 2 <= 1).double()
        image = torch.nn.functional.avg_pool2d(inside[None, None], 4)
        for physics in (eq.ParallelBeam(size, 16), eq.FanBeam(size, 16, 400.0, 300.0)):
            exact = []
            for view in range(16):
                point, direction = (torch.from_numpy(np.ascontiguousarray(v)) for v in physics.geometry.rays(view))
                p, d = (point - torch.tensor([x0, y0])) / torch.tensor([a, b]), direction / torch.tensor([a, b])
                A, B, C = (d * d).sum(1), (p * d).sum(1), (p * p).sum(1) - 1
                exact.append(2 * (B * B - A * C).clamp_min(0).sqrt() / A * direction.norm(dim=1))
            exact = torch.stack(exact)
            assert (physics.A(image)[0, 0] - exact).norm() < 0.01 * exact.norm()


class TestOperators:
    def test_scaled(self):
        inner = deepinv.physics.CompressedSensing(20, (1, 6, 6))
        physics = prepared(inner, 6)
        x, y = torch.randn(2, 1, 6, 6), torch.randn(2, 20)
        assert norm(physics.A, physics.A_adjoint, x) == pytest.approx(1, rel=1e-3)
        assert torch.allclose(physics.A(x), physics.gain * inner.A(x))
        u = physics.prox_l2(x, y, 3.0)
        assert (3 * physics.A_adjoint(physics.A(u) - y) + u - x).norm() < 1e-3 * x.norm()

    def test_what_cannot_be_used(self):
        with pytest.raises(UserError, match=r"no deepinv\.physics\.LinearPhysics"):
            prepared(deepinv.physics.Haze(), 8)
        with pytest.raises(UserError, match="A x is zero for every image x"):
            prepared(deepinv.physics.Inpainting((1, 8, 8), mask=torch.zeros(1, 8, 8)), 8)
        with pytest.raises(UserError, match="takes neither real images"):
            prepared(split(deepinv.physics.MRI(mask=torch.ones(5, 7)), torch.ones(1, 2, 5, 7), 2, 0)[0], 8)

    def test_select(self):
        maps = torch.randn(3, 4, 8, 8, dtype=torch.complex64)
        physics = deepinv.physics.MultiCoilMRI(mask=torch.ones(8, 8), coil_maps=maps, img_size=(8, 8))
        x = torch.randn(3, 2, 8, 8)
        assert torch.allclose(select(physics, torch.tensor([2, 0]), 3).A(x[[2, 0]]), physics.A(x)[[2, 0]])
        r = eq.EquilibriumReconstructor(eq.ProximalStep(deepinv.models.TVDenoiser(n_it_max=5), 0.5), on_failure="ignore")
        assert r.equilibrium(physics.A(x), physics).value.shape == x.shape
