"""Laws of filtered back-projection."""

from __future__ import annotations

import pytest
import torch

import equipoise as eq
from equipoise.imaging.phantoms import phantoms
from equipoise.imaging.tomography import WINDOWS


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
