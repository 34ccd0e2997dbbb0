"""What the doctor says of sinograms whose numbers cannot be right."""

from __future__ import annotations

import re

import numpy as np
import pytest
import yaml

import equipoise as eq
from equipoise.commands.doctor import examine
from equipoise.commands.doctor.fix import write_fixed
from equipoise.commands.init import init
from equipoise.config import load_config


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


EVERY = slice(None)
SPOILT = {
    "a dead detector": (with_zeros(EVERY, EVERY, 20), "dead detector.*number 20", "interpolate"),
    "a dropped frame": (with_zeros(EVERY, 5), "1 of 24 views measured nothing: number 5", "leave"),
    "a minus": (lambda y: -y, "line integrals are negative", "multiply them by −1"),
    "nothing": (lambda y: 0 * y, "everything is zero", "leave it out"),
}


@pytest.mark.parametrize("name", SPOILT)
def test_it_is_named_and_no_geometry_is_blamed(tmp_path, sinograms, name):
    spoil, what, remedy = SPOILT[name]
    found = list(examine(config_of(tmp_path, sinograms, spoil)))
    (finding,) = [f for f in found if f.verdict == "wrong"]
    assert re.search(what, finding.what)
    assert remedy in finding.remedy
    assert finding is found[-1]


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
