"""Laws of the proximal map of any operator, and of operators that are multiplied by a number."""

from __future__ import annotations

import warnings

import deepinv
import pytest
import torch
from deepinv.physics import LinearPhysics
from torch.autograd import gradcheck, gradgradcheck

import equipoise as eq
from equipoise.imaging.linear import InexactSolveWarning
from equipoise.imaging.scaled import Scaled, closed_form_prox, proximal

SIZE = 6


def randn(*shape, seed=0, grad=False):
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=rng, dtype=torch.float64).requires_grad_(grad)


class Gain(LinearPhysics):
    """g · another operator, with g to be learnt: what a user would write."""

    def __init__(self, inner, gain=1.3):
        super().__init__()
        self.inner = inner
        self.gain = torch.nn.Parameter(torch.tensor(gain, dtype=torch.float64))

    def A(self, x, **kwargs):
        return self.gain * self.inner.A(x)

    def A_adjoint(self, y, **kwargs):
        return self.gain * self.inner.A_adjoint(y)


def inpainting():
    mask = torch.rand(2, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(0)).double()
    return deepinv.physics.Inpainting((1, SIZE, SIZE), mask=mask)


def blur(kind=deepinv.physics.BlurFFT):
    filters = randn(2, 1, 3, 3, seed=3).abs() / 9
    if kind is deepinv.physics.BlurFFT:
        return kind((1, SIZE, SIZE), filter=filters)
    return kind(filter=filters, padding="circular")


def coils():
    maps = torch.complex(randn(2, 3, SIZE, SIZE, seed=4), randn(2, 3, SIZE, SIZE, seed=5))
    mask = (randn(2, 1, SIZE, SIZE, seed=6) < 0).double().expand(-1, 2, -1, -1)
    physics = deepinv.physics.MultiCoilMRI(img_size=(SIZE, SIZE))
    physics.mask, physics.coil_maps = mask, maps
    return physics


def downsampling():
    filters = randn(1, 1, 3, 3, seed=3).abs() / 9
    return deepinv.physics.Downsampling((1, SIZE, SIZE), filter=filters, factor=2)


def composed():
    """Inpainting after CT, whose sinograms are as large as its images."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "At least one input physics is a Decomposable")
        return inpainting() * eq.ParallelBeam(SIZE, SIZE, SIZE)


#: name → (operator, whether it has a formula, the names of its parameters)
OPERATORS = {
    "inpainting": (inpainting, True, ["mask"]),
    "blur, by its spectrum": (blur, True, ["mask"]),
    "blur": (lambda: blur(deepinv.physics.Blur), False, ["filter"]),
    "coils": (coils, False, ["coil_maps"]),
    "super-resolution": (downsampling, True, ["filter"]),
    "tomography": (lambda: eq.ParallelBeam(SIZE, 4, normalize=True), True, []),
    "composed": (composed, False, ["physics_list.1.mask"]),
    "a user's": (lambda: Gain(eq.ParallelBeam(SIZE, 4, normalize=True)), False, ["gain"]),
    "scaled": (lambda: Scaled(inpainting(), 0.7), True, []),
    "scaled, of a user's": (lambda: Scaled(Gain(inpainting()), 0.7), False, ["physics.gain"]),
}


def with_parameters(physics, names, values):
    """The operator with other values of its parameters, which may be differentiated."""
    for name, value in zip(names, values):
        *path, last = name.split(".")
        owner = physics
        for part in path:
            owner = getattr(owner, part)
        owner._parameters.pop(last, None)
        owner._buffers.pop(last, None)
        setattr(owner, last, value)
    return physics


def parameter(physics, name):
    for part in name.split("."):
        physics = getattr(physics, part)
    return physics.detach().clone().requires_grad_()


@pytest.mark.parametrize("name", OPERATORS)
class TestProximal:
    def problem(self, name):
        make, closed, names = OPERATORS[name]
        physics = make()
        channels = 2 if name == "coils" else 1
        d = randn(2, channels, SIZE, SIZE, seed=1, grad=True)
        y = randn(*physics.A(d.detach()).shape, seed=2, grad=True)
        strength = torch.tensor([0.4, 1.7], dtype=torch.float64, requires_grad=True)
        return physics, closed, names, d, y, strength

    def test_it_satisfies_its_normal_equation(self, name):
        physics, closed, _, d, y, strength = self.problem(name)
        assert closed_form_prox(physics) == closed
        u = proximal(physics, d, y, strength, 1e-12)
        weight = strength.reshape(-1, 1, 1, 1)
        left = physics.A_adjoint(physics.A(u) - y) + weight * (u - d)
        assert left.norm() < 1e-9 * d.norm()
        one = proximal(physics, d, y, 0.4, 1e-12)
        assert torch.allclose(one[0], u[0], atol=1e-9)

    def test_first_and_second_derivatives(self, name):
        """In d, y, λ, and in what the operator is made of."""
        make, _, names = OPERATORS[name]
        physics, _, _, d, y, strength = self.problem(name)
        values = [parameter(physics, each) for each in names]

        def u(d, y, strength, *values):
            return proximal(with_parameters(make(), names, values), d, y, strength, 1e-14)

        torch.manual_seed(0)
        assert gradcheck(u, (d, y, strength, *values), fast_mode=True)
        assert gradgradcheck(u, (d, y, strength, *values), fast_mode=True, atol=1e-4)


class TestClosedForm:
    def test_what_has_none(self):
        down = deepinv.physics.Downsampling
        kernel = torch.ones(1, 1, 2, 2) / 4
        assert closed_form_prox(down((1, 8, 8), filter=kernel, factor=2))
        assert not closed_form_prox(down((1, 8, 8), filter=kernel, factor=2, padding="valid"))
        assert not closed_form_prox(down((1, 8, 8), filter=None, factor=2))
        assert not closed_form_prox(down((1, 9, 9), filter=kernel, factor=2))
        assert not closed_form_prox(deepinv.physics.CompressedSensing(5, (1, 4, 4)))
        assert not closed_form_prox(deepinv.physics.Decolorize())  # its factors are not orthonormal
        assert not closed_form_prox(deepinv.physics.Haze())

    def test_a_users_own(self):
        class WithFormula(Gain):
            def prox_l2(self, z, y, gamma, **kwargs):
                return z

        class OtherOperator(WithFormula):
            """The formula that it inherits is of another A."""

            def A(self, x, **kwargs):
                return 2 * super().A(x)

        class Tapered(deepinv.physics.MRI):
            def A(self, x, **kwargs):
                return 0.5 * super().A(x)

            def A_adjoint(self, y, **kwargs):
                return 0.5 * super().A_adjoint(y)

        inner = inpainting()
        assert closed_form_prox(WithFormula(inner))
        assert closed_form_prox(Scaled(WithFormula(inner), 2.0))
        assert not closed_form_prox(Gain(inner))
        assert not closed_form_prox(OtherOperator(inner))
        assert not closed_form_prox(Tapered(mask=torch.ones(4, 4)))

    def test_samples_stop_by_themselves(self):
        """A dim sample is as exact beside a bright one as alone."""
        physics = deepinv.physics.CompressedSensing(20, (1, SIZE, SIZE), dtype=torch.float64)
        d, y = randn(2, 1, SIZE, SIZE), randn(2, 20, seed=1)
        scale = torch.tensor([1.0, 1e-6]).double()
        d, y = d * scale.reshape(-1, 1, 1, 1), y * scale[:, None]
        exact = proximal(physics, d, y, 0.01, 1e-13)
        out = proximal(physics, d, y, 0.01, 1e-5)
        assert (out[1] - exact[1]).norm() < 1e-4 * exact[1].norm()
        for wrapped in (Scaled(physics, 1.0),):  # by deepinv's name for it
            other = wrapped.prox_l2(d, y, 100.0, tol=1e-5)
            assert (other[1] - exact[1]).norm() < 1e-4 * exact[1].norm()

    def test_a_cap_that_is_hit_is_told(self):
        physics = deepinv.physics.Blur(filter=torch.ones(1, 1, 3, 3) / 9, padding="circular")
        with pytest.warns(InexactSolveWarning, match="max_iter=2"):
            proximal(physics, torch.rand(1, 1, 8, 8), torch.rand(1, 1, 8, 8), 1e-3, 1e-6, 2)

    @pytest.mark.parametrize("physics", [inpainting(), Gain(inpainting())], ids=["formula", "CG"])
    def test_autocast(self, physics):
        d, y = torch.rand(2, 1, SIZE, SIZE), torch.rand(2, 1, SIZE, SIZE)
        physics = physics.float()
        exact = proximal(physics, d, y, 0.1, 1e-6)
        with torch.autocast("cpu", torch.bfloat16):
            out = proximal(physics, d, y, 0.1, 1e-6)
            half = proximal(physics, d.bfloat16(), y, 0.1, 1e-6)
        assert out.dtype == half.dtype == torch.float32
        assert torch.allclose(out, exact, atol=1e-6)
        assert torch.allclose(half, exact, atol=1e-2)


class TestScaled:
    def pair(self):
        mask = torch.rand(2, 1, SIZE, SIZE)
        return deepinv.physics.Inpainting((1, SIZE, SIZE), mask=mask), torch.rand(2, 1, SIZE, SIZE)

    def test_products(self):
        inner, x = self.pair()
        physics = Scaled(inner, 0.5)
        assert torch.allclose(physics.A(x), 0.5 * inner.A(x))
        assert torch.allclose(physics.A_adjoint_A(x), physics.A_adjoint(physics.A(x)))
        assert torch.allclose(physics.A_A_adjoint(x), physics.A(physics.A_adjoint(x)))
        assert float(physics.adjointness_test(x)) < 1e-5
        assert torch.allclose(physics.A(physics.A_dagger(physics.A(x))), physics.A(x), atol=1e-6)

    def test_parameters_reach_the_operator(self):
        inner, x = self.pair()
        physics, other = Scaled(inner, 0.5), torch.rand(2, 1, SIZE, SIZE)
        assert torch.allclose(physics.A(x, mask=other), 0.5 * other * x)
        assert torch.allclose(physics.A_adjoint(x), 0.5 * other * x)  # as deepinv has it: it stays
        physics.update(mask=torch.ones(1, 1, SIZE, SIZE))
        assert torch.allclose(physics.A(x), 0.5 * x)
        assert torch.allclose(physics(x, mask=other), 0.5 * other * x)

    def test_settings_reach_the_operator(self):
        inner = deepinv.physics.CompressedSensing(30, (1, SIZE, SIZE), max_iter=40, tol=1e-3)
        physics = Scaled(inner, 0.5)
        assert (physics.max_iter, physics.tol) == (40, 1e-3)
        physics.set_ls_solver("CG", 90, 1e-7)
        assert (inner.solver, inner.max_iter, inner.tol) == ("CG", 90, 1e-7)
        x, y = torch.rand(1, 1, SIZE, SIZE), torch.rand(1, 30)
        u = physics.prox_l2(x, y, 50.0)
        left = 50 * physics.A_adjoint(physics.A(u) - y) + u - x
        assert left.norm() < 1e-4 * x.norm()
        with pytest.warns(InexactSolveWarning):
            physics.prox_l2(x, y, 5000.0, max_iter=2)

    @pytest.mark.parametrize("inner", [0, 1], ids=["formula", "iteration"])
    def test_start_is_an_image_a_number_or_none(self, inner):
        operator = [self.pair()[0], deepinv.physics.CompressedSensing(30, (1, SIZE, SIZE))][inner]
        physics = Scaled(operator, 0.5)
        y = physics.A(torch.rand(2, 1, SIZE, SIZE))
        zero = physics.prox_l2(torch.zeros(2, 1, SIZE, SIZE), y, 2.0, max_iter=100, tol=1e-6)
        for z in (None, 0, 0.0):
            assert torch.allclose(
                physics.prox_l2(z, y, 2.0, max_iter=100, tol=1e-6), zero, atol=1e-6
            )

    def test_second_derivatives(self):
        """deepinv's own iteration can be differentiated once."""
        inner = deepinv.physics.CompressedSensing(5, (1, 3, 3), dtype=torch.float64)
        physics = Scaled(inner, 0.5)
        z, y = randn(2, 1, 3, 3, grad=True), randn(2, 5, seed=1, grad=True)
        gamma = torch.tensor([2.0, 5.0], dtype=torch.float64, requires_grad=True)
        prox = lambda z, y, gamma: physics.prox_l2(z, y, gamma, tol=1e-14)  # noqa: E731
        assert gradcheck(prox, (z, y, gamma))
        assert gradgradcheck(prox, (z, y, gamma))


@pytest.mark.parametrize(("side", "is_formula"), [(8, False), (16, True)])
def test_a_filter_that_is_wider_than_the_image_has_no_formula(side, is_formula):
    """deepinv's Fourier transform of it leaves out what does not fit."""
    down = deepinv.physics.Downsampling((1, side, side), filter="bicubic", factor=4).double()
    assert down.filter.shape[-1] == 16
    assert closed_form_prox(down) == is_formula
    d, y = randn(1, 1, side, side), randn(1, 1, side // 4, side // 4, seed=1)
    u = proximal(down, d, y, 0.3)
    left = down.A_adjoint(down.A(u) - y) + 0.3 * (u - d)
    assert left.norm() < 1e-4 * u.norm()
