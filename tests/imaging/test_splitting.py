"""Laws of the parts of a measurement."""

from __future__ import annotations

import deepinv
import pytest
import torch
from deepinv.physics import LinearPhysics, NonCartesianMRI
from deepinv.physics.blur import gaussian_blur

import equipoise as eq
from equipoise.imaging.draws import seeded
from equipoise.imaging.mri import birdcage, cartesian_mask
from equipoise.imaging.scaled import Scaled
from equipoise.imaging.selection import select
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

    @pytest.mark.parametrize("k", [0, None])
    def test_operators_that_are_multiplied_by_a_number(self, k):
        mask = cartesian_mask(16, 16, 2, 0.2)
        coils = deepinv.physics.MultiCoilMRI(
            mask=mask, coil_maps=birdcage(2, 16, 16)[None], img_size=(16, 16)
        )
        for inner, image in (
            (coils, torch.randn(2, 2, 16, 16)),
            (eq.ParallelBeam(16, 10, normalize=True), torch.rand(2, 1, 16, 16)),
            (deepinv.physics.Inpainting(img_size=(1, 16, 16), mask=0.5), torch.rand(2, 1, 16, 16)),
        ):
            physics = Scaled(inner, 0.5)
            y = physics.A(image)
            with seeded((0,), [0, 1]):
                found = split(physics, y, 3, k)
            assert torch.allclose(found.physics.A(image), found.y, atol=1e-5)
            assert torch.allclose(found.left_physics.A(image), found.left_y, atol=1e-5)
            assert float(found.left_y.norm()) > 0
            assert torch.allclose(physics.A(image), y)  # the physics itself is untouched

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

    def test_every_line_is_left_out_once_and_the_centre_never(self):
        mask = cartesian_mask(20, 48, 3, 0.15, 2)
        lines = mask[0] > 0
        centre = torch.zeros(48, dtype=torch.bool)
        low = high = 24
        while lines[low - 1]:
            low -= 1
        while lines[high]:
            high += 1
        centre[low:high] = True
        physics = deepinv.physics.MRI(mask=mask, img_size=(20, 48))
        y = physics.A(torch.randn(1, 2, 20, 48))
        count = torch.zeros(48)
        for k in range(4):
            parts = split(physics, y, 4, k)
            left = parts.left_physics.mask[0, 0, 0] > 0
            most = parts.physics.mask[0, 0, 0] > 0
            assert torch.equal(left | most, lines)
            assert not bool((left & most).any())
            assert bool(most[centre].all())
            positions = (lines & ~centre).nonzero()[:, 0].tolist()
            assert left.nonzero()[:, 0].tolist() == positions[k::4]
            count += left
        assert torch.equal(count > 0, lines & ~centre)
        assert int(count.max()) == 1

    def test_views_are_interleaved(self):
        physics = eq.ParallelBeam(8, 7, normalize=True)
        y = torch.arange(7.0).reshape(1, 1, 7, 1).expand(1, *physics.measurement_shape)
        for k in range(3):
            parts = split(physics, y, 3, k)
            assert parts.left_y[0, 0, :, 0].tolist() == list(range(k, 7, 3))
            assert sorted([*parts.left_y[0, 0, :, 0], *parts.y[0, 0, :, 0]]) == list(range(7))
        with pytest.raises(ValueError, match="cannot split 7 views into 8 parts; lower parts"):
            split(physics, y, 8, 0)

    def test_fewer_lines_than_parts_and_none(self):
        mask = torch.zeros(8, 8)
        mask[:, [1, 6]] = 1
        physics = deepinv.physics.MRI(mask=mask, img_size=(8, 8))
        y = physics.A(torch.randn(1, 2, 8, 8))
        for k in range(5):
            parts = split(physics, y, 5, k)
            left = parts.left_physics.mask[0, 0, 0].nonzero()[:, 0].tolist()
            assert left == [(1, 6)[k % 2]]
        rows = split(deepinv.physics.MRI(mask=mask.T, img_size=(8, 8)), y.mT, 5, 1)
        assert rows.left_physics.mask[0, 0, :, 0].nonzero()[:, 0].tolist() == [6]
        nothing = deepinv.physics.MRI(mask=0 * mask, img_size=(8, 8))
        with pytest.raises(ValueError, match="of which none is sampled"):
            split(nothing, y, 2, 0)

    def test_points_are_taken_in_turn(self):
        mask = torch.zeros(1, 4, 4)
        mask.flatten()[[0, 3, 6, 9, 12]] = 1
        physics = deepinv.physics.Inpainting((1, 4, 4), mask=mask)
        y = physics.A(torch.ones(1, 1, 4, 4))
        for k in range(2):
            left = split(physics, y, 2, k).left_y.flatten().nonzero()[:, 0].tolist()
            assert left == [0, 3, 6, 9, 12][k::2]

    def test_every_frame_of_a_sequence_has_lines_of_its_own(self):
        masks = torch.stack([cartesian_mask(16, 16, 2, 0.1, s) for s in range(3)])
        physics = deepinv.physics.DynamicMRI(mask=masks, img_size=(2, 3, 16, 16))
        x = torch.randn(2, 2, 3, 16, 16)
        y = physics.A(x)
        parts = split(physics, y, 3, 1)
        assert torch.allclose(parts.physics.A(x), parts.y, atol=1e-6)
        assert torch.allclose(parts.left_physics.A(x), parts.left_y, atol=1e-6)
        assert torch.allclose(parts.y + parts.left_y, y)
        chosen = [frame[0].nonzero()[:, 0].tolist() for frame in parts.left_physics.mask[0, 0]]
        assert all(chosen)
        assert chosen[0] != chosen[1]

    def test_what_cannot_be_split(self):
        stacked = deepinv.physics.stack(deepinv.physics.Denoising(), deepinv.physics.Denoising())
        with pytest.raises(TypeError, match="cannot be split: it must be linear, and measure one"):
            split(stacked, stacked.A(torch.zeros(1, 1, 4, 4)), 2, 0)
        bent = deepinv.physics.Physics(A=torch.square)
        with pytest.raises(TypeError, match="cannot be split"):
            split(bent, torch.zeros(1, 1, 4, 4), 2, 0)
        few = deepinv.physics.CompressedSensing(m=3, img_size=(1, 4, 4))
        with pytest.raises(ValueError, match="cannot split 3 measured numbers into 4 parts"):
            split(few, torch.zeros(1, 3), 4, 0)
        with pytest.raises(ValueError, match="cannot split 5 shots into 6 parts"):
            split(spokes()[0], torch.zeros(1, 2, 1, 40), 6, 0)


class Sketch(LinearPhysics):
    """(B, 2, 16, 16) → (B, …), of which each number sees the whole image."""

    def __init__(self, *shape):
        super().__init__()
        rng = torch.Generator().manual_seed(1)
        self.shape, count = shape, torch.Size(shape).numel()
        self.matrix = torch.randn(count, 2 * 16 * 16, generator=rng, dtype=torch.float64)

    def A(self, x, **kwargs):
        return (x.flatten(1) @ self.matrix.T.to(x)).reshape(-1, *self.shape)

    def A_adjoint(self, y, **kwargs):
        return (y.flatten(1) @ self.matrix.to(y)).reshape(-1, 2, 16, 16)


class Spokes(NonCartesianMRI):
    """Non-Cartesian MRI as deepinv has it, with another product: (B, 2, 2 coils, 5 shots · 8)."""

    def __init__(self):
        LinearPhysics.__init__(self)
        self.samples = torch.zeros(5, 8, 2).numpy()  # of which the number of shots alone counts
        self.sketch = Sketch(2, 2, 40)

    def A(self, x, **kwargs):
        return self.sketch.A(x)

    def A_adjoint(self, y, **kwargs):
        return self.sketch.A_adjoint(y)


def of_functions(physics):
    """The same without what else is known of it."""
    return LinearPhysics(A=physics.A, A_adjoint=physics.A_adjoint)


def spokes():
    rng = torch.Generator().manual_seed(0)
    return Spokes(), torch.randn(3, 2, 16, 16, generator=rng, dtype=torch.float64)


class TestWithoutViewsOrMask:
    def test_every_number_is_left_out_once_with_its_channels(self):
        for shape, size in (((2, 12, 20), (12, 20)), ((7, 11), (7, 11)), ((101,), (101,))):
            y, physics = torch.ones(3, *shape), Sketch(*shape)
            parts = [split(physics, y, 5, k) for k in range(5)]
            left = torch.stack([part.left_y for part in parts])
            assert torch.equal(left.sum(0), y)
            assert torch.equal(torch.stack([part.y for part in parts]), 1 - left)
            channels = y[0].numel() // torch.Size(size).numel()
            counts = left.flatten(2).sum(2)
            assert bool(((counts - y[0].numel() / 5).abs() < channels).all())
            if len(shape) == 3:
                assert torch.equal(left[:, :, 0], left[:, :, 1])
            if len(size) == 2:  # no line of an image is left out whole
                lines = left[0, 0].reshape(-1, *size)[0]
                assert not bool(lines.all(0).any() | lines.all(1).any())
            again = split(physics, y, 5, 2)
            assert torch.equal(again.left_y, parts[2].left_y)

    def test_shots_are_left_out_whole(self):
        physics, x = spokes()
        y = physics.A(x)
        for k in (0, 1, None):
            out = split(physics, y, 3, k).left_y.reshape(3, 2, 2, 5, 8) != 0
            assert bool((out == out[:, :1, :1, :, :1]).all())
            assert int(out[0, 0, 0, :, 0].sum()) == (1 if k == 2 else 2)

    @pytest.mark.parametrize("name", ["numbers", "vectors", "shots"])
    @pytest.mark.parametrize("again", [0, 1, None])
    def test_what_was_kept_is_split_again(self, name, again):
        """As where a part is kept for validation, and training splits the rest."""
        physics, x = splittable()[name]
        y = physics.A(x)
        parts = 4 if name == "shots" else 5
        first = split(physics, y, 5, 0)
        torch.manual_seed(0)
        found = split(first.physics, first.y, parts, again)
        for operator, measured in (found[:2], found[2:]):
            assert torch.allclose(operator.A(x), measured, atol=1e-12)
        assert torch.equal(found.y + found.left_y, first.y)
        counts = [int((each != 0).sum()) for each in (found.left_y, first.y)]
        assert counts[0] == pytest.approx(counts[1] / parts, rel=0.02)
        if name == "shots":
            left = found.left_y.reshape(3, 2, 2, 5, 8) != 0
            assert bool((left == left[:, :1, :1, :, :1]).all())

    @pytest.mark.parametrize(
        ("physics", "are_holes"),
        [
            (deepinv.physics.Denoising(), True),
            (deepinv.physics.Downsampling((1, 16, 16), factor=2, filter="bicubic"), True),
            (deepinv.physics.BlurFFT((1, 16, 16), filter=gaussian_blur(sigma=0.5)), True),
            (deepinv.physics.BlurFFT((1, 16, 16), filter=gaussian_blur(sigma=1.5)), False),
            (deepinv.physics.BlurFFT((1, 16, 16), filter=torch.ones(1, 1, 1, 5) / 5), False),
            (deepinv.physics.CompressedSensing(m=60, img_size=(1, 16, 16)), False),
            (of_functions(eq.ParallelBeam(16, 20, normalize=True)), False),
        ],
    )
    def test_what_would_leave_holes_is_not_split(self, physics, are_holes):
        """What a number sees, others must see too: to fill holes is another task."""
        y = physics.A(torch.rand(2, 1, 16, 16))
        for k in (0, None):
            if are_holes:
                with pytest.raises(ValueError, match=r"the others see to \d+% \(at least 50% is"):
                    split(physics, y, 5, k)
            else:
                split(physics, y, 5, k)

    def test_numbers_that_measure_nothing_do_not_count(self):
        """Half of what a camera reads out lies behind its shutter."""
        blur = deepinv.physics.BlurFFT((1, 16, 16), filter=gaussian_blur(sigma=1.5))
        for inner, are_holes in ((deepinv.physics.Denoising(), True), (blur, False)):
            camera = LinearPhysics(
                A=lambda x, p=inner: torch.cat([p.A(x), torch.zeros_like(x)], -1),
                A_adjoint=lambda y, p=inner: p.A_adjoint(y[..., :16].contiguous()),
            )
            y = camera.A(torch.rand(1, 1, 16, 16))
            if are_holes:
                with pytest.raises(ValueError, match="the others see to 0%"):
                    split(camera, y, 5, 0)
            else:
                split(camera, y, 5, 0)

    def test_noise_stays(self):
        physics, x = splittable()["numbers"]
        physics.noise_model = deepinv.physics.GaussianNoise(0.1)
        parts = split(physics, physics(x), 5, 0)
        noise = parts.physics.noise(torch.zeros(9, 1, 16, 16))
        assert float(noise.std()) == pytest.approx(0.09, rel=0.1)

    def test_what_is_composed_is_split_as_its_last_factor(self):
        rng = torch.Generator().manual_seed(0)
        x = torch.randn(2, 1, 16, 16, generator=rng)
        blur = deepinv.physics.BlurFFT((1, 16, 16), filter=torch.ones(1, 1, 1, 5) / 5)
        mask = torch.ones(1, 16, 16)
        mask[:, ::4] = 0
        lost = deepinv.physics.Inpainting((1, 16, 16), mask=mask)
        parallel = eq.ParallelBeam(16, 10, normalize=True)
        for physics, last in ((lost * blur, lost), (parallel * blur, parallel)):
            y = physics.A(x)
            found, own = split(physics, y, 3, 1), split(last, y, 3, 1)
            assert torch.equal(found.left_y, own.left_y)
            assert torch.allclose(found.physics.A(x), own.y, atol=1e-5)
            assert torch.allclose(found.left_physics.A(x), own.left_y, atol=1e-5)
        rows = (split(lost * blur, lost.A(blur.A(x)), 3, 1).left_y != 0).all(-1)[0, 0]
        assert 0 < int(rows.sum()) < 12  # whole rows, as those that are lost


def own_masks(count: int = 3) -> torch.Tensor:
    """(count, 2, 16, 32)"""
    masks = torch.stack([cartesian_mask(16, 32, 2, 0.1, seed) for seed in range(count)])
    return masks[:, None].expand(-1, 2, -1, -1).double()


def splittable() -> dict[str, tuple[object, torch.Tensor]]:
    rng = torch.Generator().manual_seed(0)

    def image(*shape: int) -> torch.Tensor:
        return torch.randn(3, *shape, generator=rng, dtype=torch.float64)

    one = own_masks(1)[0, 0]
    maps = torch.complex(image(4, 16, 32), image(4, 16, 32))
    frames = torch.stack([cartesian_mask(16, 32, 2, 0.1, seed) for seed in range(2)]).double()
    size = (16, 32)
    physics = deepinv.physics
    return {
        "views": (eq.ParallelBeam(16, 10, normalize=True).double(), image(1, 16, 16)),
        "lines": (physics.MRI(mask=one, img_size=size), image(2, *size)),
        "own lines": (physics.MRI(mask=own_masks(), img_size=size), image(2, *size)),
        "coils": (physics.MultiCoilMRI(mask=one, coil_maps=maps, img_size=size), image(2, *size)),
        "frames": (physics.DynamicMRI(mask=frames, img_size=(2, 2, *size)), image(2, 2, *size)),
        "numbers": (Sketch(1, 16, 16), image(2, 16, 16)),
        "vectors": (Sketch(160), image(2, 16, 16)),
        "shots": spokes(),
        "points of a composition": (
            physics.Inpainting((1, 16, 16), mask=(image(16, 16)[:1] > 0).double())
            * physics.BlurFFT((1, 16, 16), filter=torch.ones(1, 1, 3, 3).double() / 9),
            image(1, 16, 16),
        ),
        "points": (
            physics.Inpainting((1, 16, 16), mask=(image(16, 16)[:1] > 0).double()),
            image(1, 16, 16),
        ),
    }


@pytest.mark.parametrize("name", splittable())
class TestRandomSplits:
    def test_both_operators_measure_their_part(self, name):
        physics, x = splittable()[name]
        y = physics.A(x)
        torch.manual_seed(0)
        for _ in range(3):
            seen, y_seen, out, y_out = split(physics, y, 3, None)
            assert torch.allclose(seen.A(x), y_seen, atol=1e-12)
            assert torch.allclose(out.A(x), y_out, atol=1e-12)
            energy = y_seen.square().sum() + y_out.square().sum()
            assert torch.allclose(energy, y.square().sum(), rtol=1e-12)
            assert (y_out.flatten(1) != 0).any(1).all()
            for part, measured in ((seen, y_seen), (out, y_out)):
                product = (part.A_adjoint(measured) * x).sum()
                assert torch.allclose(product, (measured * part.A(x)).sum(), rtol=1e-9)

    def test_a_sample_has_the_same_draw_whatever_its_batchmates(self, name):
        physics, x = splittable()[name]
        y = physics.A(x)
        with seeded((5,), [0, 1, 2]):
            together = split(physics, y, 3, None)
        index = torch.tensor([2])
        with seeded((5,), [2]):
            alone = split(select(physics, index, 3), y[index], 3, None)
        assert torch.equal(together.left_y[2:], alone.left_y)
        with seeded((6,), [0, 1, 2]):
            assert not torch.equal(together.left_y, split(physics, y, 3, None).left_y)

    def test_every_measurement_outside_the_centre_has_its_turn(self, name):
        physics, x = splittable()[name]
        y = physics.A(x)
        with seeded((0,), range(3)):
            parts = [split(physics, y, 3, k).left_y for k in range(3)]
        if name == "views":
            interleaved = torch.ones(y.shape[1:], dtype=torch.bool)
            drawn = torch.zeros_like(interleaved)
        else:
            interleaved = torch.stack([part != 0 for part in parts]).any(0)
            drawn = torch.zeros_like(interleaved)
        torch.manual_seed(0)
        for _ in range(60):
            left = split(physics, y, 3, None).left_y
            if name == "views":
                first = [view.tolist() for view in y[0, 0]]
                for view in left[0, 0]:
                    drawn[0, first.index(view.tolist())] = True
            else:
                drawn |= left != 0
        assert torch.equal(drawn, interleaved)


def test_samples_that_share_a_mask_draw_their_own_lines():
    physics, x = splittable()["lines"]
    torch.manual_seed(0)
    left = split(physics, physics.A(x), 3, None).left_y != 0
    assert not torch.equal(left[0], left[1])
