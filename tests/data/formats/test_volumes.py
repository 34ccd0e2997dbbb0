"""What holds of every format of volumes: nothing that is written takes another's place."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from equipoise.data.formats import open_path, write_images

VALUES = np.random.default_rng(0).random((3, 12, 10)).astype(np.float32)


def write_nifti(path: Path, values: np.ndarray) -> None:
    nibabel = pytest.importorskip("nibabel")
    nibabel.save(nibabel.Nifti1Image(values.transpose(2, 1, 0), np.eye(4)), path)


def write_itk(path: Path, values: np.ndarray) -> None:
    sitk = pytest.importorskip("SimpleITK")
    sitk.WriteImage(sitk.GetImageFromArray(values), str(path))


def write_mrc(path: Path, values: np.ndarray) -> None:
    mrcfile = pytest.importorskip("mrcfile")
    with mrcfile.new(path) as stored:
        stored.set_data(values)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("t1.nii", write_nifti),
        ("t1.nii.gz", write_nifti),
        ("t1.mha", write_itk),
        ("t1.mhd", write_itk),
        ("t1.nrrd", write_itk),
        ("t1.nhdr", write_itk),
        ("t1.mrc", write_mrc),
        ("t1.rec", write_mrc),
    ],
)
def test_files_of_one_name_from_several_folders_are_all_written(tmp_path, name, write):
    """Two visits of two patients: all of them are called t1."""
    places = ["anna/first", "anna/second", "bert/first", "bert/second"]
    for k, place in enumerate(places):
        (tmp_path / "in" / place).mkdir(parents=True)
        write(tmp_path / "in" / place / name, VALUES + k)
    items = open_path(tmp_path / "in")
    images = [item.array().astype(float) for item in items]
    out = write_images(items, images, tmp_path / "out")
    assert len(set(out)) == len(places)
    each = len(images) // len(places)
    for k, file in enumerate(out):
        written = [item.array() for item in open_path(file)]
        assert np.allclose(written, images[k * each : (k + 1) * each])
