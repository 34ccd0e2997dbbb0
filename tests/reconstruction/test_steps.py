"""Laws of the steps."""

from __future__ import annotations

import copy
import math
from itertools import pairwise

import deepinv
import pytest
import torch
from torch import nn

import equipoise as eq
from equipoise.imaging.mri import cartesian_mask
from equipoise.reconstruction.denoisers import ComplexDenoiser


def test_denoisers_are_given_channels_last_and_those_that_cannot_take_it_the_other(tiny):
    _, physics, y = tiny
    layouts = []

    class Viewing(torch.nn.Module):
        def __init__(self, flatten):
            super().__init__()
            torch.manual_seed(0)
            self.first = torch.nn.Conv2d(1, 4, 3, padding=1).double()
            self.last = torch.nn.Conv2d(4, 1, 3, padding=1).double()
            self.flatten = flatten

        def forward(self, x, sigma):
            h = self.first(x)
            layouts.append(h.is_contiguous(memory_format=torch.channels_last))
            return 0.5 * torch.tanh(self.last(self.flatten(h, len(h), -1).reshape(h.shape)))

    strict, easy = (
        eq.GradientStep(Viewing(flatten)) for flatten in (torch.Tensor.view, torch.Tensor.reshape)
    )
    outs = [
        eq.EquilibriumReconstructor(step, stop=eq.Stop(1e-10, 200))(y, physics)
        for step in (easy, strict)
    ]
    assert layouts[0]
    assert not layouts[-1]
    assert (outs[0] - outs[1]).abs().max() < 1e-9

    def broken(x, sigma):
        raise RuntimeError("out of coffee")

    with pytest.raises(RuntimeError, match="coffee"):
        eq.GradientStep(broken).denoise(y)


def test_steps_that_share_their_equilibria(tiny):
    """Splitting methods differ in how they get there: with λ = 1/η, all end at the same x.

    It is x = D(x − η Aᵀ(A x − y)).
    """
    denoiser, physics, y = tiny
    same = [
        eq.GradientStep(denoiser, 0.8),
        eq.PrimalDual(denoiser, 0.8),
        eq.ADMM(denoiser, strength=1 / 0.8, tol=1e-12),
        eq.DouglasRachford(denoiser, strength=1 / 0.8, tol=1e-12),
    ]
    first, *others = [
        eq.EquilibriumReconstructor(step.double(), stop=eq.Stop(1e-11, 800))(y, physics)
        for step in same
    ]
    assert all((other - first).norm() < 1e-7 * first.norm() for other in others)


@pytest.mark.parametrize("learnt", [0.001, 0.02, 1.0, 30.0])
def test_red_stays_safe_whatever_strength_is_learnt(learnt):
    """With D = −1, as far from the identity as a non-expansive map can be, f still contracts.

    On ‖A‖ = 1 its gain is |1 − η (s² + 2λ)| < 1 along every singular value s in [0, 1] of A, for
    the η = 1 / (1 + λ) of the λ that was learnt, and not for that of the λ it started from.
    """
    step = eq.RED(lambda x, sigma: -x, strength=0.02, learnable=True).double()
    with torch.no_grad():
        step.strength.log.fill_(math.log(learnt))
    mask = torch.linspace(0, 1, 16, dtype=torch.float64).reshape(1, 4, 4)
    physics = deepinv.physics.Inpainting((1, 4, 4), mask=mask)
    y = torch.zeros(1, 1, 4, 4, dtype=torch.float64)
    gain = step(torch.ones_like(y), y, physics)
    expected = 1 - (mask.square() + 2 * learnt) / (1 + learnt)
    assert (gain[0] - expected).abs().max() < 1e-12
    assert gain.abs().max() < 1
    half = eq.RED(lambda x, sigma: -x, strength=0.02, step_size=0.5 / 1.02, learnable=True).double()
    with torch.no_grad():
        half.strength.log.fill_(math.log(learnt))
    assert ((1 - half(torch.ones_like(y), y, physics)) * 2 - (1 - gain)).abs().max() < 1e-12


def test_primal_dual_keeps_its_bound_whatever_step_size_is_learnt():
    """σ η stays what it was: for A = 1 and D = 1 the equation of both steps can be written out."""
    step = eq.PrimalDual(lambda x, sigma: x, 0.5, learnable=True, dual_step=1.6).double()
    with torch.no_grad():
        step.step_size.log.fill_(math.log(1.3))
    mask = torch.ones(1, 2, 2, dtype=torch.float64)
    physics = deepinv.physics.Inpainting((1, 2, 2), mask=mask)
    x, v, y = torch.randn(3, 1, 1, 2, 2, dtype=torch.float64)
    new, dual = step((x, v), y, physics)
    s = 0.8 / 1.3
    assert (new - (x - 1.3 * v)).abs().max() < 1e-12
    assert (dual - (v + s * (2 * new - x - y)) / (1 + s)).abs().max() < 1e-12
    with pytest.raises(ValueError, match=r"dual_step must be in \(0, 2\]"):
        eq.PrimalDual(lambda x, sigma: x, 0.5, dual_step=2.1)


def test_each_step_is_its_equation():
    """On A = diag(a) and a denoiser that is an affine map, term by term."""
    a, x, y, u = 0.2 + 0.8 * torch.rand(4, 1, 1, 4, 4, dtype=torch.float64)
    physics = deepinv.physics.Inpainting((1, 4, 4), mask=a[0])

    def D(v, sigma):
        return 0.4 * v + sigma

    def prox(d):
        return (a * y + 0.3 * d) / (a.square() + 0.3)

    options = {"sigma": 0.1}
    new = eq.GradientStep(D, 0.7, **options).double()(x, y, physics)
    assert (new - D(x - 0.7 * a * (a * x - y), 0.1)).abs().max() < 1e-7
    step = eq.ProximalStep(D, 0.3, **options).double()
    assert (step(x, y, physics) - prox(D(x, 0.1))).abs().max() < 1e-7
    step = eq.DouglasRachford(D, 0.3, **options).double()
    image = step.image(x, y, physics)
    assert (image - prox(x)).abs().max() < 1e-7
    assert (step(x, y, physics) - (x + D(2 * image - x, 0.1) - image)).abs().max() < 1e-7
    z, dual = eq.ADMM(D, 0.3, **options).double()((x, u), y, physics)
    v = prox(x - u)
    assert (z - D(v + u, 0.1)).abs().max() < 1e-7
    assert (dual - (u + v - z)).abs().max() < 1e-7


def test_where_a_solve_begins(tiny):
    """Two steps of conjugate gradients towards least squares; Aᵀy where A is not linear."""
    denoiser, physics, y = tiny
    start = eq.GradientStep(denoiser).start(y, physics)
    zero = physics.A_adjoint(y)
    assert ((physics.A(start) - y).norm() < 0.9 * (physics.A(zero) - y).norm()).all()
    basis = [zero, physics.A_adjoint(physics.A(zero))]
    for i in range(len(y)):
        span = torch.stack([b[i].flatten() for b in basis], 1)
        M = torch.stack([physics.A(b)[i].flatten() for b in basis], 1)
        best = torch.linalg.lstsq(M, y[i].flatten()[:, None]).solution
        assert (span @ best - start[i].reshape(-1, 1)).norm() < 1e-8 * start[i].norm()

    class Bent(deepinv.physics.Physics):
        def A(self, x, **kwargs):
            return x**3

        def A_adjoint(self, y, **kwargs):
            return 2 * y

    assert torch.equal(eq.GradientStep(denoiser).start(y, Bent()), 2 * y)


def test_bf16_is_close():
    """Of the denoiser alone: what comes back is as wide as the image."""
    step = eq.GradientStep(eq.load_denoiser())
    x = torch.rand(2, 1, 32, 32)
    exact = step.denoise(x)
    step.precision = torch.bfloat16
    rough = step.denoise(x)
    assert rough.dtype == torch.float32
    assert 0 < float((rough - exact).norm() / exact.norm()) < 0.01


def test_red_of_a_linear_denoiser(tiny):
    """D(x) = x / 2: (AᵀA + λ/2) x = Aᵀy."""
    _, physics, y = tiny
    step = eq.RED(lambda x, sigma: x / 2, strength=0.3).double()
    x = eq.EquilibriumReconstructor(step, stop=eq.Stop(1e-12, 800))(y, physics)
    assert (physics.A_adjoint(physics.A(x) - y) + 0.15 * x).norm() < 1e-7 * x.norm()


def test_mirror_descent_raises_the_likelihood_of_counts(tiny):
    _, physics, _ = tiny
    x = 0.2 + torch.rand(2, 1, 12, 12, dtype=torch.float64)
    step = eq.MirrorStep(lambda x, sigma: x).double()
    counts = physics.A(x)
    assert (
        step(x, counts, physics) - x
    ).abs().max() < 1e-10  # data without noise: the truth is an equilibrium
    counts = torch.poisson(200 * counts) / 200

    def loss(z):
        seen = physics.A(z).clamp_min(1e-3)
        return float((seen - counts * seen.log()).sum())

    z, values = torch.ones_like(x), []
    for _ in range(20):
        z = step(z, counts, physics)
        values.append(loss(z))
    assert all(b < a for a, b in pairwise(values))
    assert (z >= 0).all()


def test_mri_proximal_step_is_the_minimiser():
    physics = deepinv.physics.MRI(mask=cartesian_mask(16, 16, 4, 0.1), img_size=(16, 16))
    step = eq.ProximalStep(ComplexDenoiser(eq.ConvDenoiser(channels=4, layers=2)), strength=0.3)
    x, y = torch.randn(2, 2, 16, 16), physics.A(torch.randn(2, 2, 16, 16))
    u, d = step(x, y, physics), step.denoise(x)
    assert (physics.A_adjoint(physics.A(u) - y) + 0.3 * (u - d)).abs().max() < 1e-5


def test_bad_settings_say_bound_value_and_remedy():
    denoiser = eq.ConvDenoiser(channels=2, layers=2)
    with pytest.raises(ValueError, match=r"step_size must be in \(0, 2.0\), got 3.1; normalise"):
        eq.GradientStep(denoiser, step_size=3.1)
    with pytest.raises(ValueError, match="strength must be > 0"):
        eq.ProximalStep(denoiser, strength=0)
    with pytest.raises(ValueError, match=r"step_size must be in \(0, 1.54\) for strength 0.3"):
        eq.RED(denoiser, strength=0.3, step_size=1.6)
    with pytest.raises(ValueError, match="step_size must be in"):
        eq.RED(denoiser, strength=0.3, step_size=0)
    with pytest.raises(ValueError, match="step_size must be in"):
        eq.GradientStep(denoiser, step_size=0)
    with pytest.raises(ValueError, match="step_size must be in"):
        eq.GradientStep(denoiser, step_size=2)
    with pytest.raises(ValueError, match="strength must be > 0"):
        eq.RED(denoiser, strength=-1)
    with pytest.raises(ValueError, match="floor must be > 0"):
        eq.MirrorStep(denoiser, floor=0)
    with pytest.raises(ValueError, match="sigma must be >= 0"):
        eq.ProximalStep(denoiser, sigma=-1)
    assert eq.ProximalStep(denoiser, sigma=0).sigma == 0  # a denoiser may be told of no noise


@pytest.mark.parametrize("layer", [nn.BatchNorm2d(1), nn.Dropout(0.2)], ids=repr)
@pytest.mark.parametrize("kind", [eq.GradientStep, eq.ProximalStep])
@pytest.mark.parametrize("recorded", [False, True])
def test_a_denoiser_that_changes_is_refused_at_the_first_solve(layer, kind, recorded):
    """Also by a step that tries another layout where the first one fails."""

    class Changing(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = copy.deepcopy(layer).train()

        def forward(self, x, sigma):
            return 0.3 * self.layer(x)

    physics = eq.ParallelBeam(12, 5, normalize=True)
    model = eq.EquilibriumReconstructor(kind(Changing()))
    with torch.set_grad_enabled(recorded), pytest.raises(RuntimeError, match=r"\.eval\(\)"):
        model(torch.rand(2, *physics.measurement_shape), physics)
