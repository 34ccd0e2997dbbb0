"""Laws of the phantoms."""

from __future__ import annotations

import pytest
import torch

from equipoise.imaging.phantoms import KINDS, phantoms, smooth_phase


class TestPhantoms:
    def test_range_looks_and_seeds(self):
        images = phantoms(8, 48, 3, KINDS)
        assert images.min() >= 0
        assert images.max() <= 1
        assert images.flatten(1).std(1).min() > 0.05
        assert torch.equal(phantoms(2, 32, 1), phantoms(4, 32, 1)[:2])
        assert not torch.equal(phantoms(1, 32, 1), phantoms(1, 32, 2))
        with pytest.raises(ValueError, match="kinds must be"):
            phantoms(1, 32, 0, ("elbow",))

    @pytest.mark.parametrize(
        ("make", "expected"),
        [
            (lambda: phantoms(6, 32, 11, ("thorax",)), [0.180407, 0.218594, -0.001929, 0.001002]),
            (lambda: phantoms(6, 32, 11, ("abdomen",)), [0.218989, 0.248264, -0.00042, 0.000515]),
            (lambda: phantoms(6, 32, 11, ("head",)), [0.249828, 0.282513, -9.3e-05, 7.7e-05]),
            (lambda: phantoms(6, 32, 11, ("brain",)), [0.199563, 0.224274, 0.001467, 5.3e-05]),
            (lambda: smooth_phase(6, 32, 11), [0.0, 1.000081, -0.022343, -0.00871]),
        ],
        ids=["thorax", "abdomen", "head", "brain", "smooth_phase"],
    )
    def test_a_seed_means_the_same_images_as_in_release_0_1(self, make, expected):
        """Networks were trained, and tables made, on images of these seeds."""
        x = make().double()
        weights = torch.linspace(-1, 1, x[0].numel(), dtype=torch.float64).reshape(x.shape[1:])
        moments = [x.mean(), x.std(), (x * weights).mean(), (x * weights.mT * x).mean()]
        assert [float(m) for m in moments] == pytest.approx(expected, abs=2e-6)

    def test_phase_is_smooth_and_as_strong_as_asked(self):
        field = smooth_phase(2, 64, 0, strength=0.5)
        assert field.flatten(1).std(1).tolist() == pytest.approx([0.5, 0.5], rel=1e-2)
        assert float(field.diff(dim=-1).std()) < 0.05


@pytest.mark.parametrize(
    ("arguments", "words"),
    [((2, (24, 40)), "phantoms are square"), ((0, 32), "count must be at least 1, got 0")],
)
def test_what_phantoms_are_not(arguments, words):
    with pytest.raises(ValueError, match=words):
        phantoms(*arguments)
