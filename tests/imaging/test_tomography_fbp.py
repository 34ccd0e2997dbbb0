"""Laws of filtered back-projection."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import equipoise as eq
from equipoise.imaging.phantoms import phantoms
from equipoise.imaging.tomography import WINDOWS
from equipoise.imaging.tomography.fbp import fan_weights, filter_rows
from equipoise.imaging.tomography.geometry import view_shares


def psnr(a, b):
    return float((-10 * ((a - b) ** 2).flatten(1).mean(1).log10()).mean())


@pytest.mark.parametrize("window", WINDOWS)
def test_fbp_inverts_many_views(window):
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
    with pytest.raises(ValueError, match="every line through the image"):
        eq.FanBeam(16, torch.linspace(0, 90, 10), 100.0, 80.0).fbp(torch.zeros(1, 1, 10, 23))


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
        with pytest.raises(
            ValueError, match=r"at least 193° of it in one piece; these 30 views cover 150°"
        ):
            eq.FanBeam(16, torch.arange(30) * 5.0, 100.0, 80.0).fbp(torch.zeros(1, 1, 30, 23))
        with pytest.raises(ValueError, match="every line through the image"):
            eq.FanBeam(16, [0.0, 1.0, 5.0], 100.0, 80.0).fbp(torch.zeros(1, 1, 3, 23))

    def test_what_a_detector_does_not_see(self):
        with pytest.raises(ValueError, match="leaves one side of the image unseen"):
            eq.FanBeam(32, 180, 60.0, 30.0, detectors=30, offset=12.0).fbp(
                torch.zeros(1, 1, 180, 30)
            )
        with pytest.raises(ValueError, match="no ray meets the image"):
            eq.FanBeam(16, 8, 60.0, 30.0, detectors=3, offset=1000.0, normalize=True)


def blob(size, row, column, width=6.0):
    """A smooth spot, (1, 1, size, size) in float64."""
    line = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    far = (line[:, None] - row) ** 2 + (line[None, :] - column) ** 2
    return torch.exp(-far / (2 * width**2))[None, None]


def error(a, b):
    return float((a - b).norm() / b.norm())


RNG = np.random.default_rng(0)
GOLDEN = 180 * (math.sqrt(5) - 1) / 2
#: Views as scanners give them, as fractions of the turn after which rays come back.
VIEWS = {
    "even": np.arange(180) / 180,
    "shuffled": RNG.permutation(180) / 180,
    "doubled end": np.linspace(0, 1, 181),
    "twice around": np.linspace(0, 2, 361),
    "backwards": np.linspace(0, -1, 180, endpoint=False),
    "jitter of 0.01°": (np.arange(180) + RNG.normal(0, 0.01, 180)) / 180,
    "jitter": (np.arange(180) + RNG.normal(0, 0.3, 180)) / 180,
    "golden angle": np.mod(np.arange(233) * GOLDEN / 180, 1),
    "faster and faster": np.linspace(0, 1, 250, endpoint=False) ** 2,
    "two speeds": np.concatenate([np.linspace(0, 0.2, 120), np.linspace(0.21, 0.99, 120)]),
    "three dropped": np.delete(np.arange(180) / 180, [17, 18, 90]),
    "every view twice": np.repeat(np.arange(180) / 180, 2),
}


def beams(fractions, size=64):
    return {
        "parallel": eq.ParallelBeam(size, torch.from_numpy(180 * fractions)),
        "fan": eq.FanBeam(size, torch.from_numpy(360 * fractions), 100.0, 80.0),
        "curved fan": eq.FanBeam(size, torch.from_numpy(360 * fractions), 100.0, 80.0, curved=True),
    }


@pytest.mark.parametrize("offset", [13.0, -13.0])
def test_a_detector_moved_aside_sees_as_much_as_a_wide_one(offset):
    """Over the whole turn opposite views complete each other: the usual way to scan what is wider
    than the detector."""
    size, angles = 48, torch.arange(120) * 3.0
    x = blob(size, -9, 7, 4.0) + blob(size, 5, -10, 3.0) + blob(size, 0, 0, 8.0)
    wide = eq.ParallelBeam(size, angles, 70)
    aside = eq.ParallelBeam(size, angles, 35, offset=offset)
    by_wide, by_aside = (p.fbp(p.A(x)) for p in (wide, aside))
    assert error(by_aside, x) < 1.2 * error(by_wide, x) + 0.005


class TestShares:
    @settings(max_examples=50, deadline=None)
    @given(st.lists(st.floats(-720, 720), min_size=1, max_size=20), st.sampled_from([180.0, 360.0]))
    def test_they_are_a_partition(self, angles, period):
        shares = view_shares(angles, period)
        assert (shares >= 0).all()
        assert shares.sum() == pytest.approx(math.radians(period))
        turned = view_shares([a + 3 * period for a in reversed(angles)], period)
        assert sorted(turned) == pytest.approx(sorted(shares), abs=1e-9)

    def test_each_view_has_its_own(self):
        assert np.degrees(view_shares([0, 10, 90], 180)) == pytest.approx([50, 45, 85])
        assert np.degrees(view_shares([190, 0, 90], 180)) == pytest.approx([45, 50, 85])
        assert np.degrees(view_shares([0, 60, 120, 180], 180)) == pytest.approx([30, 60, 60, 30])
        assert np.degrees(view_shares([40], 360)) == pytest.approx([360])


class TestViews:
    """Every view counts by its own share."""

    @pytest.mark.parametrize("views", VIEWS)
    def test_views_as_scanners_give_them(self, views):
        x = phantoms(2, 64)
        for name, physics in beams(VIEWS[views]).items():
            out = physics.fbp(physics.A(x))
            limit = 0.085 if name != "parallel" and views == "faster and faster" else 0.065
            assert error(out, x) < limit, name  # 0.05 to 0.06 for views that are evenly spread
            assert float(out.mean() / x.mean()) == pytest.approx(1, abs=0.01), name

    def test_evenly_spread_views_count_alike(self):
        physics = eq.ParallelBeam(16, 10, pixel=0.3)
        y = torch.rand(2, *physics.measurement_shape, dtype=torch.float64)
        plain = physics.A_adjoint(filter_rows(y)) / 0.3**2 * math.pi / 10
        assert torch.allclose(physics.fbp(y), plain, rtol=1e-12)
        for physics in (
            eq.FanBeam(16, 12, 60.0, 40.0),
            eq.FanBeam(16, 12, 60.0, 40.0, curved=True),
        ):
            assert fan_weights(physics.geometry) == pytest.approx(math.pi / 12)

    def test_units(self):
        """x comes back in its own units, whatever those of y are."""
        x = blob(32, 3, -4)
        for beam, more in ((eq.ParallelBeam, ()), (eq.FanBeam, (100.0, 80.0))):
            for options in ({"pixel": 0.3}, {"normalize": True}):
                physics = beam(32, 180, *more, **options)
                assert error(physics.fbp(physics.A(x)), x) < 0.02

    def test_a_view_that_is_given_twice_is_one(self):
        """Up to the rounding of the weights, which are float32: a view that is a turned copy of
        another has that one's."""
        x = phantoms(1, 24).double()
        for name, one in beams(np.arange(20) / 20, 24).items():
            two = beams(np.linspace(0, 1, 21), 24)[name]
            assert torch.allclose(one.fbp(one.A(x)), two.fbp(two.A(x)), atol=1e-6), name

    def test_the_order_of_views_does_not_matter(self):
        order = torch.randperm(40)
        for angles in (torch.rand(40) * 360, 20 + 6.4 * torch.arange(40.0)):
            for curved in (False, True):
                one = eq.FanBeam(24, angles, 60.0, 40.0, curved=curved)
                other = eq.FanBeam(24, angles[order], 60.0, 40.0, curved=curved)
                y = one.A(phantoms(1, 24).double())
                assert torch.allclose(one.fbp(y), other.fbp(y[:, :, order]), atol=1e-9)

    def test_limited_angle_is_no_worse_than_with_equal_shares(self):
        x = phantoms(1, 64)
        physics = eq.ParallelBeam(64, torch.linspace(0, 120, 121))
        y = physics.A(x)
        equal = physics.A_adjoint(filter_rows(y)) * math.pi / 121
        assert error(physics.fbp(y), x) < 0.9 * error(equal, x)


class TestFanWeights:
    @pytest.mark.parametrize("curved", [False, True])
    @pytest.mark.parametrize("place", [(0, 0), (-18, 14), (20, 20)], ids=str)
    def test_wide_fans(self, curved, place):
        """The cosine, the inverse square and the curved detector's kernel: at the centre they could
        be left out unnoticed, but not at the side of a fan of 80°."""
        physics, x = eq.FanBeam(64, 720, 70.0, 50.0, curved=curved), blob(64, *place)
        assert error(physics.fbp(physics.A(x)), x) < 0.012

    @pytest.mark.parametrize("curved", [False, True])
    @pytest.mark.parametrize("offset", [0.0, 2.25])
    @pytest.mark.parametrize(
        "angles",
        [
            np.linspace(20, 270, 300),
            np.linspace(0, 234, 300),
            20 + 250 * np.linspace(0, 1, 300) ** 1.5,
            np.linspace(20, 270, 300) + np.random.default_rng(0).normal(0, 0.2, 300),
            np.arange(350.0),
            np.append(np.linspace(20, 270, 300), [20.0, 270.0]),
        ],
        ids=["short", "as short as can be", "uneven", "jitter", "a gap of 10°", "doubled ends"],
    )
    def test_short_scans_count_every_line_once(self, angles, offset, curved):
        physics = eq.FanBeam(
            64, torch.from_numpy(angles), 100.0, 80.0, curved=curved, offset=offset
        )
        x = blob(64, -18, 14)
        assert error(physics.fbp(physics.A(x)), x) < 0.02

    @pytest.mark.parametrize(
        ("angles", "covered"),
        [
            (np.linspace(0, 225, 300), 226),
            (np.concatenate([np.arange(0, 150.0), np.arange(180, 330.0)]), 300),
            (np.concatenate([np.arange(0, 90.0), np.arange(180, 270.0)]), 180),
            (np.array([10.0]), 0),
            (np.array([10.0, 10.0]), 0),
        ],
        ids=["too short", "two gaps", "two quarters", "one view", "the same view"],
    )
    def test_lines_that_are_not_measured(self, angles, covered):
        physics = eq.FanBeam(64, torch.from_numpy(angles), 100.0, 80.0)
        message = rf"every line .* at least 234° of it .* {len(angles)} views cover {covered}°"
        with pytest.raises(ValueError, match=message):
            physics.fbp(torch.zeros(1, *physics.measurement_shape))

    def test_a_source_near_the_image_is_told(self):
        for distance in (46.0, 50.0):
            physics, x = eq.FanBeam(64, 360, distance, 40.0), blob(64, 25, 25, 4.0)
            with pytest.warns(UserWarning, match=r"passes the image's corners at .* pixels"):
                out = physics.fbp(physics.A(x))
            assert float((out - x).abs().max()) > 0.1  # it is told for a reason
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for views, distance in ((360, 60.0), (40, 100.0), (720, 56.0)):
                physics = eq.FanBeam(64, views, distance, 40.0)
                physics.fbp(physics.A(x))
