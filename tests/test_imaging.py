"""Laws of the operators and the groups."""

from __future__ import annotations

import deepinv
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import equipoise as eq
from equipoise.errors import UserError
from equipoise.imaging.linear import least_squares, norm
from equipoise.imaging.mri import (
    MASKS,
    acquisition,
    birdcage,
    calibration_size,
    cartesian_mask,
    estimate_coils,
    noise_covariance,
    prewhiten,
)
from equipoise.imaging.phantoms import KINDS, dead_leaves, phantoms
from equipoise.imaging.splitting import split


def psnr(a, b):
    return float((-10 * ((a - b) ** 2).flatten(1).mean(1).log10()).mean())


class TestGroups:
    GROUPS = [
        eq.Rotations(),
        eq.Rotations(multiples=90),
        eq.Reflections(),
        eq.Shifts(),
        eq.Shifts(subpixel=True),
        eq.Rotations(multiples=90) * eq.Reflections(),
    ]

    @pytest.mark.parametrize("group", GROUPS, ids=lambda g: type(g).__name__)
    def test_inverse_norm_and_one_draw_a_sample(self, group):
        torch.manual_seed(0)
        x = phantoms(8, 64)
        params = group.get_params(x)
        assert all(len(p) == 8 for p in params.values())
        moved = group.transform(x, **params)
        back = group.inverse(moved, **params)
        assert psnr(back, x) > 45
        assert float(moved.norm() / x.norm()) == pytest.approx(1, abs=1e-3)
        alone = group.transform(x[3:4], **{k: p[3:4] for k, p in params.items()})
        assert torch.allclose(alone, moved[3:4], atol=1e-6)

    def test_products_and_multiples(self):
        x = torch.rand(4, 1, 16, 16)
        product = eq.Rotations(multiples=90) * eq.Shifts()
        assert torch.allclose(product.identity(x), x, atol=1e-6)
        torch.manual_seed(0)
        drawn = eq.Rotations(limit=15, multiples=5).get_params(torch.zeros(600, 1, 2, 2))["theta"]
        assert sorted(set(drawn.tolist())) == [-15, -10, -5, 0, 5, 10]
        with pytest.raises(ValueError, match="different kinds"):
            (eq.Shifts() * eq.Shifts())(x)

    def test_quarter_turns_are_exact(self):
        x = torch.rand(4, 2, 15, 15)
        out = eq.Rotations().transform(x, theta=torch.tensor([0.0, 90.0, 180.0, -90.0]))
        for i, k in enumerate((0, 1, 2, -1)):
            assert torch.equal(out[i], torch.rot90(x[i], k, (-2, -1)))

    def test_direction_and_composition(self):
        x = phantoms(3, 64).double()
        turn = lambda x, a: eq.Rotations().transform(x, theta=torch.tensor([a]))  # noqa: E731
        assert psnr(turn(turn(x, 20.0), 25.0), turn(x, 45.0)) > 40
        ndimage = pytest.importorskip("scipy.ndimage")
        i, j = np.mgrid[:65, :65]
        bump = np.exp(-((i - 40) ** 2 + (j - 25) ** 2) / 72)
        theirs = ndimage.rotate(bump, 33, reshape=False, order=3)
        assert np.abs(turn(torch.from_numpy(bump)[None, None], 33.0)[0, 0].numpy() - theirs).max() < 2e-3

    def test_turning_the_image_turns_the_views(self):
        """A T_g x is A x with its views renamed: rotation by a multiple of the spacing commutes with the scan."""
        physics = eq.ParallelBeam(64, 12)
        i, j = torch.meshgrid(torch.arange(64.0) - 31.5, torch.arange(64.0) - 31.5, indexing="ij")
        x = torch.exp(-((i - 6) ** 2 + (j + 9) ** 2) / 50)[None, None]
        y, moved = physics.A(x), physics.A(eq.Rotations().transform(x, theta=torch.tensor([15.0])))
        later = torch.cat([y[:, :, 1:], y[:, :, :1].flip(-1)], 2)
        earlier = torch.cat([y[:, :, -1:].flip(-1), y[:, :, :-1]], 2)
        assert min(float((moved - later).norm()), float((moved - earlier).norm())) < 0.01 * float(y.norm())

    def test_shifts(self):
        x = torch.rand(2, 1, 8, 8)
        out = eq.Shifts().transform(x, shift_x=torch.tensor([1.0, 0.0]), shift_y=torch.tensor([0.0, -2.0]))
        assert torch.equal(out[0], x[0].roll(1, -1))
        assert torch.equal(out[1], x[1].roll(-2, -2))

    def test_seeds(self):
        x = torch.rand(4, 1, 8, 8)
        torch.manual_seed(5)
        a = eq.Rotations()(x)
        torch.manual_seed(5)
        assert torch.equal(a, eq.Rotations()(x))
        g = [eq.Rotations(rng=torch.Generator().manual_seed(3)) for _ in range(2)]
        assert torch.equal(g[0](x), g[1](x))
        assert eq.Rotations(n_trans=3)(x).shape == (12, 1, 8, 8)

    def test_differentiable(self):
        x = torch.randn(2, 1, 6, 6, dtype=torch.float64, requires_grad=True)
        theta = torch.tensor([33.0, -71.0], dtype=torch.float64)
        assert torch.autograd.gradcheck(lambda x: eq.Rotations().transform(x, theta=theta), x)

    def test_in_deepinv_loss(self):
        physics = eq.ParallelBeam(16, 8, normalize=True)
        loss = deepinv.loss.EILoss(eq.Rotations(), apply_noise=False)
        x = torch.rand(2, 1, 16, 16)
        assert float(loss(x_net=x, physics=physics, model=lambda y, p: p.A_dagger(y))) > 0


class TestMRI:
    @settings(max_examples=30, deadline=None)
    @given(n=st.integers(16, 128), acceleration=st.floats(1, 8), seed=st.integers(0, 20))
    def test_mask(self, n, acceleration, seed):
        mask = cartesian_mask(n, n, acceleration, 0.06, seed)
        assert int(mask[0].sum()) == round(n / acceleration)
        assert torch.equal(mask, mask[:1].expand(n, n))
        assert mask[0, n // 2] == 1
        assert torch.equal(mask, cartesian_mask(n, n, acceleration, 0.06, seed))

    def test_too_much_centre(self):
        with pytest.raises(ValueError, match="lower one of them"):
            cartesian_mask(64, 64, 8, 0.5)


class TestSplitting:
    def test_parts_cover_everything_once(self):
        tomography, x = eq.ParallelBeam(16, 10, normalize=True), torch.rand(2, 1, 16, 16)
        mask = cartesian_mask(32, 32, 4, 0.1)
        mri, z = deepinv.physics.MRI(mask=mask, img_size=(32, 32)), torch.randn(2, 2, 32, 32)
        points = deepinv.physics.Inpainting(img_size=(1, 16, 16), mask=0.5)
        for physics, image in ((tomography, x), (mri, z), (points, x)):
            y = physics.A(image)
            left = 0
            for k in range(3):
                seen, y_seen, out, y_out = split(physics, y, 3, k)
                assert torch.allclose(seen.A(image), y_seen, atol=1e-5)
                assert torch.allclose(out.A(image), y_out, atol=1e-5)
                assert float(y_seen.square().sum() + y_out.square().sum()) == pytest.approx(float(y.square().sum()), rel=1e-4)
                left += int((y_out != 0).sum())
            total = int((y != 0).sum())
            assert left <= total
            assert left >= 0.5 * total
        assert torch.equal(mri.mask[0, 0], mask)  # the physics itself is untouched

    def test_samples_with_masks_of_their_own(self):
        masks = torch.stack([cartesian_mask(16, 32, 2, 0.1, s) for s in range(3)])[:, None].expand(-1, 2, -1, -1)
        mri, z = deepinv.physics.MRI(mask=masks, img_size=(16, 32)), torch.randn(3, 2, 16, 32)
        y = mri.A(z)
        for k in range(3):
            seen, y_seen, out, y_out = split(mri, y, 3, k)
            assert torch.allclose(seen.A(z), y_seen, atol=1e-6)
            assert torch.allclose(out.A(z), y_out, atol=1e-6)
            assert (y_out.flatten(1) != 0).any(1).all()

    def test_what_cannot_be_split(self):
        with pytest.raises(TypeError, match="cannot be split"):
            split(deepinv.physics.Denoising(), torch.zeros(1, 1, 4, 4), 2, 0)


class TestPhantoms:
    def test_range_looks_and_seeds(self):
        for images in (phantoms(8, 48, 3, KINDS), dead_leaves(3, 48, 3)):
            assert images.min() >= 0
            assert images.max() <= 1
            assert images.flatten(1).std(1).min() > 0.05
        assert torch.equal(phantoms(2, 32, 1), phantoms(4, 32, 1)[:2])
        assert not torch.equal(phantoms(1, 32, 1), phantoms(1, 32, 2))
        with pytest.raises(ValueError, match="kinds must be"):
            phantoms(1, 32, 0, ("elbow",))


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
        clean = torch.fft.fftshift(torch.fft.fft2(torch.fft.ifftshift(maps * x, dims), norm="ortho"), dims)
        mixing = torch.eye(6, dtype=torch.complex64) + 0.4 * torch.randn(6, 6, dtype=torch.complex64)
        noise = 2e-3 * mixing @ torch.randn(6, 64 * 64, dtype=torch.complex64)
        return x, maps, clean, noise.reshape(6, 64, 64), mixing

    def test_coil_maps(self, simulated):
        x, maps, clean, _, _ = simulated
        found = estimate_coils(clean * MASKS["poisson_disc"](64, 64, 3.0, 0.35, 0))
        object_ = (x.abs() > 0.1) & (found.abs().sum(0) > 0)
        assert float(object_.float().mean()) > 0.2
        overlap = (found.conj() * maps).sum(0).abs()[object_]  # 1 if the maps agree up to a phase
        assert float(overlap.quantile(0.05)) > 0.99
        assert torch.allclose(torch.linalg.vector_norm(found, dim=0)[object_], torch.ones(()), atol=1e-4)
        with pytest.raises(UserError, match=r"fully sampled centre of 8×8 points; this k-space has 2×2"):
            estimate_coils(clean * MASKS["poisson_disc"](64, 64, 3.0, 0.04, 0))

    def test_whitening(self, simulated):
        _, _, clean, noise, mixing = simulated
        covariance = noise_covariance(noise.flatten(1))
        assert torch.allclose(covariance, 4e-6 * mixing @ mixing.mH, rtol=0.15, atol=2e-6)
        white = prewhiten(noise, covariance)
        assert torch.allclose(noise_covariance(white.flatten(1)), torch.eye(6, dtype=torch.complex64), atol=1e-3)
        with pytest.raises(UserError, match="singular"):
            prewhiten(clean, torch.zeros(6, 6, dtype=torch.complex64))

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
