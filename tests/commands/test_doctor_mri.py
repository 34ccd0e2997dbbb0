"""What the doctor says of k-space, and of steps that take long."""

from __future__ import annotations

import time
from types import SimpleNamespace

import deepinv
import numpy as np
import pytest
import torch

import equipoise as eq
from equipoise.commands.doctor import cost, examine
from equipoise.commands.doctor.examine import _norm
from equipoise.config import parse
from equipoise.imaging.mri import birdcage

MODEL = {
    "max_steps": 6,
    "test_max_steps": 6,
    "denoiser": {"kind": "random", "channels": 4, "layers": 2},
    "gradient": {"kind": "implicit", "max_steps": 20},
}


def findings(config):
    return {finding.what.split(":")[0]: finding for finding in examine(config)}


def acquired(tmp_path, spoil=lambda k: k, size=32, every=2):
    """A head with four coils, every other line measured, and a wholly measured middle."""
    rng = np.random.default_rng(0)
    image = eq.phantoms(1, size, 2, ("brain",))[0, 0]
    maps = birdcage(4, size, size).reshape(4, size, size)
    kspace = torch.fft.fftshift(
        torch.fft.fft2(torch.fft.ifftshift(maps * image, (-2, -1))), (-2, -1)
    )
    kspace = kspace.numpy() / size
    noise = rng.standard_normal(kspace.shape) + 1j * rng.standard_normal(kspace.shape)
    kspace = kspace + 0.002 * noise
    keep = np.zeros(size, bool)
    keep[::every] = True
    keep[size // 2 - 6 : size // 2 + 6] = True
    kspace = spoil(kspace * keep)
    np.save(tmp_path / "k.npy", kspace.astype(np.complex64))
    tree = {
        "data": {"path": str(tmp_path / "k.npy")},
        "physics": {"kind": "mri"},
        "model": MODEL,
        "objective": {"equivariance": 0, "splitting": 1},
        "learning": {"steps": 2, "batch": 1},
    }
    return findings(parse(tree, "test"))


def test_lines_and_coils(tmp_path):
    found = acquired(tmp_path)
    assert found["lines"].verdict == "ok"
    assert "22 of 32 columns were measured, 68.8% of k-space" in found["lines"].what
    assert "the middle 12 × 12 points wholly" in found["lines"].what
    assert found["coils"].verdict == "ok"


@pytest.mark.parametrize("every", [1, 2])
def test_a_coil_that_measures_noise_alone_is_named(tmp_path, every):
    """Where every line was measured, too."""

    def spoil(kspace):
        rng = np.random.default_rng(1)
        noise = rng.standard_normal(kspace[2].shape) + 1j * rng.standard_normal(kspace[2].shape)
        kspace[2] = 0.002 * noise * (kspace[0] != 0)
        return kspace

    found = acquired(tmp_path, spoil, every=every)["coils"]
    assert found.verdict == "note"
    assert "number 2 (counted from 0)" in found.what


def test_a_dead_coil_is_named(tmp_path):
    def spoil(kspace):
        kspace[3] = 0
        return kspace

    said = " ".join(finding.what for finding in acquired(tmp_path, spoil).values())
    assert "number 3 (counted from 0)" in said


@pytest.mark.parametrize("patience", [0.5])
def test_slow_steps_are_reckoned(monkeypatch, patience):
    """Of what takes longer than the patience, a part is made."""

    class Slow(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.factor = torch.nn.Parameter(torch.tensor(0.9))

        def forward(self, x, sigma):
            time.sleep(0.1)
            return self.factor * x

    monkeypatch.setattr(cost, "PATIENCE", patience)
    tree = {
        "data": {"size": 16, "count": 4},
        "physics": {"angles": 8},
        "model": MODEL,
        "learning": {"steps": 2, "batch": 2},
    }
    config = parse(tree, "test")
    make = type(config.model).make

    def slow(self, *args, **options):
        model = make(self, *args, **options)
        model.step.denoiser = Slow()
        return model

    monkeypatch.setattr(type(config.model), "make", slow)
    start = time.monotonic()
    found = findings(config)["cost"]
    assert "at least" in found.what
    assert time.monotonic() - start < 60


@pytest.mark.parametrize(("size", "verdict"), [("native", "wrong"), (16, None)])
def test_the_objective_is_that_of_training(tmp_path, size, verdict):
    """Of all images, not of the few that are looked at, which may be of one size."""
    rng = np.random.default_rng(0)
    for k in range(6):
        np.save(tmp_path / f"{k}.npy", rng.random((16 + 4 * (k % 2), 16)).astype(np.float32))
    tree = {
        "data": {"path": str(tmp_path), "kind": "images", "size": size, "units": "1.0"},
        "physics": {"kind": "mri", "masks": "each", "acceleration": 2},
        "model": MODEL,
        "objective": {"equivariance": 0, "splitting": {"parts": 2, "weighting": "density"}},
        "learning": {"steps": 2, "batch": 2},
    }
    found = list(examine(parse(tree, "test")))
    assert not any("cannot be read" in finding.what for finding in found)
    said = [f for f in found if "images are of different sizes" in f.what]
    assert [finding.verdict for finding in said] == ([] if verdict is None else [verdict])


def test_an_operator_that_sees_nothing_is_wrong():
    nothing = deepinv.physics.LinearPhysics(A=lambda x: 0 * x, A_adjoint=lambda y: 0 * y)
    scan = SimpleNamespace(physics=nothing, gain=1.0)
    found = _norm(scan, torch.rand(1, 1, 4, 4))
    assert found.verdict == "wrong"
    assert "sees nothing of any image" in found.what
