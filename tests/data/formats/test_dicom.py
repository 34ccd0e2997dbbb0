"""DICOM: what the header says is what the slices are."""

from __future__ import annotations

import numpy as np
import pytest

from equipoise.data.formats import open_path, write_images
from equipoise.data.item import HOUNSFIELD
from equipoise.data.pick import images_of
from equipoise.errors import UserError

from .make import DATA, arrays, hounsfield, make_dicom, read, real_data

pydicom = pytest.importorskip("pydicom")


def averaged(image: np.ndarray) -> np.ndarray:
    """By blocks of two, clipped first."""
    rows, columns = image.shape
    blocks = np.clip(image, -1000, 1000).reshape(rows // 2, 2, columns // 2, 2)
    return blocks.mean((1, 3))


def test_round_trip_in_hounsfield_units(tmp_path):
    folder = tmp_path / "series"
    folder.mkdir()
    for i, z in enumerate((5.0, -3.0, 1.0)):
        make_dicom(folder / f"{i}.dcm", hounsfield(i) + 1024, z=z)
    items = images_of(open_path(folder))
    assert [item.name for item in items] == ["1.dcm", "2.dcm", "0.dcm"]  # by position
    assert [item.position for item in items] == [-3, 1, 5]
    assert {item.units for item in items} == {HOUNSFIELD}
    assert items[0].spacing == (0.7, 0.7)
    assert np.array_equal(items[2].array(), hounsfield(0))
    paths = write_images(items, arrays(items), tmp_path / "out")
    assert len(paths) == 3
    assert np.array_equal(read(tmp_path / "out"), arrays(items))
    data = pydicom.dcmread(paths[0])
    assert data.PatientID == "P1"
    assert data.ImageType[0] == "DERIVED"
    native = data.pixel_array * data.RescaleSlope + data.RescaleIntercept
    assert np.array_equal(native, hounsfield(1))


def test_smaller_images_keep_their_place(tmp_path):
    folder = tmp_path / "series"
    folder.mkdir()
    make_dicom(folder / "preview", hounsfield() + 1024)  # as ours is called
    items = images_of(open_path(folder), 8)
    blocks = averaged(hounsfield())
    (path,) = write_images(items, blocks[None], tmp_path / "out")
    assert path.name == "preview_.dcm"
    data = pydicom.dcmread(path)
    assert [float(s) for s in data.PixelSpacing] == [1.4, 1.4]
    assert [float(s) for s in data.ImagePositionPatient] == pytest.approx([-9.65, -19.65, 0])
    assert np.abs(data.pixel_array - blocks).max() <= 0.5


def test_mixed_sizes(tmp_path):
    make_dicom(tmp_path / "a.dcm", hounsfield(size=16) + 1024)
    make_dicom(tmp_path / "b.dcm", hounsfield(size=20) + 1024)
    wanted = r"images of different sizes: a.dcm is 16×16, b.dcm is 20×20; put each size"
    with pytest.raises(UserError, match=wanted):
        images_of(open_path(tmp_path))


def test_cut_short(tmp_path):
    make_dicom(tmp_path / "a.dcm", hounsfield() + 1024)
    data = (tmp_path / "a.dcm").read_bytes()
    (tmp_path / "a.dcm").write_bytes(data[: len(data) - 100])
    wanted = (
        r"a.dcm: cannot be read as DICOM \(EOFError: its header promises 512 bytes of pixels, 412 "
        r"are there\); the file is cut short: copy it again.* repair it or take it out"
    )
    with pytest.raises(UserError, match=wanted):
        read(tmp_path)
    (tmp_path / "a.dcm").write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match=r"a.dcm: cannot be read as DICOM .* repair it or take it"):
        read(tmp_path)


def test_what_a_folder_may_lack(tmp_path):
    make_dicom(tmp_path / "a.dcm", hounsfield(0) + 1024, patient="", z=0.0)
    make_dicom(tmp_path / "b.dcm", hounsfield(1) + 1024, patient="", z=1.0)
    assert len({item.patient for item in open_path(tmp_path)}) == 1  # of one series
    make_dicom(tmp_path / "b.dcm", hounsfield(1), Modality="MR")
    with pytest.raises(UserError, match="only CT has Hounsfield units"):
        open_path(tmp_path)


def test_a_missing_slice_is_noted(tmp_path):
    for k in (0, 1, 2, 4, 5):
        make_dicom(tmp_path / f"{k}.dcm", hounsfield(k) + 1024, z=2.5 * k)
    notes = {item.name: item.notes for item in open_path(tmp_path)}
    wanted = "patient P1: slices are missing at 1 place(s): gaps up to 5 mm, where 2.5 mm is usual"
    assert notes == {"0.dcm": (), "1.dcm": (), "2.dcm": (), "4.dcm": (wanted,), "5.dcm": ()}


def test_three_slices_do_not_tell_what_is_usual(tmp_path):
    for k, z in enumerate((0.0, 2.0, 9.0)):
        make_dicom(tmp_path / f"{k}.dcm", hounsfield(k) + 1024, z=z)
    assert all(item.notes == () for item in open_path(tmp_path))


def test_a_codec_that_is_missing_is_named(tmp_path, monkeypatch):
    make_dicom(tmp_path / "a.dcm", hounsfield() + 1024)
    data = pydicom.dcmread(tmp_path / "a.dcm")
    data.file_meta.TransferSyntaxUID = pydicom.uid.JPEGLSLossless
    data.PixelData = pydicom.encaps.encapsulate([b"\xff\x4f\xff\x51 no picture"])
    data["PixelData"].is_undefined_length = True
    data.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    decoder = pydicom.pixels.get_decoder(pydicom.uid.JPEGLSLossless)
    monkeypatch.setattr(type(decoder), "is_available", False)
    wanted = r"compressed with a codec that is not installed \(pip install 'pydicom\[pixeldata\]'"
    with pytest.raises(UserError, match=wanted):
        read(tmp_path)


def test_a_broken_picture_is_no_missing_codec(tmp_path):
    make_dicom(tmp_path / "a.dcm", hounsfield() + 1024)
    data = pydicom.dcmread(tmp_path / "a.dcm")
    data.file_meta.TransferSyntaxUID = pydicom.uid.RLELossless  # pydicom itself reads it
    data.PixelData = pydicom.encaps.encapsulate([b"\xff\x4f\xff\x51 no picture"])
    data["PixelData"].is_undefined_length = True
    data.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    with pytest.raises(UserError, match="the file is damaged: repair it") as error:
        read(tmp_path)
    assert "codec" not in str(error.value)


def test_what_16_bits_cannot_hold_is_clipped(tmp_path):
    make_dicom(tmp_path / "a.dcm", hounsfield() + 1024)
    write_images(open_path(tmp_path), np.full((1, 16, 16), 2e7), tmp_path / "out")
    assert pydicom.dcmread(tmp_path / "out" / "a.dcm").pixel_array.min() == 32767


# ------------------------------------------------------------------ what the header says


def test_files_are_known_by_their_content(tmp_path):
    """One suffix among five does not hide the four that have none."""
    for k, name in enumerate(("a.dcm", "IM0001", "IM0002", "1.2.840.113", "slice.004")):
        make_dicom(tmp_path / name, hounsfield(k) + 1024, z=k)
    (tmp_path / "readme.txt").write_text("not an image")
    make_dicom(tmp_path / "DICOMDIR", hounsfield(9) + 1024)
    items = open_path(tmp_path)
    assert [item.name for item in items] == [
        "a.dcm",
        "IM0001",
        "IM0002",
        "1.2.840.113",
        "slice.004",
    ]
    assert np.array_equal(items[3].array(), hounsfield(3))


def test_files_without_the_mark_are_read(tmp_path):
    make_dicom(tmp_path / "a.dcm", hounsfield() + 1024)
    data = pydicom.dcmread(tmp_path / "a.dcm")
    del data.preamble
    data.save_as(tmp_path / "old.dcm", implicit_vr=False, little_endian=True)
    (tmp_path / "a.dcm").unlink()
    assert np.array_equal(read(tmp_path)[0], hounsfield())


@pytest.mark.parametrize(
    "image_type",
    [
        ["ORIGINAL", "PRIMARY", "LOCALIZER"],
        ["ORIGINAL", "PRIMARY", "LOCALIZER", "CT_SOM5 TOP"],
        ["DERIVED", "PRIMARY", "AXIAL", "PERFUSION_MAP"],
        ["DERIVED", "SECONDARY", "CBF"],
        ["DERIVED", "SECONDARY", "AXIAL", "CSA MIP"],
        ["DERIVED", "SECONDARY", "MPR"],
        ["DERIVED", "SECONDARY", "REFORMATTED", "AVERAGE"],
        ["ORIGINAL", "SECONDARY", "SCREEN SAVE"],
    ],
)
def test_what_is_no_slice_of_the_scan_is_left_out(tmp_path, image_type):
    for k in range(3):
        make_dicom(
            tmp_path / f"{k}.dcm",
            hounsfield(k) + 1024,
            z=k,
            ImageType=["ORIGINAL", "PRIMARY", "AXIAL"],
        )
    make_dicom(tmp_path / "x.dcm", hounsfield(4, 20), z=1, ImageType=image_type)
    items = open_path(tmp_path)
    assert [item.name for item in items] == ["0.dcm", "1.dcm", "2.dcm"]
    (note,) = items[0].notes
    assert "1 DICOM images are left out" in note
    assert f"x.dcm ({'/'.join(image_type)})" in note


def test_derived_slices_are_read_where_they_are_all_there_is(tmp_path):
    """Such as our own."""
    make_dicom(tmp_path / "a.dcm", hounsfield(), ImageType=["DERIVED", "SECONDARY", "AXIAL"])
    make_dicom(tmp_path / "b.dcm", hounsfield(), ImageType=["DERIVED", "PRIMARY", "AXIAL", "X"])
    assert len(open_path(tmp_path / "a.dcm")) == 1
    assert len(open_path(tmp_path / "b.dcm")) == 1
    make_dicom(tmp_path / "c.dcm", hounsfield(), ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    with pytest.raises(UserError, match=r"c.dcm: holds no slice of a scan: c.dcm \(ORIGINAL/PRIMA"):
        open_path(tmp_path / "c.dcm")


def test_a_report_beside_the_slices_is_left_out(tmp_path):
    make_dicom(tmp_path / "a.dcm", hounsfield() + 1024)
    make_dicom(tmp_path / "sr.dcm", hounsfield(), Modality="SR", Rows=None, Columns=None)
    items = open_path(tmp_path)
    assert [item.name for item in items] == ["a.dcm"]
    assert "sr.dcm (no image)" in items[0].notes[0]


def test_a_field_that_is_missing_is_named(tmp_path):
    make_dicom(tmp_path / "a.dcm", hounsfield(), Columns=None)
    with pytest.raises(UserError, match=r"attribute 'Columns'\); a field that it needs is missing"):
        open_path(tmp_path)


def test_headers_that_say_nonsense(tmp_path):
    make_dicom(tmp_path / "a.dcm", hounsfield()[:1] + 1024)  # one row is an image
    assert read(tmp_path).shape == (1, 1, 16)
    for message, fields in {
        "it has 0 rows and 16 columns": {"Rows": 0},
        "its RescaleSlope is 0": {"RescaleSlope": 0},
        "is not finite": {"RescaleIntercept": "nan"},
    }.items():
        make_dicom(tmp_path / "a.dcm", hounsfield() + 1024, **fields)
        with pytest.raises(UserError, match=message):
            open_path(tmp_path)


def grouped(slope: float, intercept: float, frames: list[float]):
    """Functional groups: the rescaling of all frames, and the place of each."""
    from pydicom.dataset import Dataset
    from pydicom.sequence import Sequence

    rescale = Dataset()
    rescale.RescaleSlope, rescale.RescaleIntercept = slope, intercept
    rescale.RescaleType = "HU"
    measures = Dataset()
    measures.PixelSpacing = [0.5, 0.5]
    shared = Dataset()
    shared.PixelValueTransformationSequence = Sequence([rescale])
    shared.PixelMeasuresSequence = Sequence([measures])
    per_frame = []
    for z in frames:
        plane = Dataset()
        plane.ImagePositionPatient = [0, 0, z]
        frame = Dataset()
        frame.PlanePositionSequence = Sequence([plane])
        per_frame.append(frame)
    return {
        "SharedFunctionalGroupsSequence": Sequence([shared]),
        "PerFrameFunctionalGroupsSequence": Sequence(per_frame),
    }


def test_rescaling_in_the_functional_groups(tmp_path):
    make_dicom(
        tmp_path / "a.dcm",
        hounsfield() + 1024,
        slope=None,
        intercept=None,
        **grouped(1, -1024, [7.0]),
    )
    (item,) = open_path(tmp_path)
    assert np.array_equal(item.array(), hounsfield())
    assert (item.units, item.units_from, item.position) == (HOUNSFIELD, "file", 7)
    make_dicom(
        tmp_path / "a.dcm",
        (hounsfield() + 1024) // 2,
        slope=None,
        intercept=None,
        **grouped(2, -1024, [7.0]),
    )
    assert np.array_equal(read(tmp_path)[0], (hounsfield() + 1024) // 2 * 2 - 1024)


def test_several_frames_are_slices(tmp_path):
    (tmp_path / "scan").mkdir()
    stack = np.stack([hounsfield(k) for k in range(3)])
    make_dicom(
        tmp_path / "scan" / "a.dcm",
        stack + 1024,
        slope=None,
        intercept=None,
        NumberOfFrames=3,
        **grouped(1, -1024, [4.0, 2.0, 3.0]),
    )
    items = images_of(open_path(tmp_path / "scan"))
    assert [item.name for item in items] == ["a_001", "a_002", "a_000"]
    assert [item.position for item in items] == [2, 3, 4]
    assert np.array_equal(arrays(items), stack[[1, 2, 0]])
    write_images(items, arrays(items), tmp_path / "out")
    again = open_path(tmp_path / "out")
    assert [item.position for item in again] == [2, 3, 4]
    assert {item.spacing for item in again} == {(0.5, 0.5)}
    assert np.array_equal(arrays(again), stack[[1, 2, 0]])


def test_nothing_says_the_rescaling(tmp_path):
    make_dicom(tmp_path / "a.dcm", hounsfield() + 1024, slope=None, intercept=None)
    (item,) = open_path(tmp_path)
    assert item.units_from == "nothing"
    make_dicom(tmp_path / "a.dcm", hounsfield() + 1024, RescaleType="US")
    (item,) = open_path(tmp_path)
    assert item.units_from == "nothing"


def test_padding_is_air(tmp_path):
    pixels = hounsfield() + 1024
    pixels[:4] = 3000
    make_dicom(tmp_path / "a.dcm", pixels, PixelPaddingValue=3000)
    assert (read(tmp_path)[0][:4] == -1000).all()
    assert np.array_equal(read(tmp_path)[0][4:], hounsfield()[4:])
    pixels[:2] = 3100
    make_dicom(tmp_path / "a.dcm", pixels, PixelPaddingValue=3000, PixelPaddingRangeLimit=3200)
    assert (read(tmp_path)[0][:4] == -1000).all()


def test_monochrome1_is_shown_inverted_but_means_the_same(tmp_path):
    """The rescaling comes before the inversion, which is for the display alone (PS3.4, N.2)."""
    make_dicom(tmp_path / "a.dcm", hounsfield() + 1024, PhotometricInterpretation="MONOCHROME1")
    assert np.array_equal(read(tmp_path)[0], hounsfield())


def test_bits_that_are_not_stored_do_not_count(tmp_path):
    """Twelve bits, with an overlay in the four above."""
    pixels = (hounsfield() + 1024) | (0b1010 << 12)
    make_dicom(tmp_path / "a.dcm", pixels, BitsStored=12, HighBit=11)
    assert np.array_equal(read(tmp_path)[0], hounsfield())


def test_two_reconstructions_of_a_scan_share_a_volume(tmp_path):
    for series in "12":
        for k in range(2):
            make_dicom(
                tmp_path / f"{series}{k}.dcm",
                hounsfield(k) + 1024,
                z=k,
                StudyInstanceUID="1.2",
                FrameOfReferenceUID="1.3",
                SeriesInstanceUID=f"1.4.{series}",
            )
    items = open_path(tmp_path)
    assert len({item.volume for item in items}) == 1
    assert [item.series for item in items] == ["1.4.1", "1.4.1", "1.4.2", "1.4.2"]
    assert [item.position for item in items] == [0, 1, 0, 1]
    assert all(item.notes == () for item in items)


@real_data
def test_real_slices(tmp_path):
    items = images_of(open_path(DATA / "ct" / "dicom"), 64)
    assert len(items) == 6
    assert len({item.patient for item in items}) == 6
    assert all(item.units_from == "file" for item in items)
    write_images(items, arrays(items), tmp_path / "out")
    again = open_path(tmp_path / "out")
    assert np.abs(arrays(again) - arrays(items)).max() <= 0.5


def test_slices_of_two_orientations_are_no_gaps(tmp_path):
    for k in range(4):
        make_dicom(tmp_path / f"a{k}.dcm", hounsfield(k) + 1024, z=2.5 * k)
        across = [0, 1, 0, 0, 0, -1]
        make_dicom(
            tmp_path / f"b{k}.dcm",
            hounsfield(k) + 1024,
            ImageOrientationPatient=across,
            ImagePositionPatient=[100 + 10.0 * k, 0, 0],
        )
    assert not any("missing" in note for item in open_path(tmp_path) for note in item.notes)


def test_a_slice_that_is_there_twice_is_noted(tmp_path):
    for name, k in (("0", 0), ("1", 1), ("2", 2), ("3", 3), ("again", 3), ("4", 4)):
        make_dicom(tmp_path / f"{name}.dcm", hounsfield(k) + 1024, z=2.5 * k)
    notes = [note for item in open_path(tmp_path) for note in item.notes]
    assert notes == ["patient P1: 1 slice(s) lie where another one of the series does"]
