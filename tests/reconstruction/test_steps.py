"""Laws of the steps."""

from __future__ import annotations

from itertools import pairwise

import deepinv
import pytest
import torch

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
    with pytest.raises(ValueError, match="sigma must be >= 0"):
        eq.ProximalStep(denoiser, sigma=-1)
