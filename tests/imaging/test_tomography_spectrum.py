"""Laws of the eigenvectors that solve for proximal maps, whole or in halves."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import equipoise as eq
from equipoise.imaging.tomography.spectrum import spectrum_of

DOUBLE = torch.float64, torch.device("cpu")
#: Geometries, and whether turning the image by 180° maps their rays onto themselves.
GEOMETRIES = {
    "more rays": (lambda: eq.ParallelBeam(6, 9, 7), True),
    "fewer rays": (lambda: eq.ParallelBeam(6, 3, 7), True),
    "odd size": (lambda: eq.ParallelBeam(5, [0.0, 10, 17, 45, 90], 9), True),
    "fewer rays, even": (lambda: eq.ParallelBeam(7, [3.0, 50], 8), True),
    "oblong": (lambda: eq.ParallelBeam((5, 8), 8, 11), True),
    "axis off": (lambda: eq.ParallelBeam(6, 5, 6, offset=0.3), False),
    "fan": (lambda: eq.FanBeam(6, 9, 20.0, 10.0, 9), False),
    "full fan": (lambda: eq.FanBeam(6, 8, 20.0, 10.0, 9), True),
    "full fan, fewer rays": (lambda: eq.FanBeam(6, 4, 20.0, 10.0, 7), True),
    "curved fan": (lambda: eq.FanBeam(6, 8, 20.0, 10.0, 9, curved=True), True),
    "full fan, axis off": (lambda: eq.FanBeam(6, 4, 20.0, 10.0, 7, offset=0.4), True),
}


@pytest.mark.parametrize("name", GEOMETRIES)
def test_it_solves_as_the_dense_matrix_does(name):
    make, turns = GEOMETRIES[name]
    physics = make()
    spectrum = physics.matrix.spectrum(*DOUBLE)
    assert (spectrum.mirror is not None) == turns
    pixels = physics.img_size[-2] * physics.img_size[-1]
    image = torch.eye(pixels, dtype=torch.float64).unflatten(1, physics.img_size)
    A = physics.A(image).flatten(1).t()
    G = A.t() @ A if physics.matrix.fewer_pixels else A @ A.t()
    b = torch.randn(2, len(G), dtype=torch.float64)
    for strength in (0.1, torch.tensor([[0.02], [3.0]], dtype=torch.float64)):
        found = spectrum.solve(b, 0.7, strength)
        assert torch.allclose(0.7 * found @ G + strength * found, b, atol=1e-10)
    sizes = [len(s) for _, s in spectrum.blocks]
    assert sum(sizes) == len(G) == physics.matrix.smaller_side
    if turns:
        assert sizes == [(len(G) + 1) // 2, len(G) // 2] or "fewer rays" in name


def test_halves_take_half_the_memory():
    whole = eq.ParallelBeam(8, 10, 9, offset=0.3).matrix.spectrum(*DOUBLE)
    halves = eq.ParallelBeam(8, 10, 9).matrix.spectrum(*DOUBLE)
    assert whole.nbytes == 8 * (64**2 + 64)
    assert halves.nbytes == 8 * (2 * 32**2 + 64)


def test_what_nearly_has_a_mirror_is_taken_whole():
    """An asymmetry of one in a million would be one in the answer."""
    root = torch.randn(8, 8, dtype=torch.float64)
    even = root @ root.t()
    even = even + even.flip(0, 1)
    exchange = np.arange(8)[::-1]
    assert spectrum_of(even, [exchange]).mirror is not None
    even[0, 0] += 1e-6
    spectrum = spectrum_of(even, [exchange])
    assert spectrum.mirror is None
    b = torch.randn(1, 8, dtype=torch.float64)
    assert torch.allclose(spectrum.solve(b, 1.0, 0.1) @ even, b - 0.1 * spectrum.solve(b, 1.0, 0.1))


def test_the_second_of_two_exchanges_may_be_the_one():
    root = torch.randn(4, 6, dtype=torch.float64)
    G = torch.cat([root, root.roll(3, 1)]).t() @ torch.cat([root, root.roll(3, 1)])
    spectrum = spectrum_of(G, [np.arange(6)[::-1], np.roll(np.arange(6), 3)])
    assert spectrum.mirror is not None
    b = torch.randn(3, 6, dtype=torch.float64)
    assert torch.allclose(spectrum.solve(b, 1.0, 1.0) @ (G + torch.eye(6, dtype=torch.float64)), b)
