"""What is measured on a finer grid is what is measured on the coarse one, but for the grid."""

from __future__ import annotations

import deepinv
import pytest
import torch

import equipoise as eq
from equipoise.errors import UserError
from equipoise.imaging.fine import coarser, finer
from equipoise.imaging.scaled import Scaled


def smooth(size: int = 128) -> torch.Tensor:
    """(1, 1, size, size) with little beyond the frequencies of the coarse grid."""
    few = eq.phantoms(1, size // 2, 1).double()
    return torch.nn.functional.interpolate(few, scale_factor=2, mode="bicubic")


def coil_maps() -> torch.Tensor:
    rng = torch.Generator().manual_seed(0)
    few = torch.randn(8, 1, 4, 4, generator=rng, dtype=torch.float64)
    many = torch.nn.functional.interpolate(few, (64, 64), mode="bicubic")[:, 0]
    return torch.complex(many[:4], many[4:])[None]


def mask() -> torch.Tensor:
    lines = torch.zeros(64, 64, dtype=torch.float64)
    lines[:, ::2] = 1
    lines[:, 28:36] = 1
    return lines


def operators() -> dict[str, tuple[torch.nn.Module, float]]:
    """Each with how much the two grids may differ on a smooth image."""
    mri = deepinv.physics.MRI(mask=mask(), img_size=(64, 64))
    coils = deepinv.physics.MultiCoilMRI(mask=mask(), coil_maps=coil_maps(), img_size=(64, 64))
    dynamic = deepinv.physics.DynamicMRI(mask=mask().expand(3, 64, 64), img_size=(2, 3, 64, 64))
    return {
        "parallel": (eq.ParallelBeam(64, 30, offset=1.5, normalize=True), 6e-3),
        "in millimetres": (eq.ParallelBeam(64, 30, pixel=0.4), 6e-3),
        "wide detectors": (eq.ParallelBeam(64, 30, pitch=2.0, rays=2), 6e-3),
        "fan": (eq.FanBeam(64, 30, 100, 60, detectors=110, normalize=True), 6e-3),
        "mri": (mri, 0.012),
        "scaled": (Scaled(mri, 3.0), 0.012),
        "coils": (coils, 0.02),
        "dynamic": (dynamic, 0.012),
    }


@pytest.mark.parametrize("name", operators())
def test_the_same_of_smooth_images(name):
    """A shift by half a pixel would be 6 % off and more, a factor 50 %."""
    physics, most = operators()[name]
    x = smooth()
    if "parallel" not in name and name not in ("fan", "in millimetres", "wide detectors"):
        x = torch.cat([x, 0.5 * x.flip(-1)], 1)
    if name == "dynamic":
        x = torch.stack([x, x.flip(-1), x.mT], 2)
    few, many = physics.A(coarser(x)), finer(physics).A(x)
    difference = float((few - many).norm() / few.norm())
    assert 1e-4 < difference < most


def test_rays_that_were_not_measured_are_not():
    seen = torch.ones(20, 40)
    seen[3] = 0
    physics = eq.ParallelBeam(32, 20, detectors=40).masked(seen)
    assert float(finer(physics).A(torch.rand(1, 1, 64, 64))[:, :, 3].abs().max()) == 0


def test_what_has_no_finer_grid_is_refused():
    with pytest.raises(UserError, match="simulate=same"):
        finer(deepinv.physics.Inpainting((1, 32, 32), mask=0.5))


@pytest.mark.parametrize("name", ["mri", "scaled", "coils", "dynamic"])
def test_noise_is_where_the_coarse_operator_measures(name):
    """Noise between the lines would tell a reader that they were measured."""
    coarse, _ = operators()[name]
    for physics in (coarse, finer(coarse)):
        physics.noise_model = deepinv.physics.GaussianNoise(0.1)
        clean = coarse.A(torch.ones(1, 2, *([3] if name == "dynamic" else []), 64, 64).double())
        noise = physics.noise(clean) - clean
        lines = noise.abs().amax(tuple(range(noise.ndim - 1))) > 0
        assert torch.equal(lines, mask()[0] > 0)
        assert float(noise[..., lines].std()) == pytest.approx(0.1, rel=0.1)
