"""The axis of rotation, found from measurements alone; and said where they do not tell it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from support import DATA, real_data

import equipoise as eq
from equipoise.imaging.tomography import FanGeometry, ParallelGeometry
from equipoise.imaging.tomography.axis import estimate_axis
from equipoise.imaging.tomography.moments import Moments, are_complete


def measured(physics, size, noise=0.003, seed=3):
    """(1, views, detectors) of a phantom, with noise."""
    y = physics.A(eq.phantoms(1, size, seed))[:, 0].numpy().astype(np.float64)
    rng = np.random.default_rng(seed)
    return y + noise * y.max() * rng.standard_normal(y.shape)


def found(physics, y):
    """The estimate of somebody who thinks that the axis is in the middle."""
    return estimate_axis(replace(physics.geometry, offset=0.0), y)


def disc(angles, places, centre, radius):
    """Line integrals of a disc: known without any operator."""
    theta = np.radians(angles)[:, None]
    s = places - (centre[0] * np.cos(theta) - centre[1] * np.sin(theta))
    return 2 * np.sqrt(np.maximum(radius**2 - s**2, 0))[None]


@pytest.mark.parametrize("offset", [3.7, -0.5, -7.2])
@pytest.mark.parametrize(("views", "span"), [(20, 180.0), (60, 180.0), (30, 360.0), (40, 100.0)])
def test_of_a_parallel_beam(offset, views, span):
    angles = torch.arange(views) * (span / views)
    physics = eq.ParallelBeam(64, angles, detectors=110, offset=offset)
    estimate = found(physics, measured(physics, 64))
    assert abs(estimate.offset - offset) < 0.1
    assert estimate.is_told
    assert abs(estimate.offset - offset) < 2 * estimate.uncertainty + 0.02


@pytest.mark.parametrize(
    ("offset", "options"),
    [(3.7, {}), (-0.5, {"curved": True}), (-2.4, {"detectors": 60}), (1.2, {"pitch": 2.0})],
)
def test_of_a_fan(offset, options):
    physics = eq.FanBeam(64, 30, 128, 64, **{"detectors": 104, **options}, offset=offset)
    estimate = found(physics, measured(physics, 64))
    assert abs(estimate.offset - offset) < 0.12
    assert estimate.method == "fit"


def test_of_truncated_views():
    """The object reaches beyond the detector, so its moments tell nothing."""
    physics = eq.ParallelBeam(64, 40, detectors=40, offset=2.6)
    y = measured(physics, 64)
    assert not are_complete(y)
    estimate = found(physics, y)
    assert estimate.method == "fit"
    assert abs(estimate.offset - 2.6) < 0.15


@pytest.mark.parametrize("offset", [12.0, -16.0])
def test_near_an_end_of_the_detector_where_views_go_all_around(offset):
    size = 48
    angles = torch.arange(90) * 4.0
    scan = eq.ParallelBeam(size, angles, 40, offset=offset)
    estimate = found(scan, measured(scan, size))
    assert estimate.is_told
    assert estimate.offset == pytest.approx(offset, abs=0.25)


def test_far_from_the_middle_of_complete_views():
    scan = eq.ParallelBeam(48, 60, 120, offset=-30.0)
    assert found(scan, measured(scan, 48)).offset == pytest.approx(-30, abs=0.05)


def test_few_detectors():
    physics = eq.ParallelBeam(16, 24, detectors=25, offset=0.8)
    assert abs(found(physics, measured(physics, 16)).offset - 0.8) < 0.1


def test_leaving_out_detectors_moves_it_by_half_of_them():
    physics = eq.ParallelBeam(64, 24, detectors=110)
    y = measured(physics, 64)
    geometry = replace(physics.geometry, detectors=104)
    moved = estimate_axis(geometry, y[..., 6:]).offset
    assert moved == pytest.approx(estimate_axis(physics.geometry, y).offset + 3, abs=0.03)


@pytest.mark.parametrize("pitch", [1.0, -1.0])
def test_the_axis_does_not_depend_on_where_the_search_begins(pitch):
    physics = eq.ParallelBeam(64, 24, detectors=110, offset=4.0)
    y = measured(physics, 64)
    geometry = replace(physics.geometry, pitch=pitch)
    for start in (-5.0, 0.0, 9.0):
        estimate = estimate_axis(replace(geometry, offset=start), y)
        assert estimate.offset == pytest.approx(4.0, abs=0.05)


def test_what_cannot_be_told_is_not_told():
    narrow = eq.FanBeam(64, torch.arange(12) * 4.0, 128, 64)
    assert not found(narrow, measured(narrow, 64)).is_told
    physics = eq.ParallelBeam(32, 2)
    assert not found(physics, measured(physics, 32)).is_told
    nothing = eq.ParallelBeam(32, 20)
    estimate = found(nothing, np.zeros((1, 20, nothing.geometry.detectors)))
    assert not estimate.is_told
    assert "do not tell" in str(estimate)
    rng = np.random.default_rng(0)
    assert not found(nothing, rng.standard_normal((1, 20, nothing.geometry.detectors))).is_told


def test_wrong_shapes():
    geometry = eq.ParallelBeam(32, 20).geometry
    with pytest.raises(ValueError, match="20 views"):
        estimate_axis(geometry, np.zeros((1, 21, geometry.detectors)))
    with pytest.raises(ValueError, match="20 views"):
        estimate_axis(geometry, np.zeros((20, geometry.detectors)))


# ------------------------------------------------------------------------------------ moments


def test_moments_of_a_disc_agree_with_each_other():
    """Against line integrals in closed form, at arbitrary angles."""
    rng = np.random.default_rng(1)
    angles = np.sort(rng.uniform(0, 180, 25))
    places = np.arange(160) - 79.5 + 2.5
    moments = Moments(disc(angles, places, (14.0, -9.0), 30.0))
    right = moments.inconsistency(angles, 2.5)
    assert right < 2e-3
    assert moments.inconsistency(angles, 3.5) > 5 * right
    assert moments.inconsistency(angles * 0.9, 2.5) > 10 * right
    assert moments.inconsistency(np.roll(angles, 1), 2.5) > 30 * right
    turned = moments.inconsistency(angles + 77, 2.5)  # only turns the image
    assert turned == pytest.approx(right, rel=1e-6)
    assert moments.inconsistency(-angles, 2.5) == pytest.approx(right, rel=1e-6)  # mirrors it


def test_a_background_does_not_draw_the_axis_to_the_middle():
    angles = np.arange(30) * 6.0
    places = np.arange(160) - 79.5 + 12
    y = disc(angles, places, (10.0, 5.0), 30.0) + 1.0 + 0.005 * places
    geometry = ParallelGeometry(160, 160, tuple(angles), 160, 0.0)
    assert estimate_axis(geometry, y).offset == pytest.approx(12, abs=0.05)


# ----------------------------------------------------------------------------------- real data


def tooth(row=0):
    h5py = pytest.importorskip("h5py")
    with h5py.File(DATA / "scanner" / "tooth.h5") as stored:
        exchange = stored["exchange"]
        white = exchange["data_white"][:].mean(0)[row]
        dark = exchange["data_dark"][:].mean(0)[row]
        share = (exchange["data"][:, row] - dark) / (white - dark)
        return -np.log(share.clip(1e-3)), exchange["theta"][:]


@real_data
@pytest.mark.parametrize("every", [1, 9])
def test_the_tooth(every):
    """At detector 296 of 640, as its first view and the mirrored last one say."""
    y, theta = tooth()
    geometry = ParallelGeometry(640, 640, tuple(theta[::every]), 640, 0.0)
    estimate = estimate_axis(geometry, y[None, ::every])
    assert 319.5 - estimate.offset == pytest.approx(296, abs=0.5)
    assert estimate.is_told


@real_data
@pytest.mark.parametrize("left_out", [0, 9])
def test_a_disc_of_the_challenge(left_out):
    """Within 0.05 of the middle, of 140 detectors; and where leaving out detectors puts it."""
    scipy_io = pytest.importorskip("scipy.io")
    file = DATA / "ct" / "htc2022" / "htc2022_04a_full.mat"
    scan = scipy_io.loadmat(file, squeeze_me=True, struct_as_record=False)["CtDataFull"]
    y = scan.sinogram[:-1:12].reshape(60, 140, 4).mean(-1)[None, :, left_out:]
    pixel = 0.8 * 410.66 / 553.74
    angles = tuple(-6.0 * np.arange(60))
    far = (553.74 - 410.66) / pixel
    count = 140 - left_out
    geometry = FanGeometry(128, 128, angles, count, 410.66 / pixel, far, 0.8 / pixel, False, 0.0)
    estimate = estimate_axis(geometry, y)
    assert estimate.offset == pytest.approx(left_out / 2, abs=0.06)
    assert estimate.uncertainty < 0.2
