"""What a GPU does is what a CPU does. `pytest -m cuda` runs these alone; elsewhere they skip."""

from __future__ import annotations

import deepinv
import pytest
import torch

import equipoise as eq
from equipoise.imaging.mri import birdcage, cartesian_mask

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here"),
]


def scans():
    return {
        "parallel": eq.ParallelBeam(24, 12, normalize=True),
        "fan, views in any order": eq.FanBeam(
            24, torch.tensor([0.0, 190.0, 90.0, 100.0, 280.0, 180.0, 270.0, 10.0]), 60.0, 40.0
        ),
    }


@pytest.mark.parametrize("name", scans())
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_projector(name, dtype):
    physics = scans()[name]
    x = torch.rand(2, 1, 24, 24, dtype=dtype)
    y = torch.rand(2, *physics.measurement_shape, dtype=dtype)
    near = 1e-5 if dtype == torch.float32 else 1e-12
    for f, v in ((physics.A, x), (physics.A_adjoint, y)):
        here, there = f(v), f(v.cuda()).cpu()
        assert (here - there).norm() <= near * here.norm()


def on(device, physics, x, inner):
    """An equilibrium and its gradient."""
    torch.manual_seed(0)
    step = eq.ProximalStep(eq.load_denoiser(), 0.05, 0.02, learnable=True, inner=inner)
    if x.shape[1] == 2:
        from equipoise.reconstruction.denoisers import ComplexDenoiser

        step.denoiser = ComplexDenoiser(step.denoiser)
    model = eq.EquilibriumReconstructor(
        step, stop=eq.Stop(1e-5, 60), gradient=eq.Implicit(stop=eq.Stop(1e-5, 60))
    ).to(device)
    model.on_failure = "ignore"
    y = physics.A(x.to(device))
    image = model(y, physics)
    gradients = torch.autograd.grad(image.square().mean(), list(model.parameters()))
    return image.detach().cpu(), torch.cat([g.flatten() for g in gradients]).cpu()


@pytest.mark.parametrize("inner", ["exact", "auto", 3])
@pytest.mark.parametrize("kind", ["ct", "mri"])
def test_an_equilibrium_and_its_gradient(kind, inner, monkeypatch):
    monkeypatch.setattr("equipoise.imaging.tomography.physics.DIRECT_SIZE", 0)

    def physics(device):
        if kind == "ct":
            return eq.ParallelBeam(24, 20, normalize=True)
        maps = birdcage(3, 24, 24)[None].to(device)
        mask = cartesian_mask(24, 24, 2, 0.2).to(device)
        return deepinv.physics.MultiCoilMRI(
            mask=mask, coil_maps=maps, img_size=(24, 24), device=device
        )

    x = eq.phantoms(2, 24)
    x = torch.cat([x, 0.2 * x], 1) if kind == "mri" else x
    here = on("cpu", physics("cpu"), x, inner)
    there = on("cuda", physics("cuda"), x, inner)
    assert (here[0] - there[0]).norm() < 1e-3 * here[0].norm()
    assert (here[1] - there[1]).norm() < 2e-2 * here[1].norm()
