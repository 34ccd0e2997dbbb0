"""NIfTI: subjects, units, complex values and the affine."""

from __future__ import annotations

import gzip

import numpy as np
import pytest

from equipoise.data.choice import Choice
from equipoise.data.formats import open_path, write_images
from equipoise.data.item import HOUNSFIELD
from equipoise.data.pick import images_of
from equipoise.errors import UserError

from .make import DATA, arrays, complex_array, make_nifti, real_data

nibabel = pytest.importorskip("nibabel")

AFFINE = np.array([[-2.0, 0.1, 0, 90], [0, 2, 0, -126], [0, 0, 3, -72], [0, 0, 0, 1]])


def magnitude(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(0, 300, shape).astype(np.float32)


def head_in_hounsfield(size: int = 16, slices: int = 4) -> np.ndarray:
    """A head of soft tissue in a skull, in air, with noise."""
    rows, columns = np.mgrid[:size, :size] - size / 2
    radius = np.hypot(rows, columns)
    plane = np.where(radius < 0.4 * size, 40, np.where(radius < 0.45 * size, 900, -1000))
    noise = np.random.default_rng(0).normal(0, 20, (size, size, slices))
    return (plane[..., None] + noise).astype(np.int16)


def blocks_of_two(volume: np.ndarray) -> np.ndarray:
    """(slices, rows / 2, columns / 2) of means."""
    rows, columns, slices = volume.shape
    means = volume.reshape(rows // 2, 2, columns // 2, 2, slices).mean((1, 3))
    return np.moveaxis(means, -1, 0)


def test_the_affine_is_kept(tmp_path):
    volume = magnitude(12, 12, 5)
    make_nifti(tmp_path / "v.nii.gz", volume, AFFINE)
    items = images_of(open_path(tmp_path / "v.nii.gz"))
    (path,) = write_images(items, arrays(items), tmp_path / "out")
    again = nibabel.load(path)
    assert path.name == "v.nii.gz"
    assert np.allclose(again.affine, AFFINE)
    assert np.allclose(again.get_fdata(), volume, atol=1e-3)


def test_the_outer_corner_stays_where_images_get_smaller(tmp_path):
    volume = magnitude(12, 12, 5)
    make_nifti(tmp_path / "v.nii.gz", volume, AFFINE)
    half = images_of(open_path(tmp_path / "v.nii.gz"), 6)
    (path,) = write_images(half, blocks_of_two(volume), tmp_path / "half")
    small = nibabel.load(path)
    corner = np.array([-0.5, -0.5, -0.5, 1])
    assert np.allclose(small.affine @ corner, AFFINE @ corner)
    assert np.allclose(small.affine @ [5.5, 5.5, 4.5, 1], AFFINE @ [11.5, 11.5, 4.5, 1])


def test_some_slices_of_a_volume_keep_their_place(tmp_path):
    volume = magnitude(8, 8, 9)
    make_nifti(tmp_path / "v.nii", volume, AFFINE)
    some = [images_of(open_path(tmp_path))[k] for k in (3, 4, 6)]
    (path,) = write_images(some, arrays(some), tmp_path / "out")
    again = nibabel.load(path)
    assert again.shape == (8, 8, 4)
    assert np.allclose(again.affine @ [0, 0, 0, 1], AFFINE @ [0, 0, 3, 1])
    values = again.get_fdata()
    assert np.allclose(values[..., [0, 1, 3]], volume[..., [3, 4, 6]])
    assert not values[..., 2].any()


def test_the_brightest_counts_as_one(tmp_path):
    volume = magnitude(12, 12, 5)
    make_nifti(tmp_path / "v.nii", volume)
    item = open_path(tmp_path)[2]
    assert item.units.scale == pytest.approx(np.percentile(volume, 99.9))
    assert (item.units.offset, item.units.clip, item.units_from) == (0, False, "values")
    assert np.array_equal(item.array(), volume[..., 2])


@pytest.mark.parametrize("padding", [None, -1024, -2000, -3024])
def test_hounsfield_units_are_recognised(tmp_path, padding):
    volume = head_in_hounsfield()
    if padding is not None:
        volume[:, :2] = padding
    make_nifti(tmp_path / "v.nii.gz", volume)
    item = open_path(tmp_path)[0]
    assert (item.units, item.units_from) == (HOUNSFIELD, "values")
    assert item.notes[0].startswith("v.nii.gz: taken for Hounsfield units (values from ")


def test_what_looks_like_nothing_known_is_left_open(tmp_path):
    """A phase, a window of soft tissue, a z-score."""
    rng = np.random.default_rng(0)
    volumes = {
        "phase.nii": rng.uniform(-4096, 4095, (12, 12, 4)),
        "window.nii": np.clip(head_in_hounsfield(), -160, 240).astype(float),
        "score.nii": rng.normal(size=(12, 12, 4)),
    }
    for name, volume in volumes.items():
        make_nifti(tmp_path / name, volume)
        assert open_path(tmp_path / name)[0].units_from == "nothing", name


def test_complex_values_stay_complex(tmp_path):
    volume = complex_array(8, 8, 3)
    make_nifti(tmp_path / "v.nii", volume)
    items = images_of(open_path(tmp_path))
    assert all(item.complex and item.holds == "image" for item in items)
    assert np.array_equal(np.moveaxis(arrays(items), 0, -1), volume)
    assert items[0].units.scale == pytest.approx(np.percentile(np.abs(volume), 99.9), rel=1e-5)


@pytest.mark.parametrize("shape", [(8, 8, 3, 1), (8, 8, 3, 1, 1), (8, 8, 3)])
def test_trailing_axes_of_length_one(tmp_path, shape):
    volume = magnitude(*shape)
    make_nifti(tmp_path / "v.nii", volume, AFFINE)
    items = open_path(tmp_path)
    assert np.array_equal(arrays(items), np.moveaxis(volume.reshape(8, 8, 3), -1, 0))
    (path,) = write_images(items, arrays(items), tmp_path / "out")
    assert np.allclose(nibabel.load(path).get_fdata(), volume.reshape(8, 8, 3))
    assert np.allclose(nibabel.load(path).affine, AFFINE)


def test_one_plane_is_one_slice(tmp_path):
    make_nifti(tmp_path / "v.nii", magnitude(8, 8))
    assert [item.shape for item in open_path(tmp_path)] == [(8, 8)]


def test_a_series_of_volumes_is_refused(tmp_path):
    make_nifti(tmp_path / "v.nii", magnitude(8, 8, 3, 2))
    with pytest.raises(
        UserError, match=r"expected a volume with three axes, got shape \(8, 8, 3, 2\)"
    ):
        open_path(tmp_path)


def test_a_folder_of_volumes_is_so_many_subjects(tmp_path):
    (tmp_path / "in").mkdir()
    volumes = {f"Subj{k}_T1.nii.gz": (k + 1) * magnitude(8, 8, 3) for k in range(4)}
    for name, volume in volumes.items():
        make_nifti(tmp_path / "in" / name, volume, AFFINE)
    items = images_of(open_path(tmp_path / "in"))
    assert sorted({item.patient for item in items}) == [f"Subj{k}_T1" for k in range(4)]
    scales = {item.patient: item.units.scale for item in items}
    assert scales["Subj3_T1"] == pytest.approx(4 * scales["Subj0_T1"])
    paths = write_images(items, arrays(items), tmp_path / "out")
    assert {path.name for path in paths} == set(volumes)
    for path in paths:
        assert np.allclose(nibabel.load(path).get_fdata(), volumes[path.name])
        assert np.allclose(nibabel.load(path).affine, AFFINE)


def test_bids_names_subjects(tmp_path):
    for name in ("sub-01_ses-1_T1w", "sub-01_ses-2_T1w", "sub-02_T1w"):
        make_nifti(tmp_path / f"{name}.nii", magnitude(8, 8, 3))
    assert [item.patient for item in open_path(tmp_path)] == ["sub-01"] * 6 + ["sub-02"] * 3


def test_known_by_content(tmp_path):
    make_nifti(tmp_path / "v.nii.gz", magnitude(8, 8, 3))
    (tmp_path / "v.nii.gz").rename(tmp_path / "volume.dat")
    # nibabel goes by the suffix, so that the error is its own, of this format.
    with pytest.raises(UserError, match="A NIfTI file holds one volume"):
        open_path(tmp_path / "volume.dat")


def test_a_header_that_promises_too_much(tmp_path):
    make_nifti(tmp_path / "v.nii", magnitude(8, 8, 3))
    data = bytearray((tmp_path / "v.nii").read_bytes())
    data[42:48] = np.array([30000, 30000, 3000], "<i2").tobytes()
    wanted = "promises 10800000000000 bytes of data"
    (tmp_path / "v.nii").write_bytes(data)
    with pytest.raises(UserError, match=wanted):
        open_path(tmp_path / "v.nii")
    (tmp_path / "w.nii.gz").write_bytes(gzip.compress(bytes(data)))
    with pytest.raises(UserError, match=wanted):
        open_path(tmp_path / "w.nii.gz")


@real_data
def test_real_volumes():
    items = images_of(open_path(DATA / "mri" / "IXI012-HH-1211_T1_2mm.nii.gz"))
    assert len(items) == 90
    assert {item.shape for item in items} == {(120, 120)}
    heads = open_path(DATA / "mri" / "heads")
    assert len({item.patient for item in heads}) == 16
    assert all(item.units_from == "values" and not item.units.clip for item in heads)


@pytest.mark.parametrize(
    ("asked", "axis"),
    [(0, 0), (1, 1), (2, 2), (-3, 0), ("x", 0), ("y", 1), ("z", 2)],
)
def test_any_axis_and_back(tmp_path, asked, axis):
    volume = magnitude(12, 10, 5)
    make_nifti(tmp_path / "v.nii.gz", volume, AFFINE)
    items = images_of(open_path(tmp_path, choice=Choice(axis=asked)))
    assert np.array_equal(arrays(items), np.moveaxis(volume, axis, 0))
    zooms = np.sqrt((AFFINE[:3, :3] ** 2).sum(0))
    assert items[0].spacing == pytest.approx(tuple(np.delete(zooms, axis)))
    assert items[1].position == pytest.approx(zooms[axis])
    (path,) = write_images(items[1:], arrays(items)[1:], tmp_path / "out")
    again = nibabel.load(path)
    assert np.allclose(again.get_fdata(), np.delete(volume, 0, axis))
    corner = np.eye(4)[axis] + [0, 0, 0, 1]
    assert np.allclose(again.affine @ [0, 0, 0, 1], AFFINE @ corner)


@pytest.mark.parametrize(("plane", "axis"), [("sagittal", 1), ("coronal", 2), ("axial", 0)])
def test_axes_by_the_plane_across_them(tmp_path, plane, axis):
    """The file's first axis runs from head to feet, its second from right to left."""
    volume = magnitude(6, 7, 8)
    affine = np.array([[0, -2.0, 0, 0], [0, 0, 2, 0], [-2, 0, 0, 0], [0, 0, 0, 1]])
    make_nifti(tmp_path / "v.nii", volume, affine)
    items = open_path(tmp_path, choice=Choice(axis=plane))
    assert np.array_equal(arrays(items), np.moveaxis(volume, axis, 0))


def test_one_volume_of_a_series_or_their_average(tmp_path):
    series = magnitude(8, 9, 3, 4)
    make_nifti(tmp_path / "v.nii.gz", series, AFFINE)
    with pytest.raises(UserError, match=r"set data.volume to one of the 4 \(from 0\)"):
        open_path(tmp_path)
    items = open_path(tmp_path, choice=Choice(volume=2))
    assert np.array_equal(arrays(items), np.moveaxis(series[..., 2], -1, 0))
    (path,) = write_images(items, arrays(items), tmp_path / "out")
    assert nibabel.load(path).shape == (8, 9, 3)
    items = open_path(tmp_path, choice=Choice(volume="average", axis=0))
    assert np.allclose(arrays(items), series.mean(-1))
    with pytest.raises(UserError, match=r"data.volume=4: it holds 4, counted from 0"):
        open_path(tmp_path, choice=Choice(volume=4))


def test_axes_that_are_not_there(tmp_path):
    make_nifti(tmp_path / "v.nii", magnitude(8, 8, 3))
    with pytest.raises(UserError, match=r"data.axis=3: a volume has the axes 0, 1 and 2"):
        open_path(tmp_path, choice=Choice(axis=3))
