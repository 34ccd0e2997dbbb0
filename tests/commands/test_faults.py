"""Each mistake of a set-up, injected into several of them, is named for what it is, or not at all
where no measurement tells it; and none on the right set-up. docs/doctor.md has the table."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from support import DATA, ROOT, real_data

import equipoise as eq
from equipoise.commands.doctor.causes import cause_of
from equipoise.commands.doctor.trials import with_distances
from equipoise.imaging.tomography import FanGeometry, ParallelGeometry

#: What is told, as docs/doctor.md has it.
TOLD = {
    "axis": {"parallel 180", "parallel 360", "fan full"},
    "radians": {"parallel 180", "parallel 360", "fan full", "fan limited"},
    "twice the angle": {"parallel 180", "parallel 360", "fan full"},
    "half the angle": {"parallel 180", "parallel 360", "fan full", "fan limited"},
    "another angle": {"parallel 180", "parallel 360", "fan full"},
    "sense": {"fan full"},
    "first view last": {"parallel 180", "fan limited"},
    "interleaved": {"parallel 180", "parallel 360", "fan full", "fan limited"},
    "neighbours swapped": {"parallel 180", "parallel 360", "fan full", "fan limited"},
    "counts": {"parallel 180", "parallel 360", "fan full", "fan limited"},
    "magnification": {"fan full", "fan limited"},
}
#: The name that the doctor has for it.
NAMES = {
    "twice the angle": "span",
    "half the angle": "span",
    "another angle": "span",
    "first view last": "order",
    "interleaved": "order",
    "neighbours swapped": "order",
}


def with_angles(geometry, angles):
    return replace(geometry, angles=tuple(np.asarray(angles).tolist()))


def injected(fault, geometry, y):
    """Geometry and sinograms of somebody who made this mistake."""
    angles = np.asarray(geometry.angles)
    rows = np.arange(len(angles))
    if fault == "axis":
        return replace(geometry, offset=geometry.offset - 0.02 * geometry.detectors), y
    if fault == "radians":
        return with_angles(geometry, np.radians(angles)), y
    if fault == "twice the angle":  # than is configured
        return with_angles(geometry, angles / 2), y
    if fault == "half the angle":
        return with_angles(geometry, angles * 2), y
    if fault == "another angle":
        return with_angles(geometry, angles * 0.85), y
    if fault == "sense":
        return with_angles(geometry, -angles), y
    if fault == "first view last":
        return geometry, y[:, np.roll(rows, -1)]
    if fault == "interleaved":
        return geometry, y[:, np.concatenate([rows[::2], rows[1::2]])]
    if fault == "neighbours swapped":
        pairs = rows.copy()
        pairs[: len(rows) // 2 * 2] = pairs[: len(rows) // 2 * 2].reshape(-1, 2)[:, ::-1].ravel()
        return geometry, y[:, pairs]
    if fault == "counts":
        return geometry, 2e4 * np.exp(-3 * y / y.max())
    assert fault == "magnification"
    return with_distances(geometry, 0.5), y


def simulated(physics):
    y = physics.A(eq.phantoms(1, 64, 9))[:, 0].numpy().astype(np.float64)
    rng = np.random.default_rng(1)
    return physics.geometry, y + 0.002 * y.max() * rng.standard_normal(y.shape)


def parallel_180():
    return simulated(eq.ParallelBeam(64, 24))


def parallel_360():
    return simulated(eq.ParallelBeam(64, torch.arange(30) * 12.0))


def fan_full():
    return simulated(eq.FanBeam(64, 30, 150, 100, detectors=100))


def fan_limited():
    return simulated(eq.FanBeam(64, torch.arange(30) * 4.0, 150, 100, detectors=100))


SIMULATED = {
    "parallel 180": parallel_180,
    "parallel 360": parallel_360,
    "fan full": fan_full,
    "fan limited": fan_limited,
}


def check(fault, set_up, geometry, y):
    cause = cause_of(*injected(fault, geometry, np.ascontiguousarray(y)))
    if set_up in TOLD[fault]:
        assert cause is not None, f"{fault} was not noticed"
        assert cause.name == NAMES.get(fault, fault), cause.what
        assert fault == "counts" or cause.misfit < 0.9 * cause.before
    elif cause is not None:
        pytest.fail(f"{fault} cannot be told, and {cause.what} was named")


@pytest.mark.parametrize("set_up", SIMULATED)
def test_none_on_the_right_set_up(set_up):
    assert cause_of(*SIMULATED[set_up]()) is None


@pytest.mark.parametrize("fault", TOLD)
@pytest.mark.parametrize("set_up", SIMULATED)
def test_a_simulated_set_up(set_up, fault):
    if fault == "magnification" and "fan" not in set_up:
        return
    check(fault, set_up, *SIMULATED[set_up]())


@pytest.mark.parametrize("off", [0.05, -0.03])
def test_an_axis_that_is_elsewhere_does_not_hide_the_angle(off):
    """Alone, each of the two explains something; a wrong axis would be written into a file."""
    geometry, y = parallel_360()
    moved = replace(geometry, offset=geometry.offset + off * geometry.detectors)
    cause = cause_of(with_angles(moved, np.asarray(geometry.angles) / 2), y)
    assert cause.name == "span"
    assert cause.what.startswith("the views cover twice the angle, and the axis of rotation is not")
    assert cause.trial.geometry.offset == pytest.approx(geometry.offset, abs=0.5)


# ----------------------------------------------------------------------------------- real data


def disc(every=12, count=60):
    """A disc of the Helsinki Tomography Challenge."""
    scipy_io = pytest.importorskip("scipy.io")
    file = DATA / "ct" / "htc2022" / "htc2022_06b_full.mat"
    scan = scipy_io.loadmat(file, squeeze_me=True, struct_as_record=False)["CtDataFull"]
    y = scan.sinogram[:-1:every].reshape(-1, 140, 4).mean(-1)[None, :count]
    pixel = 0.8 * 410.66 / 553.74
    angles = tuple(-0.5 * every * np.arange(count))
    far = (553.74 - 410.66) / pixel
    return FanGeometry(128, 128, angles, 140, 410.66 / pixel, far, 0.8 / pixel, False, 0.0), y


def tooth():
    h5py = pytest.importorskip("h5py")
    with h5py.File(DATA / "scanner" / "tooth.h5") as stored:
        exchange = stored["exchange"]
        white, dark = exchange["data_white"][:].mean(0)[0], exchange["data_dark"][:].mean(0)[0]
        share = (exchange["data"][:, 0] - dark) / (white - dark)
        y = -np.log(share.clip(1e-3)).reshape(181, 320, 2).mean(-1)
        angles = exchange["theta"][:]
    return ParallelGeometry(320, 320, tuple(angles), 320, 11.75), y[None]


REAL = {"disc": ("fan full", disc), "tooth": ("parallel 180", tooth)}


@real_data
@pytest.mark.parametrize("name", REAL)
def test_none_on_a_right_real_set_up(name):
    geometry, y = REAL[name][1]()
    assert cause_of(geometry, y) is None
    if name == "tooth":  # an axis that is off by a quarter of a millimetre is no mistake
        assert cause_of(replace(geometry, offset=11.6), y) is None


@real_data
@pytest.mark.parametrize("fault", ["axis", "radians", "another angle", "interleaved", "counts"])
@pytest.mark.parametrize("name", REAL)
def test_a_real_set_up(name, fault):
    set_up, make = REAL[name]
    check(fault, set_up, *make())


@real_data
def test_the_sense_of_rotation_and_the_magnification_of_a_disc():
    check("sense", "fan full", *disc())
    check("magnification", "fan full", *disc())


@real_data
def test_the_first_view_of_the_tooth_last():
    """One view of 181 is mirrored."""
    check("first view last", "parallel 180", *tooth())


def test_the_table_of_the_documentation():
    """Says what is told of which set-up, as the tests above find it."""
    lines = (ROOT / "docs" / "doctor.md").read_text().splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if "|" in line]
    (head,) = [row for row in rows if row[0] == "mistake"]
    found = {row[0]: row[1:] for row in rows if row[0] in TOLD}
    assert found.keys() == TOLD.keys()
    for fault, cells in found.items():
        for set_up, cell in zip(head[1:5], cells, strict=False):
            assert cell.startswith("told") == (set_up in TOLD[fault]), (fault, set_up)
