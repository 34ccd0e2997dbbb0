"""Laws of the groups."""

from __future__ import annotations

import deepinv
import numpy as np
import pytest
import torch

import equipoise as eq
from equipoise.imaging.phantoms import phantoms


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
        assert (
            np.abs(turn(torch.from_numpy(bump)[None, None], 33.0)[0, 0].numpy() - theirs).max()
            < 2e-3
        )

    def test_turning_the_image_turns_the_views(self):
        """A T_g x is A x with its views renamed, for rotations by a multiple of their spacing."""
        physics = eq.ParallelBeam(64, 12)
        i, j = torch.meshgrid(torch.arange(64.0) - 31.5, torch.arange(64.0) - 31.5, indexing="ij")
        x = torch.exp(-((i - 6) ** 2 + (j + 9) ** 2) / 50)[None, None]
        y, moved = physics.A(x), physics.A(eq.Rotations().transform(x, theta=torch.tensor([15.0])))
        later = torch.cat([y[:, :, 1:], y[:, :, :1].flip(-1)], 2)
        earlier = torch.cat([y[:, :, -1:].flip(-1), y[:, :, :-1]], 2)
        assert min(float((moved - later).norm()), float((moved - earlier).norm())) < 0.01 * float(
            y.norm()
        )

    def test_shifts(self):
        x = torch.rand(2, 1, 8, 8)
        out = eq.Shifts().transform(
            x, shift_x=torch.tensor([1.0, 0.0]), shift_y=torch.tensor([0.0, -2.0])
        )
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
