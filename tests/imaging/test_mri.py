"""Laws of masks and coils, and of real acquisitions."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from equipoise.errors import UserError
from equipoise.imaging.linear import least_squares, norm
from equipoise.imaging.mri import (
    MASKS,
    acquisition,
    birdcage,
    calibration_size,
    cartesian_mask,
    edge_samples,
    estimate_coils,
    noise_covariance,
    prewhiten,
)
from equipoise.imaging.phantoms import phantoms


class TestMRI:
    @settings(max_examples=30, deadline=None)
    @given(n=st.integers(16, 128), acceleration=st.floats(1, 8), seed=st.integers(0, 20))
    def test_mask(self, n, acceleration, seed):
        mask = cartesian_mask(n, n, acceleration, 0.06, seed)
        assert int(mask[0].sum()) == round(n / acceleration)
        assert torch.equal(mask, mask[:1].expand(n, n))
        assert mask[0, n // 2] == 1
        assert torch.equal(mask, cartesian_mask(n, n, acceleration, 0.06, seed))

    @pytest.mark.parametrize("name", MASKS)
    @pytest.mark.parametrize("shape", [(64, 64), (63, 48), (40, 41)], ids=str)
    def test_frequency_zero_is_always_measured(self, name, shape):
        rows, columns = shape
        for seed in range(4):
            mask = MASKS[name](rows, columns, 4.0, 0.0, seed)
            assert mask[rows // 2, columns // 2] == 1
            assert set(mask.unique().tolist()) == {0.0, 1.0}

    @pytest.mark.parametrize("name", ["lines", "poisson_disc"])
    @pytest.mark.parametrize("center", [0.05, 0.08, 0.12, 0.3])
    def test_the_centre_is_as_large_as_it_says(self, name, center):
        for rows, columns in ((64, 64), (63, 48), (40, 41)):
            mask = MASKS[name](rows, columns, 2.5, center, 0)
            side = min(round(center * rows), round(center * columns))
            if name == "lines":
                side = min(rows, round(center * columns))
            assert calibration_size(mask) >= side

    def test_a_density_that_does_not_exist_is_not_searched_for_ever(self):
        with pytest.raises(ValueError, match=r"no Poisson-disc mask of 24×33 points has accel"):
            MASKS["poisson_disc"](24, 33, 30, 0.08, 0)

    @pytest.mark.parametrize("name", MASKS)
    @pytest.mark.parametrize("acceleration", [1, 1.0, 1.1, 1.2, 1.4, 2.0])
    def test_what_little_acceleration_gives_or_says(self, name, acceleration):
        """A mask of the acceleration that was asked for, or an error: nothing in between."""
        too_low = {"lines": 1, "poisson_disc": 1.2, "radial": 1.25}[name]
        if 1 < acceleration < too_low:
            with pytest.raises(ValueError, match=r"acceleration must be 1, or at least 1\.2"):
                MASKS[name](64, 60, acceleration, 0.08, 0)
            return
        mask = MASKS[name](64, 60, acceleration, 0.08, 0)
        tolerance = 0.1 if name == "poisson_disc" else 0.02
        assert float(1 / mask.mean()) == pytest.approx(acceleration, rel=tolerance)
        if acceleration == 1:
            assert bool(mask.all())

    def test_lines_are_drawn_more_densely_towards_the_centre(self):
        """As (1 − |k|)², at the first draw of one line besides the centre."""
        counts = torch.zeros(32)
        for seed in range(3000):
            mask = cartesian_mask(1, 32, 16.0, 0.03, seed)[0]
            assert int(mask.sum()) == 2
            counts += mask
        assert counts[16] == 3000
        k = (torch.arange(32) - 16).abs() / 17
        expected = (1 - k).square()
        expected[16] = 0
        expected = 3000 * expected / expected.sum()
        counts[16] = 0
        # Within four standard deviations of a Poisson count, each.
        assert ((counts - expected).abs() < 4 * expected.sqrt() + 4).all()

    @pytest.mark.parametrize("seed", [0, 5])
    @pytest.mark.parametrize("shape", [(96, 96), (64, 100)], ids=str)
    def test_spokes_are_turned_by_the_golden_angle(self, shape, seed):
        rows, columns = shape
        mask = MASKS["radial"](rows, columns, 14.0, 0.02, seed)
        i, j = mask.nonzero().T
        y = (i - rows // 2) / (rows / 2)
        x = (j - columns // 2) / (columns / 2)
        far = torch.hypot(x, y) > 0.6
        angles = torch.atan2(y, x)[far] % torch.pi
        first = float(torch.rand((), generator=torch.Generator().manual_seed(seed))) * torch.pi
        spokes = (first + torch.pi * (5**0.5 - 1) / 2 * torch.arange(40)) % torch.pi
        apart = (angles[:, None] - spokes).abs()
        nearest = torch.minimum(apart, torch.pi - apart) < 0.04
        count = int(nearest.any(0).cumprod(0).sum())  # spokes that were all drawn, in their order
        assert nearest[:, :count].any(1).all()
        per_spoke = far.sum() / (2 * count)
        assert 0.1 * max(shape) < float(per_spoke) < 0.35 * max(shape)  # both ends, 0.6 to 1

    def test_what_spokes_cannot_reach(self):
        with pytest.raises(ValueError, match=r"or at least 1\.2\d\d, got 1.1") as error:
            MASKS["radial"](64, 64, 1.1, 0.08, 0)
        least = float(str(error.value).split("at least ")[1].split(",")[0])
        assert float(1 / MASKS["radial"](64, 64, least, 0.08, 0).mean()) == pytest.approx(
            least, 1e-2
        )

    def test_too_much_centre(self):
        with pytest.raises(ValueError, match="lower one of them"):
            cartesian_mask(64, 64, 8, 0.5)


class TestAcquisitions:
    def test_masks(self):
        for name, tolerance in (("lines", 0.05), ("radial", 0.05), ("poisson_disc", 0.15)):
            mask = MASKS[name](64, 60, 4.0, 0.1, 3)
            assert mask.shape == (64, 60)
            assert float(mask.mean()) == pytest.approx(0.25, rel=tolerance), name
            assert torch.equal(mask, MASKS[name](64, 60, 4.0, 0.1, 3))
            assert not torch.equal(mask, MASKS[name](64, 60, 4.0, 0.1, 4))
            assert calibration_size(mask) >= 4
        for name in ("radial", "poisson_disc"):
            with pytest.raises(ValueError, match="lower one of them"):
                MASKS[name](64, 64, 8.0, 0.5, 0)
            with pytest.raises(ValueError, match="acceleration must be in"):
                MASKS[name](64, 64, 0.5, 0.1, 0)

    @pytest.fixture(scope="class")
    def simulated(self):
        """A smooth object seen by six coils whose noise is correlated."""
        torch.manual_seed(0)
        x = phantoms(1, 64, 0, ("brain",))[0, 0].to(torch.complex64)
        maps = birdcage(6, 64, 64)
        dims = (-2, -1)
        clean = torch.fft.fftshift(
            torch.fft.fft2(torch.fft.ifftshift(maps * x, dims), norm="ortho"), dims
        )
        mixing = torch.eye(6, dtype=torch.complex64) + 0.4 * torch.randn(
            6, 6, dtype=torch.complex64
        )
        noise = 2e-3 * mixing @ torch.randn(6, 64 * 64, dtype=torch.complex64)
        return x, maps, clean, noise.reshape(6, 64, 64), mixing

    def test_coil_maps(self, simulated):
        x, maps, clean, _, _ = simulated
        found = estimate_coils(clean * MASKS["poisson_disc"](64, 64, 3.0, 0.35, 0))
        object_ = (x.abs() > 0.1) & (found.abs().sum(0) > 0)
        assert float(object_.float().mean()) > 0.2
        overlap = (found.conj() * maps).sum(0).abs()[object_]  # 1 if the maps agree up to a phase
        assert float(overlap.quantile(0.05)) > 0.99
        assert torch.allclose(
            torch.linalg.vector_norm(found, dim=0)[object_], torch.ones(()), atol=1e-4
        )
        with pytest.raises(
            UserError, match=r"fully sampled centre of 8×8 points; this k-space has 4×4"
        ):
            estimate_coils(clean * MASKS["poisson_disc"](64, 64, 3.0, 0.04, 0))

    def test_whitening(self, simulated):
        _, _, clean, noise, mixing = simulated
        covariance = noise_covariance(noise.flatten(1))
        assert torch.allclose(covariance, 4e-6 * mixing @ mixing.mH, rtol=0.15, atol=2e-6)
        white = prewhiten(noise, covariance)
        assert torch.allclose(
            noise_covariance(white.flatten(1)), torch.eye(6, dtype=torch.complex64), atol=1e-3
        )
        with pytest.raises(UserError, match="singular"):
            prewhiten(clean, torch.zeros(6, 6, dtype=torch.complex64))

    @pytest.mark.parametrize("coils", [1, 6])
    def test_the_noise_level_is_that_of_real_and_imaginary_part(self, simulated, coils):
        _, _, clean, noise, _ = simulated
        clean = clean[:coils]
        noise = noise[:coils]
        mask = MASKS["poisson_disc"](64, 64, 2.5, 0.35, 0)
        scan = noise.flatten(1)
        found = acquisition((clean + noise) * mask, noise=scan)
        without = prewhiten(clean * mask, noise_covariance(scan)) / found.scale
        y = found.y if coils > 1 else found.y[:, :, None]
        rest = (y[0] - torch.view_as_real(without).movedim(-1, 0))[..., mask > 0]
        for part in rest:
            assert float(part.std()) == pytest.approx(found.noise, rel=0.03)
        # Without a scan, from the outermost samples, where noise must outweigh the object.
        guessed = acquisition((clean + 40 * noise) * mask)
        told = acquisition((clean + 40 * noise) * mask, noise=40 * scan)
        assert guessed.noise == pytest.approx(told.noise, rel=0.15)

    def test_the_outermost_samples(self):
        """A tenth of those that were measured: the corners, of a full grid."""
        kspace = torch.arange(1, 401, dtype=torch.float32).reshape(1, 20, 20).to(torch.complex64)
        far = edge_samples(kspace)
        assert 40 <= far.shape[1] <= 44
        corners = kspace[0, [0, 0, -1, -1], [0, -1, 0, -1]]
        assert all(corner in far[0].tolist() for corner in corners.tolist())
        kspace[:, :, 10:] = 0
        assert 20 <= edge_samples(kspace).shape[1] <= 22

    def test_too_little_noise_to_tell_its_covariance(self):
        with pytest.raises(UserError, match="6 coils need at least as many noise samples, got 5"):
            noise_covariance(torch.randn(6, 5, dtype=torch.complex64))

    def test_coil_maps_of_ones_own(self, simulated):
        _, maps, clean, noise, _ = simulated
        found = acquisition(clean + noise, coil_maps=maps, noise=noise.flatten(1))
        assert torch.equal(found.physics.coil_maps[0], maps)
        assert found.calibration == 64
        with pytest.raises(UserError, match="this k-space has 64×64"):
            estimate_coils(clean, calibration=70)

    def test_a_whole_acquisition(self, simulated):
        x, _, clean, noise, _ = simulated
        kspace = (clean + noise) * MASKS["poisson_disc"](64, 64, 2.5, 0.35, 0)
        a = acquisition(kspace, noise=noise.flatten(1))
        assert a.y.shape == (1, 2, 6, 64, 64)
        assert norm(a.physics.A, a.physics.A_adjoint, torch.zeros(1, 2, 64, 64)) < 1.001
        out = least_squares(a.physics.A, a.physics.A_adjoint, a.y, 1e-5, 30).value
        image = out.square().sum(1).sqrt()[0]
        seen = (x.abs() > 0.1) & (image > 0)
        image = image * float((image * x.abs())[seen].sum() / image[seen].square().sum())
        assert float((image - x.abs())[seen].norm() / x.abs()[seen].norm()) < 0.1
        assert 0.3 < float(image.flatten().quantile(0.99)) < 3
        with pytest.raises(UserError, match="zero everywhere"):
            acquisition(torch.zeros(2, 32, 32, dtype=torch.complex64))
        with pytest.raises(UserError, match="fully sampled centre"):
            acquisition(torch.ones(1, 32, 32, dtype=torch.complex64) * (torch.rand(32, 32) < 0.3))
