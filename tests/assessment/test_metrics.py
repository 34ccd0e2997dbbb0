"""The metrics, by their definitions."""

from __future__ import annotations

import math

import pytest
import torch
from skimage.metrics import structural_similarity

import equipoise as eq
from equipoise.assessment.metrics import magnitude, misfit, psnr, ssim


@pytest.fixture
def truth():
    rng = torch.Generator().manual_seed(0)
    return torch.rand(2, 1, 24, 24, dtype=torch.float64, generator=rng)


def test_psnr_of_a_known_error(truth):
    """A constant error of 0.01 is 40 dB, wherever it stays inside [0, 1]."""
    middle = 0.2 + 0.6 * truth
    assert psnr(middle + 0.01, middle) == pytest.approx([40.0, 40.0])
    assert psnr(truth, truth) == pytest.approx([200.0, 200.0])


class TestClipping:
    """What lies outside [0, 1] is not seen: neither in the image nor in the truth."""

    def test_psnr(self, truth):
        binary = truth.round()
        beyond = torch.where(binary > 0, binary + 7.0, binary - 3.0)
        assert psnr(beyond, binary) == pytest.approx([200.0, 200.0])
        assert psnr(truth, beyond) == pytest.approx(psnr(truth, binary).tolist())

    def test_ssim(self, truth):
        binary = truth.round()
        beyond = torch.where(binary > 0, binary + 7.0, binary - 3.0)
        assert ssim(beyond, binary) == pytest.approx([1.0, 1.0])
        assert ssim(truth, beyond) == pytest.approx(ssim(truth, binary).tolist())


def test_ssim_is_that_of_scikit_image(truth):
    """Away from the border, where the two pad differently."""
    noisy = (truth + 0.1 * truth.flip(-1)).clamp(0, 1)
    _, other = structural_similarity(
        noisy[0, 0].numpy(),
        truth[0, 0].numpy(),
        data_range=1.0,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        full=True,
    )
    inside = float(other[5:-5, 5:-5].mean())
    assert float(ssim(noisy, truth)[0]) == pytest.approx(inside, abs=2e-3)


def test_complex_images_are_scored_by_their_magnitude(truth):
    angle = torch.linspace(0, 3, 24, dtype=torch.float64)
    turned = torch.cat([truth * angle.cos(), truth * angle.sin()], 1)
    assert torch.allclose(magnitude(turned), truth)
    assert psnr(turned, truth) == pytest.approx([200.0, 200.0], abs=1e-6)
    noisy = 0.9 * truth
    assert psnr(torch.cat([noisy, 0 * noisy], 1), turned) == pytest.approx(
        psnr(noisy, truth).tolist()
    )


def test_a_sequence_is_scored_by_the_mean_over_its_frames(truth):
    frames = truth.reshape(1, 1, 2, 24, 24)
    assert float(ssim(0.5 * frames, frames)) == pytest.approx(
        float(ssim(0.5 * truth, truth).mean())
    )


def test_misfit(truth):
    physics = eq.ParallelBeam(24, 5, normalize=True).double()
    y = physics.A(truth)
    assert misfit(truth, y, physics) == pytest.approx([0.0, 0.0], abs=1e-12)
    assert misfit(1.5 * truth, y, physics) == pytest.approx([0.5, 0.5])
    assert misfit(torch.zeros_like(truth), y, physics) == pytest.approx([1.0, 1.0])


def test_nothing_is_no_measure_of_a_misfit(truth):
    physics = eq.ParallelBeam(24, 5, normalize=True).double()
    y = physics.A(truth)
    y[1] = 0
    found = misfit(truth, y, physics)
    assert float(found[0]) == pytest.approx(0, abs=1e-12)
    assert math.isnan(float(found[1]))


def test_an_image_that_is_not_finite_has_no_score(truth):
    broken = truth.clone()
    broken[1, 0, 3, 3] = math.nan
    found = psnr(broken, truth)
    assert float(found[0]) == pytest.approx(200.0)
    assert math.isnan(float(found[1]))
