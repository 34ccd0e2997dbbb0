"""Which slices of a volume are used, and how that is written."""

from __future__ import annotations

import numpy as np
import pytest

from equipoise.config import load_config, parse
from equipoise.data.choice import chosen_places, with_chosen_slices
from equipoise.data.formats import open_path
from equipoise.data.load import load_dataset
from equipoise.data.pick import images_of
from equipoise.data.scan import Scan
from equipoise.data.settings import ImageSettings
from equipoise.errors import UserError
from equipoise.imaging.settings import MRISettings

from .formats.make import hounsfield, make_dicom, make_nifti

PLACES = list(range(90))


@pytest.mark.parametrize(
    ("asked", "wanted"),
    [
        (None, PLACES),
        ("all", PLACES),
        (7, PLACES[::7]),
        ("7", PLACES[::7]),
        ("every 7", PLACES[::7]),
        ("every 7th", PLACES[::7]),
        ({"every": 7}, PLACES[::7]),
        ("middle 20", PLACES[35:55]),
        ("middle: 20", PLACES[35:55]),
        ("middle 21", PLACES[34:55]),
        ("middle 200", PLACES),
        ({"middle": 20, "every": 5}, PLACES[35:55:5]),
        ("middle 20, every 5", PLACES[35:55:5]),
        ("40:80", PLACES[40:80]),
        ("40:80:4", PLACES[40:80:4]),
        ("::10", PLACES[::10]),
        ("-10:", PLACES[-10:]),
        ({"from": 40, "to": 80, "every": 4}, PLACES[40:80:4]),
        ([3, 7, -1], [3, 7, 89]),
        ("3, 7, 11", [3, 7, 11]),
    ],
)
def test_slices(asked, wanted):
    assert chosen_places(asked, 90) == wanted


@pytest.mark.parametrize(
    "asked", [0, -3, "some", "middle", [], ["a"], {"centre": 3}, {"middle": 0}, "1:2:0", 2.5]
)
def test_what_cannot_be_understood(asked):
    with pytest.raises(UserError, match=r"data.slices: must be every k-th|count from 1"):
        parse({"data": {"path": "x", "slices": asked}}, "test")


def test_ranges_in_yaml_are_no_numbers_of_base_60(tmp_path):
    (tmp_path / "c.yaml").write_text("data: {path: c.yaml, slices: 10:50:5}\n")
    config = load_config(tmp_path / "c.yaml")
    assert config.data.slices == "10:50:5"
    config = load_config(tmp_path / "c.yaml", ["data.slices=10:20"])
    assert config.data.slices == "10:20"


@pytest.mark.parametrize(
    ("size", "wanted"),
    [
        (96, 96),
        ("96", 96),
        ([96, 96], 96),
        ([96, 128], (96, 128)),
        ("96x128", (96, 128)),
        ("native", "native"),
    ],
)
def test_sizes(size, wanted):
    data = {"path": "x", "kind": "images", "size": size}
    assert parse({"data": data, "physics": "mri"}, "test").data.size == wanted


@pytest.mark.parametrize("size", [4, 5000, [96, 4], "big", [1, 2, 3], 64.5])
def test_sizes_out_of_bounds(size):
    with pytest.raises(UserError, match=r"data.size: must be a number of pixels from 8 to 4096"):
        parse({"data": {"path": "x", "size": size}, "physics": "mri"}, "test")


def test_rays_have_no_native_size():
    with pytest.raises(UserError, match=r"data.size=native: rays have views"):
        parse({"data": {"path": "x", "size": "native"}}, "test")


def test_slices_are_counted_in_each_volume(tmp_path):
    rng = np.random.default_rng(0)
    for name, slices in (("a", 10), ("b", 7)):
        make_nifti(tmp_path / f"{name}.nii", rng.random((16, 16, slices)))
    items, notes = with_chosen_slices(images_of(open_path(tmp_path)), "middle 3")
    assert [item.name for item in items] == ["a_003", "a_004", "a_005", "b_002", "b_003", "b_004"]
    assert notes == ["data.slices=middle 3: 6 of 17 slices of 2 volume(s) are used"]
    with pytest.raises(UserError, match=r"b.nii: slice 8 of 7 \(counted from 0\) does not exist"):
        with_chosen_slices(images_of(open_path(tmp_path)), [8])


def test_slices_of_a_series_are_in_the_order_of_their_positions(tmp_path):
    for k in range(9):
        make_dicom(tmp_path / f"{(5 * k) % 9}.dcm", hounsfield(k) + 1024, z=(5 * k) % 9)
    items, _ = with_chosen_slices(images_of(open_path(tmp_path)), 4)
    assert [item.position for item in items] == [0, 4, 8]


def test_a_folder_of_single_images_is_one_volume(tmp_path):
    for k in range(9):
        np.save(tmp_path / f"{k}.npy", np.zeros((16, 16)))
    items, _ = with_chosen_slices(images_of(open_path(tmp_path)), "middle 1")
    assert [item.name for item in items] == ["4"]


def test_the_data_set_has_the_slices_and_says_so_unless_all_are_wanted(tmp_path):
    make_nifti(tmp_path / "v.nii", np.random.default_rng(0).random((16, 16, 10)))
    scan = Scan.planned(MRISettings(acceleration=2), 16)
    data = ImageSettings(path=tmp_path, size=16, slices=5)
    dataset = load_dataset(data, scan)
    assert dataset.names == ["v_000", "v_005"]
    assert "data.slices=5: 2 of 10 slices of 1 volume(s) are used" in dataset.notes
    assert len(load_dataset(data, scan, whole=True)) == 10
