"""Faults of a tomographic set-up, each named for what it is; and none on the right set-up."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import equipoise as eq
from equipoise.commands.doctor.causes import likely_cause

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


@pytest.mark.parametrize("inserts", [0, 4])
@pytest.mark.parametrize("views", [60, 120])
def test_none_for_what_scanners_are_calibrated_with(inserts, views):
    """Round objects in the middle look alike from everywhere, and fit all angles."""
    physics = eq.FanBeam(48, views, 100, 60, detectors=80, normalize=True)
    rows, columns = torch.meshgrid(*[torch.arange(48.0) - 23.5] * 2, indexing="ij")
    x = torch.sigmoid(18 - torch.hypot(rows, columns))
    for k in range(inserts):
        row, column = 6 * math.sin(k * math.pi / 2), 6 * math.cos(k * math.pi / 2)
        x = x + 0.5 * torch.sigmoid(2 * (1.5 - torch.hypot(rows - row, columns - column)))
    assert likely_cause(physics, measured(physics, x[None, None])) is None


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
