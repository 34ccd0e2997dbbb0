"""Classical reconstructions, by what defines them."""

from __future__ import annotations

import deepinv
import pytest
import torch

import equipoise as eq
from equipoise.assessment.baselines import (
    NoBackprojection,
    filtered_backprojection,
    total_variation,
    truncated_least_squares,
    zero_filled,
)


@pytest.fixture
def problem():
    physics = eq.ParallelBeam(16, 8, normalize=True).double()
    truth = eq.phantoms(2, 16, 5).double()
    rng = torch.Generator().manual_seed(0)
    clean = physics.A(truth)
    y = clean + 0.01 * torch.randn(clean.shape, generator=rng, dtype=torch.float64)
    return physics, y, truth


def variation(x):
    """Isotropic, with zero differences at the border, as deepinv's denoiser has it."""
    down = torch.nn.functional.pad(x.diff(dim=-2), (0, 0, 0, 1))
    across = torch.nn.functional.pad(x.diff(dim=-1), (0, 1))
    return (down.square() + across.square()).sqrt().flatten(1).sum(1)


class TestTotalVariation:
    def objective(self, x, y, physics, weight):
        return 0.5 * (physics.A(x) - y).square().flatten(1).sum(1) + weight * variation(x)

    def test_is_the_minimiser(self, problem):
        """Nothing near it is lower, and neither are the truth and the least-squares image."""
        physics, y, truth = problem
        weight = 3e-3
        x = total_variation(y, physics, weight, iterations=400, inner=60)
        lowest = self.objective(x, y, physics, weight)
        rng = torch.Generator().manual_seed(1)
        others = [truth, truncated_least_squares(y, physics, 50), 0.99 * x, 1.01 * x]
        for scale in (1e-3, 1e-2, 1e-1):
            step = torch.randn(x.shape, generator=rng, dtype=torch.float64)
            others += [x + scale * step, x - scale * step]
        for other in others:
            assert bool((self.objective(other, y, physics, weight) > lowest - 1e-7).all())

    def test_the_usual_iterations_come_close(self, problem):
        physics, y, _ = problem
        weight = 1e-3
        found = self.objective(total_variation(y, physics, weight), y, physics, weight)
        lowest = total_variation(y, physics, weight, iterations=600, inner=60)
        best = self.objective(lowest, y, physics, weight)
        assert bool((found < 1.01 * best).all())

    def test_more_weight_is_smoother(self, problem):
        physics, y, _ = problem
        smooth = [variation(total_variation(y, physics, w)) for w in (1e-4, 1e-3, 1e-2)]
        assert bool((smooth[0] > smooth[1]).all())
        assert bool((smooth[1] > smooth[2]).all())

    def test_each_channel_is_an_image_of_its_own(self):
        """Of a complex image whose imaginary part is zero, the real part is that of the real
        problem."""
        y = torch.rand(1, 2, 12, 12, generator=torch.Generator().manual_seed(0))
        physics = deepinv.physics.Denoising()
        both = total_variation(y, physics, 0.05)
        for k in range(2):
            alone = total_variation(y[:, k : k + 1], physics, 0.05)
            assert torch.allclose(both[:, k : k + 1], alone, atol=2e-3)

    def test_images_do_not_change_their_batchmates_much(self, problem):
        physics, y, _ = problem
        both = total_variation(y, physics, 1e-3)
        alone = total_variation(y[:1], physics, 1e-3)
        assert float((both[:1] - alone).norm() / alone.norm()) < 1e-2


def test_least_squares_of_many_iterations_is_the_pseudoinverse(problem):
    physics, y, _ = problem
    pixels = torch.eye(256, dtype=torch.float64).reshape(256, 1, 16, 16)
    A = physics.A(pixels).flatten(1).T
    exact = (torch.linalg.pinv(A) @ y.flatten(1).T).T.reshape(2, 1, 16, 16)
    found = truncated_least_squares(y, physics, 1000)
    assert float((found - exact).norm() / exact.norm()) < 1e-5
    early = truncated_least_squares(y, physics, 3)
    assert float(early.norm()) < float(found.norm())


def test_zero_filled_is_the_adjoint(problem):
    physics, y, _ = problem
    assert torch.equal(zero_filled(y, physics), physics.A_adjoint(y))


class TestBackprojection:
    def test_is_the_operators_own(self, problem):
        physics, y, _ = problem
        for window in ("ramp", "hann"):
            found = filtered_backprojection(y, physics, window)
            assert torch.equal(found, physics.fbp(y, window=window))

    def test_a_geometry_that_it_is_not_made_for(self):
        fan = eq.FanBeam(16, [0.0, 10.0, 20.0], 40.0, 20.0)
        with pytest.raises(NoBackprojection, match="no filtered backprojection: "):
            filtered_backprojection(torch.zeros(1, *fan.measurement_shape), fan)

    def test_an_operator_without(self):
        blur = deepinv.physics.Denoising()
        with pytest.raises(NoBackprojection, match="Denoising has no method fbp"):
            filtered_backprojection(torch.zeros(1, 1, 8, 8), blur)

    def test_an_error_of_another_kind_is_not_taken_for_a_missing_one(self, problem):
        physics, _, _ = problem
        with pytest.raises(ValueError, match="y must have shape"):
            filtered_backprojection(torch.zeros(1, 1, 3, 3), physics)
