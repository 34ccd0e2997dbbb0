"""MetaImage and NRRD: values, units, and where a volume is in space, there and back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from equipoise.data.choice import Choice
from equipoise.data.formats import FORMATS, open_path, write_images
from equipoise.data.item import HOUNSFIELD, Frame
from equipoise.errors import UserError

from .make import read

sitk = pytest.importorskip("SimpleITK")
SPACING, ORIGIN = (0.5, 0.7, 3.0), (-10.0, 20.0, 5.0)
#: Turned by 90° about z, and upside down.
DIRECTION = (0.0, -1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, -1.0)
SUFFIXES = [".mha", ".mhd", ".nrrd", ".nhdr"]


def make_volume(path: Path, volume: np.ndarray, compressed: bool = False) -> Path:
    """(slices, rows, columns)."""
    image = sitk.GetImageFromArray(volume)
    image.SetSpacing(SPACING[: volume.ndim])
    image.SetOrigin(ORIGIN[: volume.ndim])
    if volume.ndim == 3:
        image.SetDirection(DIRECTION)
    sitk.WriteImage(image, str(path), compressed)
    return path


def volume(shape: tuple[int, ...] = (4, 24, 20)) -> np.ndarray:
    return np.random.default_rng(0).random(shape).astype(np.float32)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_slices_with_their_places(tmp_path, suffix, compressed):
    path = make_volume(tmp_path / f"x{suffix}", volume(), compressed)
    items = open_path(path)
    assert np.array_equal(read(path), volume())
    assert [item.name for item in items] == ["x_000", "x_001", "x_002", "x_003"]
    assert items[0].spacing == (0.7, 0.5)
    assert [item.position for item in items] == [0, 3, 6, 9]
    assert items[0].holds == "image"
    assert np.array_equal(read(tmp_path), volume())  # as a folder


@pytest.mark.parametrize("dtype", ["u1", "i2", "u2", "i4", "f4", "f8"])
def test_types(tmp_path, dtype):
    values = (volume() * 100).astype(dtype)
    assert np.array_equal(read(make_volume(tmp_path / "x.nrrd", values)), values)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_is_written_lies_where_the_original_did(tmp_path, suffix):
    """Half the pixels, two of four slices: the same corner in space."""
    path = make_volume(tmp_path / f"x{suffix}", volume())
    items = open_path(path)[1:3]
    images = np.stack([item.array().reshape(12, 2, 10, 2).mean((1, 3)) for item in items])
    (out,) = write_images(items, images.astype(float), tmp_path / "out")
    written, original = sitk.ReadImage(str(out)), sitk.ReadImage(str(path))
    assert out.name == path.name
    assert written.GetSize() == (10, 12, 2)
    assert written.GetSpacing() == pytest.approx((1.0, 1.4, 3.0))
    assert written.GetDirection() == original.GetDirection()
    corner = original.TransformContinuousIndexToPhysicalPoint((-0.5, -0.5, 1.0))
    assert written.TransformContinuousIndexToPhysicalPoint((-0.5, -0.5, 0.0)) == pytest.approx(
        corner
    )
    assert np.allclose(sitk.GetArrayFromImage(written), images)
    assert np.allclose(read(out), images)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_of_a_part_of_the_image_it_lies_where_that_part_did(tmp_path, suffix):
    """The middle 16 × 16 of 24 × 20, at half the size."""
    path = make_volume(tmp_path / f"x{suffix}", volume())
    items = [replace(item, frame=Frame(4, 2, 16, 16)) for item in open_path(path)]
    (out,) = write_images(items, [np.zeros((8, 8))] * 4, tmp_path / "out")
    written, original = sitk.ReadImage(str(out)), sitk.ReadImage(str(path))
    assert written.GetSpacing() == pytest.approx((1.0, 1.4, 3.0))
    corner = original.TransformContinuousIndexToPhysicalPoint((2 - 0.5, 4 - 0.5, 0.0))
    assert written.TransformContinuousIndexToPhysicalPoint((-0.5, -0.5, 0.0)) == pytest.approx(
        corner
    )


@pytest.mark.parametrize(
    ("asked", "axis"),
    # DIRECTION: the file's x runs along posterior, its y along left.
    [(0, 0), ("y", 1), (-1, 2), ("sagittal", 1), ("coronal", 0), ("axial", 2)],
)
def test_any_axis_and_back(tmp_path, asked, axis):
    """Cut across any axis, all but the first slice are written where they were."""
    path = make_volume(tmp_path / "x.nrrd", volume())
    items = open_path(path, choice=Choice(axis=asked))
    slices = np.stack([item.array() for item in items])
    assert np.array_equal(slices, np.moveaxis(volume(), 2 - axis, 0))
    columns, rows = np.delete(SPACING, axis)
    assert items[0].spacing == (rows, columns)
    assert items[1].position == SPACING[axis]
    (out,) = write_images(items[1:], slices[1:].astype(float), tmp_path / "out")
    written, original = sitk.ReadImage(str(out)), sitk.ReadImage(str(path))
    assert np.allclose(sitk.GetArrayFromImage(written), np.delete(volume(), 0, 2 - axis))
    corner = [float(k == axis) for k in range(3)]
    assert written.GetOrigin() == pytest.approx(
        original.TransformContinuousIndexToPhysicalPoint(corner)
    )


def test_an_axis_that_is_not_there(tmp_path):
    path = make_volume(tmp_path / "x.mha", volume())
    with pytest.raises(UserError, match=r"data\.axis=3: a volume has the axes 0, 1 and 2"):
        open_path(path, choice=Choice(axis=3))
    plane = make_volume(tmp_path / "p.mha", volume((24, 20)))
    with pytest.raises(UserError, match="one plane"):
        open_path(plane, choice=Choice(axis=0))
    assert len(open_path(plane, choice=Choice(axis="z"))) == 1
    # Data that the axis was not asked for, such as those to reconstruct, are taken as they are.
    assert open_path(plane, choice=Choice(axis=0), strict=False)[0].shape == (24, 20)


def test_planes(tmp_path):
    path = make_volume(tmp_path / "x.mha", volume((24, 20)))
    (item,) = open_path(path)
    assert item.name == "x"
    (out,) = write_images([item], item.array()[None].astype(float), tmp_path / "out")
    assert np.allclose(read(out)[0], volume((24, 20)))


def test_hounsfield_units_are_recognised_and_said(tmp_path):
    values = np.full((2, 20, 20), -1000, np.int16)
    values[:, 5:15, 5:15] = 40
    item = open_path(make_volume(tmp_path / "x.mha", values))[0]
    assert item.units == HOUNSFIELD
    assert "taken for Hounsfield units" in item.notes[0]


def test_what_cannot_be_read_says_why(tmp_path):
    header = tmp_path / "x.mhd"
    make_volume(header, volume())
    (tmp_path / "x.raw").unlink()
    with pytest.raises(UserError, match=r"x\.raw"):
        open_path(header)
    colours = sitk.GetImageFromArray(np.zeros((4, 8, 8, 3), np.uint8), isVector=True)
    sitk.WriteImage(colours, str(tmp_path / "c.nrrd"))
    with pytest.raises(UserError, match="colours"):
        open_path(tmp_path / "c.nrrd")
    series = sitk.GetImageFromArray(np.zeros((3, 4, 8, 8), np.float32), isVector=False)
    sitk.WriteImage(series, str(tmp_path / "s.nrrd"))
    with pytest.raises(UserError, match="4 axes"):
        open_path(tmp_path / "s.nrrd")


def test_a_header_that_promises_too_much(tmp_path):
    path = make_volume(tmp_path / "x.mha", volume())
    text = path.read_bytes().replace(b"DimSize = 20 24 4", b"DimSize = 20 24 4000000000")
    path.write_bytes(text)
    with pytest.raises(UserError, match=r"x\.mha"):
        open_path(path)


def test_they_are_known_by_content(tmp_path):
    for suffix in SUFFIXES[::2]:
        path = make_volume(tmp_path / f"x{suffix}", volume())
        bare = path.rename(tmp_path / f"bare{suffix[1:]}")
        assert np.array_equal(read(bare), volume())
    assert {"metaimage", "nrrd"} <= FORMATS.keys()
