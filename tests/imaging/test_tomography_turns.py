"""Laws of turned views: what is not stored is what would have been."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import equipoise as eq
from equipoise.imaging.tomography.joseph import joseph_matrix
from equipoise.imaging.tomography.projector import SystemMatrix, forget_matrices
from equipoise.imaging.tomography.turns import turns_of

CASES = {
    "parallel, half a turn": (lambda: eq.ParallelBeam(11, 12), 2),
    "parallel, a whole turn": (lambda: eq.ParallelBeam(10, torch.arange(0, 360, 18.0)), 4),
    "parallel, beginning elsewhere": (lambda: eq.ParallelBeam(9, torch.arange(12) * 15 - 33.5), 2),
    "parallel, in any order": (
        lambda: eq.ParallelBeam(8, torch.tensor([130.0, 10, 100, 40, 55, 145])),
        2,
    ),
    "parallel, not square": (lambda: eq.ParallelBeam((7, 10), torch.arange(0, 360, 30.0)), 2),
    "parallel, not square, half a turn": (lambda: eq.ParallelBeam((7, 10), 12), 1),
    "parallel, an odd number": (lambda: eq.ParallelBeam(8, 7), 1),
    "fan": (lambda: eq.FanBeam(12, 20, 40.0, 25.0, offset=0.3), 4),
    "fan, curved": (lambda: eq.FanBeam(11, 8, 40.0, 25.0, curved=True), 4),
    "fan, half a turn of symmetry": (lambda: eq.FanBeam(10, 18, 40.0, 25.0), 2),
    "fan, no symmetry": (lambda: eq.FanBeam(10, 15, 40.0, 25.0), 1),
    "fan, the first view given twice": (
        lambda: eq.FanBeam(9, torch.arange(13) * 30.0, 30.0, 20.0),
        4,
    ),
    "fan, some views left out": (
        lambda: eq.FanBeam(9, torch.arange(36)[torch.arange(36) % 7 != 3] * 10.0, 30.0, 20.0),
        4,
    ),
    "fan, spacing that is no binary fraction": (lambda: eq.FanBeam(10, 100, 40.0, 25.0), 4),
}


@pytest.fixture(params=CASES)
def case(request):
    make, copies = CASES[request.param]
    physics = make()
    whole = torch.from_numpy(joseph_matrix(physics.geometry).toarray()).double()
    return physics, copies, whole


def test_the_product_is_that_of_the_whole_matrix(case):
    physics, copies, whole = case
    assert len(physics.matrix.turns.quarters) == copies
    x = torch.randn(2, physics.matrix.shape[1], dtype=torch.float64)
    y = torch.randn(2, physics.matrix.shape[0], dtype=torch.float64)
    Mx, Mty = physics.matrix.product(x, False), physics.matrix.product(y, True)
    assert (Mx - x @ whole.T).abs().max() < 1e-5
    assert (Mty - y @ whole).abs().max() < 1e-5
    gap = ((Mx * y).sum() - (x * Mty).sum()).abs()
    assert gap < 1e-13 * Mx.norm() * y.norm()
    single = physics.matrix.product(x.float(), False)
    gap = ((single * y).sum() - (x.float() * physics.matrix.product(y.float(), True)).sum()).abs()
    assert gap < 1e-6 * single.norm() * y.norm()


def test_rows_and_parts_are_those_of_the_whole(case):
    physics, _, whole = case
    views, detectors = physics.measurement_shape[1:]
    by_view = whole.reshape(views, detectors, -1)
    every_view = physics.matrix.rows(range(views))
    assert np.abs(every_view.toarray() - whole.numpy()).max() < 1e-5
    for index in ([0], [views - 1, 0], [i for i in range(views) if i % 5 != 2]):
        part = physics.matrix.views(index)
        x = torch.randn(1, physics.matrix.shape[1], dtype=torch.float64)
        expected = x @ by_view[index].flatten(0, 1).T
        assert (part.product(x, False) - expected).abs().max() < 1e-5
        full = physics.matrix.product(x, False).reshape(views, detectors)[index]
        assert torch.allclose(part.product(x, False), full.reshape(1, -1), atol=1e-12)


def test_what_is_stored_is_a_share_of_the_whole(case):
    physics, copies, whole = case
    stored = physics.matrix.on(False, torch.float32, torch.device("cpu"))
    views = physics.measurement_shape[1]
    base = len(physics.matrix.turns.base)
    assert views // copies <= base <= views / copies / 0.75
    assert stored.shape == (base * physics.geometry.detectors, whole.shape[1])
    # A weight of zero may be stored, or a ray through corners step along the other axis.
    assert abs(physics.matrix.nonzeros - int((whole != 0).sum())) <= 0.02 * whole.shape[0] + 20


def test_its_derivatives_in_both_modes():
    physics = eq.FanBeam(4, 8, 20.0, 10.0, detectors=5)
    assert len(physics.matrix.turns.quarters) == 4
    x = torch.randn(2, 1, 4, 4, dtype=torch.float64, requires_grad=True)
    y = torch.randn(2, 1, 8, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(physics.A, x, check_forward_ad=True)
    assert torch.autograd.gradcheck(physics.A_adjoint, y, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(lambda x: physics.A(x).square(), x)
    batched = torch.func.vmap(physics.A)(x.detach()[None].expand(3, -1, -1, -1, -1))
    assert torch.equal(batched[1], physics.A(x))


def test_an_axis_beside_the_middle_has_no_copies():
    plain = eq.FanBeam(10, 8, 40.0, 25.0).geometry
    assert len(turns_of(plain).quarters) == 4
    assert len(turns_of(replace(plain, axis=(0.5, 0.0))).quarters) == 1


def test_many_rays_a_detector():
    """A detector measures the mean of its rays; duplicates are one entry."""
    g = replace(eq.FanBeam(8, 8, 40.0, 25.0, detectors=9).geometry, per_detector=3)
    matrix = joseph_matrix(g)
    fine = joseph_matrix(
        replace(
            g,
            detectors=27,
            per_detector=1,
            offset=3 * g.offset,
            detector_pitch=g.detector_pitch / 3,
        )
    )
    mean = fine.toarray().astype(np.float64).reshape(8, 9, 3, -1).mean(2).reshape(72, -1)
    assert np.abs(matrix.toarray() - mean).max() < 1e-6
    for row in range(matrix.shape[0]):
        columns = matrix.indices[matrix.indptr[row] : matrix.indptr[row + 1]]
        assert len(set(columns.tolist())) == len(columns)
    x = torch.randn(1, 64, dtype=torch.float64)
    assert (SystemMatrix(g).product(x, False) - x @ torch.from_numpy(mean).T).abs().max() < 1e-5


def test_threads_do_not_change_the_matrix():
    g = eq.FanBeam(40, 30, 100.0, 50.0).geometry
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = joseph_matrix(g)
        torch.set_num_threads(3)
        three = joseph_matrix(g)
    finally:
        torch.set_num_threads(threads)
    for name in ("data", "indices", "indptr"):
        assert np.array_equal(getattr(one, name), getattr(three, name))
    forget_matrices()
