"""What the doctor says of sinograms whose numbers cannot be right."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
import yaml

import equipoise as eq
from equipoise.commands.doctor import examine
from equipoise.commands.doctor.fix import write_fixed
from equipoise.commands.init import init
from equipoise.config import load_config, parse
from equipoise.data.scan import Scan
from equipoise.data.unusual import unusual


@pytest.fixture(scope="module")
def sinograms():
    images = eq.phantoms(4, 32)
    y = eq.ParallelBeam(32, 24).A(images)[:, 0].numpy()
    noise = np.random.default_rng(0).standard_normal(y.shape)
    return (y + 1e-3 * y.max() * noise).astype(np.float32), float(images.max())


def config_of(folder, sinograms, spoil):
    y, peak = sinograms
    np.save(folder / "s.npy", spoil(y.copy()))
    tree = {
        "data": {"path": str(folder / "s.npy"), "size": 32, "peak": peak},
        "physics": {"kind": "parallel_beam", "angles": 24},
        "learning": {"steps": 2, "batch": 2},
    }
    (folder / "c.yaml").write_text(yaml.safe_dump(tree))
    return load_config(folder / "c.yaml")


def with_zeros(*index):
    def spoil(y):
        y[index] = 0
        return y

    return spoil


def with_value(value, *index):
    def spoil(y):
        y[index] = value
        return y

    return spoil


EVERY = slice(None)
SPOILT = {
    "a dead detector": (with_zeros(EVERY, EVERY, 20), "dead detector.*number 20", "interpolate"),
    "a dropped frame": (with_zeros(EVERY, 5), "1 of 24 views measured nothing: number 5", "leave"),
    "a minus": (lambda y: -y, "line integrals are negative", "multiply them by −1"),
    "a beam that drifted": (lambda y: y - 0.1 * y.max(), "beside the object", "open beam anew"),
    "nothing": (lambda y: 0 * y, "4 of 4 measurements are zero everywhere", "leave them out"),
    "nothing once": (with_zeros(2), "1 of 4 measurements are zero everywhere: s_002", "leave them"),
    "frames dropped once": (
        with_zeros(1, slice(12, 16)),
        "s_001: 4 of its 24 views measured nothing, number 12, 13, 14, 15",
        "leave this measurement out",
    ),
    "a hot value": (
        with_value(1e4, 0, 10, 13),
        "s_000: 1 ray.* view 10 at detector 13 ",
        "mean of the rays beside it",
    ),
    "a cold value": (
        with_value(-300.0, 3, 0, 2),
        "s_003: 1 ray.* view 0 at detector 2 ",
        "mean of the rays beside it",
    ),
    "another unit once": (
        lambda y: y * np.array([1, 50, 1, 1])[:, None, None],
        "1 of 4 measurements are up to .* times as large as most: s_001",
        "to one unit",
    ),
}


@pytest.mark.parametrize("order", ["in turn", "by the golden angle"])
@pytest.mark.parametrize("views", [6, 24, 90])
@pytest.mark.parametrize("radius", [0.6, 2.0])
def test_what_an_object_makes_is_not_unusual(views, radius, order):
    """A pin of steel in plastic, at the edge: few rays go through it, and are far above all others,
    but the next view has some as well, somewhere else."""
    size, middle = 192, 96
    y, x = torch.meshgrid(torch.arange(192.0), torch.arange(192.0), indexing="ij")
    image = 0.001 * ((x - middle) ** 2 + (y - middle) ** 2 < 80**2).float()
    image += 5.0 * ((x - 150) ** 2 + (y - middle) ** 2 < radius**2).float()
    angles = [k * 180 / views for k in range(views)]
    if order == "by the golden angle":
        angles = [k * 111.246 % 360 for k in range(views)]
    sinogram = eq.ParallelBeam(size, angles).A(image[None, None])
    settings = parse({"physics": {"angles": angles}, "data": {"size": size}}, "test").physics
    scan = Scan.planned(settings, size)
    assert unusual(sinogram, scan, ["pin"]) == []
    assert (
        unusual(
            sinogram * torch.tensor([1.0, 1, 0.02, 0.001])[:, None, None, None], scan, list("abcd")
        )
        == []
    )
    hot = sinogram.clone()
    hot[0, 0, 3, 5] = (2 if views == 90 else 10) * sinogram.max()  # far from the pin, then
    assert [one.what.split(" ")[1] for one in unusual(hot, scan, ["pin"])] == ["1"]


def test_a_scale_that_nothing_explains_is_not_written(tmp_path, sinograms):
    """A constant in all line integrals, as of a white field that is too dark: no operator makes
    that, and what the images reach is no peak."""
    spoil = lambda y: 8 * (y + y.max())  # noqa: E731
    found = {}
    for finding in examine(config_of(tmp_path, sinograms, spoil)):
        found[finding.what.split(":")[0]] = finding
        if "range" in found:
            break  # what follows takes long
    assert found["fit"].verdict == "wrong"
    assert found["range"].verdict == "wrong"
    assert found["range"].changes == {}


@pytest.mark.parametrize("name", SPOILT)
def test_it_is_named_and_no_geometry_is_blamed(tmp_path, sinograms, name):
    spoil, what, remedy = SPOILT[name]
    found = list(examine(config_of(tmp_path, sinograms, spoil)))
    (finding,) = [f for f in found if f.verdict == "wrong"]
    assert re.search(what, finding.what)
    assert remedy in finding.remedy
    assert finding is found[-1]


@pytest.mark.parametrize("top", [3600, 65535])
def test_a_saturated_detector(tmp_path, sinograms, top):
    h5py = pytest.importorskip("h5py")
    y = sinograms[0][:2].swapaxes(0, 1)  # views × rows × detectors
    counts = np.random.default_rng(0).poisson(5000 * np.exp(-2 * y / y.max()))
    with h5py.File(tmp_path / "scan.h5", "w") as stored:
        stored["exchange/data"] = np.minimum(counts, top).astype(np.uint16)
        stored["exchange/data_white"] = np.full((2, *y.shape[1:]), 5000, np.uint16)
        stored["exchange/data_dark"] = np.zeros((2, *y.shape[1:]), np.uint16)
        stored["exchange/theta"] = np.arange(24) * 7.5
    tree = {
        "data": {"path": str(tmp_path / "scan.h5"), "size": 32},
        "physics": {"kind": "parallel_beam"},
        "learning": {"steps": 2, "batch": 2},
    }
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(tree))
    found = [f for f in examine(load_config(tmp_path / "c.yaml")) if f.what.startswith("values")]
    if top > counts.max():
        assert found == []
        return
    assert re.search(
        r"\d+% of the counts are exactly the largest of all: the detector is saturated",
        found[0].what,
    )


def test_what_is_fine_is_not_mentioned(tmp_path, sinograms):
    found = list(examine(config_of(tmp_path, sinograms, lambda y: y)))
    assert not any(finding.what.startswith("values") for finding in found)


def test_a_dead_detector_is_mended_before_the_geometry(tmp_path, sinograms):
    config_of(tmp_path, sinograms, SPOILT["a dead detector"][0])
    write_fixed(tmp_path / "c.yaml", None, tmp_path / "d.yaml", echo=lambda _: None)
    mended = yaml.safe_load((tmp_path / "d.yaml").read_text())
    assert mended["data"]["dead"] == "interpolate"
    assert mended["physics"]["angles"] == 24


def test_init_says_so_too(tmp_path, sinograms):
    np.save(tmp_path / "s.npy", -sinograms[0])
    said = []
    init(tmp_path / "s.npy", tmp_path / "i.yaml", said.append)
    assert any("multiply them by −1" in line for line in said)
