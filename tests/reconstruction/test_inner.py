"""Laws of the proximal step with Chebyshev's steps inside: other maps, the same equilibria."""

from __future__ import annotations

import deepinv
import pytest
import torch
from torch.func import functional_call

import equipoise as eq
from equipoise.config import parse
from equipoise.errors import UserError
from equipoise.imaging.mri import birdcage, cartesian_mask
from equipoise.imaging.scaled import Scaled
from equipoise.reconstruction.steps.proximal import BoundProximal


class Dense(deepinv.physics.LinearPhysics):
    """y = g M x, with a learnable g for each row of M."""

    def __init__(self, rows=7, size=4, seed=0):
        super().__init__()
        rng = torch.Generator().manual_seed(seed)
        M = torch.rand(rows, size * size, generator=rng, dtype=torch.float64) ** 4
        self.M = M / torch.linalg.matrix_norm(M, 2)
        self.size = size
        self.g = torch.nn.Parameter(torch.linspace(0.7, 1.0, rows, dtype=torch.float64))

    def A(self, x, **kwargs):
        return self.g * (x.flatten(1) @ self.M.T)

    def A_adjoint(self, y, **kwargs):
        return ((self.g * y) @ self.M).reshape(len(y), 1, self.size, self.size)


class Smooth(torch.nn.Module):
    """A contraction of images that mixes pixels, and not samples."""

    def __init__(self):
        super().__init__()
        self.a = torch.nn.Parameter(torch.tensor(0.7, dtype=torch.float64))

    def forward(self, x, sigma):
        mean = (x + x.roll(1, -1) + x.roll(-1, -2)) / 3
        return self.a * torch.tanh(mean + sigma) + 0.2 * x


def coils(index):
    """A mask and coils of its own for each sample."""
    maps = birdcage(2, 8, 8).to(torch.complex128)
    each = torch.stack([maps * torch.exp(torch.tensor(1j * k)) for k in range(3)])
    mask = torch.stack([cartesian_mask(8, 8, 2, 0.2, seed) for seed in range(3)])
    return deepinv.physics.MultiCoilMRI(
        mask=mask[index][:, None].double(), coil_maps=each[index], img_size=(8, 8)
    )


def stacked():
    return deepinv.physics.StackedLinearPhysics(
        [eq.ParallelBeam(8, 3, normalize=True), eq.ParallelBeam(8, torch.tensor([20.0, 70.0]))]
    )


OPERATORS = {
    "parallel": (lambda: eq.ParallelBeam(10, 6, normalize=True), (1, 10, 10)),
    "fan": (lambda: eq.FanBeam(10, 6, 30.0, 20.0, normalize=True), (1, 10, 10)),
    "coils": (lambda: coils(slice(None)), (2, 8, 8)),
    "dense": (Dense, (1, 4, 4)),
    "stacked": (stacked, (1, 8, 8)),
}


@pytest.fixture(autouse=True)
def no_eigenvectors(monkeypatch):
    monkeypatch.setattr("equipoise.imaging.tomography.physics.DIRECT_SIZE", 0)


def problem(name):
    make, shape = OPERATORS[name]
    physics = make()
    x = torch.rand(3, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.no_grad():
        y = physics.A(x)
    return physics, y


def model_with(inner, learnable=True, rtol=1e-11):
    step = eq.ProximalStep(
        Smooth(), strength=0.05, learnable=learnable, tol=1e-14, inner=inner
    ).double()
    stop = eq.Stop(rtol, 600)
    return eq.EquilibriumReconstructor(step, stop=stop, gradient=eq.Implicit(stop=stop))


@pytest.mark.parametrize("name", OPERATORS)
def test_the_same_equilibria_for_any_number_of_steps(name):
    physics, y = problem(name)
    exact = model_with("exact")(y, physics).detach()
    for inner in (1, 2, 7, "auto"):
        model = model_with(inner)
        result = model.equilibrium(y, physics)
        assert result.converged.all()
        assert (result.value - exact).norm() < 1e-8 * exact.norm()
        assert model.step.explain(y, physics).method == "chebyshev"


@pytest.mark.parametrize("name", ["parallel", "coils", "dense"])
def test_the_same_gradients(name):
    """With respect to y, θ, λ and what the operator is made of."""
    physics, y = problem(name)
    y.requires_grad_()
    w = torch.randn(3, *OPERATORS[name][1], dtype=torch.float64)

    def gradients(inner):
        model = model_with(inner)
        inputs = [y, *model.parameters(), *physics.parameters()]
        return torch.autograd.grad((model(y, physics) * w).sum(), inputs)

    exact = gradients("exact")
    assert len(exact) == (4 if name == "dense" else 3)
    for inner in (1, 5):
        for found, expected in zip(gradients(inner), exact):
            assert (found - expected).norm() < 1e-7 * expected.norm()


@pytest.mark.parametrize("inner", [1, 3])
@pytest.mark.parametrize("name", ["parallel", "dense"])
def test_derivatives_of_an_equilibrium_against_finite_differences(name, inner):
    """First and second."""
    physics, y = problem(name)
    model = model_with(inner, rtol=2e-13)
    model.on_failure = "ignore"
    names = [n for n, _ in model.named_parameters()]
    own = [n for n, _ in physics.named_parameters()]

    def call(y, *values):
        for n, value in zip(own, values[len(names) :]):
            physics._parameters[n] = value
        return functional_call(model, dict(zip(names, values)), (y, physics))

    inputs = [y[:2], *model.parameters(), *physics.parameters()]
    inputs = [v.detach().clone().requires_grad_() for v in inputs]
    assert torch.autograd.gradcheck(call, inputs, atol=1e-6, fast_mode=True)
    assert torch.autograd.gradgradcheck(call, inputs, atol=1e-5, fast_mode=True)


def test_derivatives_of_one_step_against_finite_differences():
    """With respect to the operator too, for a preconditioner and an interval that stay."""
    physics, y = problem("dense")
    step = model_with(3).step
    inner = step.explain(y, physics)
    x = torch.rand(3, 1, 4, 4, dtype=torch.float64)
    names = [n for n, _ in step.named_parameters()]

    def call(x, y, g, *values):
        physics._parameters["g"] = g
        return functional_call(step, dict(zip(names, values)), (x, y, physics, inner))

    inputs = [v.detach().clone().requires_grad_() for v in (x, y, physics.g, *step.parameters())]
    assert torch.autograd.gradcheck(call, inputs, atol=1e-7, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(call, inputs, atol=1e-6)


def test_one_step_is_linear_in_image_and_measurements():
    physics, y = problem("parallel")
    step = eq.ProximalStep(lambda x, sigma: 0.3 * x, strength=0.05, inner=4).double()
    x, other = torch.randn(2, 3, 1, 10, 10, dtype=torch.float64)
    v = torch.randn_like(y)
    left = step(2 * x - other, 2 * y - v, physics)
    right = 2 * step(x, y, physics) - step(other, v, physics)
    assert (left - right).abs().max() < 1e-12


def test_what_differs_by_the_number_of_steps():
    """Gradients that do not solve the adjoint equation; the page of the options says so."""
    physics, y = problem("parallel")

    def gradient(inner):
        model = model_with(inner)
        model.gradient = eq.JacobianFree()
        loss = model(y, physics).square().sum()
        return torch.autograd.grad(loss, model.step.denoiser.a)[0]

    one, many, exact = gradient(1), gradient(40), gradient("exact")
    assert abs(one - exact) > 1e-2 * abs(exact)
    assert abs(many - exact) < 1e-4 * abs(exact)


@pytest.mark.parametrize("inner", [2, "auto"])
def test_a_sample_does_not_depend_on_its_batchmates(inner):
    physics, y = problem("coils")
    model = model_with(inner)
    whole = model.equilibrium(y, physics)
    trace = model.step.bind(y, physics)
    for i in range(3):
        index = torch.tensor([i])
        alone = model.equilibrium(y[index], coils(slice(i, i + 1)))
        assert (alone.value - whole.value[index]).norm() < 1e-9
        part = trace.restrict(index)
        assert isinstance(part, BoundProximal)
        x = torch.rand(3, 2, 8, 8, dtype=torch.float64)
        assert (part(x[index]) - trace(x)[index]).abs().max() < 1e-12


def test_in_single_precision_and_under_autocast():
    physics = eq.ParallelBeam(16, 12, normalize=True)
    y = physics.A(eq.phantoms(2, 16))
    step = eq.ProximalStep(eq.ConvDenoiser(channels=4, layers=2), 0.05, inner="auto")
    x = torch.rand(2, 1, 16, 16)
    exact = step.double()(x.double(), y.double(), physics)
    single = step.float()(x, y, physics)
    assert single.dtype == torch.float32
    assert (single - exact).norm() < 1e-4 * exact.norm()
    with torch.autocast("cpu", torch.bfloat16):
        rough = step(x, y, physics)
    assert rough.dtype == torch.float32
    assert (rough - exact).norm() < 0.05 * exact.norm()


def test_splitting_methods_keep_the_exact_map():
    """ADMM and Douglas–Rachford, by preconditioned conjugate gradients: the same equilibrium."""
    physics, y = problem("parallel")
    step = Smooth()
    gradient = eq.GradientStep(step, 0.8)
    stop = eq.Stop(1e-11, 1500)
    expected = eq.EquilibriumReconstructor(gradient.double(), stop=stop)(y, physics).detach()
    for kind in (eq.ADMM, eq.DouglasRachford):
        other = kind(step, strength=1 / 0.8, tol=1e-13).double()
        found = eq.EquilibriumReconstructor(other, stop=stop)(y, physics).detach()
        assert other.explain(y, physics).method == "conjugate gradients"
        assert (found - expected).norm() < 1e-7 * expected.norm()


class TestSettings:
    def test_bad_ones_are_errors(self):
        D = eq.ConvDenoiser(channels=2, layers=2)
        for bad in (0, -3, 2.5, "many", True, None):
            with pytest.raises(ValueError, match="inner must be"):
                eq.ProximalStep(D, inner=bad)
        with pytest.raises(TypeError):
            eq.ADMM(D, inner=3)
        for bad in (0, 2.5, "many", True):
            with pytest.raises(UserError, match=r"model\.step.*inner"):
                parse({"model": {"step": {"kind": "proximal", "inner": bad}}}, "here")
        with pytest.raises(UserError, match="inner"):
            parse({"model": {"step": {"kind": "gradient", "inner": 3}}}, "here")

    def test_they_reach_the_step(self):
        for inner in ("auto", "exact", 6):
            config = parse({"model": {"step": {"kind": "proximal", "inner": inner}}}, "here")
            assert config.model.make(1, 0.01).step.inner == inner
        assert parse({}, "here").model.step.inner == "auto"

    def test_runs_of_then_go_on_as_they_were(self):
        tree = {"model": {"step": {"kind": "proximal", "strength": 0.1}}}
        assert parse(tree, "here", is_saved=True).model.step.inner == "exact"
        tree["model"]["step"]["inner"] = 4
        assert parse(tree, "here", is_saved=True).model.step.inner == 4
        gradient = {"model": {"step": {"kind": "gradient"}}}
        assert parse(gradient, "here", is_saved=True).model.step.kind == "gradient"


class TestWhatLaunchesAlone:
    """Evaluations that a GPU can be given at once (``equilibrium/launch.py``)."""

    def bound(self, denoiser=None, inner=3, physics=None, wrap=lambda physics: physics):
        physics = wrap(eq.ParallelBeam(16, 8, normalize=True) if physics is None else physics)
        step = eq.ProximalStep(denoiser or eq.load_denoiser(), 0.1, 0.02, inner=inner)
        return step.bind(physics.A(eq.phantoms(2, 16)), physics)

    def test_a_number_of_steps_does(self):
        assert self.bound().launches_alone
        assert self.bound(wrap=lambda physics: Scaled(physics, 0.5)).launches_alone

    def test_a_solve_to_a_tolerance_and_a_formula_do_not(self):
        assert not self.bound(inner="exact").launches_alone

    def test_networks_that_nobody_knows_do_not(self):
        changed = eq.load_denoiser()
        torch.nn.utils.parametrizations.spectral_norm(changed.convolutions[0])
        watched, replaced, mixed = (eq.load_denoiser() for _ in range(3))
        watched.convolutions[1].register_forward_hook(lambda module, inputs, output: None)
        replaced.forward = lambda x, sigma: x

        class Noisy(torch.nn.Conv2d):
            pass

        mixed.convolutions[1] = Noisy(32, 32, 3, padding=1)
        for network in (
            changed,
            watched,
            replaced,
            mixed,
            Smooth().float(),
            eq.Invariant(eq.load_denoiser(), eq.Reflections()),
        ):
            assert not self.bound(network).launches_alone

    def test_steps_that_derive_from_it_do_not(self):
        class Counted(eq.ProximalStep):
            def forward(self, *args, **kwargs):
                return super().forward(*args, **kwargs)

        physics = eq.ParallelBeam(16, 8, normalize=True)
        step = Counted(eq.load_denoiser(), strength=0.01, inner=3)
        assert not step.bind(physics.A(eq.phantoms(2, 16)), physics).launches_alone

    def test_operators_that_were_changed_do_not(self):
        class Slow(eq.ParallelBeam):
            def A(self, x, **kwargs):
                return super().A(x * float(x.isfinite().all()), **kwargs)

        assert not self.bound(physics=Slow(16, 8, normalize=True)).launches_alone
        replaced = eq.ParallelBeam(16, 8, normalize=True)
        replaced.A = lambda x, **kwargs: eq.ParallelBeam.A(replaced, x, **kwargs)
        assert not self.bound(physics=replaced).launches_alone

    def test_other_operators_do_not(self):
        physics = deepinv.physics.Blur(deepinv.physics.blur.gaussian_blur(1.0), padding="circular")
        assert not self.bound(physics=physics).launches_alone
