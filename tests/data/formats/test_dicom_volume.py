"""A series of DICOM slices, cut across another axis, and written where it was."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from equipoise.data.choice import Choice
from equipoise.data.formats import open_path, write_images
from equipoise.data.split import split_items
from equipoise.errors import UserError

from .make import arrays, hounsfield, make_dicom, read

pydicom = pytest.importorskip("pydicom")
#: Slices lie across "anterior to posterior"; a row runs to the left, a column to the feet.
ORIENTATION = [1, 0, 0, 0, 0, -1]
ROWS, COLUMNS, DISTANCE = 0.7, 0.5, 3.0
SIZE = 16


def place(k: int) -> list[float]:
    return [-10.0, 20.0 + DISTANCE * k, 5.0]


def make_series(folder: Path, count: int = 4) -> np.ndarray:
    """(slices, rows, columns), in files that are not in order."""
    folder.mkdir()
    for k in range(count):
        make_dicom(
            folder / f"{(3 * k + 1) % count}.dcm",
            hounsfield(k, SIZE) + 1024,
            PixelSpacing=[ROWS, COLUMNS],
            ImageOrientationPatient=ORIENTATION,
            ImagePositionPatient=place(k),
        )
    return np.stack([hounsfield(k, SIZE) for k in range(count)])


def point(data, row: float, column: float) -> np.ndarray:
    """Where the centre of a pixel lies (PS3.3, C.7.6.2.1.1)."""
    axes = np.array(data.ImageOrientationPatient, dtype=float)
    down, right = (float(value) for value in data.PixelSpacing)
    corner = np.array(data.ImagePositionPatient, dtype=float)
    return corner + right * column * axes[:3] + down * row * axes[3:]


def point_of_voxel(x: float, y: float, z: float) -> np.ndarray:
    """Of the series."""
    axes = np.array(ORIENTATION, dtype=float)
    return np.array(place(0)) + COLUMNS * x * axes[:3] + ROWS * y * axes[3:] + [0, DISTANCE * z, 0]


@pytest.mark.parametrize(
    ("asked", "axis"), [(0, 0), ("y", 1), ("sagittal", 0), ("axial", 1), ("coronal", 2), (-1, 2)]
)
def test_any_axis_and_back(tmp_path, asked, axis):
    volume = make_series(tmp_path / "series")
    items = open_path(tmp_path / "series", choice=Choice(axis=asked))
    assert np.array_equal(arrays(items), np.moveaxis(volume, 2 - axis, 0))
    spacing = np.delete([COLUMNS, ROWS, DISTANCE], axis)
    assert items[0].spacing == pytest.approx(tuple(spacing[::-1]))
    gaps = np.diff([item.position for item in items])
    assert gaps == pytest.approx([COLUMNS, ROWS, DISTANCE][axis])
    assert len({item.name for item in items}) == len(items)
    paths = write_images(items, arrays(items), tmp_path / "out")
    if axis == 2:
        return
    for k, path in enumerate(paths):
        data = pydicom.dcmread(path)
        voxel = (k, 5, 2) if axis == 0 else (5, k, 2)
        assert point(data, 2, 5) == pytest.approx(point_of_voxel(*voxel))
        stored = data.pixel_array * data.RescaleSlope + data.RescaleIntercept
        assert np.array_equal(stored, items[k].array())
    # Read again as a series of its own, from the feet to the head.
    again = read(tmp_path / "out")[:: -1 if axis == 1 else 1]
    assert np.array_equal(again, np.moveaxis(volume, 2 - axis, 0))


def test_smaller_images_keep_their_place(tmp_path):
    """Of half the size: a pixel is twice as large, and the outer corner stays."""
    make_series(tmp_path / "series")
    items = open_path(tmp_path / "series", choice=Choice(axis=0))[3:4]
    (path,) = write_images(items, np.zeros((1, 2, SIZE // 2)), tmp_path / "out")
    data = pydicom.dcmread(path)
    assert [float(s) for s in data.PixelSpacing] == [2 * DISTANCE, 2 * ROWS]
    assert point(data, -0.5, -0.5) == pytest.approx(point_of_voxel(3, -0.5, -0.5))


def test_gaps_and_single_slices_cannot_be_cut(tmp_path):
    make_series(tmp_path / "series", 5)
    (tmp_path / "series" / "2.dcm").unlink()  # the third of five
    with pytest.raises(UserError, match=r"must lie at even distances.*3 to 6 mm"):
        open_path(tmp_path / "series", choice=Choice(axis=0))
    assert len(open_path(tmp_path / "series", choice=Choice(axis=2))) == 4
    make_dicom(tmp_path / "one.dcm", hounsfield() + 1024)
    with pytest.raises(UserError, match=r"two or more slices of one size.*has 1 of 1"):
        open_path(tmp_path / "one.dcm", choice=Choice(axis="x"))
    with pytest.raises(UserError, match=r"data\.axis=3: a volume has the axes 0, 1 and 2"):
        open_path(tmp_path / "one.dcm", choice=Choice(axis=3))


def test_tilted_and_turned_series_are_refused(tmp_path):
    """Cuts of them would be sheared, or mean nothing."""
    for name, shift, turn in (("tilted", 2.0, 0.0), ("turned", 0.0, 0.1)):
        folder = tmp_path / name
        folder.mkdir()
        for k in range(4):
            c, s = np.cos(turn * k), np.sin(turn * k)
            make_dicom(
                folder / f"{k}.dcm",
                hounsfield(k, SIZE) + 1024,
                PixelSpacing=[ROWS, COLUMNS],
                ImageOrientationPatient=[c, 0, s, s, 0, -c],
                ImagePositionPatient=[-10.0 + shift * k, 20.0 + DISTANCE * k, 5.0],
            )
        wanted = "drift sideways by 12.0 pixels" if shift else "turned against each other"
        with pytest.raises(UserError, match=wanted):
            open_path(folder, choice=Choice(axis=0))
        assert len(open_path(folder)) == 4


def test_oblique_cuts_have_short_decimal_strings(tmp_path):
    c, s = np.cos(0.3), np.sin(0.3)
    axes = np.array([c, s, 0.0, 0.0, 0.0, -1.0])
    normal = np.cross(axes[:3], axes[3:])
    (tmp_path / "series").mkdir()
    for k in range(3):
        make_dicom(
            tmp_path / "series" / f"{k}.dcm",
            hounsfield(k, SIZE) + 1024,
            PixelSpacing=["0.7", "0.5"],
            ImageOrientationPatient=[f"{v:.10g}" for v in axes],
            ImagePositionPatient=[f"{v:.10g}" for v in (1.0, 2.0, 3.0) + 2.3 * k * normal],
        )
    items = open_path(tmp_path / "series", choice=Choice(axis=1))
    for path in write_images(items, arrays(items), tmp_path / "out"):
        data = pydicom.dcmread(path)
        fields = (data.ImagePositionPatient, data.ImageOrientationPatient, data.PixelSpacing)
        assert all(len(str(value)) <= 16 for field in fields for value in field)
        assert str(data.ImageType[2]) == "REFORMATTED"


def test_two_kernels_of_one_patient_share_their_places(tmp_path):
    """Or what is held out would stand in the other series that is trained on."""
    for name, seed in (("soft", 0), ("bone", 50)):
        (tmp_path / name).mkdir()
        for k in range(4):
            make_dicom(
                tmp_path / name / f"{name}{k}.dcm",
                hounsfield(seed + k, SIZE) + 1024,
                PixelSpacing=[ROWS, COLUMNS],
                ImageOrientationPatient=ORIENTATION,
                ImagePositionPatient=place(k),
                SeriesInstanceUID=f"1.2.{seed}",
                StudyInstanceUID="1.9",
            )
    items = open_path(tmp_path, choice=Choice(axis=1))
    assert len(items) == 2 * SIZE
    training, held = split_items(items, 0.25)
    places = [{items[i].position for i in part} for part in (training, held)]
    assert not places[0] & places[1]
    assert {items[i].series for i in held} == {"1.2.0", "1.2.50"}


def test_without_positions_it_is_refused(tmp_path):
    for k in range(3):
        make_dicom(
            tmp_path / f"{k}.dcm",
            hounsfield(k) + 1024,
            ImagePositionPatient=None,
            SliceLocation=3.0 * k,
        )
    with pytest.raises(UserError, match="does not say how its slices lie"):
        open_path(tmp_path, choice=Choice(axis=0))


def test_several_frames_in_one_file(tmp_path):
    """Of an enhanced file, whose first frame is the last in space."""
    from pydicom.dataset import Dataset
    from pydicom.sequence import Sequence

    frames = []
    for k in (2, 1, 0):
        plane = Dataset()
        plane.ImagePositionPatient = place(k)
        frame = Dataset()
        frame.PlanePositionSequence = Sequence([plane])
        frames.append(frame)
    volume = np.stack([hounsfield(k, SIZE) for k in range(3)])
    make_dicom(
        tmp_path / "e.dcm",
        volume[::-1] + 1024,
        NumberOfFrames=3,
        PixelSpacing=[ROWS, COLUMNS],
        ImageOrientationPatient=ORIENTATION,
        ImagePositionPatient=None,
        PerFrameFunctionalGroupsSequence=Sequence(frames),
        SharedFunctionalGroupsSequence=Sequence([Dataset()]),
    )
    items = open_path(tmp_path / "e.dcm", choice=Choice(axis=1))
    assert np.array_equal(arrays(items), np.moveaxis(volume, 1, 0))
    paths = write_images(items, arrays(items), tmp_path / "out")
    data = pydicom.dcmread(paths[7])
    assert "NumberOfFrames" not in data
    assert point(data, 1, 4) == pytest.approx(point_of_voxel(4, 7, 1))
