"""Rays that were not measured, such as those of dead detectors, are left out of the operator."""

from __future__ import annotations

import pytest
import torch

import equipoise as eq
from equipoise.imaging.splitting import split

F64 = torch.float64


def masked(beam: str = "parallel"):
    if beam == "parallel":
        physics = eq.ParallelBeam(16, 20, 24, normalize=True)
    else:
        physics = eq.FanBeam(16, 40, 40, 20, 40, normalize=True)
    seen = torch.ones(physics.measurement_shape[1:])
    seen[:, 9] = 0
    seen[3, 14] = 0
    return physics, seen, physics.masked(seen)


@pytest.mark.parametrize("beam", ["parallel", "fan"])
def test_it_measures_the_others_and_is_its_own_transpose(beam):
    physics, seen, part = masked(beam)
    rng = torch.Generator().manual_seed(0)
    x = torch.rand(2, 1, 16, 16, generator=rng, dtype=F64)
    y = torch.rand(2, *physics.measurement_shape, generator=rng, dtype=F64)
    assert torch.equal(part.A(x), physics.A(x) * seen)
    assert float((part.A(x) * y).sum()) == pytest.approx(float((x * part.A_adjoint(y)).sum()))
    assert torch.equal(part.A_adjoint(y), physics.A_adjoint(y * seen))


def test_what_dead_detectors_say_does_not_matter():
    physics, seen, part = masked()
    y = physics.A(eq.phantoms(1, 16).double())
    broken = torch.where(seen > 0, y, 1e3)
    z = torch.zeros(1, 1, 16, 16, dtype=F64)
    assert torch.allclose(part.prox_l2(z, broken, 10.0), part.prox_l2(z, y * seen, 10.0))


def test_prox_is_the_minimiser():
    physics, seen, part = masked()
    y = physics.A(eq.phantoms(1, 16).double()) * seen
    z = torch.rand(1, 1, 16, 16, dtype=F64)
    x = part.prox_l2(z, y, 10.0, tol=1e-12, max_iter=1000)
    gradient = 10 * part.A_adjoint(part.A(x) - y) + x - z
    assert float(gradient.abs().max()) < 1e-6
    assert not part.has_closed_prox


def test_fbp_fills_in_along_the_detectors():
    physics, seen, part = masked()
    y = physics.A(eq.phantoms(1, 16).double())
    filled = part.filled(y * seen)
    assert torch.equal(filled * seen, y * seen)
    middle = (y[..., 8] + y[..., 10]) / 2
    assert torch.allclose(filled[..., 9], middle)
    assert torch.allclose(part.fbp(y * seen), physics.fbp(filled))
    ends = torch.ones(20, 24)
    ends[:, :2] = ends[:, -3:] = 0
    outside = physics.masked(ends).filled(y)
    assert torch.equal(outside[..., 0], y[..., 2])
    assert torch.equal(outside[..., -1], y[..., -4])


def test_parts_of_it_are_masked_too():
    _, _, part = masked()
    x = eq.phantoms(1, 16)
    rest, y_rest, left, y_left = split(part, part.A(x), 4, 3)
    assert torch.allclose(rest.A(x), y_rest, atol=1e-6)
    assert torch.allclose(left.A(x), y_left, atol=1e-6)
    assert not left.A(x)[..., 9].any()
    assert part.views([3, 5]).A(x)[0, 0, 0, 14] == 0


def test_another_shape():
    physics, *_ = masked()
    with pytest.raises(ValueError, match=r"seen must have shape \(20, 24\)"):
        physics.masked(torch.ones(20, 23))


@pytest.mark.parametrize("beam", ["parallel", "fan"])
def test_what_is_left_out_twice_is_left_out(beam):
    """By a mask of a mask, by views of it, in whatever order."""
    physics, seen, part = masked(beam)
    other = torch.ones_like(seen)
    other[:2] = 0
    x = torch.rand(1, 1, 16, 16, dtype=F64)
    y = physics.A(x)
    assert torch.equal(part.masked(other).A(x), y * seen * other)
    assert torch.equal(physics.masked(other).masked(seen).A(x), y * seen * other)
    index = [3, 1, 7]
    of_views = part.views(index).masked(other[index])
    assert torch.allclose(of_views.A(x), (y * seen * other)[:, :, index], rtol=1e-12)


def test_a_mask_is_of_zeros_and_ones():
    physics, seen, _ = masked()
    assert torch.equal(physics.masked(seen.bool()).seen, seen)
    assert torch.equal(physics.masked(seen.tolist()).seen, seen)
    for wrong in (0.5 * seen, 2 * seen, -seen, seen * float("nan")):
        with pytest.raises(ValueError, match="seen must be 1 where a ray was measured, and 0 else"):
            physics.masked(wrong)
    with pytest.raises(ValueError, match=r"seen must have shape \(20, 24\), got \(1, 1\)"):
        physics.masked([[1]])
