"""What a GPU does is what a CPU does. `pytest -m cuda` runs these alone; elsewhere they skip."""

from __future__ import annotations

import sys

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


def small_ct(inner=5):
    """A step of the shipped network, measurements and their operator, on the GPU."""
    physics = eq.ParallelBeam(48, 16, normalize=True)
    step = eq.ProximalStep(eq.load_denoiser(), 0.01, 0.02, inner=inner).cuda()
    return step, physics.A(eq.phantoms(3, 48).cuda()), physics


def small_mri(inner=5):
    """The same with coils."""
    from equipoise.reconstruction.denoisers import ComplexDenoiser

    maps = birdcage(3, 32, 32)[None].cuda()
    physics = deepinv.physics.MultiCoilMRI(
        mask=cartesian_mask(32, 32, 2, 0.2).cuda(), coil_maps=maps, img_size=(32, 32), device="cuda"
    )
    step = eq.ProximalStep(ComplexDenoiser(eq.load_denoiser()), 0.05, 0.02, inner=inner).cuda()
    x = eq.phantoms(3, 32).cuda()
    return step, physics.A(torch.cat([x, 0.2 * x], 1)), physics


def test_what_a_solve_multiplies_is_not_rounded():
    """By torch's defaults for GPUs no solve gets below a residual of some 1e-4."""
    assert torch.backends.cudnn.allow_tf32
    step, y, physics = small_ct()
    step.denoiser.requires_grad_(False)
    model = eq.EquilibriumReconstructor(step, stop=eq.Stop(1e-5, 100))
    assert bool(model.equilibrium(y, physics).converged.all())
    assert torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize("problem", [small_ct, small_mri])
def test_an_evaluation_in_one_launch_is_the_same_evaluation(problem, monkeypatch):
    step, y, physics = problem()
    f = step.bind(y, physics)
    assert f.launches_alone
    z = step.start(y, physics)
    stop = eq.Stop(1e-5, 60)
    together = eq.equilibrium.solve(f, z, stop=stop, on_failure="ignore")
    loop = sys.modules["equipoise.equilibrium.solve"]  # the package has a function of that name
    monkeypatch.setattr(loop, "launches_at_once", lambda F, z: False)
    apart = eq.equilibrium.solve(f, z, stop=stop, on_failure="ignore")
    assert (together.steps - apart.steps).abs().max() <= 1
    assert (together.value - apart.value).norm() <= 1e-4 * apart.value.norm()
    assert together.converged.equal(apart.converged)


def test_a_launch_reads_the_state_it_is_given():
    from equipoise.equilibrium.flat import FlatMap
    from equipoise.equilibrium.launch import OneLaunch

    step, y, physics = small_ct()
    f = step.bind(y, physics)
    z = step.start(y, physics)
    F = FlatMap(f, z)
    with torch.no_grad():
        F(F.pack(z))  # what is made once is made
        launch = OneLaunch(F)
        for scale in (1.0, 0.5, -2.0):
            state = F.pack(scale * z)
            assert (launch(state) - F(state)).norm() <= 1e-4 * F(state).norm()


def test_a_run_is_trained_and_solved_there(tmp_path):
    from equipoise.commands.train import train_run
    from equipoise.config import parse
    from equipoise.run import load_run, unseen

    sections = {
        "data": {"size": 32, "count": 8},
        "physics": {"kind": "parallel_beam", "angles": 12},
        "learning": {"steps": 2, "batch": 2},
        "model": {"step": {"kind": "proximal", "inner": 4}},
    }
    config = parse(sections, "test")
    config.out = tmp_path / "run"
    train_run(config, lambda line: None)
    run = load_run(config.out)
    resting = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    solved = run.solve(unseen(run.config, run.scan, count=3)[0])
    assert torch.cuda.max_memory_allocated() > resting
    assert solved.value.device.type == "cpu"
    assert next(run.model.parameters()).device.type == "cpu"
