"""Non-Cartesian MRI of batches that change while a solve goes on."""

from __future__ import annotations

import deepinv
import pytest
import torch

import equipoise as eq
from equipoise.imaging.nufft import with_any_batch
from equipoise.reconstruction.denoisers import ComplexDenoiser

pytest.importorskip("mrinufft")


@pytest.fixture
def radial():
    return deepinv.physics.NonCartesianMRI(
        img_size=(2, 16, 16), trajectory="radial", num_shots=8, num_samples_per_shot=32
    )


def test_derivatives_are_of_the_batch_that_was_measured(radial):
    """Whatever was measured in between."""
    physics = with_any_batch(radial)
    x = torch.randn(4, 2, 16, 16, requires_grad=True)
    y = physics.A(x)
    physics.A(torch.randn(3, 2, 16, 16))
    g = torch.randn_like(y)
    (gradient,) = torch.autograd.grad(y, x, g, retain_graph=True)
    assert torch.allclose(gradient, physics.A_adjoint(g), rtol=1e-4, atol=1e-5)
    physics.A_adjoint(g[:1])
    assert torch.allclose(torch.autograd.grad(y, x, g)[0], gradient)


def test_a_model_is_differentiated_whatever_was_measured_since(radial):
    """A part of the batch by the contraction penalty, say."""
    step = eq.ProximalStep(ComplexDenoiser(eq.load_denoiser()), strength=0.1, sigma=0.05)
    model = eq.EquilibriumReconstructor(step, stop=eq.Stop(1e-3, 60), on_failure="ignore")
    y = radial.A(torch.randn(4, 2, 16, 16))
    gradients = []
    for measured_since in (4, 1):
        model.zero_grad()
        x = model(y, radial)
        radial.A(torch.randn(measured_since, 2, 16, 16))
        x.square().sum().backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    assert all(torch.allclose(a, b, rtol=1e-3) for a, b in zip(*gradients, strict=True))
