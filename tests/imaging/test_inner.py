"""Laws of the inner solve: intervals that hold, Chebyshev's polynomials, and the choice."""

from __future__ import annotations

import deepinv
import pytest
import torch

import equipoise as eq
from equipoise.errors import UserError
from equipoise.imaging import inner as inner_module
from equipoise.imaging.chebyshev import Chebyshev, steps_for
from equipoise.imaging.inner import inner_solve
from equipoise.imaging.linear import conjugate_gradients
from equipoise.imaging.mri import birdcage, cartesian_mask
from equipoise.imaging.preconditioner import Circulant, _mean_response, circulants
from equipoise.imaging.scaled import Scaled
from equipoise.imaging.selection import select
from equipoise.imaging.spectrum import Interval, SpectrumError, spectrum_interval


def coils(count=1, size=8):
    maps = birdcage(3, size, size).to(torch.complex128)
    masks = torch.stack([cartesian_mask(size, size, 2, 0.2, seed) for seed in range(count)])
    return deepinv.physics.MultiCoilMRI(
        mask=masks[:, None].double(), coil_maps=maps.expand(count, -1, -1, -1), img_size=(8, 8)
    )


def dense_of(f, shape):
    """The matrix of a linear map of images of this shape (C, H, W)."""
    size = torch.Size(shape).numel()
    basis = torch.eye(size, dtype=torch.float64).reshape(size, *shape)
    return f(basis).flatten(1).T


OPERATORS = {
    "parallel": (lambda: eq.ParallelBeam(12, 7, normalize=True), (1, 12, 12)),
    "not square": (lambda: eq.ParallelBeam((9, 13), 6, normalize=True), (1, 9, 13)),
    "fan": (lambda: eq.FanBeam(10, 9, 30.0, 20.0, normalize=True), (1, 10, 10)),
    "coils": (coils, (2, 8, 8)),
    "scaled": (lambda: Scaled(eq.ParallelBeam(8, 5), 0.03), (1, 8, 8)),
}


@pytest.mark.parametrize("strength", [1e-4, 2.5e-3, 0.1])
@pytest.mark.parametrize("name", OPERATORS)
def test_the_interval_holds_the_whole_spectrum(name, strength):
    """No eigenvalue is above it, with or without a preconditioner: Chebyshev would diverge there.

    Below it there may be some, but none that matters: 1 − p is at least half there of what it is
    within.
    """
    make, shape = OPERATORS[name]
    physics = make()

    def AtA(v):
        return physics.A_adjoint(physics.A(v))

    def M(v):
        return AtA(v) + strength * v

    example = torch.zeros(1, *shape, dtype=torch.float64)
    matrix = dense_of(M, shape)
    tried = 0
    for P in [lambda v: v, *circulants(AtA, example, strength)]:
        interval = spectrum_interval(M, P, example)
        inverse = dense_of(P, shape)
        assert torch.allclose(inverse, inverse.T, atol=1e-9 * float(inverse.abs().max()))
        values = torch.linalg.eigvals(inverse @ matrix).real
        assert float(values.min()) > 0
        assert float(values.max()) <= float(interval.high)
        assert float(values.max()) > 0.85 * float(interval.high)
        assert float(interval.low) >= 0.99 * float(values.min())
        assert float(interval.low) <= 5 * float(values.min())
        tried += 1
    assert tried >= 2


def test_each_sample_has_its_own_interval():
    physics, strength = coils(3), 0.01
    example = torch.zeros(3, 2, 8, 8, dtype=torch.float64)

    def M(v, operator=physics):
        return operator.A_adjoint(operator.A(v)) + strength * v

    together = spectrum_interval(M, lambda v: v, example)
    for i in range(3):
        one = deepinv.physics.MultiCoilMRI(
            mask=physics.mask[i : i + 1], coil_maps=physics.coil_maps[i : i + 1], img_size=(8, 8)
        )
        matrix = dense_of(lambda v: M(v, one), (2, 8, 8))
        largest = float(torch.linalg.eigvalsh(matrix)[-1])
        assert largest <= float(together.high[i]) <= 1.15 * largest


@pytest.mark.parametrize("strength", [0.2, 0.02])
@pytest.mark.parametrize("wanted", ["auto", "exact", 3])
def test_a_sample_s_map_does_not_depend_on_the_others(strength, wanted):
    """Preconditioner, interval and number of steps are found for each sample by itself."""
    masks = torch.stack([cartesian_mask(24, 24, 4, 0.1, seed) for seed in range(4)])[:, None]
    strong = torch.tensor([1.0, 1.0, 0.2, 3.0])[:, None, None, None]
    physics = deepinv.physics.MultiCoilMRI(
        mask=(masks * strong).double(),
        coil_maps=birdcage(2, 24, 24).to(torch.complex128).expand(4, -1, -1, -1),
        img_size=(24, 24),
    )
    torch.manual_seed(0)
    x, d = torch.randn(2, 4, 2, 24, 24, dtype=torch.float64)
    y = physics.A(torch.randn_like(x))
    together = inner_solve(physics, y, strength, wanted).solve(physics, x, d, y, strength, 1e-12)
    for chosen in ([0], [2], [1, 3], [3, 0, 2]):
        index = torch.tensor(chosen)
        part = select(physics, index, 4)
        inner = inner_solve(part, y[index], strength, wanted)
        alone = inner.solve(part, x[index], d[index], y[index], strength, 1e-12)
        assert torch.allclose(alone, together[index], rtol=1e-9, atol=1e-9)


def test_only_who_is_helped_is_preconditioned():
    example = torch.randn(2, 1, 8, 8, dtype=torch.float64)
    first, second = circulants(lambda v: v * torch.rand(8, 8), example, 0.1)
    mixed = first.where(torch.tensor([True, False]), None)
    assert torch.equal(mixed(example)[:1], first(example)[:1])
    assert torch.allclose(mixed(example)[1:], example[1:])
    assert mixed.name == f"{first.name} or nothing"
    mixed = second.where(torch.tensor([False, True]), first)
    assert torch.equal(mixed(example)[:1], first(example)[:1])
    assert torch.equal(mixed(example)[1:], second(example)[1:])
    assert second.where(torch.tensor([True, True]), first).name == second.name


@pytest.mark.parametrize("steps", [1, 2, 5, 9])
def test_what_is_left_is_chebyshevs_polynomial(steps):
    """p(t) = T_N((θ − t)/δ) / T_N(θ/δ), and its bound on the interval is met at its ends."""
    low, high = 0.3, 4.0
    interval = Interval(*torch.tensor([[low], [high]], dtype=torch.float64))
    t = torch.linspace(low, high, 101, dtype=torch.float64)
    iteration = Chebyshev.on(interval, torch.tensor([steps]), t[None])
    exact = torch.randn(1, 101, dtype=torch.float64)
    found = iteration.correction(lambda v: t * v, lambda v: v, t * exact)
    middle, radius = (high + low) / 2, (high - low) / 2

    def T(s):
        return torch.special.chebyshev_polynomial_t(s, steps)

    p = T((middle - t) / radius) / T(torch.tensor(middle / radius, dtype=torch.float64))
    assert (found - (1 - p) * exact).abs().max() < 1e-12
    assert float(p.abs().max()) == pytest.approx(float(iteration.remaining()), rel=1e-9)


def test_as_many_steps_as_are_needed_and_no_more():
    low = torch.tensor([1.0, 0.1, 0.01, 1.0]).double()
    interval = Interval(low, torch.ones(4).double())
    steps = steps_for(interval, 0.2)
    example = torch.zeros(4, 1, 2, 2).double()
    assert (Chebyshev.on(interval, steps, example).remaining() <= 0.2).all()
    assert steps[0] == steps[3] == 1
    fewer = Chebyshev.on(interval, (steps - 1).clamp_min(1), example).remaining()
    assert (fewer[1:3] > 0.2).all()


def test_samples_take_their_own_number_of_steps():
    interval = Interval(torch.tensor([0.2, 0.01]).double(), torch.tensor([1.0, 2.0]).double())
    t = torch.linspace(0.2, 1.0, 5, dtype=torch.float64)
    r = torch.randn(2, 5, dtype=torch.float64)
    both = Chebyshev.on(interval, torch.tensor([2, 6]), r)
    found = both.correction(lambda v: t * v, lambda v: v, r)
    for i, steps in enumerate((2, 6)):
        index = torch.tensor([i])
        alone = Chebyshev.on(
            Interval(interval.low[index], interval.high[index]), torch.tensor([steps]), r
        )
        expected = alone.correction(lambda v: t * v, lambda v: v, r[index])
        assert torch.allclose(found[index], expected, atol=1e-14)
        part = both.select(index).correction(lambda v: t * v, lambda v: v, r[index])
        assert torch.equal(part, found[index])


def test_a_periodic_blur_is_inverted_by_its_preconditioner():
    """It is a circulant matrix: P (AᵀA + λ) = 1."""
    kernel = deepinv.physics.functional.gaussian_blur(sigma=(1.0, 1.5))
    physics = deepinv.physics.Blur(kernel, padding="circular").double()
    example = torch.zeros(1, 1, 16, 15, dtype=torch.float64)

    def AtA(v):
        return physics.A_adjoint(physics.A(v))

    exact = Circulant("exact", _mean_response(AtA, example, False) + 0.01, False, 15)
    x = torch.randn(2, 1, 16, 15, dtype=torch.float64)
    assert (exact(AtA(x) + 0.01 * x) - x).abs().max() < 1e-10


def test_preconditioned_conjugate_gradients_end_at_the_same_image_and_sooner():
    physics = eq.ParallelBeam(96, 40, normalize=True)
    x = eq.phantoms(2, 96).double()
    noise = torch.randn(2, *physics.measurement_shape, generator=torch.Generator().manual_seed(0))
    b = physics.A_adjoint(physics.A(x) + 0.1 * noise)
    P = inner_solve(physics, physics.A(x), 2.5e-3, 4).preconditioner

    def M(v):
        return physics.A_adjoint(physics.A(v)) + 2.5e-3 * v

    exact = conjugate_gradients(M, b, 1e-10, 400).value
    plain = conjugate_gradients(M, b, 1e-5, 400)
    better = conjugate_gradients(M, b, 1e-5, 400, precondition=P)
    near = conjugate_gradients(M, b, 1e-5, 400, start=exact + 1e-4 * x.flip(-1))
    for found in (plain, better, near):
        assert (found.residual <= 1e-5).all()
        assert (M(found.value) - b).norm() < 2e-5 * b.norm()
        assert (found.value - exact).norm() < 1e-2 * exact.norm()
    assert better.iterations < 0.7 * plain.iterations
    assert near.iterations < 0.8 * plain.iterations


class Lopsided(deepinv.physics.LinearPhysics):
    """Its A_adjoint is not the transpose of its A."""

    def A(self, x, **kwargs):
        return x

    def A_adjoint(self, y, **kwargs):
        return y.cumsum(-1)


class Growing(deepinv.physics.LinearPhysics):
    """A = gain · 1, with nothing to tell it by but what it does."""

    def __init__(self):
        super().__init__()
        held = [1.0]
        self.held = lambda: held

    def A(self, x, **kwargs):
        return self.held()[0] * x

    def A_adjoint(self, y, **kwargs):
        return self.held()[0] * y


def test_a_scan_without_some_rays_has_a_plan_of_its_own():
    """Its spectrum is another, though its geometry is the same, whichever is met first."""
    whole = eq.ParallelBeam(12, 7, normalize=True)
    few = torch.zeros(whole.measurement_shape[1:])
    few[:2] = 1
    y = torch.zeros(1, *whole.measurement_shape)

    def highest(physics):
        iteration = inner_solve(physics, y, 1e-3, 4).iteration
        assert iteration is not None
        return float(iteration.interval.high)

    inner_module._remembered.clear()
    of_few = highest(whole.masked(few))
    of_whole = highest(whole)
    assert of_whole != pytest.approx(of_few, rel=0.05)
    inner_module._remembered.clear()
    assert highest(whole) == of_whole
    assert highest(whole.masked(few)) == of_few


class TestChoice:
    def test_what_has_a_closed_form_keeps_it(self):
        y = torch.zeros(1, 1, 8, 8)
        mask = torch.ones(1, 8, 8)
        found = inner_solve(deepinv.physics.Inpainting((1, 8, 8), mask=mask), y, 0.1)
        assert found.method == "formula"
        assert found.steps is None
        scan = eq.ParallelBeam(8, 5, normalize=True)
        y = torch.zeros(1, *scan.measurement_shape)
        assert inner_solve(scan, y, 0.1).method == "eigenvectors"
        assert "rows" in str(inner_solve(scan, y, 0.1))
        assert inner_solve(scan, y, 0.1, wanted=3).steps == 3

    def test_auto_and_exact_where_there_is_none(self):
        physics = coils()
        y = torch.zeros(2, 2, 3, 8, 8, dtype=torch.float64)
        auto = inner_solve(physics, y, 0.05)
        assert auto.method == "chebyshev"
        assert auto.iteration.remaining().max() <= 0.5
        assert "spectrum in [" in str(auto)
        assert inner_solve(physics, y, 0.05, "exact").method == "conjugate gradients"
        many = inner_solve(physics, y, 1e-6)
        assert many.steps == inner_module.MOST_STEPS
        assert "too high a cost" in str(many)

    def test_an_operator_without_an_interval(self):
        y = torch.zeros(1, 1, 8, 8)
        with pytest.raises(UserError, match=r"inner=3: .* not the transpose of A.*exact") as error:
            inner_solve(Lopsided(), y, 0.1, 3)
        assert len(str(error.value)) <= 600
        auto = inner_solve(Lopsided(), y, 0.1)
        assert auto.method == "conjugate gradients"
        assert "not the transpose" in str(auto)

        class Infinite(Lopsided):
            def A_adjoint(self, y, **kwargs):
                return y / 0

        with pytest.raises(UserError, match="not finite"):
            inner_solve(Infinite(), y, 0.1, 3)

        class Bent(deepinv.physics.Physics):
            def A(self, x, **kwargs):
                return x**3

            def A_adjoint(self, y, **kwargs):
                return y

        with pytest.raises(UserError, match="Bent is no LinearPhysics"):
            inner_solve(Bent(), y, 0.1, 3)

    def test_an_operator_that_has_changed_is_looked_at_again(self):
        physics, y = Growing(), torch.zeros(1, 1, 8, 8)
        before = inner_solve(physics, y, 0.1, 3)
        assert inner_solve(physics, y, 0.1, 3) is before
        physics.held()[0] = 3.0
        after = inner_solve(physics, y, 0.1, 3)
        assert float(after.iteration.interval.high) >= 9.1
        scan = eq.ParallelBeam(8, 5)
        y = torch.zeros(1, *scan.measurement_shape)
        raw = inner_solve(scan, y, 0.1, 3)
        assert float(inner_solve(scan.normalize(), y, 0.1, 3).iteration.interval.high) < float(
            raw.iteration.interval.high
        )

    def test_a_learnt_strength_stays_within_the_interval(self):
        """The same plan holds for all λ that are rounded to one value."""
        physics = eq.ParallelBeam(10, 6, normalize=True)
        y = torch.zeros(1, *physics.measurement_shape, dtype=torch.float64)
        for strength in (0.0112, 0.013, 0.0156):
            plan = inner_solve(physics, y, strength, 4, moving=True)
            assert plan is inner_solve(physics, y, 0.0156, 4, moving=True)
            matrix = dense_of(
                lambda v: plan.P(physics.A_adjoint(physics.A(v)) + strength * v), (1, 10, 10)
            )
            values = torch.linalg.eigvals(matrix).real
            assert float(values.max()) <= float(plan.iteration.interval.high)
            assert float(values.min()) >= 0.5 * float(plan.iteration.interval.low)

    def test_what_is_remembered_is_bounded(self, monkeypatch):
        monkeypatch.setattr(inner_module, "MOST_REMEMBERED", 3)
        physics = eq.ParallelBeam(8, 3, normalize=True)
        y = torch.zeros(1, *physics.measurement_shape)
        for k in range(1, 7):
            inner_solve(physics, y, 0.1 * k, 2)
        assert len(inner_module._remembered) <= 3

    def test_nothing_positive_has_no_interval(self):
        with pytest.raises(SpectrumError, match="eigenvalue"):
            spectrum_interval(lambda v: -v, lambda v: v, torch.zeros(1, 1, 4, 4))
