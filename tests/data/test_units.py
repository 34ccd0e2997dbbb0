"""Units that no file says: recognised with a note, or asked for."""

from __future__ import annotations

import numpy as np
import pytest

from equipoise.data.formats import open_path
from equipoise.data.item import HOUNSFIELD, Units
from equipoise.data.pick import images_of
from equipoise.data.units import Values, settled
from equipoise.errors import UserError

from .formats.make import hounsfield, make_dicom, make_nifti
from .formats.test_nifti import head_in_hounsfield

tifffile = pytest.importorskip("tifffile")


def images(path):
    return images_of(open_path(path))


def tiff(path, values):
    tifffile.imwrite(path, values, photometric="minisblack")


def test_hounsfield_units_in_a_picture_are_recognised(tmp_path):
    head = head_in_hounsfield()
    for dtype in (np.int16, np.float32):
        tiff(tmp_path / "a.tif", np.moveaxis(head, -1, 0).astype(dtype))
        items = settled(images(tmp_path))
        assert {item.units for item in items} == {HOUNSFIELD}
        assert "taken for Hounsfield units" in items[0].notes[0]
    np.save(tmp_path / "a.npy", np.moveaxis(head, -1, 0))
    assert settled(images(tmp_path / "a.npy"))[0].units == HOUNSFIELD


@pytest.mark.parametrize("bits", [10, 12, 14])
def test_few_bits_in_many_are_asked_for(tmp_path, bits):
    values = np.random.default_rng(0).integers(0, 2**bits, (2, 16, 16)).astype(np.uint16)
    tiff(tmp_path / "a.tif", values)
    with pytest.raises(UserError, match=rf"does not say its units.*data.units={2**bits - 1}$"):
        settled(images(tmp_path))
    items = settled(images(tmp_path), asked=2.0**bits - 1)
    assert {item.units for item in items} == {Units(scale=2**bits - 1)}


def test_what_uses_its_type_is_not_asked_for(tmp_path):
    rng = np.random.default_rng(0)
    tiff(tmp_path / "a.tif", rng.integers(0, 50_000, (2, 16, 16)).astype(np.uint16))
    assert settled(images(tmp_path))[0].units.scale == 65535
    np.save(tmp_path / "b.npy", rng.random((2, 16, 16)))
    assert settled(images(tmp_path / "b.npy"))[0].units == Units()
    np.save(tmp_path / "c.npy", np.zeros((2, 16, 16)))
    assert settled(images(tmp_path / "c.npy"))[0].units == Units()


@pytest.mark.parametrize(
    "values",
    [
        np.clip(head_in_hounsfield(), -160, 240),
        np.random.default_rng(0).integers(0, 4000, (16, 16, 2)).astype(np.int16),
        255 * np.random.default_rng(0).random((16, 16, 2)),
        0.02 * np.random.default_rng(0).random((16, 16, 2)),
    ],
    ids=["a window of soft tissue", "signed", "floating, to 255", "attenuation per millimetre"],
)
@pytest.mark.parametrize("suffix", ["tif", "npy"])
def test_what_looks_like_nothing_known_is_asked_for(tmp_path, suffix, values):
    stack = np.moveaxis(values, -1, 0)
    if suffix == "tif":
        tiff(tmp_path / "a.tif", stack.astype(np.float32))
    else:
        np.save(tmp_path / "a.npy", stack)
    with pytest.raises(
        UserError, match=r"set data\.units=hounsfield, data\.units=magnitude"
    ) as error:
        settled(images(tmp_path))
    assert len(str(error.value)) <= 600
    brightest = np.percentile(np.abs(values), 99.9)
    items = settled(images(tmp_path), asked="magnitude")
    assert items[0].units.scale == pytest.approx(brightest, rel=1e-5)


def test_nifti_that_is_nothing_known_is_asked_for(tmp_path):
    make_nifti(tmp_path / "a.nii", np.clip(head_in_hounsfield(), -160, 240))
    with pytest.raises(UserError, match=r"a.nii: does not say its units"):
        settled(images(tmp_path))
    assert settled(images(tmp_path), "hounsfield")[0].units == HOUNSFIELD


def test_each_volume_is_asked_for_itself(tmp_path):
    """One in Hounsfield units does not hide one that is not."""
    volume = np.random.default_rng(0).uniform(0, 300, (16, 16, 4))
    make_nifti(tmp_path / "a.nii", head_in_hounsfield())
    make_nifti(tmp_path / "b.nii", volume)
    items = settled(images(tmp_path))
    assert {item.patient: item.units for item in items} == {
        "a": HOUNSFIELD,
        "b": Units(scale=float(np.percentile(volume.astype(np.float32), 99.9))),
    }
    everything = settled(images(tmp_path), "magnitude")
    assert {item.units.clip for item in everything} == {False}
    assert len({item.units.scale for item in everything}) == 2


def test_dicom_without_rescaling(tmp_path):
    make_dicom(tmp_path / "a.dcm", hounsfield() + 1024, slope=None, intercept=None)
    with pytest.raises(UserError, match="does not say its units"):
        settled(images(tmp_path))
    head = head_in_hounsfield()[..., 0]
    make_dicom(
        tmp_path / "a.dcm",
        head.astype(np.uint16),
        PixelRepresentation=1,
        RescaleType="US",
        intercept=0,
    )
    (item,) = settled(images(tmp_path))
    assert (item.units, item.units_from) == (HOUNSFIELD, "values")


def test_elsewhere_the_option_is_about_what_no_file_says(tmp_path):
    make_dicom(tmp_path / "a.dcm", hounsfield() + 1024)
    assert settled(images(tmp_path), 4095.0)[0].units.scale == 4095
    assert settled(images(tmp_path), 4095.0, override=False)[0].units == HOUNSFIELD


def test_values_that_are_no_hounsfield_units_whatever_the_file_says(tmp_path):
    h5py = pytest.importorskip("h5py")
    brightness = np.random.default_rng(0).random((2, 16, 16))

    def holding(values: np.ndarray) -> list:
        with h5py.File(tmp_path / "a.h5", "w") as stored:
            stored["hu"] = values
        return images(tmp_path)

    with pytest.raises(UserError, match=r"says Hounsfield units, and holds .*data.units=1$"):
        settled(holding(brightness))
    assert settled(holding(brightness), asked=1.0)[0].units == Units()
    assert settled(holding(brightness), asked="hounsfield")[0].units == HOUNSFIELD
    assert settled(holding(20 * brightness))[0].units == HOUNSFIELD  # noise in water
    assert settled(holding(np.full((2, 16, 16), -1000)))[0].units == HOUNSFIELD  # air


def test_values():
    assert Values.of_arrays([np.zeros((0, 4))]).brightest == 0
    phase = np.random.default_rng(0).uniform(-4096, 4096, (16, 16, 16))
    assert not Values.of_arrays([phase]).looks_like_hounsfield
    assert not Values.of_arrays([phase]).looks_like_magnitude
    ringing = Values.of_arrays([np.array([-5.0, *np.linspace(0, 100, 1000)])])
    assert ringing.looks_like_magnitude
