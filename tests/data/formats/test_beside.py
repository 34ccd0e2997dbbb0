"""What belongs to an image stands beside it, in its own format, under its name and a word."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from equipoise.data.formats import open_path, write_beside, write_images
from equipoise.data.item import HOUNSFIELD, Frame, Item

HU = np.stack([np.full((8, 8), v, dtype=np.float32) for v in (-1000.0, 40.0)])


def brought(kind, folder):
    """A file of two images, or of one."""
    folder.mkdir()
    if kind == "h5":
        h5py = pytest.importorskip("h5py")
        with h5py.File(folder / "scan.h5", "w") as stored:
            stored["hu"] = HU.astype(np.int16)
    elif kind in ("nii", "nii.gz"):
        nibabel = pytest.importorskip("nibabel")
        volume = np.moveaxis(HU, 0, -1)
        nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), folder / f"scan.{kind}")
    elif kind == "tif":
        pytest.importorskip("tifffile").imwrite(folder / "scan.tif", HU[1].astype(np.uint16))
    elif kind == "png":
        from PIL import Image

        Image.fromarray(HU[1].astype(np.uint8)).save(folder / "scan.png")
    else:
        np.save(folder / "scan.npy", HU)
    return open_path(folder)


NAMES = {
    "h5": ["scan_std.h5"],
    "nii": ["scan_std.nii"],
    "nii.gz": ["scan_std.nii.gz"],
    "tif": ["scan_std.tif"],
    "png": ["scan_std.png"],
    "npy": ["scan_000_std.npy", "scan_001_std.npy"],
}


@pytest.mark.parametrize("kind", NAMES)
def test_names_and_values(kind, tmp_path):
    items = brought(kind, tmp_path / "in")
    items = items[0].along_first_axis() if kind == "npy" else items
    out = tmp_path / "out"
    images = np.stack([item.array().astype(float) for item in items])
    before = write_images(items, images, out)
    kept = {path: path.read_bytes() for path in before}
    spread = 0.25 + 0 * images
    paths = write_beside(items, spread, out, "std", "standard deviation", is_difference=True)
    assert sorted(path.name for path in paths) == NAMES[kind]
    assert {path: path.read_bytes() for path in before} == kept
    assert sorted(out.iterdir()) == sorted([*before, *paths])
    if kind == "png":
        return  # 16 bits of the range of the units
    for path in paths:
        values = np.concatenate([np.asarray(item.array()).ravel() for item in open_path(path)])
        assert np.allclose(values, 0.25)  # no offset, and no rounding to whole Hounsfield units


def test_around_the_part_that_was_reconstructed_nothing_deviates():
    """An image of Hounsfield units has air there."""
    item = Item("x", Path("x.npy"), (6, 8), lambda: np.zeros((6, 8)), units=HOUNSFIELD)
    item = replace(item, frame=Frame(1, 2, 4, 4))
    part = np.full((4, 4), 7.0)
    image = item.restored(part)
    spread = item.showing("standard deviation", is_difference=True).restored(part)
    assert image.shape == spread.shape == (6, 8)
    assert (image[0] == HOUNSFIELD.offset).all()
    assert (spread[0] == 0).all()
    assert (spread[1:5, 2:6] == 7).all()
