"""Data Exchange: raw counts of synchrotrons, as beamlines vary them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from counting import DARK, beam, counts_of, disc

from equipoise.config import parse
from equipoise.data.counts import corrected
from equipoise.data.formats import open_path
from equipoise.data.formats.projections import BLOCK, Projections
from equipoise.data.scan import Scan
from equipoise.data.settings import SinogramSettings
from equipoise.errors import UserError
from equipoise.run import load_data

h5py = pytest.importorskip("h5py")
VIEWS, ROWS, DETECTORS = 30, 3, 60


def integrals() -> np.ndarray:
    """(views, rows, detectors) of discs that differ from row to row."""
    return np.stack([disc(VIEWS, DETECTORS) * (1 + 0.2 * row) for row in range(ROWS)], 1)


def make_exchange(path: Path, dtype: str = "f4", **others: Any) -> Path:
    """A scan with ten frames of white and of dark; ``others`` replace datasets by name, ``None``
    leaves one out, and a pair is a value with its attributes."""
    white = np.broadcast_to(beam(DETECTORS), (ROWS, DETECTORS))
    flicker = np.linspace(-50, 50, 10)[:, None, None]
    datasets: dict[str, Any] = {
        "exchange/data": counts_of(integrals(), white).astype(dtype),
        "exchange/data_white": (white + flicker).astype(dtype),
        "exchange/data_dark": np.full((10, ROWS, DETECTORS), DARK).astype(dtype),
        "exchange/theta": (np.arange(VIEWS) * 6.0, {"units": "degrees"}),
    }
    datasets |= {name.replace("__", "/"): value for name, value in others.items()}
    with h5py.File(path, "w") as stored:
        for name, value in datasets.items():
            if value is None:
                continue
            values, attributes = value if isinstance(value, tuple) else (value, {})
            stored[name] = values
            stored[name].attrs.update(attributes)
    return path


def line_integrals(path: Path, **options: Any) -> np.ndarray:
    """(slices, views, detectors)."""
    found = corrected(open_path(path), SinogramSettings(**options))
    return np.stack([item.array() for item in found.items])


def right() -> np.ndarray:
    return integrals().transpose(1, 0, 2)


@pytest.mark.parametrize("dtype", ["f4", "f8", "u2", ">u2", "i4", "u4"])
def test_line_integrals_of_every_row(tmp_path, dtype):
    path = make_exchange(tmp_path / "x.h5", dtype)
    items = open_path(path)
    assert [item.name for item in items] == ["x_000", "x_001", "x_002"]
    assert items[0].shape == (VIEWS, DETECTORS)
    assert items[0].geometry.angles == tuple(np.arange(VIEWS) * 6.0)
    assert items[0].geometry.detectors == DETECTORS
    assert np.abs(line_integrals(path) - right()).max() < (1e-4 if dtype[0] == "f" else 2e-3)


WHITE = np.broadcast_to(beam(DETECTORS), (ROWS, DETECTORS))


@pytest.mark.parametrize(
    "frames",
    [WHITE, WHITE[None], np.stack([WHITE - 100, WHITE + 100])],
    ids=["one frame without an axis", "one frame", "two frames"],
)
def test_frames_of_white_and_dark(tmp_path, frames):
    path = make_exchange(tmp_path / "x.h5", exchange__data_white=frames)
    assert np.abs(line_integrals(path) - right()).max() < 1e-4
    dark = np.full(frames.shape, DARK)
    path = make_exchange(tmp_path / "y.h5", exchange__data_dark=dark)
    assert np.abs(line_integrals(path) - right()).max() < 1e-4


def test_one_row_without_an_axis_for_it(tmp_path):
    data = counts_of(integrals()[:, 1], beam(DETECTORS))
    for white in (beam(DETECTORS), beam(DETECTORS)[None], np.tile(beam(DETECTORS), (4, 1))):
        path = make_exchange(
            tmp_path / "x.h5",
            exchange__data=data,
            exchange__data_white=white,
            exchange__data_dark=np.full((2, 1, DETECTORS), DARK),
        )
        (item,) = open_path(path)
        assert item.name == "x"
        assert np.abs(line_integrals(path)[0] - right()[1]).max() < 1e-4


def test_sinogram_order_is_read_from_the_attribute(tmp_path):
    data = counts_of(integrals(), WHITE).transpose(1, 0, 2)
    path = make_exchange(tmp_path / "x.h5", exchange__data=(data, {"axes": "y:theta:x"}))
    assert np.abs(line_integrals(path) - right()).max() < 1e-4


def test_compressed_frames_and_blocks_of_rows(tmp_path, monkeypatch):
    """A row at a time gives what all rows at once give."""
    path = make_exchange(tmp_path / "x.h5")
    with h5py.File(path, "r+") as stored:
        data = stored["exchange/data"][()]
        del stored["exchange/data"]
        stored.create_dataset("exchange/data", data=data, chunks=(1, ROWS, 20), compression="gzip")
    at_once = line_integrals(path)
    monkeypatch.setattr("equipoise.data.formats.projections.BLOCK", 1)
    assert np.array_equal(line_integrals(path), at_once)


def test_the_block_is_bounded():
    scan = Projections(Path("x"), 0.0, "data", (1000, 2000, 2000), 2)
    assert scan.rows_at_once * 1000 * 2000 * 2 <= BLOCK <= 2**31
    assert Projections(Path("x"), 0.0, "data", (10, 3, 10), 2).rows_at_once >= 3


class TestAngles:
    def angles(self, path: Path) -> tuple[np.ndarray, str]:
        item = open_path(path)[0]
        return np.array(item.geometry.angles), " ".join(item.notes)

    @pytest.mark.parametrize("units", ["rad", "radians", "Radian"])
    def test_radians_that_are_said(self, tmp_path, units):
        theta = (np.radians(np.arange(VIEWS) * 6.0), {"units": units})
        found, notes = self.angles(make_exchange(tmp_path / "x.h5", exchange__theta=theta))
        assert np.allclose(found, np.arange(VIEWS) * 6.0)
        assert notes == ""

    @pytest.mark.parametrize("units", ["deg", "degree", b"degrees", np.bytes_("deg")])
    def test_degrees_that_are_said(self, tmp_path, units):
        theta = (np.arange(VIEWS) * 0.1, {"units": units})
        found, notes = self.angles(make_exchange(tmp_path / "x.h5", exchange__theta=theta))
        assert np.allclose(found, np.arange(VIEWS) * 0.1)
        assert notes == ""

    @pytest.mark.parametrize("span", [np.pi, 2 * np.pi])
    def test_radians_that_are_not_said_are_taken_for_them_and_it_is_said(self, tmp_path, span):
        theta = np.linspace(0, span, VIEWS)
        found, notes = self.angles(make_exchange(tmp_path / "x.h5", exchange__theta=theta))
        assert np.allclose(found, np.degrees(theta))
        assert "taken for radians" in notes

    @pytest.mark.parametrize("span", [0.7 * np.pi, 4 * np.pi])
    def test_what_may_be_radians_is_said(self, tmp_path, span):
        theta = np.linspace(0, span, VIEWS)
        found, notes = self.angles(make_exchange(tmp_path / "x.h5", exchange__theta=theta))
        assert np.allclose(found, theta)
        assert f"if they are radians, they span {np.degrees(span):.1f}°" in notes

    def test_angles_of_two_axes_are_refused(self, tmp_path):
        theta = np.stack([np.arange(VIEWS) * 6.0, np.zeros(VIEWS)], 1)
        with pytest.raises(UserError, match=r"has the shape \(\d+, 2\), and angles are one"):
            self.angles(make_exchange(tmp_path / "x.h5", exchange__theta=theta))

    def test_elsewhere(self, tmp_path):
        path = make_exchange(
            tmp_path / "x.h5",
            exchange__theta=None,
            process__acquisition__rotation__rotation_angle=np.arange(VIEWS) * 6.0,
        )
        found, notes = self.angles(path)
        assert np.allclose(found, np.arange(VIEWS) * 6.0)
        assert "process/acquisition/rotation/rotation_angle" in notes

    @pytest.mark.parametrize(("other", "value"), [("rotation_step", 6.0), ("rotation_stop", 174.0)])
    def test_a_start_and_a_step(self, tmp_path, other, value):
        scalars = {"rotation_start": 0.0, other: value}
        path = make_exchange(
            tmp_path / "x.h5",
            exchange__theta=None,
            **{f"process__acquisition__rotation__{name}": v for name, v in scalars.items()},
        )
        found, notes = self.angles(path)
        assert np.allclose(found, np.arange(VIEWS) * 6.0)
        assert "process/acquisition/rotation: start and" in notes

    def test_nowhere(self, tmp_path):
        item = open_path(make_exchange(tmp_path / "x.h5", exchange__theta=None))[0]
        assert item.geometry.angles is None
        assert "set physics.angles" in item.notes[0]

    def test_too_many_and_too_few(self, tmp_path):
        more = make_exchange(tmp_path / "x.h5", exchange__theta=np.arange(VIEWS + 2.0))
        found, notes = self.angles(more)
        assert len(found) == VIEWS
        assert f"{VIEWS + 2} angles for {VIEWS} views" in notes
        few = make_exchange(tmp_path / "x.h5", exchange__theta=np.arange(VIEWS - 2.0))
        with pytest.raises(UserError, match=f"{VIEWS - 2} angles for {VIEWS} views"):
            open_path(few)

    def test_a_pitch_with_its_unit(self, tmp_path):
        resolution = (np.float64(1.3), {"units": "um"})
        path = make_exchange(
            tmp_path / "x.h5",
            measurement__instrument__detection_system__objective__resolution=resolution,
        )
        assert open_path(path)[0].geometry.detector_pitch == pytest.approx(1.3e-3)

    @pytest.mark.parametrize(
        ("said", "millimetres"),
        [
            ({"detector__pixel_size_x": 6.5}, 6.5e-3),
            ({"detector__pixel_size_x": 6.7, "detector__actual_pixel_size_x": 1.2}, 1.2e-3),
            (
                {"detector__x_pixel_size": 6.5, "detection_system__objective__magnification": 10},
                6.5e-4,
            ),
            (
                {
                    "detector__actual_pixel_size_x": 1.2,
                    "detection_system__objective__magnification": 5,
                },
                1.2e-3,
            ),
            (
                {
                    "detector__pixel_size_x": 6.5,
                    "detection_system__objective__magnification": 5,
                    "detection_system__objective__resolution": 1.31,
                },
                1.31e-3,
            ),
            (
                {"detector__pixel_size_x": 6.5, "detection_system__objective__magnification": 0},
                6.5e-3,
            ),
        ],
    )
    def test_the_pitch_is_that_at_the_object_not_the_camera_s(self, tmp_path, said, millimetres):
        """As the format's specification has it: pixel_size_x is physical, actual_pixel_size_x that
        on the sample's plane."""
        others = {
            f"measurement__instrument__{key}": np.float64(value)
            if key.endswith("magnification")
            else (np.float64(value), {"units": "um"})
            for key, value in said.items()
        }
        path = make_exchange(tmp_path / "x.h5", **others)
        assert open_path(path)[0].geometry.detector_pitch == pytest.approx(millimetres)


class TestWhatIsMissingOrWrong:
    def test_no_dark_is_nought_and_it_is_said(self, tmp_path):
        data = counts_of(integrals(), WHITE, 0)
        path = make_exchange(tmp_path / "x.h5", exchange__data=data, exchange__data_dark=None)
        found = corrected(open_path(path), SinogramSettings())
        assert "no dark current is known; taken for 0" in found.items[0].notes[0]
        assert np.abs(found.items[2].array() - right()[2]).max() < 1e-4

    def test_no_white_asks_for_it(self, tmp_path):
        path = make_exchange(tmp_path / "x.h5", exchange__data_white=None)
        with pytest.raises(UserError, match=r"data\.white"):
            line_integrals(path)
        assert np.abs(line_integrals(path, white=float(beam().mean())) - right()).max() < 0.2

    def test_line_integrals_are_recognised(self, tmp_path):
        given = integrals() + np.random.default_rng(0).normal(0, 0.01, integrals().shape)
        path = make_exchange(tmp_path / "x.h5", exchange__data=given)
        with pytest.raises(UserError, match=r"data\.values=line_integrals"):
            line_integrals(path)
        assert np.allclose(line_integrals(path, values="line_integrals"), given.transpose(1, 0, 2))
        alone = make_exchange(
            tmp_path / "y.h5",
            exchange__data=given,
            exchange__data_white=None,
            exchange__data_dark=None,
        )
        assert np.allclose(line_integrals(alone), given.transpose(1, 0, 2))

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("exchange__data_white", np.ones((2, ROWS, DETECTORS + 1))),
            ("exchange__data_dark", np.ones((ROWS + 1, DETECTORS))),
            ("exchange__data", np.ones((2, 2, 2, 2))),
            ("exchange__data", np.ones((0, 2, 2))),
            ("exchange__data", np.array(["a"], dtype="S1")),
        ],
    )
    def test_shapes_and_types(self, tmp_path, name, value):
        path = make_exchange(tmp_path / "x.h5", **{name: value})
        with pytest.raises(UserError, match=name.replace("__", "/")):
            open_path(path)

    def test_a_folder_is_several_scans(self, tmp_path):
        make_exchange(tmp_path / "a.h5")
        make_exchange(tmp_path / "b.h5")
        assert len({item.patient for item in open_path(tmp_path)}) == 2


@pytest.mark.parametrize("units", ["urad", "none", "steps"])
def test_angles_in_another_unit_are_not_taken(tmp_path, units):
    """The file is not damaged, and ``physics.angles`` says them."""
    theta = (np.arange(VIEWS) * 6.0, {"units": units})
    path = make_exchange(tmp_path / "a.h5", exchange__theta=theta)
    (first, *_) = open_path(path)
    assert first.geometry.angles is None
    assert any(f"in {units!r}, neither degrees nor radians" in note for note in first.notes)
    assert np.abs(line_integrals(path) - right()).max() < 0.02


def test_a_layout_that_the_file_says_itself_is_not_asked_for(tmp_path):
    path = make_exchange(tmp_path / "a.h5")
    tree = {
        "data": {"path": str(path), "kind": "measurements", "size": 16, "layout": "transposed"},
        "physics": {"kind": "parallel_beam"},
    }
    config = parse(tree, "test")
    with pytest.raises(UserError, match="says itself which axis is which"):
        load_data(config, Scan.planned(config.physics, 16))
