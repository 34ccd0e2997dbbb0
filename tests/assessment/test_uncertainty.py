"""The equivariant bootstrap: known answers, draws that belong to an image, memory, and refusals."""

from __future__ import annotations

import math
import tracemalloc
import warnings

import deepinv
import pytest
import torch

import equipoise as eq
from equipoise.assessment.uncertainty import UncertaintyWarning, bootstrap, kept
from equipoise.assessment.uncertainty.kept import Kept
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
    """Of |v|, where v is normal with one of these means and deviations, all as likely: bisection."""
    low, high = torch.zeros(PIXELS).double(), torch.full((PIXELS,), 100.0).double()
    normal = torch.special.ndtr
    for _ in range(80):
        q = (low + high) / 2
        below = normal((q - means) / deviations) - normal((-q - means) / deviations)
        low, high = torch.where(below.mean(0) < level, q, low), torch.where(
            below.mean(0) < level, high, q
        )
    return (low + high) / 2


class TestKnownAnswers:
    """A linear model with Gaussian noise has a bootstrap distribution in closed form."""

    @pytest.mark.parametrize("step", ["proximal", "gradient"])
    @pytest.mark.parametrize("group", ["flips", "none"])
    def test_standard_deviation_and_quantiles(self, step, group):
        x, physics, y = problem()
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
        x, physics, y = problem(count=2)
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

    def test_another_model(self):
        y = torch.rand(1, 1, 16, 16)
        physics = deepinv.physics.Denoising(deepinv.physics.UniformNoise(0.3))
        first = self.spread(physics, y)
        assert float(first.rmse) == pytest.approx(0.3 / 3**0.5, rel=0.03)
        assert torch.equal(self.spread(physics, y).std, first.std)
        double = self.spread(physics, y, noise=lambda x: x + 0.5)
        assert torch.allclose(double.std, torch.full_like(y, 0.5))

    def test_of_an_operator_that_was_multiplied(self):
        from equipoise.imaging.operators import Scaled

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
        with pytest.raises(UserError, match="noise: unknown.*pass noise=σ"):
            self.spread(physics, torch.rand(1, 1, 8, 8))

    def test_that_y_has_and_the_samples_lack(self):
        x, physics, y = problem(sigma=0.0)
        with pytest.warns(UncertaintyWarning, match="leaves .*% of y unexplained"):
            eq.uncertainty(linear_model(), y + 0.3, physics, eq.Reflections(), 10)
