"""What is said of data that are unusual."""

from __future__ import annotations

import numpy as np
import pytest

import equipoise as eq
from equipoise.config import parse
from equipoise.data.scan import Scan
from equipoise.run import load_data


def dataset_of(path, **data):
    config = parse({"data": {"path": str(path), "size": 24, **data}}, "test")
    return load_data(config, Scan.planned(config.physics, 24))


@pytest.mark.parametrize(
    ("axis", "is_oblong"), [("axial", False), ("sagittal", True), ("coronal", True)]
)
def test_pixels_that_are_not_square_are_told(tmp_path, axis, is_oblong):
    """A volume of thick slices: square pixels across the table, long ones along it."""
    nibabel = pytest.importorskip("nibabel")
    volume = np.moveaxis(eq.phantoms(24, 24)[:, 0].numpy(), 0, -1)
    affine = np.diag([1.0, 1.0, 3.0, 1.0])
    nibabel.save(nibabel.Nifti1Image(volume, affine), tmp_path / "v.nii.gz")
    notes = dataset_of(tmp_path / "v.nii.gz", axis=axis).notes
    assert any("are taken for square ones" in note for note in notes) == is_oblong
    if is_oblong:
        assert any("pixels of 1 × 3 mm" in note for note in notes)


def test_a_hot_value_is_said_when_it_is_trained_on(tmp_path):
    y = eq.ParallelBeam(24, 20).A(eq.phantoms(3, 24))[:, 0].numpy()
    y[1, 7, 11] = 40 * y.max()
    np.save(tmp_path / "s.npy", y)
    config = parse(
        {
            "data": {"path": str(tmp_path / "s.npy"), "kind": "measurements", "size": 24},
            "physics": {"kind": "parallel_beam", "angles": 20},
        },
        "test",
    )
    notes = load_data(config, Scan.planned(config.physics, 24)).notes
    assert any("s_001: 1 ray(s) far above all around" in note for note in notes)


@pytest.mark.parametrize("physics", ["parallel_beam", "blur", "inpainting", "compressed_sensing"])
@pytest.mark.parametrize(
    ("scale", "is_told"), [(1, False), (3, False), (0.1, False), (1e-4, True), (100, True)]
)
def test_images_that_are_far_from_one_are_told(tmp_path, physics, scale, is_told):
    scan = Scan.planned(parse({"physics": {"kind": physics}}, "test").physics, 24)
    y = scan.physics.A(scale * eq.phantoms(3, 24)) / scan.gain
    np.save(tmp_path / "y.npy", y.numpy())
    data = {"path": str(tmp_path / "y.npy"), "kind": "measurements", "size": 24}
    config = parse({"data": data, "physics": {"kind": physics}}, "test")
    notes = load_data(config, Scan.planned(config.physics, 24)).notes
    assert any("where 1 is the largest that is expected" in note for note in notes) == is_told
