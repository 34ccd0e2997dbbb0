"""The equivariant bootstrap: known answers, draws that belong to an image, memory, and refusals."""

from __future__ import annotations

import math
import tracemalloc
import warnings

import deepinv
import pytest
import torch
from support import bytes_of_tensors

import equipoise as eq
from equipoise.assessment.uncertainty import (
    UncertaintyWarning,
    calibrated_on_measurements,
    calibrated_on_truths,
    kept,
    measured_and_invented,
    rank_correlation,
    reliability,
)
from equipoise.assessment.uncertainty.kept import Kept
from equipoise.assessment.uncertainty.noise import noise_variance
from equipoise.errors import UserError

SIZE = 6
PIXELS = SIZE * SIZE


class Linear(torch.nn.Module):
    """D(x) = W x, the same for any σ."""

    def __init__(self, W):
        super().__init__()
        self.W = torch.nn.Parameter(W)

    def forward(self, x, sigma):
        return (x.flatten(1) @ self.W.T).reshape(x.shape)


class Matrix(deepinv.physics.LinearPhysics):
    """y = M x, of images of SIZE × SIZE pixels."""

    def __init__(self, M, noise):
        super().__init__(noise_model=noise)
        self.M = M

    def A(self, x, **kwargs):
        return x.flatten(1) @ self.M.T

    def A_adjoint(self, y, **kwargs):
        return (y @ self.M).reshape(-1, 1, SIZE, SIZE)


def double(seed, *shape):
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=rng, dtype=torch.float64)


def linear_model(step="proximal", strength=0.3, tolerance=1e-11):
    """A reconstructor that is linear in y, with D a smoothing that commutes with no flip."""
    W = 0.7 * torch.eye(PIXELS, dtype=torch.float64) + 0.02 * double(3, PIXELS, PIXELS)
    kinds = {
        "proximal": lambda: eq.ProximalStep(Linear(W), strength=strength),
        "gradient": lambda: eq.GradientStep(Linear(W), step_size=0.9),
    }
    return eq.EquilibriumReconstructor(kinds[step](), stop=eq.Stop(tolerance, 500)).double()


def gaussian(sigma):
    return deepinv.physics.GaussianNoise(torch.tensor(sigma, dtype=torch.float64))


def problem(measured=20, sigma=0.05, count=1):
    """y of ``measured`` random numbers of each of ``count`` images, with Gaussian noise."""
    M = double(1, measured, PIXELS) / 12
    physics = Matrix(M, gaussian(sigma))
    x = double(2, count, 1, SIZE, SIZE)
    return x, physics, physics.A(x) + sigma * double(4, count, measured)


def matrix_of(f, rows):
    """The matrix of a linear map of vectors of ``rows`` numbers."""
    return torch.stack([f(e[None]).flatten() for e in torch.eye(rows, dtype=torch.float64)], 1)


def closed_form(model, physics, x, elements, sigma):
    """Mean and standard deviation of x̃ − x̂ for each element of the group, (elements, PIXELS)."""
    measured = len(physics.M)
    R = matrix_of(lambda y: model(y, physics).detach(), measured)
    means, deviations = [], []
    for T in elements:
        back = T.T
        means.append(back @ (R @ (physics.M @ (T @ x))) - x)
        deviations.append(sigma * (back @ R).square().sum(1).sqrt())
    return torch.stack(means), torch.stack(deviations)


def flips():
    """The matrices of the four elements of Reflections()."""
    group = eq.Reflections()
    return [
        matrix_of(
            lambda v, p=params: group.transform(v.reshape(1, 1, SIZE, SIZE), **p).flatten(1), PIXELS
        )
        for params in group.elements()
    ]


def mixture_quantile(means, deviations, level):
    """Of |v|, where v is normal with one of these means and deviations, all as likely."""
    low, high = torch.zeros(PIXELS).double(), torch.full((PIXELS,), 100.0).double()
    normal = torch.special.ndtr
    for _ in range(80):
        q = (low + high) / 2
        below = normal((q - means) / deviations) - normal((-q - means) / deviations)
        low, high = (
            torch.where(below.mean(0) < level, q, low),
            torch.where(below.mean(0) < level, high, q),
        )
    return (low + high) / 2


class TestKnownAnswers:
    """A linear model with Gaussian noise has a bootstrap distribution in closed form."""

    @pytest.mark.parametrize("step", ["proximal", "gradient"])
    @pytest.mark.parametrize("group", ["flips", "none"])
    def test_standard_deviation_and_quantiles(self, step, group):
        _x, physics, y = problem()
        model = linear_model(step)
        elements = flips() if group == "flips" else [torch.eye(PIXELS, dtype=torch.float64)]
        moves = eq.Reflections() if group == "flips" else None
        samples = 800
        u = eq.uncertainty(
            model, y, physics, moves, samples=samples, level=0.9, noise=0.05, batch=200
        )
        assert torch.allclose(u.value, model(y, physics))
        means, deviations = closed_form(model, physics, u.value.flatten(), elements, 0.05)
        second = (means.square() + deviations.square()).mean(0)
        error = 1 / math.sqrt(2 * samples)  # relative, of the standard deviation of a normal
        assert (u.std.flatten() / second.sqrt() - 1).abs().max() < 5 * error
        assert float(u.rmse) == pytest.approx(float(second.mean().sqrt()), rel=2 * error)
        exact = mixture_quantile(means, deviations, 0.9)
        half = (u.upper - u.value).flatten()
        assert (half / exact - 1).abs().max() < 0.2
        assert abs(float((half / exact).mean()) - 1) < 0.02
        assert torch.allclose(u.upper - u.value, u.value - u.lower)
        bias = (u.bias.flatten() - means.mean(0)) / (second.sqrt() / math.sqrt(samples))
        assert bias.abs().max() < 5
        assert float(bias.square().mean()) < 2

    def test_the_variance_of_the_estimator_where_there_is_no_bias(self):
        """A full measurement, D = identity: x̂ is the least-squares solution, whose covariance is
        σ² (MᵀM)⁻¹."""
        M = torch.eye(PIXELS).double() + 0.1 * double(5, PIXELS, PIXELS) / SIZE
        physics = Matrix(M, gaussian(0.1))
        x = double(2, 1, 1, SIZE, SIZE)
        model = eq.EquilibriumReconstructor(
            eq.ProximalStep(lambda x, sigma: x, strength=0.1), stop=eq.Stop(1e-12, 500)
        ).double()
        u = eq.uncertainty(model, physics.A(x), physics, None, samples=2000, batch=500)
        exact = 0.1 * torch.linalg.inv(M.T @ M).diagonal().sqrt()
        assert (u.std.flatten() / exact - 1).abs().max() < 5 / math.sqrt(4000)
        truth_inside = exact * 1.6449  # the 90 % quantile of |normal|
        half = (u.upper - u.value).flatten()
        assert abs(float((half / truth_inside).mean()) - 1) < 0.02

    def test_zero_width(self):
        """No noise, all measured, D = identity: every sample is x̂."""
        x = torch.rand(2, 1, 8, 8, dtype=torch.float64)
        physics = deepinv.physics.Denoising(deepinv.physics.ZeroNoise())
        for step in (eq.ProximalStep(lambda x, s: x, 0.1), eq.GradientStep(lambda x, s: x, 1.0)):
            model = eq.EquilibriumReconstructor(step)
            u = eq.uncertainty(model, physics.A(x), physics, eq.Rotations(), samples=20)
            assert torch.allclose(u.value, x, atol=1e-4)
            assert u.std.max() < 1e-10
            assert (u.upper - u.lower).max() < 1e-10
            assert u.rmse.max() < 1e-10
            assert (u.status == eq.Status.CONVERGED).all()
            assert not u.blind.any()

    def test_quantiles_are_those_of_the_samples(self):
        _x, physics, y = problem(count=2)
        model = linear_model()
        u = eq.uncertainty(
            model, y, physics, eq.Reflections(), 31, 0.8, seed=3, keep=True, levels=(0.5,)
        )
        assert u.samples.shape == (31, 2, 1, SIZE, SIZE)
        deviation = u.samples - u.value
        assert torch.allclose(u.std, deviation.square().mean(0).sqrt())
        assert torch.allclose(u.mean, u.samples.mean(0))
        assert torch.allclose(u.upper - u.value, deviation.abs().quantile(0.8, dim=0))
        assert torch.allclose(u.widths[0], deviation.abs().quantile(0.5, dim=0))
        rms = deviation.square().flatten(2).mean(2).sqrt()
        assert torch.allclose(u.sample_rmse, rms)
        assert torch.allclose(u.rmse, u.std.square().flatten(1).mean(1).sqrt())
        assert torch.allclose(u.rmse_upper, rms.quantile(0.8, dim=0))
        assert torch.allclose(u.psnr, -20 * u.rmse.log10())


class TestDraws:
    def test_do_not_depend_on_the_batch(self):
        _, physics, y = problem(count=3)
        model = linear_model()
        arguments = (physics, eq.Reflections(), 12)
        together = eq.uncertainty(model, y, *arguments)
        for b in range(3):
            alone = eq.uncertainty(model, y[b : b + 1], *arguments)
            assert torch.allclose(alone.std[0], together.std[b], rtol=1e-8)
            assert torch.allclose(alone.lower[0], together.lower[b], rtol=1e-8)
        in_threes = eq.uncertainty(model, y, *arguments, batch=3)
        assert torch.allclose(in_threes.std, together.std, rtol=1e-8)

    def test_are_reproducible_and_differ_between_seeds_and_keys(self):
        _, physics, y = problem()
        model = linear_model()

        def std(**options):
            return eq.uncertainty(model, y, physics, eq.Rotations(), 12, **options).std

        torch.manual_seed(1)
        first = std(seed=5)
        state = torch.get_rng_state()
        assert torch.equal(std(seed=5), first)
        assert torch.equal(torch.get_rng_state(), state)  # nobody else's draws change
        assert not torch.allclose(std(seed=6), first, rtol=1e-3)
        assert not torch.allclose(std(seed=5, keys=[1]), first, rtol=1e-3)

    def test_more_samples_begin_with_the_same(self):
        _, physics, y = problem()
        few, many = (
            eq.uncertainty(linear_model(), y, physics, eq.Reflections(), n, keep=True)
            for n in (10, 20)
        )
        assert torch.allclose(few.samples, many.samples[:10], rtol=1e-8)

    def test_are_those_of_float64_in_float32(self):
        _, physics, y = problem()
        double_model = linear_model()
        exact = eq.uncertainty(double_model, y, physics, eq.Reflections(), 10)
        single = Matrix(physics.M.float(), gaussian(0.05))
        model = linear_model(tolerance=1e-6).float()
        rough = eq.uncertainty(model, y.float(), single, eq.Reflections(), 10)
        assert rough.std.dtype == torch.float32
        assert torch.allclose(rough.std.double(), exact.std, rtol=1e-2)

    def test_a_group_with_a_generator_of_its_own_keeps_it(self):
        _, physics, y = problem()
        rng = torch.Generator().manual_seed(9)
        group = eq.Reflections(rng=rng, n_trans=3)
        before = rng.get_state()
        first = eq.uncertainty(linear_model(), y, physics, group, 10).std
        assert torch.equal(rng.get_state(), before)
        assert group.n_trans == 3
        torch.rand(1, generator=rng)
        assert torch.equal(eq.uncertainty(linear_model(), y, physics, group, 10).std, first)

    @pytest.mark.parametrize(
        "group",
        [
            deepinv.transform.Reflect(dim=[-1, -2]),
            deepinv.transform.Shift(),
            deepinv.transform.Rotate(multiples=90),
            eq.Rotations(multiples=90) * eq.Reflections(),
            deepinv.transform.Rotate(multiples=90) * deepinv.transform.Reflect(dim=[-1]),
            deepinv.transform.Shift() | deepinv.transform.Reflect(dim=[-1]),
        ],
        ids=lambda group: type(group).__name__,
    )
    def test_groups_of_others_are_undone(self, group):
        """Exact groups, a perfect reconstruction: nothing deviates."""
        x = torch.rand(2, 1, 8, 8, dtype=torch.float64)
        physics = deepinv.physics.Denoising(deepinv.physics.ZeroNoise())
        u = eq.uncertainty(lambda y, physics: y, x, physics, group, 10, keep=True)
        assert torch.equal(u.value, x)
        assert u.std.max() < 1e-12
        seen = []

        def model(y, physics):
            seen.append(y)
            return y

        eq.uncertainty(model, x, physics, group, 20)
        assert len({float(v[0, 0, 0, 0]) for y in seen[1:] for v in y.split(1)}) > 2


class TestNoise:
    def spread(self, physics, y, **options):
        """Of samples of a model that returns its measurement: the noise alone."""
        return eq.uncertainty(lambda y, physics: y, y, physics, None, 400, batch=50, **options)

    def test_gaussian(self):
        y = torch.rand(1, 1, 8, 8)
        physics = deepinv.physics.Denoising(deepinv.physics.GaussianNoise(0.2))
        assert float(self.spread(physics, y).rmse) == pytest.approx(0.2, rel=0.02)
        assert float(self.spread(physics, y, noise=0.1).rmse) == pytest.approx(0.1, rel=0.02)
        each = self.spread(physics, y.repeat(2, 1, 1, 1), noise=torch.tensor([0.1, 0.3])).rmse
        assert each.tolist() == pytest.approx([0.1, 0.3], rel=0.02)

    def test_poisson(self):
        """Its variance is gain · y, pixel by pixel."""
        y = torch.rand(1, 1, 8, 8, dtype=torch.float64) + 0.5
        physics = deepinv.physics.Denoising(deepinv.physics.PoissonNoise(0.1))
        std = self.spread(physics, y).std
        assert float((std.square() / (0.1 * y)).mean()) == pytest.approx(1, rel=0.03)
        slightly_negative = y - 0.6
        assert self.spread(physics, slightly_negative).std.isfinite().all()

    @pytest.mark.parametrize("level", [0.02, 0.1, 1.0])
    def test_its_variance_where_most_counts_are_none(self, level):
        """Per number that is measured: no photon is a measurement, a masked pixel is not."""
        mask = torch.ones(1, 1, 64, 64)
        mask[..., ::2] = 0
        noise = deepinv.physics.PoissonNoise(1.0)
        physics = deepinv.physics.Inpainting((1, 64, 64), mask, noise_model=noise)
        found = noise_variance(physics.A(torch.full((1, 1, 64, 64), level)), physics)
        assert found == pytest.approx(level, rel=0.15)
        half_empty = torch.full((1, 1, 64, 64), level)
        half_empty[..., :32, :] = 0
        found = noise_variance(physics.A(half_empty), physics)
        assert found == pytest.approx(level / 2, rel=0.2)

    def test_its_variance_where_something_is_never_measured(self):
        """The noise of a row of zeros says nothing."""
        M = torch.eye(PIXELS)
        M[::2] = 0
        physics = Matrix(M, deepinv.physics.UniformNoise(0.3))
        found = noise_variance(physics.A(torch.rand(1, 1, SIZE, SIZE)), physics)
        assert found == pytest.approx(0.03, rel=0.3)

    def test_another_model(self):
        y = torch.rand(1, 1, 16, 16)
        physics = deepinv.physics.Denoising(deepinv.physics.UniformNoise(0.3))
        first = self.spread(physics, y)
        assert float(first.rmse) == pytest.approx(0.3 / 3**0.5, rel=0.03)
        assert torch.equal(self.spread(physics, y).std, first.std)
        double = self.spread(physics, y, noise=lambda x: x + 0.5)
        assert torch.allclose(double.std, torch.full_like(y, 0.5))

    def test_of_an_operator_that_was_multiplied(self):
        from equipoise.imaging.scaled import Scaled

        physics = deepinv.physics.Denoising(deepinv.physics.GaussianNoise(0.2))
        y = torch.rand(1, 1, 8, 8)
        u = eq.uncertainty(lambda y, physics: y / 3, y, Scaled(physics, 3.0), None, 400)
        assert float(u.rmse) == pytest.approx(0.2, rel=0.03)

    def test_is_only_where_something_is_measured(self):
        mask = torch.ones(1, 1, 8, 8)
        mask[..., ::2] = 0
        physics = deepinv.physics.Inpainting((1, 8, 8), mask, noise_model=gaussian(0.2))
        std = self.spread(physics, mask).std
        assert not std[..., ::2].any()
        assert std[..., 1::2].min() > 0.1

    def test_unknown(self):
        physics = deepinv.physics.Denoising()
        physics.noise_model = None
        with pytest.raises(UserError, match=r"noise: unknown.*pass noise=σ"):
            self.spread(physics, torch.rand(1, 1, 8, 8))

    def test_that_y_has_and_the_samples_lack(self):
        _x, physics, y = problem(sigma=0.0)
        with pytest.warns(UncertaintyWarning, match="leaves .*% of y unexplained"):
            eq.uncertainty(linear_model(), y + 0.3, physics, eq.Reflections(), 10)


class TestBlindness:
    def scan(self):
        """A Cartesian mask that misses half of all columns: shifts commute with it."""
        mask = torch.zeros(1, 1, 16, 16)
        mask[..., ::2] = 1
        return deepinv.physics.MRI(mask=mask, img_size=(16, 16), noise_model=gaussian(0.01))

    def model(self):
        step = eq.ProximalStep(lambda x, sigma: 0.9 * x, strength=0.1)
        return eq.EquilibriumReconstructor(step)

    def test_a_group_that_commutes_is_said_to_be_blind(self):
        physics = self.scan()
        y = physics.A(torch.rand(2, 2, 16, 16))
        with pytest.warns(UncertaintyWarning, match="blind to the null space.*Shifts"):
            u = eq.uncertainty(self.model(), y, physics, eq.Shifts(), 10)
        assert u.blind.tolist() == [True, True]
        assert "another group" in u.notes[0]
        assert float(u.rmse.max()) < 0.2

    def test_one_that_does_not_is_not(self):
        physics = self.scan()
        y = physics.A(torch.rand(2, 2, 16, 16))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            u = eq.uncertainty(self.model(), y, physics, eq.Rotations(), 10)
        assert not u.blind.any()
        assert u.notes == []

    def test_an_operator_that_sees_everything_has_nothing_to_be_blind_to(self):
        physics = deepinv.physics.Denoising(gaussian(0.01))
        y = torch.rand(1, 1, 16, 16)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert not eq.uncertainty(self.model(), y, physics, None, 10).blind.any()

    def test_a_parallel_beam_commutes_with_quarter_turns_and_not_with_all(self):
        physics = eq.ParallelBeam(24, 8, normalize=True)
        y = physics.A(eq.phantoms(1, 24))
        found = {}
        for group in (eq.Rotations(multiples=90), eq.Rotations()):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                u = eq.uncertainty(self.model(), y, physics, group, 10, noise=0.01)
            found[group.multiples] = bool(u.blind)
        assert found == {90: True, None: False}

    def test_each_image_has_its_own_operator(self):
        mask = torch.ones(2, 1, 8, 8)
        mask[1, :, :, ::2] = 0
        physics = deepinv.physics.Inpainting((1, 8, 8), mask, noise_model=gaussian(0.01))
        y = physics.A(torch.rand(2, 1, 8, 8))
        with pytest.warns(UncertaintyWarning, match="blind"):
            u = eq.uncertainty(self.model(), y, physics, eq.Reflections(axes=("y",)), 10)
        assert u.blind.tolist() == [False, True]


class TestParts:
    def test_sum_to_the_image_and_are_what_the_formula_says(self):
        _x, physics, y = problem(count=2)
        u = eq.uncertainty(linear_model(), y, physics, eq.Reflections(), 20, parts=True, keep=True)
        assert torch.allclose(u.measured + u.invented, u.value)
        M, delta = physics.M, 0.05**2
        inner = torch.linalg.inv(M.T @ M + delta * torch.eye(PIXELS).double())
        P = M.T @ M @ inner
        flat = u.value.flatten(1)
        assert torch.allclose(u.measured.flatten(1), flat @ P.T, atol=1e-5)
        deviations = (u.samples - u.value).flatten(2)
        for name, matrix in (("measured", P), ("invented", torch.eye(PIXELS).double() - P)):
            std = (deviations @ matrix.T).square().mean(0).sqrt()
            assert torch.allclose(getattr(u, f"{name}_std").flatten(1), std, atol=1e-5)

    def test_without_noise_they_are_range_and_null_space(self):
        mask = torch.ones(1, 1, 8, 8)
        mask[..., ::2] = 0
        physics = deepinv.physics.Inpainting((1, 8, 8), mask)
        x = torch.rand(1, 1, 8, 8)
        parts = measured_and_invented(physics, x, 0.0)
        assert torch.allclose(parts.measured, mask * x, atol=1e-5)
        assert torch.allclose(parts.invented, (1 - mask) * x, atol=1e-5)
        share = (1 - mask).mul(x).square().sum() / x.square().sum()
        assert float(parts.share()) == pytest.approx(float(share), rel=1e-3)


class TestWhatDoesNotConverge:
    def test_is_counted_and_named(self):
        _, physics, y = problem(count=2)
        model = linear_model()
        model.stop = eq.Stop(1e-11, 3)
        with pytest.warns(eq.EquilibriumWarning, match="20 of 20 samples did not .*image 1: 10"):
            u = eq.uncertainty(model, y, physics, eq.Reflections(), 10)
        assert (u.status == eq.Status.MAX_STEPS).all()
        assert u.unfinished.tolist() == [10, 10]
        assert u.std.isfinite().all()
        model.on_failure = "raise"
        with pytest.raises(eq.EquilibriumError, match="did not converge"):
            eq.uncertainty(model, y, physics, eq.Reflections(), 10)

    def test_values_that_are_not_finite_are_left_out(self):
        y = torch.rand(2, 1, 8, 8)
        calls = []

        def model(y, physics):
            calls.append(None)
            return y / 0 if len(calls) == 3 else y

        physics = deepinv.physics.Denoising(gaussian(0.1))
        with pytest.warns(eq.EquilibriumWarning, match="1 with values that are not finite"):
            u = eq.uncertainty(model, y, physics, None, 20, batch=1)
        assert u.status.tolist() == [int(eq.Status.NONFINITE), int(eq.Status.CONVERGED)]
        assert u.sample_status[1, 0] == eq.Status.NONFINITE
        assert u.unfinished.tolist() == [1, 0]
        assert u.std.isfinite().all()
        assert u.upper.isfinite().all()

    def test_an_image_that_is_lost_does_not_take_the_others_along(self):
        _, physics, y = problem(count=2)
        alone = eq.uncertainty(linear_model(), y[1:], physics, eq.Reflections(), 10)
        y = torch.cat([y[:1] * torch.nan, y[1:]])
        model = linear_model()
        model.on_failure = "ignore"
        u = eq.uncertainty(model, y, physics, eq.Reflections(), 10)
        assert u.status[0] == eq.Status.NONFINITE
        assert torch.allclose(u.std[1], alone.std[0], rtol=1e-6)


class TestWhatIsRefused:
    def ask(self, shape=(1, 1, 8, 8), group=None, **options):
        y = torch.rand(shape)
        physics = deepinv.physics.Denoising(gaussian(0.1))
        return eq.uncertainty(lambda y, physics: y, y, physics, group, **options)

    @pytest.mark.parametrize("kind", [UserError, ValueError])
    def test_too_few_samples(self, kind):
        message = r"samples must be at least 100 for the 0.99 quantile, got 99"
        with pytest.raises(kind, match=message):
            self.ask(samples=99, level=0.99)
        assert self.ask(samples=10, level=0.9).std.shape == (1, 1, 8, 8)

    @pytest.mark.parametrize("level", [0, 1, 90, -0.1, math.nan])
    def test_levels(self, level):
        with pytest.raises(UserError, match=r"level must be in \(0, 1\)"):
            self.ask(level=level)

    @pytest.mark.parametrize("seed", [-1, 0.5, "a"])
    def test_seeds(self, seed):
        with pytest.raises(UserError, match="seed must be an integer >= 0"):
            self.ask(seed=seed)

    @pytest.mark.parametrize(
        "group", [eq.Rotations(), eq.Rotations(multiples=90), deepinv.transform.Rotate()]
    )
    def test_a_group_that_needs_square_images(self, group):
        with pytest.raises(UserError, match=r"needs square images, these have 8 × 12.*Shifts"):
            self.ask((1, 1, 8, 12), group)
        with pytest.raises(UserError, match="needs square images"):
            self.ask((1, 1, 8, 12), group * eq.Reflections())

    @pytest.mark.parametrize(
        "group", [eq.Rotations(multiples=180), eq.Rotations(limit=10), eq.Shifts()]
    )
    def test_groups_that_do_not(self, group):
        assert self.ask((1, 1, 8, 12), group, samples=10).std.shape == (1, 1, 8, 12)

    def test_what_is_no_group(self):
        with pytest.raises(UserError, match="group must be a deepinv transform"):
            self.ask(group="rotations")

    @pytest.mark.parametrize("noise", [-0.1, math.nan, "much"])
    def test_noise(self, noise):
        with pytest.raises(UserError, match="noise must be a standard deviation"):
            self.ask(noise=noise)


class TestMemory:
    def test_a_file_holds_what_memory_would(self):
        rng = torch.Generator().manual_seed(0)
        rows = torch.randn(21, 50, generator=rng)
        chosen = torch.ones(21, dtype=torch.bool)
        chosen[3] = False
        levels = torch.tensor([0.3, 0.9])
        exact = rows[chosen].quantile(levels, dim=0)
        for in_memory in (1 << 20, 0):
            held = Kept(21, 50, torch.float32, in_memory)
            assert (held.file is None) == (in_memory > 0)
            for k in range(21):
                held.write(k, rows[k])
            assert torch.allclose(held.quantiles(levels, chosen), exact)
            held.close()

    def test_does_not_grow_with_the_samples(self, monkeypatch):
        """What tracemalloc sees, which is none of torch's, and the tensors."""
        monkeypatch.setattr(kept, "SORTED", 1000)
        y = torch.rand(1, 1, 32, 32)
        physics = deepinv.physics.Denoising(gaussian(0.1))
        made = []
        original = Kept.__init__

        def counted(self, count, numbers, dtype, in_memory=4096):
            original(self, count, numbers, dtype, 4096)
            made.append(self.file is not None)

        monkeypatch.setattr(Kept, "__init__", counted)
        peaks, tensors = [], []
        for samples in (50, 200):
            seen = []

            def model(y, physics, seen=seen):
                seen.append(bytes_of_tensors())
                return y.clone()

            tracemalloc.start()
            eq.uncertainty(model, y, physics, None, samples)
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
            tensors.append(max(seen))
        assert made == [True, True]
        assert peaks[1] < peaks[0] + 500_000
        assert tensors[1] < tensors[0] + 50 * y.nbytes


class TestEveryKind:
    """Operators, images and models of all kinds."""

    @pytest.mark.parametrize("kind", ["parallel", "fan", "mri", "multicoil", "stacked", "sequence"])
    def test_operators(self, kind):
        noise = deepinv.physics.GaussianNoise(0.01)
        shape = {"mri": (2, 2, 16, 16), "multicoil": (2, 2, 16, 16)}.get(kind, (2, 1, 16, 16))
        mask = (torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(0)) < 0.6).float()
        if kind == "parallel":
            physics = eq.ParallelBeam(16, 6, normalize=True)
        elif kind == "fan":
            physics = eq.FanBeam(16, 6, 40.0, 20.0, normalize=True)
        elif kind == "mri":
            physics = deepinv.physics.MRI(mask=mask, img_size=(16, 16))
        elif kind == "multicoil":
            maps = torch.ones(2, 3, 16, 16, dtype=torch.complex64) / 3**0.5
            physics = deepinv.physics.MultiCoilMRI(mask=mask, coil_maps=maps, img_size=(16, 16))
        elif kind == "sequence":
            shape = (2, 2, 3, 16, 16)
            masks = mask[:, :, None].expand(2, 2, 3, 16, 16).contiguous()
            physics = deepinv.physics.DynamicMRI(mask=masks, img_size=(2, 3, 16, 16))
        else:
            physics = deepinv.physics.stack(
                deepinv.physics.Denoising(noise), deepinv.physics.Inpainting((1, 16, 16), mask)
            )
            for part in physics.physics_list:
                part.noise_model = noise
        if kind != "stacked":
            physics.noise_model = noise
        x = torch.rand(shape)
        step = eq.ProximalStep(lambda x, sigma: 0.9 * x, strength=0.1)
        model = eq.EquilibriumReconstructor(step, stop=eq.Stop(1e-4, 300))
        y = physics(x)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UncertaintyWarning)
            u = eq.uncertainty(model, y, physics, eq.Reflections(), 10, parts=True)
        assert u.std.shape == x.shape
        assert (u.std > 0).any()
        assert (u.status == eq.Status.CONVERGED).all()
        assert torch.allclose(u.measured + u.invented, u.value, atol=1e-5)
        if kind == "stacked":
            return
        alone = deepinv.physics.MRI(mask=mask[1:], img_size=(16, 16)) if kind == "mri" else None
        if alone is not None:
            alone.noise_model = noise
            one = eq.uncertainty(model, y[1:], alone, eq.Reflections(), 10)
            assert torch.allclose(one.std[0], u.std[1], atol=1e-4)

    def test_one_number_of_each_image(self):
        y = torch.rand(2, 1, 8, 8, dtype=torch.float64)
        physics = deepinv.physics.Denoising(gaussian(0.1))
        u = eq.uncertainty(
            lambda y, physics: y, y, physics, None, 400, quantity=lambda x: x.mean((1, 2, 3))
        )
        assert torch.allclose(u.value[:, 0], y.mean((1, 2, 3)))
        assert torch.allclose(u.std, torch.full_like(u.std, 0.1 / 8), rtol=0.2)

    def test_a_quantity_of_the_image(self):
        """The mean of a region: its uncertainty is that of the mean, not the mean of it."""
        y = torch.rand(2, 1, 8, 8, dtype=torch.float64)
        physics = deepinv.physics.Denoising(gaussian(0.1))
        u = eq.uncertainty(
            lambda y, physics: y,
            y,
            physics,
            None,
            600,
            quantity=lambda x: x[..., :4, :4].mean((-2, -1)),
        )
        assert torch.allclose(u.value, y[..., :4, :4].mean((-2, -1)))
        assert u.std.flatten().tolist() == pytest.approx([0.1 / 4] * 2, rel=0.1)

    def test_the_volume_of_what_is_bright(self):
        """Whole numbers are numbers."""
        y = torch.rand(2, 1, 8, 8)
        physics = deepinv.physics.Denoising(gaussian(0.1))
        u = eq.uncertainty(
            lambda y, physics: y, y, physics, None, 40, quantity=lambda x: (x > 0.5).sum((1, 2, 3))
        )
        assert torch.equal(u.value[:, 0], (y > 0.5).sum((1, 2, 3)).float())
        assert (u.std > 0).all()

    @pytest.mark.parametrize(
        "quantity",
        [
            lambda x: x.mean(),
            lambda x: x.numpy().mean((1, 2, 3)),
            lambda x: (x.mean(), x.std()),
            lambda x: float(x.mean()),
        ],
    )
    def test_what_is_no_quantity_is_refused(self, quantity):
        physics = deepinv.physics.Denoising(gaussian(0.1))
        with pytest.raises(ValueError, match=r"quantity must make a tensor with a row for each"):
            eq.uncertainty(
                lambda y, physics: y, torch.rand(2, 1, 8, 8), physics, None, 10, quantity=quantity
            )

    def test_of_nothing(self):
        physics = deepinv.physics.Denoising(gaussian(0.1))
        with pytest.raises(ValueError, match="y holds no measurement"):
            eq.uncertainty(lambda y, physics: y, torch.rand(0, 1, 8, 8), physics, None, 10)

    def test_unrolled_models_and_progress(self):
        _, physics, y = problem(count=2)
        model = linear_model()
        model.gradient = eq.Unrolled(steps=4)
        calls = []
        model.on_failure = "ignore"
        u = eq.uncertainty(
            model,
            y,
            physics,
            eq.Reflections(),
            10,
            batch=4,
            progress=lambda done, total: calls.append((done, total)),
        )
        assert calls == [(k, 20) for k in (0, 4, 8, 10, 14, 18, 20)]
        assert torch.allclose(u.value, model(y, physics))
        assert int(u.steps.max()) == 4

    def test_an_operator_of_ones_own_that_cannot_be_told_apart(self):
        class Weighted(deepinv.physics.LinearPhysics):
            def __init__(self):
                super().__init__(noise_model=gaussian(0.1))
                self.weights = [torch.tensor(1.0), torch.tensor(2.0)]

            def A(self, x, **kwargs):
                if len(x) != 2:
                    raise RuntimeError("two images, please")
                return torch.stack([w * v for w, v in zip(self.weights, x)])

            A_adjoint = A

        y = torch.rand(2, 1, 8, 8)
        with pytest.raises(UserError, match="one image at a time"):
            eq.uncertainty(lambda y, physics: y, y, Weighted(), None, 10)


class TestCorrected:
    def test_a_constant_bias_is_taken_out(self):
        """f(y) = y + 0.1 under the parametric bootstrap: the bias is 0.1, and known exactly."""
        x = torch.rand(1, 1, 8, 8, dtype=torch.float64)
        physics = deepinv.physics.Denoising(gaussian(0.01))
        u = eq.uncertainty(lambda y, physics: y + 0.1, physics.A(x), physics, None, 400)
        assert torch.allclose(u.bias, torch.full_like(x, 0.1), atol=5e-3)
        right = u.corrected()
        assert torch.allclose(right.value, x, atol=5e-3)
        assert float(right.rmse) == pytest.approx(0.01, rel=0.1)
        assert torch.allclose((right.lower + right.upper) / 2, right.value)
        levels = eq.uncertainty(
            lambda y, physics: y + 0.1, physics.A(x), physics, None, 20, levels=[0.5]
        )
        assert levels.widths is not None
        assert levels.corrected().widths is None  # they are about the value that was
        wide = u.scaled(2.0)
        assert torch.allclose(wide.upper - wide.value, 2 * (u.upper - u.value))
        assert torch.allclose(wide.rmse, 2 * u.rmse)
        for factor in (-1.0, 0.0, float("nan"), torch.tensor([1.0, -2.0])):
            with pytest.raises(ValueError, match="factor must be finite and > 0"):
                u.scaled(factor)


class TestCalibration:
    """Noise that is really three times as large as the samples believe."""

    def noisy_images(self, count, believed=0.1, true=0.3):
        x = double(7, count, 1, 16, 16)
        physics = deepinv.physics.Denoising(gaussian(believed))
        y = x + true * double(8, count, 1, 16, 16)
        return x, eq.uncertainty(lambda y, physics: y, y, physics, None, 200, keys=range(count))

    def test_on_truths(self):
        x, u = self.noisy_images(6)
        before = reliability(u, x)
        assert before.coverage() == pytest.approx(0.416, abs=0.03)  # P(|normal| < 1.645 / 3)
        assert before.ratio == pytest.approx(1 / 3, rel=0.05)
        factor = calibrated_on_truths(u, x).factor
        assert factor == pytest.approx(3, rel=0.05)
        other_x, other = self.noisy_images(12)
        after = reliability(other.scaled(factor), other_x)
        assert after.coverage() == pytest.approx(0.9, abs=0.02)
        assert after.ratio == pytest.approx(1, rel=0.1)

    def test_with_a_guarantee(self):
        x, u = self.noisy_images(12)
        wide, plain = (calibrated_on_truths(u, x, guarantee=g).factor for g in (True, False))
        error = (x - u.value).abs()
        outside = (error > wide * (u.upper - u.value)).double().mean()
        assert float(outside) == pytest.approx((0.1 * 13 - 1) / 12, abs=1e-3)
        assert wide > plain
        x, u = self.noisy_images(8)
        with pytest.raises(UserError, match="needs at least 9 images, got 8"):
            calibrated_on_truths(u, x, guarantee=True)

    def test_on_measurements(self):
        """Zero-filling white images: what is left out of y is wrong by all of it. Of x̂, shifted,
        three of four lines that are left out hold something, the others nothing: the samples
        believe in three quarters of the mean square error."""
        mask = torch.ones(1, 1, 16, 16).double()
        physics = deepinv.physics.Inpainting((1, 16, 16), mask, noise_model=gaussian(1e-4))
        y = physics(double(9, 8, 1, 16, 16))
        found = calibrated_on_measurements(
            lambda y, physics: y, y, physics, eq.Shifts(), samples=60, keys=range(8)
        )
        assert found.factor == pytest.approx((4 / 3) ** 0.5, rel=0.06)
        assert "8 measurement(s)" in found.words

    def test_rank_correlation(self):
        a = torch.tensor([1.0, 2.0, 3.0, 4.0])
        assert rank_correlation(a, a.exp()) == pytest.approx(1)
        assert rank_correlation(a, -a) == pytest.approx(-1)
        # the textbook's: 1 − 6 Σd² / n(n² − 1)
        b = torch.tensor([2.0, 1.0, 4.0, 3.0])
        assert rank_correlation(a, b) == pytest.approx(1 - 6 * 4 / (4 * 15))
        assert math.isnan(rank_correlation(a[:2], a[:2]))
        assert math.isnan(rank_correlation(a, torch.ones(4)))
        # Equal values share their rank: of 1, 2.5, 2.5, 4 and 1, 2, 3, 4.
        tied = torch.tensor([1.0, 2.0, 2.0, 3.0])
        assert rank_correlation(tied, a) == pytest.approx(4.5 / (4.5 * 5) ** 0.5)
