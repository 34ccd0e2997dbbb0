"""Any detector, any image, any convention: laws of pitch, rays, sides and others' sinograms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import equipoise as eq
from equipoise.imaging.phantoms import phantoms
from equipoise.imaging.tomography.fbp import filter_rows
from equipoise.imaging.tomography.views import chosen_views, unseen_views


def psnr(a, b):
    return float(10 * torch.log10(b.max() ** 2 / (a - b).square().mean()))


def error(a, b):
    return float((a - b).norm() / b.norm())


def blob(h, w, row, column, width=3.0):
    """A smooth spot, (1, 1, h, w) in float64, at (row, column) from the middle."""
    rows = torch.arange(h, dtype=torch.float64)[:, None] - (h - 1) / 2 - row
    columns = torch.arange(w, dtype=torch.float64)[None, :] - (w - 1) / 2 - column
    return torch.exp(-(rows**2 + columns**2) / (2 * width**2))[None, None]


class TestAdjoint:
    @settings(max_examples=40, deadline=None)
    @given(
        h=st.integers(1, 16),
        w=st.integers(1, 16),
        views=st.integers(1, 6),
        detectors=st.integers(1, 24),
        pitch=st.floats(0.2, 4),
        offset=st.floats(-5, 5),
        rays=st.integers(1, 4),
        convention=st.sampled_from(["ours", "skimage", "astra"]),
        beam=st.sampled_from(["parallel", "flat", "curved"]),
        seed=st.integers(0, 99),
    )
    def test_it_is_the_transpose(
        self, h, w, views, detectors, pitch, offset, rays, convention, beam, seed
    ):
        rng = torch.Generator().manual_seed(seed)
        angles = torch.rand(views, generator=rng) * 720 - 360
        options = {"pitch": pitch, "offset": offset, "rays": rays, "convention": convention}
        if beam == "parallel":
            physics = eq.ParallelBeam((h, w), angles, detectors, 0.3, **options)
        else:
            if convention == "skimage":
                options["convention"] = "ours"
            options["curved"] = beam == "curved"
            physics = eq.FanBeam((h, w), angles, 30.0, 12.0, detectors, 0.3, **options)
        x = torch.randn(1, 1, h, w, generator=rng, dtype=torch.float64)
        y = torch.randn(1, 1, views, detectors, generator=rng, dtype=torch.float64)
        gap = abs((physics.A(x) * y).sum() - (x * physics.A_adjoint(y)).sum())
        scale = physics.A(x).norm() * y.norm() + x.norm() * physics.A_adjoint(y).norm()
        assert gap <= 1e-13 * scale + 1e-300


class TestDetectors:
    @pytest.mark.parametrize(("pitch", "rays"), [(0.4, 1), (0.7, 1), (1.6, 1), (2.5, 1), (1.6, 4)])
    @pytest.mark.parametrize(("h", "w"), [(48, 48), (35, 52)])
    def test_fbp_for_any_pitch(self, pitch, rays, h, w):
        """Values, and not only shapes: a smooth spot comes back."""
        x = blob(h, w, 5, -8, 4.0)
        physics = eq.ParallelBeam((h, w), 150, pixel=0.3, pitch=pitch, rays=rays)
        out = physics.fbp(physics.A(x))
        assert error(out, x) < (0.05 if pitch < 2 else 0.1)
        assert float(out.sum() / x.sum()) == pytest.approx(1, abs=0.02)
        fan = eq.FanBeam((h, w), 200, 120.0, 60.0, pixel=0.3, pitch=1.5 * pitch, rays=rays)
        assert error(fan.fbp(fan.A(x)), x) < (0.05 if pitch < 2 else 0.1)

    def test_a_pitch_spreads_the_rays(self):
        """Every third detector of a finer one is a detector three times as wide, in the middle."""
        x = torch.rand(1, 1, 20, 13, dtype=torch.float64)
        fine = eq.ParallelBeam((20, 13), 7, 33, pitch=0.5)
        wide = eq.ParallelBeam((20, 13), 7, 11, pitch=1.5)
        assert torch.allclose(wide.A(x), fine.A(x)[..., 1::3], atol=1e-6)

    def test_several_rays_are_the_mean(self):
        x = torch.rand(1, 1, 20, 13, dtype=torch.float64)
        for one, other in (
            (
                eq.ParallelBeam((20, 13), 7, 33, pitch=0.5, offset=3.0),
                eq.ParallelBeam((20, 13), 7, 11, pitch=1.5, offset=1.0, rays=3),
            ),
            (
                eq.FanBeam((20, 13), 7, 40.0, 20.0, 33, pitch=0.5, offset=3.0),
                eq.FanBeam((20, 13), 7, 40.0, 20.0, 11, pitch=1.5, offset=1.0, rays=3),
            ),
        ):
            means = one.A(x).unflatten(-1, (11, 3)).mean(-1)
            assert torch.allclose(other.A(x), means, atol=1e-6)

    @pytest.mark.parametrize("beam", ["parallel", "fan"])
    def test_projections_that_are_cut_off(self, beam):
        """A detector narrower than the object: FBP is right in the middle up to a little, where
        filtering the bare ends would make a bowl."""
        rows = torch.arange(64.0)[:, None] - 31.5
        columns = torch.arange(64.0)[None] - 31.5
        x = ((rows / 28) ** 2 + (columns / 26) ** 2 < 1).float()[None, None] * 0.5
        if beam == "parallel":
            physics = eq.ParallelBeam(64, 180, 33)
            sees = physics.geometry.half_width()
        else:
            physics = eq.FanBeam(64, 360, 150.0, 50.0, 33)
            sees = physics.geometry.half_width()
        inside = (rows**2 + columns**2) < (0.9 * sees) ** 2
        assert 15 < sees < 18
        out = physics.fbp(physics.A(x))[0, 0][inside]
        assert float(out.mean()) == pytest.approx(0.5, abs=0.06)
        assert float(out.std()) < 0.03
        if beam == "parallel":
            bare = physics.A_adjoint(filter_rows(physics.A(x))) * math.pi / 180
            assert float(bare[0, 0][inside].std()) > 2 * float(out.std())

    def test_how_far_every_view_sees(self):
        assert eq.ParallelBeam(32, 4, 40, pitch=0.5).geometry.half_width() == 10
        assert eq.ParallelBeam(32, 4, 40, pitch=0.5, offset=-4).geometry.half_width() == 8
        flat = eq.FanBeam(32, 4, 60.0, 30.0, 40, pitch=1.5).geometry
        assert flat.half_width() == pytest.approx(60 * math.sin(math.atan(30 / 90)))
        curved = eq.FanBeam(32, 4, 60.0, 30.0, 40, pitch=1.5, curved=True).geometry
        assert curved.half_width() == pytest.approx(60 * math.sin(30 / 90))

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"pitch": 0}, "pitch must be a positive number of pixels, got 0"),
            ({"pitch": math.nan}, "pitch must be a positive number of pixels, got nan"),
            ({"rays": 0}, r"rays must be a whole number in \[1, 64\], got 0"),
            ({"rays": 1.5}, r"rays must be a whole number in \[1, 64\], got 1.5"),
            ({"rays": "a"}, r"rays must be a whole number in \[1, 64\], got 'a'"),
            ({"rays": None}, r"rays must be a whole number in \[1, 64\], got None"),
            ({"detectors": "a"}, "detectors must be a whole number, at least 1, got 'a'"),
            ({"detectors": math.inf}, "detectors must be a whole number, at least 1, got inf"),
            (
                {"convention": "tigre"},
                "convention must be one of ours, skimage, astra, got 'tigre'",
            ),
        ],
    )
    def test_wrong_values(self, options, message):
        with pytest.raises(ValueError, match=message):
            eq.ParallelBeam(16, 4, **options)
        with pytest.raises(ValueError, match=message):
            eq.FanBeam(16, 4, 40.0, 20.0, **options)

    def test_angles_are_a_list(self):
        with pytest.raises(ValueError, match=r"angles must be one number .* got shape \(3, 2\)"):
            eq.ParallelBeam(16, torch.zeros(3, 2))

    @pytest.mark.parametrize("distances", [(math.inf, 10.0), (40.0, math.inf), (40.0, math.nan)])
    def test_distances_are_finite(self, distances):
        with pytest.raises(ValueError, match=r"_distance must be .*finite"):
            eq.FanBeam(16, 4, *distances)

    @pytest.mark.parametrize("physics", [eq.ParallelBeam(16, 7, 23), eq.FanBeam(16, 7, 40, 10, 23)])
    def test_measurements_of_another_shape(self, physics):
        for method in (physics.fbp, physics.A_adjoint):
            with pytest.raises(ValueError, match=r"y must have shape \(B, 1, 7, 23\)"):
                method(torch.zeros(1, 1, 7, 22))

    def test_skimage_has_no_fan(self):
        with pytest.raises(ValueError, match="convention must be ours or astra for a fan beam"):
            eq.FanBeam(16, 4, 40.0, 20.0, convention="skimage")


#: Even and odd, square and not.
SIZES = [(48, 48), (47, 47), (36, 48), (48, 35)]


class TestOthersSinograms:
    """A sinogram made by each comes back to 35 dB with least squares."""

    def image(self, h, w):
        size = max(h, w)
        x = phantoms(1, size, seed=3)[..., (size - h) // 2 :, (size - w) // 2 :][..., :h, :w]
        return torch.nn.functional.avg_pool2d(x, 3, 1, 1).double()

    @pytest.mark.parametrize("circle", [True, False])
    @pytest.mark.parametrize(("h", "w"), SIZES)
    def test_scikit_image(self, h, w, circle):
        transform = pytest.importorskip("skimage.transform")
        x = self.image(h, w)
        inside = np.ones((h, w))
        if circle:
            if h != w:
                pytest.skip("skimage cuts what is not square")
            i, j = np.mgrid[:h, :w]
            inside = (i - h // 2) ** 2 + (j - w // 2) ** 2 < (h // 2 - 1) ** 2
            x = x * torch.from_numpy(inside)
        theta = np.arange(0, 180, 2.0)
        theirs = transform.radon(x[0, 0].numpy(), theta, circle=circle)
        y = torch.from_numpy(theirs.T.copy())[None, None]
        physics = eq.ParallelBeam((h, w), theta, y.shape[-1], convention="skimage")
        assert error(physics.A(x), y) < 0.005
        assert psnr(physics.least_squares(y, 1e-6, 40).value, x) > 35
        assert psnr(physics.fbp(y) * torch.from_numpy(inside), x) > 29
        if h % 2 == 0:
            ours = eq.ParallelBeam((h, w), theta, y.shape[-1])
            assert error(ours.A(x), y) > 0.02  # half a pixel off

    @pytest.mark.parametrize("detectors", [72, 73])
    @pytest.mark.parametrize(("h", "w"), SIZES)
    @pytest.mark.parametrize("beam", ["parallel", "fanflat"])
    def test_astra(self, h, w, detectors, beam):
        astra = pytest.importorskip("astra", reason="astra-toolbox comes with equipoise[bench]")
        x = self.image(h, w)
        volume = astra.create_vol_geom(h, w)
        if beam == "parallel":
            degrees = np.arange(0, 180, 2.0)
            more, projector = (), "linear"
            physics = eq.ParallelBeam((h, w), degrees, detectors, pitch=0.9, convention="astra")
        else:
            degrees = np.arange(0, 360, 3.0)
            more, projector = (150.0, 60.0), "strip_fanflat"
            physics = eq.FanBeam(
                (h, w), degrees, *more, detectors, pitch=1.3, convention="astra", rays=4
            )
        pitch = abs(0.9 if beam == "parallel" else 1.3)
        scan = astra.create_proj_geom(beam, pitch, detectors, np.deg2rad(degrees), *more)
        operator = astra.optomo.OpTomo(astra.create_projector(projector, scan, volume))
        theirs = np.asarray(operator.FP(x[0, 0].numpy())).reshape(len(degrees), detectors)
        y = torch.from_numpy(theirs.astype(np.float64))[None, None]
        assert error(physics.A(x), y) < 0.004
        assert psnr(physics.least_squares(y, 1e-6, 40).value, x) > 35
        assert psnr(physics.fbp(y), x) > 29
        if beam == "fanflat":
            ours = eq.FanBeam((h, w), degrees, *more, detectors, pitch=1.3)
            assert error(ours.A(x), y) > 0.03


class TestViews:
    def test_unseen(self):
        angles = [0.0, 90.0, 180.0, 270.0, 360.0]
        assert unseen_views(angles, [0, 1], 360.0) == [2, 3]
        assert unseen_views(angles, [0, 1], 180.0) == []  # parallel rays come back
        assert unseen_views(angles, [4], 360.0) == [1, 2, 3]
        assert unseen_views([0.0, -0.5, -360.0], [0], 360.0) == [1]

    @given(count=st.integers(1, 50), k=st.integers(1, 50))
    def test_every_kth(self, count, k):
        if k > count:
            with pytest.raises(ValueError, match="views takes every k-th"):
                chosen_views(k, count)
        else:
            assert chosen_views(k, count) == chosen_views(f"::{k}", count)
            assert chosen_views(k, count) == list(range(0, count, k))

    def test_fbp_of_doubled_ends_in_a_fan_that_turns_the_other_way(self):
        """As the Helsinki scans have it."""
        x = blob(40, 40, 6, -7, 4.0)
        angles = -np.linspace(0, 360, 241)
        physics = eq.FanBeam(40, angles, 200.0, 70.0)
        assert error(physics.fbp(physics.A(x)), x) < 0.03
