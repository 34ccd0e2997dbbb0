"""Every derivative of every step, on every kind of operator, first and second."""

from __future__ import annotations

import deepinv
import pytest
import torch
from torch.func import functional_call

import equipoise as eq

#: What waits for the operators' own derivatives: until they are merged, a derivative that passes
#: through conjugate gradients is right once only, and never reaches what the operator is made of.


class Dense(deepinv.physics.LinearPhysics):
    """y = g M x ≥ 0 for x ≥ 0, with a learnable g for each row of M."""

    def __init__(self, rows=7, size=3, seed=0):
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


class Masked(deepinv.physics.Inpainting):
    """Its proximal map has a closed form."""

    def __init__(self):
        super().__init__((1, 3, 3), mask=torch.linspace(0.2, 1, 9).reshape(1, 3, 3).double())
        mask = self._buffers.pop("mask")
        self.mask = torch.nn.Parameter(mask.double())


class Smooth(torch.nn.Module):
    """D(x) = a (tanh(W x + σ) + 0.3 x) + b: contracting, and differentiable many times."""

    def __init__(self, scale=1.0, shift=0.0, size=3):
        super().__init__()
        self.scale = scale
        self.shift = shift
        rng = torch.Generator().manual_seed(1)
        W = torch.randn(size * size, size * size, generator=rng, dtype=torch.float64)
        self.W = torch.nn.Parameter(0.6 * W / torch.linalg.matrix_norm(W, 2))

    def forward(self, x, sigma):
        out = torch.tanh(x.flatten(1) @ self.W.T + sigma).reshape(x.shape) + 0.3 * x
        return self.scale * out + self.shift


def parallel_beam():
    return eq.ParallelBeam(3, 2, normalize=True)


OPERATORS = {"closed": Masked, "eigenvectors": parallel_beam, "conjugate_gradients": Dense}
PROXIMAL = ("proximal", "douglas_rachford", "admm")
STEPS = {
    "gradient": lambda D: eq.GradientStep(D, 0.8, learnable=True),
    "red": lambda D: eq.RED(D, strength=0.3, learnable=True),
    "primal_dual": lambda D: eq.PrimalDual(D, 0.8, learnable=True),
    "mirror": lambda D: eq.MirrorStep(D, 0.7, learnable=True),
    "proximal": lambda D: eq.ProximalStep(D, strength=0.3, learnable=True, tol=1e-14),
    "douglas_rachford": lambda D: eq.DouglasRachford(D, strength=0.5, learnable=True, tol=1e-14),
    "admm": lambda D: eq.ADMM(D, strength=0.5, learnable=True, tol=1e-14),
}


def problem(step, operator):
    """A step, an operator, and positive measurements of two images."""
    torch.manual_seed(0)
    physics = OPERATORS[operator]()
    with torch.no_grad():
        x = 0.5 + torch.rand(2, 1, 3, 3, dtype=torch.float64)
        y = physics.A(x) + 0.1
    denoiser = Smooth(0.2, 0.8) if step == "mirror" else Smooth()  # positive images
    return STEPS[step](denoiser).double(), physics, x, y


def tensors(z):
    return z if isinstance(z, tuple) else (z,)


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("step", STEPS)
class TestOneStep:
    """With respect to the state, y, θ, and λ or η."""

    @pytest.fixture
    def function(self, step, operator):
        f, physics, x, y = problem(step, operator)
        names = [name for name, p in f.named_parameters() if p.requires_grad]
        with torch.no_grad():
            state = tensors(f.lift(x, y, physics))

        def call(y, *values):
            z = values[: len(state)]
            z = z if len(z) > 1 else z[0]
            weights = dict(zip(names, values[len(state) :]))
            return functional_call(f, weights, (z, y, physics))

        parameters = [dict(f.named_parameters())[name] for name in names]
        inputs = [v.detach().clone().requires_grad_() for v in (y, *state, *parameters)]
        assert len(inputs) == 1 + len(state) + 2  # y, z, W, and λ or η
        return call, inputs

    def test_first(self, function, step, operator):
        call, inputs = function
        assert torch.autograd.gradcheck(call, inputs, atol=1e-7)

    def test_second(self, function, step, operator):
        call, inputs = function
        assert torch.autograd.gradgradcheck(call, inputs, atol=1e-6)


@pytest.mark.parametrize("operator", ["closed", "conjugate_gradients"])
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("order", [1, 2])
def test_one_step_in_the_operator(step, operator, order):
    """With respect to what the operator is made of, as well as y."""
    f, physics, x, y = problem(step, operator)
    with torch.no_grad():
        z = f.lift(x, y, physics)
    name = "mask" if operator == "closed" else "g"
    parameter = getattr(physics, name)

    def call(value, y):
        physics._parameters[name] = value
        return f(z, y, physics)

    inputs = [v.detach().clone().requires_grad_() for v in (parameter, y)]
    check = torch.autograd.gradcheck if order == 1 else torch.autograd.gradgradcheck
    assert check(call, inputs, atol=1e-6)


def equilibrium_of(step, operator):
    """The image as a function of y, the step's parameters and the operator's."""
    f, physics, _, y = problem(step, operator)
    stop = eq.Stop(2e-13, 300)
    gradient = eq.Implicit(stop=stop)
    model = eq.EquilibriumReconstructor(f, stop=stop, gradient=gradient, on_failure="ignore")
    assert model.equilibrium(y, physics).residual.max() < 1e-12
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    own = [name for name, _ in physics.named_parameters()]

    def call(y, *values):
        weights = dict(zip(names, values))
        for name, value in zip(own, values[len(names) :]):
            physics._parameters[name] = value
        return functional_call(model, weights, (y, physics))

    weights = [dict(model.named_parameters())[name] for name in names]
    values = [y, *weights, *physics.parameters()]
    return call, [v.detach().clone().requires_grad_() for v in values]


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("step", STEPS)
def test_equilibria(step, operator):
    """y, θ, λ or η, and the operator, through the implicit function theorem."""
    call, inputs = equilibrium_of(step, operator)
    assert torch.autograd.gradcheck(call, inputs, atol=1e-6, fast_mode=True)


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("step", STEPS)
def test_equilibria_differentiated_twice(step, operator):
    call, inputs = equilibrium_of(step, operator)
    assert torch.autograd.gradgradcheck(call, inputs, atol=1e-5, fast_mode=True)
