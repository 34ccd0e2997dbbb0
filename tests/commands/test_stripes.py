"""Stripes are told from what objects make, and from noise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import yaml
from support import DATA, ROOT, real_data

import equipoise as eq
from equipoise.commands.doctor.stripes import stripes, stripes_of
from equipoise.config import parse
from equipoise.data.scan import Scan
from equipoise.run import described, load_data

DETECTORS = 91
AXIS = (DETECTORS - 1) / 2


def disc(angles: np.ndarray, s: np.ndarray, x: float, y: float, radius: float) -> np.ndarray:
    """Exact line integrals (views, detectors)."""
    centre = x * np.cos(angles)[:, None] + y * np.sin(angles)[:, None]
    return 2 * np.sqrt(np.clip(radius**2 - (s - centre) ** 2, 0, None))


def scan(views: int, wall: float, noise: float, turn: float, axis: float = AXIS) -> torch.Tensor:
    """A tube about the axis with a disc and a thin wire in it."""
    angles = np.arange(views) * turn / views
    rng = np.random.default_rng(0)
    y = np.zeros((views, DETECTORS))
    for part in (-0.375, -0.125, 0.125, 0.375):  # of a detector's width
        s = (np.arange(DETECTORS) - axis + part) * 2 / DETECTORS
        y += disc(angles, s, 0, 0, 0.8) - disc(angles, s, 0, 0, 0.8 - wall)
        y += disc(angles, s, 0.2, 0.1, 0.15) + 3 * disc(angles, s, -0.1, 0.2, 0.01)
    y /= 4
    return torch.from_numpy(y + noise * y.max() * rng.standard_normal(y.shape))


@pytest.mark.parametrize("turn", [np.pi, 2 * np.pi])
@pytest.mark.parametrize("views", [20, 60, 360])
@pytest.mark.parametrize("wall", [0.02, 0.1, 0.8])
@pytest.mark.parametrize(("noise", "axis"), [(0, AXIS), (1e-3, AXIS + 2.3), (0.02, AXIS - 0.4)])
def test_objects_and_noise_have_none(views, wall, noise, turn, axis):
    found = stripes_of(scan(views, wall, noise, turn, axis), axis)
    assert not found.any()


def test_phantoms_have_none():
    for views in (8, 60):
        physics = eq.ParallelBeam(64, views, normalize=True)
        for y in physics.A(eq.phantoms(4, 64, 5))[:, 0]:
            assert not stripes_of(y, (y.shape[1] - 1) / 2).any()


@pytest.mark.parametrize("views", [20, 60, 360])
def test_detectors_with_an_offset_of_their_own_are_found(views):
    clean = scan(views, 0.1, 1e-3, np.pi)
    places, height = [25, 30, 52, 72], 0.02 * float(clean.max())
    striped = clean.clone()
    striped[:, places] += height
    found = stripes_of(striped, AXIS)
    assert set(places) <= set(torch.nonzero(found).flatten().tolist())
    assert found[places] == pytest.approx(height, rel=0.4)
    drifting = clean.clone()
    drifting[: views // 3, places] += height  # of a third of the views
    assert not stripes_of(drifting, AXIS).any()


def test_every_detector_s_gain():
    clean = scan(180, 0.1, 1e-3, np.pi)
    gains = torch.randn(DETECTORS, generator=torch.Generator().manual_seed(0)).double()
    found = stripes_of(clean + 0.02 * float(clean.max()) * gains, AXIS)
    assert int((found != 0).sum()) >= 10


def test_the_doctor_says_so(tmp_path):
    y = eq.ParallelBeam(32, 24).A(eq.phantoms(3, 32))[:, 0].numpy()
    notes = []
    for shift in (0, 0.05 * y.max()):
        y[..., [9, 19, 31, 39]] += shift
        np.save(tmp_path / "s.npy", y)
        data = {"path": str(tmp_path / "s.npy"), "size": 32}
        config = parse({"data": data, "physics": {"kind": "parallel_beam", "angles": 24}}, "test")
        dataset = load_data(config, Scan.planned(config.physics, 32))
        notes.append(stripes(dataset))
    assert [note.verdict for note in notes] == ["ok", "note"]
    assert "5 of 46 detectors differ" in notes[1].what
    assert "data.rings=sorting" in notes[1].remedy


@real_data
@pytest.mark.parametrize(
    ("name", "file", "verdict"),
    [("synchrotron", "scanner/tooth.h5", "note"), ("htc2022", "ct/htc2022", "ok")],
)
def test_of_real_scans_the_tooth_has_rings(name, file, verdict):
    tree = yaml.safe_load((ROOT / "configs" / f"{name}.yaml").read_text())
    tree["data"]["path"] = str(DATA / file)
    config = described(parse(tree, "test"))
    dataset = load_data(config, Scan.planned(config.physics, config.data.size)).spread(4)
    assert stripes(dataset).verdict == verdict


def test_what_was_not_measured_is_none():
    clean = scan(60, 0.1, 1e-3, np.pi)
    clean[:, [20, 31, 40, 55]] = 0
    assert not stripes_of(clean, AXIS).any()
