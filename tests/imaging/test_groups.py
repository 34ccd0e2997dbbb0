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


def noise(batch, *shape, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(batch, *shape, generator=rng, dtype=torch.float64)


SIZES = [(15, 15), (16, 16), (12, 20), (13, 20), (21, 15)]
#: multiples of 7.5° over more than a turn each way, with all quarters and half quarters, and others
ANGLES = torch.cat([torch.arange(-400, 401, 7.5), torch.tensor([0.1, -0.1, 44.9, 123.456, -211.1])])


def elements(kind, size):
    """A group, and parameters of many of its elements."""
    n = len(ANGLES)
    flips = torch.arange(n)
    fractions = ANGLES / 37
    match kind:
        case "rotations":
            return eq.Rotations(), {"theta": ANGLES}
        case "reflections":
            return eq.Reflections(), {"flip_x": flips % 2, "flip_y": flips // 2 % 2}
        case "shifts":
            return eq.Shifts(), {"shift_x": flips - 50.0, "shift_y": flips // 3 - 9.0}
        case "subpixel":
            return eq.Shifts(subpixel=True), {"shift_x": fractions, "shift_y": 0.3 - fractions}
        case "product":
            group = eq.Rotations() * eq.Shifts() * eq.Reflections(("x",))
            shifts = {"shift_x": fractions, "shift_y": flips - 8.0}
            return group, {"theta": ANGLES, **shifts, "flip_x": flips % 2}


KINDS = ["rotations", "reflections", "shifts", "subpixel", "product"]


class TestLaws:
    """On noise, of every size: nothing may hide in what images do not have."""

    @pytest.mark.parametrize("size", SIZES, ids=str)
    @pytest.mark.parametrize("kind", KINDS)
    def test_orthogonal(self, kind, size):
        """T_g⁻¹ T_g = T_g T_g⁻¹ = 1, ‖T_g x‖ = ‖x‖, ⟨T_g x, y⟩ = ⟨x, T_g⁻¹ y⟩."""
        group, params = elements(kind, size)
        x = noise(len(ANGLES), 2, *size)
        y = noise(len(ANGLES), 2, *size, seed=1)
        moved = group.transform(x, **params)
        back = group.inverse(y, **params)
        assert (group.inverse(moved, **params) - x).abs().max() < 1e-12
        assert (group.transform(back, **params) - y).abs().max() < 1e-12
        assert (moved.flatten(1).norm(dim=1) / x.flatten(1).norm(dim=1) - 1).abs().max() < 1e-12
        assert ((moved * y).flatten(1).sum(1) - (x * back).flatten(1).sum(1)).abs().max() < 1e-10

    @pytest.mark.parametrize("size", SIZES, ids=str)
    @pytest.mark.parametrize("kind", KINDS)
    def test_each_sample_moves_by_itself(self, kind, size):
        group, params = elements(kind, size)
        x = noise(len(ANGLES), 1, *size)
        moved = group.transform(x, **params)
        for i in (0, 7, 53, 59, len(ANGLES) - 1):
            alone = group.transform(x[i : i + 1], **{k: p[i : i + 1] for k, p in params.items()})
            assert (alone[0] - moved[i]).abs().max() < 1e-13
        one = group.transform(x, **{k: p[9:10] for k, p in params.items()})
        many = group.transform(x[:1], **params)
        assert (one[9] - moved[9]).abs().max() < 1e-13
        assert torch.equal(many[0], moved[0])
        assert len(many) == len(ANGLES)

    @pytest.mark.parametrize("kind", KINDS)
    def test_all_frames_of_a_sequence_move_alike(self, kind):
        group, params = elements(kind, (16, 16))
        params = {k: p[40:44] for k, p in params.items()}
        x = noise(4, 2, 3, 16, 16)
        moved = group.transform(x, **params)
        for t in range(3):
            assert torch.equal(moved[:, :, t], group.transform(x[:, :, t], **params))
        assert (group.inverse(moved, **params) - x).abs().max() < 1e-12
        assert group(x).shape == x.shape
        assert (group.identity(x) - x).abs().max() < 1e-12

    @pytest.mark.parametrize("size", SIZES, ids=str)
    def test_opposite_angles_undo_each_other_and_full_turns_do_nothing(self, size):
        turn = eq.Rotations().transform
        x = noise(len(ANGLES), 1, *size)
        moved = turn(x, theta=ANGLES)
        assert (turn(moved, theta=-ANGLES) - x).abs().max() < 1e-12
        for turns in (-720, -360, 360):
            again = turn(x, theta=ANGLES.double() + turns)
            assert (again - turn(x, theta=ANGLES.double())).abs().max() < 1e-11

    @pytest.mark.parametrize("size", SIZES, ids=str)
    def test_half_turns_add_up_exactly(self, size):
        turn = eq.Rotations().transform
        x = noise(len(ANGLES), 1, *size)
        half = x.flip((-2, -1))
        assert torch.equal(turn(x, theta=torch.tensor([180.0])), half)
        assert torch.equal(turn(x, theta=torch.tensor([-180.0])), half)
        moved = turn(x, theta=ANGLES)
        later = turn(moved, theta=torch.tensor([180.0]))
        assert (later - turn(x, theta=ANGLES.double() + 180)).abs().max() < 1e-11

    @pytest.mark.parametrize("n", [15, 16])
    def test_quarter_turns_add_up_exactly(self, n):
        x = noise(1, 2, n, n)
        group = eq.Rotations(multiples=90)
        for k in range(-8, 9):
            moved = group.transform(x, theta=torch.tensor([90.0 * k]))
            assert torch.equal(moved, torch.rot90(x, k, (-2, -1)))

    @pytest.mark.parametrize("size", [(64, 64), (65, 65), (64, 81), (90, 63)], ids=str)
    def test_angles_add_up_on_smooth_images_and_turn_them_the_right_way(self, size):
        """A Gaussian off the centre moves on a circle about it, counter-clockwise."""
        h, w = size
        i, j = torch.meshgrid(
            torch.arange(h, dtype=torch.float64) - (h - 1) / 2,
            torch.arange(w, dtype=torch.float64) - (w - 1) / 2,
            indexing="ij",
        )

        def bump(theta):
            turned = torch.deg2rad(torch.as_tensor(theta, dtype=torch.float64))
            x = 14 * torch.cos(turned)[:, None, None]
            y = -14 * torch.sin(turned)[:, None, None]
            return torch.exp(-((j - x) ** 2 + (i - y) ** 2) / 18)[:, None]

        turn = eq.Rotations().transform
        start = bump([0.0]).expand(len(ANGLES), 1, h, w)
        moved = turn(start, theta=ANGLES)
        assert (moved - bump(ANGLES)).abs().max() < 2e-3
        for more in (20.0, 77.0, -130.0):
            twice = turn(moved, theta=torch.tensor([more]))
            assert (twice - turn(start, theta=ANGLES + more)).abs().max() < 3e-3

    @pytest.mark.parametrize("size", SIZES, ids=str)
    def test_shifts_add_up(self, size):
        shift = eq.Shifts().transform
        x = noise(2, 1, *size)
        a = {"shift_x": torch.tensor([2.3, -7.1]), "shift_y": torch.tensor([0.6, 3.3])}
        b = {"shift_x": torch.tensor([1.5, 0.6]), "shift_y": torch.tensor([-9.2, 0.2])}
        both = {name: a[name].double() + b[name].double() for name in a}
        assert (shift(shift(x, **a), **b) - shift(x, **both)).abs().max() < 1e-6
        whole = shift(x, shift_x=torch.tensor([3.0, -30.0]), shift_y=torch.tensor([-5.0, 1.0]))
        assert torch.equal(whole[0], x[0].roll((3, -5), (-1, -2)))
        assert torch.equal(whole[1], x[1].roll((-30, 1), (-1, -2)))
        mixed = shift(x, shift_x=torch.tensor([3.0, 0.5]))
        assert torch.equal(mixed[0], x[0].roll(3, -1))  # whatever its batchmates do

    def test_fractions_of_a_pixel_move_smooth_images(self):
        line = torch.arange(32, dtype=torch.float64)

        def wave(sx, sy):
            return torch.sin(2 * torch.pi * (3 * (line - sx)[None] - 2 * (line - sy)[:, None]) / 32)

        x = wave(0, 0)[None, None]
        out = eq.Shifts().transform(x, shift_x=torch.tensor([1.7]), shift_y=torch.tensor([-0.4]))
        assert (out[0, 0] - wave(1.7, -0.4)).abs().max() < 1e-6  # float32 holds 1.7 to 2e-7


class TestDraws:
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
        assert all(len(p.unique()) > 1 for p in params.values())
        moved = group.transform(x, **params)
        back = group.inverse(moved, **params)
        assert (back - x).abs().max() < 1e-5
        assert float(moved.norm() / x.norm()) == pytest.approx(1, abs=1e-5)
        alone = group.transform(x[3:4], **{k: p[3:4] for k, p in params.items()})
        assert torch.allclose(alone, moved[3:4], atol=1e-6)

    def test_ranges(self):
        torch.manual_seed(0)
        x = torch.zeros(4000, 1, 10, 40)
        drawn = eq.Rotations(limit=15, multiples=5).get_params(x)["theta"]
        assert sorted(set(drawn.tolist())) == [-15, -10, -5, 0, 5, 10]
        drawn = eq.Rotations(limit=30).get_params(x)["theta"]
        assert -30 <= float(drawn.min()) < -29.5
        assert 29.5 < float(drawn.max()) < 30
        drawn = eq.Shifts(limit=0.5).get_params(x)
        assert sorted(set(drawn["shift_x"].tolist())) == list(range(-20, 21))
        assert sorted(set(drawn["shift_y"].tolist())) == list(range(-5, 6))
        drawn = eq.Shifts(limit=0.5, subpixel=True).get_params(x)["shift_x"]
        assert 19.5 < float(drawn.abs().max()) <= 20
        assert float(drawn.frac().abs().mean()) == pytest.approx(0.5, abs=0.05)
        for flips in eq.Reflections().get_params(x).values():
            assert float(flips.float().mean()) == pytest.approx(0.5, abs=0.05)

    def test_seeds(self):
        x = torch.rand(4, 1, 8, 8)
        torch.manual_seed(5)
        a = eq.Rotations()(x)
        torch.manual_seed(5)
        assert torch.equal(a, eq.Rotations()(x))
        g = [eq.Rotations(rng=torch.Generator().manual_seed(3)) for _ in range(2)]
        assert torch.equal(g[0](x), g[1](x))
        assert eq.Rotations(n_trans=3)(x).shape == (12, 1, 8, 8)

    @pytest.mark.parametrize("batch", [1, 2])
    def test_several_draws_of_each_sample(self, batch):
        """Image i·B + b is the i-th move of sample b; a product has all pairs of moves."""
        torch.manual_seed(0)
        x = noise(batch, 1, 8, 8)
        group = eq.Rotations(n_trans=3) * eq.Shifts(n_trans=2) * eq.Reflections(n_trans=2)
        assert group.n_trans == 12
        params = group.get_params(x)
        assert all(len(p) == 12 * batch for p in params.values())
        pairs = set(zip(params["theta"].tolist(), params["shift_x"].tolist()))
        assert len(params["theta"].unique()) == 3 * batch
        assert len(pairs) == 6 * batch
        moved = group.transform(x, **params)
        assert len(moved) == 12 * batch
        for k in range(12 * batch):
            b = k % batch
            alone = group.transform(x[b : b + 1], **{n: p[k : k + 1] for n, p in params.items()})
            assert (alone[0] - moved[k]).abs().max() < 1e-13
        back = group.inverse(moved, **params).reshape(12, batch, 1, 8, 8)
        assert (back - x).abs().max() < 1e-12
        for options in ({}, {"collate_batch": False}):
            once = group.symmetrize(lambda v: v**2, average=True, **options)(x)
            assert once.shape == x.shape

    def test_elements(self):
        group = eq.Rotations(multiples=90) * eq.Reflections(("x",))
        x = noise(1, 1, 7, 7)
        images = [group.transform(x, **g) for g in group.elements()]
        assert torch.equal(images[0], x)
        assert len({tuple(image.flatten().tolist()) for image in images}) == 8
        assert len(eq.Reflections().elements()) == 4
        assert len(eq.Rotations(multiples=60).elements()) == 6
        for group in (eq.Rotations(), eq.Shifts(), eq.Rotations(multiples=70)):
            with pytest.raises(ValueError, match="no finite group"):
                group.elements()


class TestRefusals:
    def test_parameters_that_a_group_does_not_have(self):
        x = torch.rand(2, 1, 8, 8)
        for call in (eq.Shifts().transform, eq.Shifts(), eq.Shifts().inverse):
            with pytest.raises(TypeError, match="shift_x and shift_y"):
                call(x, x_shift=torch.tensor([1.0]))
        with pytest.raises(TypeError, match="Rotations moves by theta, not by angle"):
            eq.Rotations().transform(x, theta=torch.tensor([3.0]), angle=torch.tensor([3.0]))
        with pytest.raises(TypeError, match="moves by flip_x, not by flip_y"):
            eq.Reflections(("x",))(x, flip_y=torch.tensor([1]))
        with pytest.raises(TypeError, match="theta and shift_x and shift_y, not by shift"):
            (eq.Rotations() * eq.Shifts())(x, shift=torch.tensor([1]))
        with pytest.raises(TypeError, match="can only undo a move that it is told"):
            eq.Rotations().inverse(x)

    def test_lengths_and_shapes_that_do_not_fit(self):
        x = torch.rand(4, 1, 8, 8)
        with pytest.raises(ValueError, match=r"a batch of 4 needs .*; got theta of 3"):
            eq.Rotations().transform(x, theta=torch.zeros(3))
        with pytest.raises(ValueError, match="got shift_x of 4, shift_y of 8"):
            eq.Shifts().transform(x, shift_x=torch.zeros(4), shift_y=torch.zeros(8))
        with pytest.raises(ValueError, match=r"4D or 5D"):
            eq.Rotations()(x[0])
        with pytest.raises(ValueError, match="different kinds"):
            eq.Shifts() * eq.Shifts()
        assert eq.Rotations()(x[:0]).shape == (0, 1, 8, 8)

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda: eq.Rotations(limit=0), r"limit must be in \(0, 360\]"),
            (lambda: eq.Rotations(multiples=400), r"multiples must be in \(0, 180.0\]"),
            (lambda: eq.Rotations(limit=45, multiples=90), "no rotation but that by 0"),
            (lambda: eq.Rotations(n_trans=0), "n_trans must be at least 1"),
            (lambda: eq.Reflections(("z",)), "axes must be some of"),
            (lambda: eq.Shifts(limit=2), r"limit must be a fraction of the size in \(0, 1\]"),
        ],
    )
    def test_settings(self, make, message):
        with pytest.raises(ValueError, match=message):
            make()


class TestDeepinv:
    """Its contract of transforms: chains, sums and choices of ours and of its own."""

    @staticmethod
    def ours(n_trans=1):
        return [
            eq.Rotations(n_trans=n_trans),
            eq.Reflections(n_trans=n_trans),
            eq.Shifts(subpixel=True, n_trans=n_trans),
            eq.Rotations(n_trans=n_trans) * eq.Reflections(),
        ]

    @pytest.mark.parametrize("shape", [(1, 3, 16, 16), (2, 3, 15, 15), (2, 3, 2, 16, 16)], ids=str)
    def test_identity_and_arithmetic(self, shape):
        x = noise(*shape)
        reflect = deepinv.transform.Reflect(dim=[-1], rng=torch.Generator().manual_seed(0))
        for group in self.ours():
            assert (reflect * group)(x).shape == x.shape
            for transform in (group, group * reflect):
                assert transform(x).shape == x.shape
                assert (transform.identity(x) - x).abs().max() < 1e-12
                assert (transform.symmetrize(lambda v: v)(x) - x).abs().max() < 1e-12
            for both in (group + reflect, reflect + group):
                assert both(x).shape == (2 * shape[0], *shape[1:])
                assert (both.identity(x) - torch.cat([x, x])).abs().max() < 1e-12
            assert (group | reflect)(x).shape == x.shape
            assert ((group | reflect).identity(x) - x).abs().max() < 1e-12

    @pytest.mark.parametrize("batch", [1, 2])
    def test_averages_over_several_draws(self, batch):
        x = noise(batch, 1, 16, 16)
        for group in self.ours(n_trans=3):
            assert len(group(x)) == 3 * batch
            assert (group.identity(x, average=True) - x).abs().max() < 1e-12
            one_by_one = group.symmetrize(lambda v: v, average=True, collate_batch=False)
            assert (one_by_one(x) - x).abs().max() < 1e-12

    def test_a_chain_in_time_and_space(self):
        """Sample 0 is flipped, whole, and sample 1 is not."""
        x = noise(2, 3, 4, 8, 8)
        chain = deepinv.transform.ShiftTime(padding="wrap") * eq.Reflections(("x",))
        params = {**chain.t1.get_params(x), "flip_x": torch.tensor([1, 0])}
        shifted = chain.t1.transform(x, **params)
        moved = chain.transform(x, **params)
        assert torch.equal(moved[0], shifted[0].flip(-1))
        assert torch.equal(moved[1], shifted[1])
        assert torch.equal(chain.inverse(moved, **params), x)
        assert (chain.identity(x[:1]) - x[:1]).abs().max() < 1e-12

    @pytest.mark.parametrize("batch", [1, 2])
    def test_chains_of_several_draws_give_all_images(self, batch):
        x = noise(batch, 1, 8, 8)
        rng = torch.Generator().manual_seed(0)
        theirs = deepinv.transform.Rotate(multiples=90, n_trans=3, rng=rng)
        for n in (1, 2, 3):
            chain = theirs * eq.Reflections(n_trans=n)
            params = chain.get_params(x)
            images = chain.transform(x, **params)
            assert len(images) == 3 * n * batch
            # Draw j of the flips, of all that the turns made of sample b.
            turned = theirs.transform(x, **params).reshape(3, batch, 1, 8, 8)
            flips = {k: params[k].reshape(n, batch) for k in ("flip_x", "flip_y")}
            images = images.reshape(n, 3, batch, 1, 8, 8)
            for j in range(n):
                for b in range(batch):
                    flip = {k: p[j, b] for k, p in flips.items()}
                    expected = eq.Reflections().transform(turned[:, b], **flip)
                    assert torch.equal(images[j, :, b], expected)
            other = eq.Reflections(n_trans=n) * theirs
            assert len(other(x)) == 3 * n * batch
            assert (other.identity(x, average=True) - x).abs().max() < 1e-12

    def test_a_chain_that_its_author_cannot_undo_is_refused(self):
        """deepinv's chain finds the draws by their length, which per-sample draws do not have."""
        x = noise(2, 1, 8, 8)
        for n in (1, 2, 3):
            for m in (1, 3):
                theirs = deepinv.transform.Rotate(multiples=90, n_trans=m)
                chain = theirs * eq.Reflections(n_trans=n)
                assert len(chain(x)) == 2 * n * m
                with pytest.raises(TypeError, match="put the group first"):
                    chain.identity(x)
                assert (chain.identity(x[:1], average=True) - x[:1]).abs().max() < 1e-12

    def test_in_deepinv_loss(self):
        physics = eq.ParallelBeam(16, 8, normalize=True)
        loss = deepinv.loss.EILoss(eq.Rotations(), apply_noise=False)
        x = torch.rand(2, 1, 16, 16)
        assert float(loss(x_net=x, physics=physics, model=lambda y, p: p.A_dagger(y))) > 0


class TestGroups:
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

    def test_differentiable(self):
        x = torch.randn(2, 1, 6, 6, dtype=torch.float64, requires_grad=True)
        theta = torch.tensor([33.0, -71.0], dtype=torch.float64)
        assert torch.autograd.gradcheck(lambda x: eq.Rotations().transform(x, theta=theta), x)


@pytest.mark.parametrize(("limit", "multiples"), [(180, 180), (90, 90), (45, 30), (10, 10)])
def test_multiples_within_the_limit_move_something(limit, multiples):
    group = eq.Rotations(limit=limit, multiples=multiples)
    torch.manual_seed(0)
    theta = group.get_params(torch.zeros(200, 1, 4, 4))["theta"]
    assert float(theta.abs().max()) > 0
    assert float(theta.abs().max()) <= limit


@pytest.mark.parametrize("kind", KINDS)
class TestKindsOfNumbers:
    """What moves an image moves it whatever its numbers are, or says why it cannot."""

    def test_complex_parts_move_alike(self, kind):
        group, params = elements(kind, (12, 20))
        real, imaginary = noise(len(ANGLES), 2, 12, 20), noise(len(ANGLES), 2, 12, 20, seed=1)
        moved = group.transform(torch.complex(real, imaginary), **params)
        assert torch.equal(moved.real, group.transform(real, **params))
        assert torch.equal(moved.imag, group.transform(imaginary, **params))

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
    def test_short_numbers(self, kind, dtype):
        group, params = elements(kind, (12, 20))
        x = noise(len(ANGLES), 1, 12, 20).to(dtype)
        moved = group.transform(x, **params)
        assert moved.dtype == dtype
        exact = group.transform(x.double(), **params)
        assert (moved.double() - exact).abs().max() < 10 * torch.finfo(dtype).eps

    def test_whole_numbers(self, kind):
        group, params = elements(kind, (12, 20))
        x = (100 * noise(len(ANGLES), 1, 12, 20)).long()
        if group.permutes:
            assert torch.equal(
                group.transform(x, **params).double(), group.transform(x.double(), **params)
            )
        else:
            with pytest.raises(TypeError, match=r"torch\.int64 have no values between pixels"):
                group.transform(x, **params)
