"""Values that cannot be what they are said to be, where water is; and ASTRA's fans."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support import DATA, real_data

import equipoise as eq
from equipoise.commands.doctor.causes import cause_of
from equipoise.commands.doctor.examine import examine
from equipoise.commands.doctor.scale import scale
from equipoise.config import parse
from equipoise.data.item import Units

#: Per millimetre, at some 70 keV.
WATER = 0.02
PIXEL = 1.5


def of_kind(config, word):
    return [found for found in examine(config) if found.what.startswith(word)]


def sinograms_of_water(tmp_path, scale=1.0, size=64):
    """A disc of water and a smaller one of bone, as line integrals without a unit."""
    place = torch.arange(size) - (size - 1) / 2
    radius = (place[:, None] ** 2 + place**2).sqrt()
    image = (radius < 0.35 * size).float()
    image[30:34, 30:34] = 2.0
    physics = eq.ParallelBeam(size, 48)
    y = WATER * PIXEL * physics.A(image[None, None])[0, 0].numpy()
    rng = np.random.default_rng(0)
    np.save(tmp_path / "y.npy", scale * y + 1e-3 * y.max() * rng.standard_normal(y.shape))


@pytest.mark.parametrize(
    ("scale", "verdict"), [(1.0, "ok"), (0.1, "wrong"), (10.0, "wrong"), (0.45, "ok")]
)
def test_ten_times_the_scale_is_told_where_water_is(tmp_path, scale, verdict):
    sinograms_of_water(tmp_path, scale)
    config = parse(
        {
            "data": {
                "kind": "measurements",
                "path": str(tmp_path / "y.npy"),
                "size": 64,
                "water": WATER,
                "peak": 2 * WATER * scale,
            },
            "physics": {
                "kind": "parallel_beam",
                "angles": 48,
                "noise": 0.001,
                "detector_pitch": PIXEL,
                "image_pixel": PIXEL,
            },
            "learning": {"batch": 1},
        },
        "water",
    )
    (found,) = of_kind(config, "scale:")
    assert found.verdict == verdict, found
    times = float(found.what.split("attenuates ")[1].split()[0])
    assert times == pytest.approx(scale, rel=0.05)
    assert ("centimetres" in found.remedy) == (verdict == "wrong")


@pytest.mark.parametrize("radius", [0.1, 0.15, 0.3])
def test_a_small_object_in_noise_is_no_mistake(radius):
    """Water in little of the field: told rightly, or not at all."""
    size = 64
    place = torch.arange(size) - (size - 1) / 2
    inside = ((place[:, None] ** 2 + place**2).sqrt() < radius * size).float()
    rng = torch.Generator().manual_seed(0)
    x = 0.5 * inside + 0.05 * torch.randn(size, size, generator=rng)
    item = SimpleNamespace(units=Units.of_measurement(2 * WATER, WATER))
    found = list(scale(SimpleNamespace(items=[item], truth=None), x[None, None]))
    assert all(each.verdict == "ok" for each in found)
    assert found or radius == 0.1


def test_without_water_nothing_is_said(tmp_path):
    sinograms_of_water(tmp_path, 10.0)
    config = parse(
        {
            "data": {"kind": "measurements", "path": str(tmp_path / "y.npy"), "size": 64},
            "physics": {"kind": "parallel_beam", "angles": 48, "noise": 0.001},
            "learning": {"batch": 1},
        },
        "water",
    )
    assert of_kind(config, "scale:") == []


@real_data
def test_a_disc_of_plastic_is_no_mistake():
    """The Helsinki challenge's, with what water attenuates at 45 kV."""
    config = parse(
        {
            "data": {
                "path": str(DATA / "ct" / "htc2022" / "htc2022_01a_full.mat"),
                "size": 64,
                "water": 0.028,
                "peak": 0.05,
            },
            "physics": {"kind": "fan_beam", "views": "0:720:24", "bin": 8, "noise": 0.01},
            "learning": {"batch": 1},
        },
        "disc",
    )
    (found,) = of_kind(config, "scale:")
    assert found.verdict == "ok", found


def test_a_fan_of_astras():
    """Its detectors counted as ours: named as the sense of rotation, with the convention."""
    physics = eq.FanBeam(64, 30, 150, 100, detectors=100)
    y = physics.A(eq.phantoms(1, 64, 9))[:, 0].numpy().astype(np.float64)[..., ::-1]
    cause = cause_of(physics.geometry, np.ascontiguousarray(y))
    assert cause is not None
    assert cause.name == "sense"
    assert "physics.convention=astra" in cause.remedy
