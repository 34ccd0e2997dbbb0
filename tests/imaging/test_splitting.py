"""Laws of the parts of a measurement."""

from __future__ import annotations

import deepinv
import pytest
import torch

import equipoise as eq
from equipoise.imaging.mri import cartesian_mask
from equipoise.imaging.splitting import split


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
                assert float(y_seen.square().sum() + y_out.square().sum()) == pytest.approx(
                    float(y.square().sum()), rel=1e-4
                )
                left += int((y_out != 0).sum())
            total = int((y != 0).sum())
            assert left <= total
            assert left >= 0.5 * total
        assert torch.equal(mri.mask[0, 0], mask)  # the physics itself is untouched

    def test_samples_with_masks_of_their_own(self):
        masks = torch.stack([cartesian_mask(16, 32, 2, 0.1, s) for s in range(3)])[:, None].expand(
            -1, 2, -1, -1
        )
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
