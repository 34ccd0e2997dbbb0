"""HDF5: stacks in Hounsfield units, and fastMRI's k-space."""

from __future__ import annotations

import numpy as np
import pytest

from equipoise.data.formats import holds_images, open_path, write_images
from equipoise.data.item import HOUNSFIELD
from equipoise.data.pick import acquisitions_of, images_of
from equipoise.errors import UserError

from .make import DATA, arrays, complex_array, hounsfield, ismrmrd_header, real_data, transform

h5py = pytest.importorskip("h5py")


def write(path, **datasets):
    with h5py.File(path, "w") as stored:
        for name, values in datasets.items():
            stored[name] = values


def test_images(tmp_path):
    stack = np.stack([hounsfield(0), hounsfield(1)]).astype(np.int16)
    write(tmp_path / "a.h5", hu=stack, patient=[b"A", b"B"])
    items = images_of(open_path(tmp_path / "a.h5"))
    assert [item.patient for item in items] == ["A", "B"]
    assert {item.units for item in items} == {HOUNSFIELD}
    write_images(items, arrays(items), tmp_path / "out")
    with h5py.File(tmp_path / "out" / "a.h5") as stored:
        assert np.array_equal(stored["hu"][:], stack)
        assert list(stored["patient"][:]) == [b"A", b"B"]


def test_what_is_missing(tmp_path):
    write(tmp_path / "b.h5", other=[1])
    with pytest.raises(UserError, match=r"no dataset 'hu'.*it has \['other'\]"):
        open_path(tmp_path / "b.h5")
    write(tmp_path / "c.h5", hu=np.zeros((2, 8, 8)), patient=[b"A"])
    with pytest.raises(UserError, match="2 slices, but 'patient' names 1"):
        open_path(tmp_path / "c.h5")
    write(tmp_path / "d.h5", hu=np.zeros((8, 8)))
    with pytest.raises(
        UserError, match=r"'hu' must be slices × rows × columns, got shape \(8, 8\)"
    ):
        open_path(tmp_path / "d.h5")
    with h5py.File(tmp_path / "e.h5", "w") as stored:
        stored.create_group("hu")
    with pytest.raises(UserError, match="'hu' is a group"):
        open_path(tmp_path / "e.h5")
    write(tmp_path / "f.h5", hu=np.full((2, 4, 4), b"text"))
    with pytest.raises(UserError, match=r"'hu' holds .*, not numbers"):
        open_path(tmp_path / "f.h5")


def test_kspace_of_fastmri(tmp_path):
    k = complex_array(3, 10, 12)
    write(tmp_path / "f.h5", kspace=np.stack([k, 2 * k]), ismrmrd_header=b"<xml/>")
    with h5py.File(tmp_path / "f.h5", "a") as stored:
        stored.attrs["patient_id"] = "P7"
    items = acquisitions_of(open_path(tmp_path / "f.h5"))
    assert [item.patient for item in items] == ["P7", "P7"]
    assert np.array_equal(arrays(items), np.stack([k, 2 * k]))
    assert not holds_images(items)
    with pytest.raises(UserError, match="holds complex k-space, not images"):
        images_of(open_path(tmp_path / "f.h5"))
    (path,) = write_images(items, np.ones((2, 10, 12)), tmp_path / "out")
    assert path.name == "f.h5"
    with h5py.File(path) as stored:  # as fastMRI's challenge wants it
        assert np.array_equal(stored["reconstruction"][()], np.ones((2, 10, 12)))
        assert stored.attrs["patient_id"] == "P7"


@pytest.mark.parametrize("coils", [(), (3,)])
def test_an_oversampled_readout_of_fastmri_is_cropped_and_said(tmp_path, coils):
    """Its rows are the readout, over twice the field of view."""
    image = complex_array(2, *coils, 32, 12)
    header = ismrmrd_header(32, 12, encoded=(400, 200), recon=(200, 200))
    samples = transform(transform(image, -1), -2).astype(np.complex64)
    samples[..., 5] = 0  # a line that was not measured
    write(tmp_path / "f.h5", kspace=samples, ismrmrd_header=header.encode())
    items = acquisitions_of(open_path(tmp_path / "f.h5"))
    wanted = transform(transform(image[..., 8:24, :], -1), -2)
    wanted[..., 5] = 0
    assert {item.shape for item in items} == {(*coils, 16, 12)}
    assert np.abs(arrays(items) - wanted).max() < 1e-5 * np.abs(wanted).max()
    assert "16 of 32 pixels" in items[0].notes[0]
    write(tmp_path / "g.h5", kspace=samples[..., ::2, :], ismrmrd_header=header.encode())
    items = acquisitions_of(open_path(tmp_path / "g.h5"))  # cropped before it was written
    assert np.array_equal(arrays(items), samples[..., ::2, :])
    assert items[0].notes == ()


@pytest.mark.parametrize("fields", [("real", "imag"), ("r", "i"), ("Re", "Im"), ("imag", "real")])
def test_complex_numbers_as_two_fields(tmp_path, fields):
    k = complex_array(2, 3, 6, 8)
    pairs = np.empty(k.shape, [(name, np.float32) for name in fields])
    for name in fields:
        pairs[name] = k.real if name.lower().startswith("r") else k.imag
    write(tmp_path / "k.h5", kspace=pairs)
    items = acquisitions_of(open_path(tmp_path / "k.h5"))
    assert np.array_equal(arrays(items), k)
    assert items[0].array().dtype == np.complex64


def test_images_beside_kspace(tmp_path):
    write(tmp_path / "a.h5", hu=np.zeros((2, 8, 8)))
    write(tmp_path / "b.h5", kspace=complex_array(2, 8, 8))
    with pytest.raises(UserError, match=r"holds images \('hu'\) beside k-space \('kspace'\)"):
        open_path(tmp_path)


def test_a_filter_that_is_missing_is_named(tmp_path, monkeypatch):
    with h5py.File(tmp_path / "a.h5", "w") as stored:
        stored.create_dataset("hu", data=np.zeros((2, 8, 8)), compression="gzip")
    monkeypatch.setattr(h5py.h5z, "filter_avail", lambda code: False)
    with pytest.raises(
        UserError, match=r"compressed with deflate, which is not installed.*h5repack"
    ):
        open_path(tmp_path)


def test_long_lists_are_cut(tmp_path):
    write(tmp_path / "a.h5", **{f"measurement_of_a_long_name_{k:03d}": [1] for k in range(200)})
    with pytest.raises(UserError, match="and 195 more") as error:
        open_path(tmp_path)
    assert len(str(error.value)) <= 600


@real_data
def test_real_slices():
    train, val = (images_of(open_path(DATA / "ct" / f"{name}.h5"), 64) for name in ("train", "val"))
    assert len(train) == 49
    assert len(val) == 17
    assert not {item.patient for item in train} & {item.patient for item in val}
    assert 0.1 < (np.clip(arrays(train), -1000, 1000).mean() + 1000) / 2000 < 0.5


def test_a_dataset_that_promises_too_much(tmp_path):
    """Of chunks that were never written: 500 bytes would fill the memory with zeros."""
    with h5py.File(tmp_path / "a.h5", "w") as stored:
        stored.create_dataset("hu", shape=(2, 1 << 15, 1 << 15), dtype="f4", chunks=(1, 64, 64))
    with pytest.raises(UserError, match=r"promises 4294967296 bytes of data"):
        open_path(tmp_path / "a.h5")


def test_pairs_in_the_last_axis_are_told(tmp_path):
    with h5py.File(tmp_path / "k.h5", "w") as stored:
        stored["kspace"] = np.ones((2, 4, 16, 12, 2), np.float32)
    with pytest.raises(UserError, match=r"real and imaginary parts in the last axis.*1j \* k"):
        open_path(tmp_path / "k.h5")
