"""Laws of the projector: adjoint, derivative, agreement with analysis and with peers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import equipoise as eq
from equipoise.imaging.phantoms import phantoms


def scans(size=33):
    return [
        eq.ParallelBeam(size, 12),
        eq.ParallelBeam(
            (size, size + 5), torch.tensor([0.0, 13.0, 45.0, 90.0, 171.0]), detectors=40, pixel=0.3
        ),
        eq.FanBeam(size, 15, source_distance=60.0, detector_distance=40.0),
        eq.FanBeam(size, 15, source_distance=60.0, detector_distance=40.0, curved=True),
    ]


class TestLaws:
    """A and its transpose match to rounding, and are each other's derivative."""

    @settings(max_examples=25, deadline=None)
    @given(
        h=st.integers(1, 24),
        w=st.integers(1, 24),
        views=st.integers(1, 9),
        detectors=st.integers(1, 40),
        seed=st.integers(0, 99),
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

    def test_is_deterministic(self):
        x, physics = torch.randn(3, 1, 32, 32), eq.FanBeam(32, 20, 60.0, 40.0)
        y = physics.A(x)
        assert all(torch.equal(physics.A(x), y) for _ in range(5))
        assert all(torch.equal(physics.A_adjoint(y), physics.A_adjoint(y)) for _ in range(5))


class TestFanLaws:
    """The same for fans with offset detectors, flat and curved."""

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
        assert (
            gap
            <= 1e-13 * (physics.A(x).norm() * y.norm() + x.norm() * physics.A_adjoint(y).norm())
            + 1e-300
        )


class TestAgreement:
    """With closed forms, and with other projectors."""

    def test_agrees_with_scikit_image(self):
        """On an odd grid, whose centre is a pixel for both."""
        transform = pytest.importorskip("skimage.transform")
        i, j = np.mgrid[:65, :65]
        image = np.exp(-((i - 40) ** 2 + (j - 25) ** 2) / 72) + 0.5 * np.exp(
            -((i - 20) ** 2 + (j - 36) ** 2) / 200
        )
        angles = torch.arange(0, 180, 7.5)
        theirs = transform.radon(
            image, theta=angles.numpy(), circle=True
        ).T  # the image vanishes outside the circle
        ours = (
            eq.ParallelBeam(65, angles, detectors=65)
            .A(torch.from_numpy(image)[None, None])[0, 0]
            .numpy()
        )
        assert np.linalg.norm(ours - theirs) < 0.01 * np.linalg.norm(theirs)

    def test_agrees_with_astra(self):
        """Its `linear` projector is Joseph's method too; its detector runs the other way."""
        astra = pytest.importorskip("astra", reason="astra-toolbox comes with equipoise[bench]")
        x, physics = phantoms(1, 64), eq.ParallelBeam(64, 20)
        geometry = astra.create_proj_geom("parallel", 1.0, 91, np.deg2rad(physics.angles.numpy()))
        operator = astra.optomo.OpTomo(
            astra.create_projector("linear", geometry, astra.create_vol_geom(64, 64))
        )
        theirs, ours = operator.FP(x[0, 0].numpy()), physics.A(x)[0, 0].numpy()
        assert min(
            np.linalg.norm(ours - s) for s in (theirs, theirs[:, ::-1])
        ) < 0.01 * np.linalg.norm(ours)

    def test_agrees_with_the_analytic_sinogram_of_a_gaussian(self):
        """∫ exp(−r²/2s²) along a line at distance t is √(2π) s exp(−t²/2s²), times ``pixel``."""
        line = torch.arange(64, dtype=torch.float64) - 31.5
        s, x0, y0 = 5.0, 7.3, -4.1  # columns right, rows down
        image = torch.exp(-((line[None] - x0) ** 2 + (line[:, None] - y0) ** 2) / (2 * s * s))
        physics = eq.ParallelBeam(64, 24, pixel=0.5)
        theta = torch.deg2rad(physics.angles.double())
        t = torch.arange(physics.geometry.detectors) - (physics.geometry.detectors - 1) / 2
        centre = x0 * theta.cos() - y0 * theta.sin()
        exact = (
            0.5
            * (2 * torch.pi) ** 0.5
            * s
            * torch.exp(-((t[None] - centre[:, None]) ** 2) / (2 * s * s))
        )
        assert (physics.A(image[None, None])[0, 0] - exact).norm() < 0.005 * exact.norm()

    def test_analytic_ellipse(self):
        """The chords of an ellipse, in a parallel and in a fan beam, against a finely drawn one."""
        size, a, b, x0, y0 = 256, 70.0, 40.0, 20.0, -30.0
        line = torch.arange(4 * size, dtype=torch.float64) / 4 - (size - 0.25) / 2
        inside = (((line[None] - x0) / a) ** 2 + ((line[:, None] - y0) / b) ** 2 <= 1).double()
        image = torch.nn.functional.avg_pool2d(inside[None, None], 4)
        for physics in (eq.ParallelBeam(size, 16), eq.FanBeam(size, 16, 400.0, 300.0)):
            exact = []
            for view in range(16):
                point, direction = (
                    torch.from_numpy(np.ascontiguousarray(v)) for v in physics.geometry.rays(view)
                )
                p, d = (
                    (point - torch.tensor([x0, y0])) / torch.tensor([a, b]),
                    direction / torch.tensor([a, b]),
                )
                A, B, C = (d * d).sum(1), (p * d).sum(1), (p * p).sum(1) - 1
                exact.append(2 * (B * B - A * C).clamp_min(0).sqrt() / A * direction.norm(dim=1))
            exact = torch.stack(exact)
            assert (physics.A(image)[0, 0] - exact).norm() < 0.01 * exact.norm()

    def test_offset_moves_the_sinogram(self):
        x = phantoms(1, 32)
        plain, moved = (
            eq.ParallelBeam(32, 9, detectors=60),
            eq.ParallelBeam(32, 9, detectors=60, offset=3),
        )
        assert torch.allclose(moved.A(x)[..., :-3], plain.A(x)[..., 3:], atol=1e-5)
        with pytest.raises(ValueError, match="offset must be a finite number"):
            eq.ParallelBeam(32, 9, offset=float("nan"))
