"""DICOM of MR: its values, its classes, folders of studies and series, and where pixels lie."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from equipoise.data.formats import open_path, write_images
from equipoise.data.item import Units
from equipoise.data.pick import images_of
from equipoise.data.units import settled
from equipoise.errors import UserError

from .make import arrays, hounsfield, make_dicom
from .test_dicom import grouped

pydicom = pytest.importorskip("pydicom")

MR_IMAGE = "1.2.840.10008.5.1.4.1.1.4"
ENHANCED_MR = "1.2.840.10008.5.1.4.1.1.4.1"


def magnitude(seed: int, rows: int = 16, columns: int = 16) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2000, (rows, columns))


def make_mr(path: Path, pixels: np.ndarray, **fields) -> None:
    """One slice of MR, which has no rescaling."""
    path.parent.mkdir(parents=True, exist_ok=True)
    given = {
        "Modality": "MR",
        "SOPClassUID": MR_IMAGE,
        "ImageType": ["ORIGINAL", "PRIMARY", "M", "ND"],
        "StudyInstanceUID": "1.2.9",
        "FrameOfReferenceUID": "1.2.10",
        **fields,
    }
    make_dicom(path, pixels, slope=None, intercept=None, **given)


def test_magnitudes_are_recognised_by_series(tmp_path):
    for series, factor in (("1.2.1", 1), ("1.2.2", 3)):
        for k in range(3):
            name = f"{series}-{k}.dcm"
            make_mr(tmp_path / name, factor * magnitude(k), z=k, SeriesInstanceUID=series)
    items = settled(images_of(open_path(tmp_path)))
    scales = {item.series: item.units.scale for item in items}
    stack = np.stack([magnitude(k) for k in range(3)])
    assert scales["1.2.1"] == pytest.approx(np.percentile(stack, 99.9))
    assert scales["1.2.2"] == pytest.approx(3 * scales["1.2.1"])
    assert {item.units_from for item in items} == {"values"}
    assert all(item.units.offset == 0 and not item.units.clip for item in items)
    asked = settled(images_of(open_path(tmp_path)), 4000.0)
    assert {item.units for item in asked} == {Units(scale=4000.0)}


def test_a_magnitude_goes_back_as_one(tmp_path):
    """The class, the ids and the position are the input's; what is new has ids of its own."""
    make_mr(tmp_path / "in" / "a.dcm", magnitude(0), z=7.5, RescaleSlope=0.5, RescaleIntercept=0)
    items = images_of(open_path(tmp_path / "in"))
    assert np.array_equal(items[0].array(), magnitude(0) / 2)
    (path,) = write_images(items, arrays(items), tmp_path / "out")
    before, after = pydicom.dcmread(tmp_path / "in" / "a.dcm"), pydicom.dcmread(path)
    for key in ("PatientID", "StudyInstanceUID", "FrameOfReferenceUID", "SOPClassUID", "Modality"):
        assert before[key].value == after[key].value, key
    assert after.SOPClassUID == MR_IMAGE
    assert list(after.ImagePositionPatient) == list(before.ImagePositionPatient)
    assert after.SeriesInstanceUID != before.SeriesInstanceUID
    assert after.SOPInstanceUID != before.SOPInstanceUID
    assert after.file_meta.MediaStorageSOPInstanceUID == after.SOPInstanceUID
    assert list(after.ImageType)[:3] == ["DERIVED", "SECONDARY", "M"]
    assert "RescaleType" not in after or after.RescaleType != "HU"
    (again,) = open_path(tmp_path / "out")
    assert np.abs(again.array() - magnitude(0) / 2).max() <= 0.5


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e5])
def test_small_and_large_values_keep_their_digits(tmp_path, scale):
    make_mr(tmp_path / "in" / "a.dcm", magnitude(0))
    items = images_of(open_path(tmp_path / "in"))
    images = scale * np.random.default_rng(0).random((1, 16, 16))
    write_images(items, images, tmp_path / "out")
    (again,) = open_path(tmp_path / "out")
    assert np.abs(again.array() - images[0]).max() < 1e-4 * scale


def test_smaller_images_keep_their_place_along_both_axes(tmp_path):
    make_mr(tmp_path / "in" / "a.dcm", magnitude(0, 12, 16), PixelSpacing=[1.0, 0.5])
    (item,) = images_of(open_path(tmp_path / "in"), 8, "pad")
    assert (item.frame.top, item.frame.left) == (-2, 0)
    (path,) = write_images([item], np.ones((1, 8, 8)), tmp_path / "out")
    data = pydicom.dcmread(path)
    assert [float(s) for s in data.PixelSpacing] == [2.0, 1.0]
    # The corner of the padded image is two rows above that of the original, at (-10.25, -20.5).
    corner = np.array(data.ImagePositionPatient, float)[:2] - [0.5, 1.0]
    assert corner == pytest.approx([-10.25, -22.5])


def test_what_was_padded_alone_has_its_own_size_again(tmp_path):
    make_mr(tmp_path / "in" / "a.dcm", magnitude(0, 12, 16))
    (item,) = images_of(open_path(tmp_path / "in"), 16, "pad")
    padded = item.frame.cut(item.array())
    assert padded.shape == (16, 16)
    assert np.array_equal(item.restored(padded), item.array())
    (path,) = write_images([item], [item.restored(padded)], tmp_path / "out")
    data = pydicom.dcmread(path)
    assert (data.Rows, data.Columns) == (12, 16)
    assert [float(s) for s in data.PixelSpacing] == [0.7, 0.7]
    assert list(data.ImagePositionPatient) == [-10, -20, 0]


def test_folders_of_studies_and_series(tmp_path):
    """Beside a DICOMDIR; names repeat from folder to folder."""
    for patient in "AB":
        for series in "12":
            for k in range(2):
                make_mr(
                    tmp_path / patient / "study" / series / f"IM{k}",
                    magnitude(k),
                    patient=patient,
                    z=k,
                    SeriesInstanceUID=f"1.2.{ord(patient)}.{series}",
                    StudyInstanceUID=f"1.2.{ord(patient)}",
                )
    (tmp_path / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM")
    (tmp_path / "viewer.txt").write_text("start me")
    items = images_of(open_path(tmp_path))
    assert len(items) == 8
    assert [item.patient for item in items] == ["A"] * 4 + ["B"] * 4
    assert len({item.series for item in items}) == 4
    assert len({item.name for item in items}) == 8
    assert len(write_images(items, arrays(items), tmp_path / "out")) == 8


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"SeriesDescription": "3-plane Localizer"}, "3-plane Localizer"),
        ({"ProtocolName": "SURVEY_32ch"}, "SURVEY_32ch"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "P", "ND"]}, "ORIGINAL/PRIMARY/P/ND"),
        ({"ImageType": ["DERIVED", "PRIMARY", "DIFFUSION", "ADC"]}, "DIFFUSION"),
        ({"ImageType": ["DERIVED", "PRIMARY", "M", "NORM"]}, "DERIVED/PRIMARY/M/NORM"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "PROJECTION IMAGE"]}, "PROJECTION IMAGE"),
        ({"Modality": "PT"}, "PT"),
    ],
)
def test_what_is_no_magnitude_of_the_scan_is_left_out_and_said(tmp_path, fields, said):
    for k in range(3):
        make_mr(tmp_path / f"{k}.dcm", magnitude(k), z=k)
    make_mr(tmp_path / "x.dcm", magnitude(9), **fields)
    items = open_path(tmp_path)
    assert [item.name for item in items] == ["0.dcm", "1.dcm", "2.dcm"]
    assert "1 DICOM images are left out" in items[0].notes[0]
    assert said in items[0].notes[0]


def test_ct_and_mr_are_not_mixed(tmp_path):
    make_dicom(tmp_path / "ct.dcm", hounsfield() + 1024)
    make_mr(tmp_path / "mr.dcm", magnitude(0))
    with pytest.raises(UserError, match=r"mr.dcm: is MR, beside CT; only CT has Hounsfield units"):
        open_path(tmp_path)


def test_enhanced_mr(tmp_path):
    """Several frames, whose place and rescaling stand in the functional groups."""
    groups = grouped(2, 0, [4.0, 2.0, 3.0])
    shared = groups["SharedFunctionalGroupsSequence"][0]
    shared.PixelValueTransformationSequence[0].RescaleType = "US"
    kind = pydicom.Dataset()
    kind.FrameType = ["ORIGINAL", "PRIMARY", "M", "NONE"]
    shared.MRImageFrameTypeSequence = pydicom.Sequence([kind])
    stack = np.stack([magnitude(k) for k in range(3)])
    make_mr(
        tmp_path / "in" / "a.dcm",
        stack,
        SOPClassUID=ENHANCED_MR,
        NumberOfFrames=3,
        ImagePositionPatient=None,
        ImageType=["ORIGINAL", "PRIMARY", "M", "NONE"],
        **groups,
    )
    items = images_of(open_path(tmp_path / "in"))
    assert [item.position for item in items] == [2, 3, 4]
    assert np.array_equal(arrays(items), 2 * stack[[1, 2, 0]])
    paths = write_images(items, arrays(items), tmp_path / "out")
    data = pydicom.dcmread(paths[0])
    assert data.SOPClassUID == MR_IMAGE
    assert data.file_meta.MediaStorageSOPClassUID == MR_IMAGE
    assert "PerFrameFunctionalGroupsSequence" not in data
    assert [float(v) for v in data.ImagePositionPatient] == [0, 0, 2]
    again = open_path(tmp_path / "out")
    assert np.array_equal(arrays(again), arrays(items))
    assert [item.position for item in again] == [2, 3, 4]


def test_one_frame_keeps_what_its_groups_say(tmp_path):
    make_mr(
        tmp_path / "in" / "a.dcm",
        magnitude(0),
        SOPClassUID=ENHANCED_MR,
        NumberOfFrames=1,
        ImagePositionPatient=None,
        PixelSpacing=None,
        **grouped(1, 0, [7.0]),
    )
    items = images_of(open_path(tmp_path / "in"))
    (path,) = write_images(items, arrays(items), tmp_path / "out")
    data = pydicom.dcmread(path)
    assert [float(v) for v in data.ImagePositionPatient] == [0, 0, 7]
    assert [float(v) for v in data.PixelSpacing] == [0.5, 0.5]
    assert data.SOPClassUID == MR_IMAGE


def test_images_whose_smallest_value_is_white_are_refused(tmp_path):
    """They would be their own negatives."""
    make_mr(tmp_path / "a.dcm", magnitude(0), PhotometricInterpretation="MONOCHROME1")
    with pytest.raises(UserError, match=r"its smallest value is white.*MONOCHROME2"):
        settled(images_of(open_path(tmp_path)))
