"""Faults of a tomographic set-up, each named for what it is; and none on the right set-up."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import equipoise as eq
from equipoise.commands.doctor.causes import cause_of, likely_cause

NOISE = 0.002
STEP = 9.0


@pytest.fixture(scope="module")
def phantoms():
    return eq.phantoms(2, 64, 5)


def measured(physics, x):
    y = physics.A(x)
    return y + NOISE * y.abs().max() * torch.randn(
        y.shape, generator=torch.Generator().manual_seed(0)
    )


def test_none_on_the_right_set_up(phantoms):
    for physics in (
        eq.ParallelBeam(64, 20, normalize=True),
        eq.ParallelBeam(64, 9, detectors=80, offset=3.3, normalize=True),
        eq.FanBeam(64, 40, 150, 100, normalize=True),
        eq.FanBeam(64, 60, 90, 80, curved=True, offset=-2.0, normalize=True),
    ):
        assert likely_cause(physics, measured(physics, phantoms)) is None


#: Value, column and row from the middle, radius of discs.
ROUND = {
    "disc": [(1.0, 0, 0, 18)],
    "tube": [(1.0, 0, 0, 18), (-0.5, 0, 0, 16)],
    "inserts": [
        (1.0, 0, 0, 18),
        *[(0.5, x, y, 1.5) for x, y in ((6, 0), (-6, 0), (0, 6), (0, -6))],
    ],
}


def of_discs(geometry, discs):
    """(1, views, detectors) line integrals that no grid of pixels had a part in."""
    fine = replace(geometry, per_detector=4)
    y = []
    for view in range(len(geometry.angles)):
        point, along = fine.rays(view)
        along = along / np.linalg.norm(along, axis=1, keepdims=True)
        total = np.zeros(len(point))
        for value, column, row, radius in discs:
            to = np.array([column, row]) - point
            passes = to[:, 0] * along[:, 1] - to[:, 1] * along[:, 0]
            total += 2 * value * np.sqrt(np.maximum(radius**2 - passes**2, 0))
        y.append(total.reshape(-1, 4).mean(1))
    return np.array(y)[None]


@pytest.mark.parametrize("name", ROUND)
@pytest.mark.parametrize(("views", "span"), [(60, 360), (120, 360), (60, 180), (55, 220)])
def test_none_for_what_scanners_are_calibrated_with(name, views, span):
    """Round objects in the middle look alike from everywhere, and fit all angles."""
    angles = torch.arange(views) * (span / views)
    geometry = eq.FanBeam(48, angles, 100, 60, detectors=80).geometry
    y = of_discs(geometry, ROUND[name])
    y = y + 1e-3 * y.max() * np.random.default_rng(0).standard_normal(y.shape)
    assert cause_of(geometry, y) is None


@pytest.mark.parametrize("offset", [5.0, -0.5, 2.3])
@pytest.mark.parametrize("beam", ["parallel", "fan"])
def test_the_axis_is_found_to_a_tenth_of_a_detector(phantoms, offset, beam):
    def scan(offset):
        if beam == "parallel":
            return eq.ParallelBeam(64, 20, detectors=91, offset=offset, normalize=True)
        return eq.FanBeam(64, 40, 150, 100, detectors=97, offset=offset, normalize=True)

    cause = likely_cause(scan(1.0), measured(scan(1.0 + offset), phantoms))
    assert cause.name == "axis"
    found = float(cause.remedy.split()[1])
    assert abs(found - offset) < 0.1
    assert cause.misfit < 0.5 * cause.before


def test_angles(phantoms):
    angles = torch.arange(20) * STEP
    y = measured(eq.ParallelBeam(64, angles, normalize=True), phantoms)
    for given, what in (
        (torch.deg2rad(angles), "radians"),
        (angles * 2, "half the angle"),
        (angles / 2, "twice the angle"),
    ):
        cause = likely_cause(eq.ParallelBeam(64, given, normalize=True), y)
        assert what in cause.what
    fan = torch.arange(40) * STEP
    y = measured(eq.FanBeam(64, fan, 150, 100, normalize=True), phantoms)
    cause = likely_cause(eq.FanBeam(64, -fan, 150, 100, normalize=True), y)
    assert "turns the other way" in cause.what


@pytest.mark.slow
def test_order_axes_and_counts(phantoms):
    physics = eq.ParallelBeam(64, 20, normalize=True)
    y = measured(physics, phantoms)
    assert "first view stands last" in likely_cause(physics, y.roll(-1, -2)).what
    assert "last view stands first" in likely_cause(physics, y.roll(1, -2)).what
    assert "counts" in likely_cause(physics, torch.exp(-3 * y / y.max())).what
    square = eq.ParallelBeam(64, 91, detectors=91, normalize=True)
    y = measured(square, phantoms)
    assert "swapped" in likely_cause(square, y.mT).what


def test_large_scans_are_looked_at_coarsely():
    """Found on a quarter of the pixels, said in detectors of the scan itself."""
    x = eq.phantoms(1, 256, 3)
    y = measured(eq.ParallelBeam(256, 30, detectors=363, offset=4.6, normalize=True), x)
    cause = likely_cause(eq.ParallelBeam(256, 30, detectors=363, normalize=True), y)
    assert float(cause.remedy.split()[1]) == pytest.approx(4.6, abs=0.25)


@pytest.mark.parametrize(("size", "offset"), [(64, -0.5), (65, None)])
def test_sinograms_of_scikit_image(size, offset):
    """Those of an even size are half a detector off the axis."""
    transform = pytest.importorskip("skimage.transform")
    rows, columns = np.mgrid[:size, :size] - (size - 1) / 2
    inside = torch.from_numpy(rows**2 + columns**2 < (size / 2 - 1) ** 2)
    x = eq.phantoms(1, size, 5) * inside
    y = transform.radon(x[0, 0].numpy(), np.arange(30) * 6.0, circle=True)
    sinogram = torch.from_numpy(y.T.copy()).float()[None, None]
    cause = likely_cause(eq.ParallelBeam(size, 30, detectors=size, normalize=True), sinogram)
    if offset is None:
        assert cause is None
    else:
        assert "axis of rotation" in cause.what
        assert float(cause.remedy.split()[1]) == pytest.approx(offset, abs=0.1)
        assert cause.misfit < 0.5 * cause.before
