"""data.simulate: images measured on the reconstruction's grid, or on one that is finer."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import equipoise as eq
from equipoise.config import parse
from equipoise.data.load import load_dataset
from equipoise.data.scan import Scan
from equipoise.errors import UserError


def loaded(data, physics, stream=False):
    config = parse({"data": data, "physics": physics}, "test")
    scan = Scan.planned(config.physics, config.data.size, config.seed)
    return load_dataset(config.data, scan, config.seed, stream=stream)


RAYS = {"kind": "parallel_beam", "angles": 12, "noise": 0.001}
MRI = {"kind": "mri", "acceleration": 2}


@pytest.mark.parametrize("physics", [RAYS, MRI])
def test_only_the_finer_grid_differs_from_what_the_operator_says(physics):
    """On its own grid, the truth explains what was measured to the noise."""
    left = {}
    for simulate in ("same", "fine"):
        quiet_scan = {**physics, "noise": 1e-9}
        dataset = loaded({"size": 32, "count": 3, "simulate": simulate}, quiet_scan)
        y = dataset.measurements()
        assert dataset.truth.shape[-2:] == (32, 32)
        left[simulate] = float((dataset.scan.physics.A(dataset.truth) - y).norm() / y.norm())
    assert left["same"] < 1e-6
    assert 1e-3 < left["fine"] < 0.1


@pytest.mark.parametrize("physics", [RAYS, MRI])
@pytest.mark.parametrize("size", [16, [16, 24], "native"])
def test_files_and_streams(tmp_path, physics, size):
    if size == "native" and physics is RAYS:
        pytest.skip("rays have views and detectors for one size")
    shapes = [(48, 48), (32, 48)] if size == "native" else [(48, 48)] * 2
    for k, shape in enumerate(shapes):
        image = eq.phantoms(1, 48, k)[0, 0, : shape[0]].numpy()
        np.save(tmp_path / f"{k}.npy", image)
    data = {"path": str(tmp_path), "kind": "images", "size": size, "simulate": "fine"}
    dataset = loaded(data, physics)
    assert any("twice as fine" in note for note in dataset.notes)
    streamed = loaded(data, physics, stream=True)
    index = torch.arange(2)
    assert torch.equal(streamed.batch(index)[0], dataset.batch(index)[0])


def test_measurements_are_not_simulated(tmp_path):
    np.save(tmp_path / "y.npy", eq.ParallelBeam(32, 12).A(eq.phantoms(1, 32))[0, 0].numpy())
    physics = {**RAYS, "detectors": 46}
    with pytest.raises(UserError, match="holds measurements"):
        loaded({"path": str(tmp_path / "y.npy"), "size": 32, "simulate": "fine"}, physics)


def test_what_has_no_finer_grid_says_so():
    with pytest.raises(UserError, match="made for one grid"):
        loaded({"size": 16, "count": 1, "simulate": "fine"}, {"kind": "inpainting"})
