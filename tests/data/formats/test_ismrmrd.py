"""ISMRMRD: every line where its header says, and only what belongs to the image."""

from __future__ import annotations

import numpy as np
import pytest

from equipoise.data.formats import open_path
from equipoise.data.pick import acquisitions_of
from equipoise.errors import UserError

from .make import DATA, complex_array, ismrmrd_header, make_ismrmrd, real_data, transform

h5py = pytest.importorskip("h5py")
ismrmrd = pytest.importorskip("ismrmrd")

CALIBRATION = {
    mode: "<parallelImaging><accelerationFactor><kspace_encoding_step_1>2</kspace_encoding_step_1>"
    "<kspace_encoding_step_2>1</kspace_encoding_step_2></accelerationFactor>"
    f"<calibrationMode>{mode}</calibrationMode></parallelImaging>"
    for mode in ("embedded", "separate")
}


def only(path):
    (item,) = acquisitions_of(open_path(path))
    return item


def test_lines_stand_where_their_headers_say(tmp_path):
    k = complex_array(2, 6, 8)
    make_ismrmrd(tmp_path / "scan.h5", k, rows=(0, 2, 5))
    found = only(tmp_path / "scan.h5").array()  # coils × readout × phase
    assert np.array_equal(found[:, :, [0, 2, 5]], k[:, [0, 2, 5]].swapaxes(1, 2))
    assert not found[:, :, [1, 3, 4]].any()
    make_ismrmrd(tmp_path / "scan.h5", k, rows=(0,), contrasts=(1,))
    with pytest.raises(UserError, match="2 contrasts, phases or sets"):
        open_path(tmp_path / "scan.h5")


def test_averages_are_averaged(tmp_path):
    k = complex_array(2, 6, 8)
    make_ismrmrd(tmp_path / "scan.h5", k)
    make_ismrmrd(tmp_path / "scan.h5", 3 * k, rows=(1,))
    found = only(tmp_path / "scan.h5").array().swapaxes(1, 2)
    assert np.allclose(found[:, 1], 2 * k[:, 1])
    assert np.array_equal(found[:, 2:], k[:, 2:])


def test_averages_that_cancel_each_other_are_no_average(tmp_path):
    k = complex_array(2, 6, 8)
    make_ismrmrd(tmp_path / "scan.h5", k)
    make_ismrmrd(tmp_path / "scan.h5", -k)
    with pytest.raises(UserError, match=r"measured 2 times, and their mean has 0% .*phases differ"):
        only(tmp_path / "scan.h5").array()


def test_an_oversampled_readout_is_cropped_and_said(tmp_path):
    """The readout measures twice the field of view; the image is in the middle half of it."""
    image = complex_array(2, 32, 12)  # coils × readout × phase
    k = transform(transform(image, 1), 2)
    make_ismrmrd(
        tmp_path / "scan.h5",
        k.swapaxes(1, 2).astype(np.complex64),
        header=ismrmrd_header(32, 12, encoded=(400, 200), recon=(200, 200)),
    )
    item = only(tmp_path / "scan.h5")
    assert item.shape == (2, 16, 12)
    wanted = transform(transform(image[:, 8:24], 1), 2)
    assert np.abs(item.array() - wanted).max() < 1e-5 * np.abs(wanted).max()
    assert item.notes == (
        "scan.h5: the readout measures 400 mm, of which the middle 200 mm are kept (16 of 32 "
        "pixels), as reconSpace says",
    )


def test_a_partial_echo_stays_partial(tmp_path):
    image = complex_array(1, 32, 12)
    k = transform(transform(image, 1), 2)
    make_ismrmrd(
        tmp_path / "scan.h5",
        k[:, 8:].swapaxes(1, 2).astype(np.complex64),
        center=8,
        header=ismrmrd_header(32, 12, encoded=(400, 200), recon=(200, 200)),
    )
    found = only(tmp_path / "scan.h5").array()[0]
    assert not found[:4].any()
    assert (found[4:] != 0).any(1).all()


def test_oversampled_phases_are_kept_and_said(tmp_path):
    make_ismrmrd(
        tmp_path / "scan.h5",
        complex_array(2, 12, 16),
        header=ismrmrd_header(16, 12, encoded=(200, 300), recon=(200, 200)),
    )
    item = only(tmp_path / "scan.h5")
    assert item.shape == (2, 16, 12)
    assert "300 mm are encoded along phase, of which reconSpace wants 200 mm" in item.notes[0]


def test_without_recon_space_and_without_fields_of_view(tmp_path):
    k = complex_array(2, 6, 8)
    for name, recon, encoded in (("a", None, (2, 2)), ("b", (0, 0), (0, 0)), ("c", (1, 1), (0, 0))):
        header = ismrmrd_header(8, 6, encoded=encoded, recon=recon)
        make_ismrmrd(tmp_path / f"{name}.h5", k, header=header)
        item = only(tmp_path / f"{name}.h5")
        assert np.array_equal(item.array(), k.swapaxes(1, 2))
        assert item.notes == ()


def test_lines_that_are_not_of_the_image_are_left_out(tmp_path):
    k = complex_array(2, 6, 8)
    make_ismrmrd(tmp_path / "scan.h5", k, flags={0: ismrmrd.ACQ_IS_NOISE_MEASUREMENT})
    item = only(tmp_path / "scan.h5")
    assert not item.array()[:, :, 0].any()
    assert item.notes == ("scan.h5: 1 lines of noise are left out",)
    flags = {row: ismrmrd.ACQ_IS_NAVIGATION_DATA for row in range(6)}
    make_ismrmrd(tmp_path / "no.h5", k, flags=flags)
    with pytest.raises(UserError, match=r"6 acquisitions, none of them of an image \(navigators\)"):
        open_path(tmp_path / "no.h5")
    make_ismrmrd(tmp_path / "epi.h5", k, flags={3: ismrmrd.ACQ_IS_REVERSE})
    with pytest.raises(UserError, match="lines that were read backwards"):
        open_path(tmp_path / "epi.h5")


@pytest.mark.parametrize(("mode", "used"), [("embedded", True), ("separate", False)])
def test_calibration_lines_of_the_same_contrast_are_used(tmp_path, mode, used):
    k = complex_array(2, 6, 8)
    make_ismrmrd(
        tmp_path / "scan.h5",
        k,
        header=ismrmrd_header(8, 6, more=CALIBRATION[mode]),
        flags={3: ismrmrd.ACQ_IS_PARALLEL_CALIBRATION},
    )
    found = only(tmp_path / "scan.h5")
    assert found.array()[:, :, 3].any() == used
    assert bool(found.notes) != used


def test_lines_that_calibrate_and_image_are_of_the_image(tmp_path):
    k = complex_array(2, 6, 8)
    make_ismrmrd(
        tmp_path / "scan.h5",
        k,
        header=ismrmrd_header(8, 6, more=CALIBRATION["separate"]),
        flags={3: ismrmrd.ACQ_IS_PARALLEL_CALIBRATION_AND_IMAGING},
    )
    with h5py.File(tmp_path / "scan.h5", "a") as stored:
        lines = stored["dataset"]["data"][()]
        lines["head"]["flags"][3] |= 1 << (ismrmrd.ACQ_IS_PARALLEL_CALIBRATION - 1)
        stored["dataset"]["data"][...] = lines
    assert np.array_equal(only(tmp_path / "scan.h5").array(), k.swapaxes(1, 2))


def test_true_reasons(tmp_path):
    k = complex_array(2, 6, 8)
    header = ismrmrd_header(8, 6)
    make_ismrmrd(tmp_path / "a.h5", k, header=header.replace("cartesian", "spiral"))
    with pytest.raises(UserError, match="trajectory spiral, 1 partitions; two-dimensional Cartes"):
        open_path(tmp_path / "a.h5")
    broken = header.replace("encodedSpace", "encodedSpice")
    make_ismrmrd(tmp_path / "b.h5", k, header=broken)
    with pytest.raises(UserError, match=r"XML header has no encodedSpace.*a field that it needs"):
        open_path(tmp_path / "b.h5")
    make_ismrmrd(tmp_path / "c.h5", k, header=ismrmrd_header(8, 4))
    with pytest.raises(UserError, match="a line at row 4, samples 0 to 8, lies outside the 4×8"):
        open_path(tmp_path / "c.h5")
    make_ismrmrd(tmp_path / "d.h5", k, header=header[:200])
    with pytest.raises(UserError, match=r"ParseError.*the file is damaged"):
        open_path(tmp_path / "d.h5")


def test_only_planes_are_read(tmp_path):
    header = ismrmrd_header(8, 6).replace("<z>1</z>", "<z>2</z>", 1)
    make_ismrmrd(tmp_path / "a.h5", complex_array(2, 6, 8), header=header)
    with pytest.raises(UserError, match="trajectory cartesian, 2 partitions"):
        open_path(tmp_path / "a.h5")


def test_lines_are_counted_from_where_the_header_says(tmp_path):
    """Line 2 is that of frequency zero, which belongs to row 3 of 6."""
    limits = (
        "<encodingLimits><kspace_encoding_step_1><minimum>0</minimum><maximum>4</maximum>"
        "<center>2</center></kspace_encoding_step_1></encodingLimits>"
    )
    k = complex_array(2, 6, 8)
    header = ismrmrd_header(8, 6).replace("<encodingLimits/>", limits)
    make_ismrmrd(tmp_path / "a.h5", k, rows=(0, 1, 2, 3, 4), header=header)
    found = only(tmp_path / "a.h5").array()
    assert np.array_equal(found[:, :, 1:], k[:, :5].swapaxes(1, 2))
    assert not found[:, :, 0].any()


def test_samples_to_discard_are_discarded(tmp_path):
    k = complex_array(2, 6, 8)
    make_ismrmrd(tmp_path / "a.h5", k)
    with h5py.File(tmp_path / "a.h5", "a") as stored:
        lines = stored["dataset"]["data"][()]
        lines["head"]["discard_pre"] = 2
        lines["head"]["discard_post"] = 1
        lines["head"]["encoding_space_ref"][4] = 1
        stored["dataset"]["data"][...] = lines
    item = only(tmp_path / "a.h5")
    found = item.array().swapaxes(1, 2)
    assert np.array_equal(found[:, :4, 2:7], k[:, :4, 2:7])
    assert not found[:, :, :2].any()
    assert not found[:, :, 7].any()
    assert not found[:, 4].any()
    assert item.notes == ("a.h5: 1 lines of another encoding are left out",)


def test_lines_that_contradict_their_headers(tmp_path):
    make_ismrmrd(tmp_path / "a.h5", complex_array(2, 6, 8))
    make_ismrmrd(tmp_path / "a.h5", complex_array(3, 6, 8), rows=(5,))
    with pytest.raises(UserError, match="lines of 2 coils and of 3 in one slice"):
        open_path(tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "a") as stored:
        lines = stored["dataset"]["data"][()]
        lines["head"]["active_channels"] = 1
        stored["dataset"]["data"][...] = lines
    with pytest.raises(UserError, match="32 numbers, where its header promises 1 coils × 8"):
        open_path(tmp_path / "a.h5")


@real_data
def test_real_scans():
    item = only(DATA / "scanner" / "grappa2_1rep.h5")
    k = item.array()
    assert (k != 0).any((0, 1)).sum() == 142
    image = np.fft.fftshift(
        np.fft.ifft2(np.fft.ifftshift(k, axes=(1, 2)), norm="ortho"), axes=(1, 2)
    )
    assert np.sqrt((np.abs(image) ** 2).sum(0)).max() == pytest.approx(354.0, abs=0.1)
    # As MRIReco.jl writes it: without reconSpace, and the fields of each line's header aligned.
    item = only(DATA / "scanner" / "acqDataBrainSim100.h5")
    assert item.shape == (1, 256, 256)
    with h5py.File(DATA / "scanner" / "acqDataBrainSim100.h5") as stored:
        line = stored["dataset"]["data"][100]["data"].view(np.complex64)
    assert np.array_equal(item.array()[0, :, 100], line)


def test_a_header_that_promises_too_much(tmp_path):
    header = ismrmrd_header(1 << 20, 1 << 20)
    make_ismrmrd(tmp_path / "a.h5", complex_array(2, 6, 8), header=header)
    with pytest.raises(UserError, match=r"promises 8796093022208 bytes of data"):
        open_path(tmp_path / "a.h5")


NOT_OF_THE_IMAGE = (
    "NOISE_MEASUREMENT",
    "NAVIGATION_DATA",
    "PHASECORR_DATA",
    "HPFEEDBACK_DATA",
    "DUMMYSCAN_DATA",
    "RTFEEDBACK_DATA",
    "SURFACECOILCORRECTIONSCAN_DATA",
    "PHASE_STABILIZATION_REFERENCE",
    "PHASE_STABILIZATION",
)


@pytest.mark.parametrize("name", NOT_OF_THE_IMAGE)
def test_lines_that_are_not_of_the_image(tmp_path, name):
    """By the library's own names of the flags."""
    flag = getattr(pytest.importorskip("ismrmrd"), f"ACQ_IS_{name}")
    k = complex_array(2, 6, 8)
    make_ismrmrd(tmp_path / "a.h5", k, flags={3: flag})
    found = only(tmp_path / "a.h5").array()
    assert not found[:, :, 3].any()
    assert np.array_equal(found[:, :, :3], k[:, :3].swapaxes(1, 2))


@pytest.mark.parametrize("name", ["LAST_IN_MEASUREMENT", "FIRST_IN_SLICE", "LAST_IN_SLICE"])
def test_lines_that_are(tmp_path, name):
    flag = getattr(pytest.importorskip("ismrmrd"), f"ACQ_{name}")
    k = complex_array(2, 6, 8)
    make_ismrmrd(tmp_path / "a.h5", k, flags={3: flag})
    assert np.array_equal(only(tmp_path / "a.h5").array(), k.swapaxes(1, 2))
