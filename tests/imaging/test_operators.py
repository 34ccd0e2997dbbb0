"""Laws of the operators that are brought to one convention."""

from __future__ import annotations

import threading

import deepinv
import numpy as np
import pytest
import torch

import equipoise as eq
from equipoise.errors import UserError
from equipoise.imaging.linear import norm
from equipoise.imaging.operators import from_file, in_double, normalized
from equipoise.imaging.splitting import split


class TestOperators:
    def test_scaled(self):
        inner = deepinv.physics.CompressedSensing(20, (1, 6, 6))
        physics, gain, image_shape, measurement_shape = normalized(inner, 6)
        assert (image_shape, measurement_shape) == ((1, 6, 6), (20,))
        x, y = torch.randn(2, 1, 6, 6), torch.randn(2, 20)
        assert norm(physics.A, physics.A_adjoint, x) == pytest.approx(1, rel=1e-3)
        assert torch.allclose(physics.A(x), gain * inner.A(x))
        u = physics.prox_l2(x, y, 3.0)
        assert (3 * physics.A_adjoint(physics.A(u) - y) + u - x).norm() < 1e-3 * x.norm()

    @pytest.mark.parametrize("gain", [1.0, 0.5])
    def test_noise_lies_where_a_composition_measures(self, gain):
        mask = torch.ones(1, 8, 8)
        mask[:, ::4] = 0
        blur = deepinv.physics.BlurFFT((1, 8, 8), filter=gain * torch.ones(1, 1, 1, 5) / 5)
        physics = normalized(deepinv.physics.Inpainting((1, 8, 8), mask=mask) * blur, 8).physics
        physics.noise_model = deepinv.physics.GaussianNoise(0.1)
        noise = physics.noise(torch.zeros(3, 1, 8, 8))
        assert torch.equal((noise != 0).all(0)[0], mask[0] != 0)

    def test_in_double(self):
        for physics, shape in (
            (deepinv.physics.CompressedSensing(20, (1, 8, 8)), (20,)),
            (eq.ParallelBeam(8, 5, normalize=True), (1, 5, 12)),
            (deepinv.physics.Inpainting((1, 8, 8), mask=0.5), (1, 8, 8)),
        ):
            double, x = in_double(physics, shape), torch.rand(2, 1, 8, 8, dtype=torch.float64)
            assert double.A(x).dtype == torch.float64
            assert torch.allclose(double.A(x), physics.A(x.float()).double(), atol=1e-5)
            assert physics.A(x.float()).dtype == torch.float32  # and is as it was

    def test_what_computes_in_single_precision_says_so(self):
        matrix = torch.randn(20, 64)
        own = deepinv.physics.LinearPhysics(
            A=lambda x: x.flatten(1) @ matrix.T,
            A_adjoint=lambda y: (y @ matrix).reshape(-1, 1, 8, 8),
        )
        with pytest.raises(UserError, match=r"LinearPhysics cannot compute in float64: .*dtype"):
            in_double(own, (20,))
        casts = deepinv.physics.LinearPhysics(A=lambda x: x.float(), A_adjoint=lambda y: y.float())
        with pytest.raises(UserError, match=r"cannot compute in float64: it gives torch\.float32"):
            in_double(casts, (1, 8, 8))
        held = deepinv.physics.Denoising()
        held.lock = threading.Lock()  # cannot be copied, as what mri-nufft holds
        with pytest.raises(UserError, match="Denoising cannot compute in float64"):
            in_double(held, (1, 8, 8))

    def test_what_cannot_be_used(self):
        with pytest.raises(UserError, match=r"no deepinv\.physics\.LinearPhysics"):
            normalized(deepinv.physics.Haze(), 8)
        with pytest.raises(UserError, match="A x is zero for every image x"):
            normalized(deepinv.physics.Inpainting((1, 8, 8), mask=torch.zeros(1, 8, 8)), 8)
        with pytest.raises(UserError, match="takes neither real images"):
            normalized(
                split(deepinv.physics.MRI(mask=torch.ones(5, 7)), torch.ones(1, 2, 5, 7), 2, 0)[0],
                8,
            )

    def test_what_is_not_linear(self):
        """An offset, such as of a detector's dark current, in what is said to be linear."""

        class Offset(deepinv.physics.Denoising):
            def A(self, x, **kwargs):
                return x + 0.25

        with pytest.raises(UserError, match=r"0\.25 for an image of zeros, so it is not linear"):
            normalized(Offset(), 8)

    @pytest.mark.parametrize(
        ("A", "wanted"),
        [
            (lambda x: x**2, "A\\(2x\\) is 50% off 2 A\\(x\\), so it is not linear"),
            (lambda x: x.double(), r"A gives torch\.float64 for images of torch\.float32; end it"),
            (lambda x: x.mul_(2), r"A changes the image that it is given; .*x\.clone\(\)"),
            (lambda x: x[:1], r"A gives 1 measurement\(s\) of 2 images; it must take a batch"),
        ],
    )
    def test_what_ones_own_operator_must_not_do(self, A, wanted):
        own = deepinv.physics.LinearPhysics(A=A, A_adjoint=lambda y: y.float())
        with pytest.raises(UserError, match=wanted):
            normalized(own, 8)

    def test_a_file_that_ends_the_process(self, tmp_path):
        (tmp_path / "own.py").write_text("import sys\nsys.exit(3)")
        with pytest.raises(UserError, match=r"own\.py cannot be run: SystemExit: 3"):
            from_file(tmp_path / "own.py", 8)

    def test_nothing_hangs_on_another_librarys_object(self):
        inner = deepinv.physics.Blur(filter=torch.ones(1, 1, 3, 3) / 9, padding="circular")
        before = set(vars(inner))
        found = normalized(inner, 8)
        assert found.physics is inner  # its norm is 1 already
        assert found.gain == 1
        assert set(vars(inner)) == before

    def test_sequences(self):
        physics = deepinv.physics.DynamicMRI(mask=torch.ones(3, 8, 8), img_size=(2, 3, 8, 8))
        assert normalized(physics, 8, frames=3).image_shape == (2, 3, 8, 8)

    def test_our_own_tomography_knows_its_gain(self):
        inner = eq.ParallelBeam(8, 5, normalize=True)
        found = normalized(inner, 8)
        assert found.physics is inner
        assert found.gain == inner.gain
        assert found.measurement_shape == inner.measurement_shape

    def test_tomography_that_is_not_normalised_yet(self):
        """As a user's file may return it; the user's object stays as it is."""
        inner = eq.ParallelBeam(8, 5)
        physics, gain, _, _ = normalized(inner, 8)
        assert physics.norm() == pytest.approx(1, rel=1e-3)
        assert gain == pytest.approx(1 / inner.norm(), rel=1e-3)
        assert inner.gain == 1
        with pytest.raises(UserError, match="takes neither real images"):
            normalized(inner, 16)


@pytest.mark.parametrize("size", [np.int64(12), 12.0, (np.int32(12), 12)])
def test_sizes_of_other_numbers(size):
    assert eq.ParallelBeam(size, 4).image_shape == (1, 12, 12)


@pytest.mark.parametrize(
    "size", [float("inf"), float("nan"), "48", (48, 40, 99), (48,), 2.5, (8.5, 8), 0, (4, -1)]
)
def test_sizes_that_are_none(size):
    with pytest.raises((ValueError, TypeError), match=r"size|iterable"):
        eq.ParallelBeam(size, 10)
