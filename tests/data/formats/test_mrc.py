"""MRC: volumes, and tilt series with their angles."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from equipoise.data.counts.layout import single_sinograms
from equipoise.data.formats import open_path, write_images
from equipoise.data.item import Frame
from equipoise.errors import UserError

from .make import read

mrcfile = pytest.importorskip("mrcfile")
VOLUME = np.random.default_rng(0).random((5, 12, 10)).astype(np.float32)


def make_mrc(path: Path, values: np.ndarray = VOLUME, voxel: float = 2.0) -> Path:
    with mrcfile.new(path) as stored:
        stored.set_data(values)
        stored.voxel_size = voxel
        stored.header.origin = (1.0, 2.0, 3.0)
    return path


@pytest.mark.parametrize("dtype", ["i1", "i2", "u2", "f4", "f2"])
@pytest.mark.parametrize("suffix", [".mrc", ".rec", ".mrcs", ".map"])
def test_volumes(tmp_path, suffix, dtype):
    values = (VOLUME * 100).astype(dtype)
    items = open_path(make_mrc(tmp_path / f"x{suffix}", values))
    assert [item.holds for item in items] == ["image"] * 5
    assert np.array_equal(np.stack([item.array() for item in items]), values)
    assert items[0].spacing == pytest.approx((2e-7, 2e-7))  # 2 Å in millimetres
    assert items[2].position == pytest.approx(4e-7)


def test_written_as_it_came(tmp_path):
    items = open_path(make_mrc(tmp_path / "x.mrc"))[1:4]
    images = np.stack([item.array().reshape(6, 2, 5, 2).mean((1, 3)) for item in items])
    (out,) = write_images(items, images.astype(float), tmp_path / "out")
    with mrcfile.open(out) as stored:
        assert np.allclose(stored.data, images)
        assert (stored.voxel_size.x, stored.voxel_size.y) == (4.0, 4.0)
        assert stored.voxel_size.z == 2.0
        # The corner stays: from 2 Å − 2 Å / 2 to the middle of the first voxel, 4 Å / 2 on.
        assert float(stored.header.origin.x) == 2.0
        assert float(stored.header.origin.y) == 3.0
        assert float(stored.header.origin.z) == 3.0
        assert int(stored.header.nzstart) == 1
    assert np.allclose(read(out), images)


def test_of_a_part_of_the_image_it_lies_where_that_part_did(tmp_path):
    items = open_path(make_mrc(tmp_path / "x.mrc"))
    items = [replace(item, frame=Frame(4, 1, 8, 8)) for item in items]
    (out,) = write_images(items, [np.zeros((4, 4))] * 5, tmp_path / "out")
    with mrcfile.open(out) as stored:
        assert (stored.voxel_size.x, stored.voxel_size.y) == (4.0, 4.0)
        origin = stored.header.origin
        assert (float(origin.x), float(origin.y)) == (1 + 2 * 1.5, 2 + 2 * 4.5)


class TestTiltSeries:
    ANGLES = (-60.0, -30.0, 0.0, 30.0, 60.0)

    @pytest.mark.parametrize("beside", [".rawtlt", ".tlt"])
    @pytest.mark.parametrize("suffix", [".st", ".mrc", ".ali"])
    def test_angles_beside_it(self, tmp_path, suffix, beside):
        path = make_mrc(tmp_path / f"x{suffix}")
        path.with_suffix(beside).write_text("\n".join(f"{a:7.2f}" for a in self.ANGLES))
        items = open_path(path)
        assert len(items) == 12
        assert items[0].holds == "measurement"
        assert items[0].geometry.angles == self.ANGLES
        assert np.array_equal(items[3].array(), VOLUME[:, 3])
        assert "its axis of tilt is taken for vertical" in items[0].notes[0]

    def test_angles_of_serialem(self, tmp_path):
        """Short integers, a hundredth of a degree each, before other numbers of a section."""
        path = make_mrc(tmp_path / "x.st")
        data = path.read_bytes()
        each = np.zeros((5, 4), "<i2")
        each[:, 0] = [round(100 * angle) for angle in self.ANGLES]
        header = bytearray(data[:1024])
        header[92:96] = np.array(each.nbytes, "<i4").tobytes()  # nsymbt
        header[104:108] = b"SERI"
        header[128:132] = np.array([8, 1], "<i2").tobytes()  # bytes a section, flags
        path.write_bytes(bytes(header) + each.tobytes() + data[1024:])
        items = open_path(path)
        assert items[0].geometry.angles == self.ANGLES
        assert np.array_equal(items[3].array(), VOLUME[:, 3])

    def test_its_rows_are_sinograms_already(self, tmp_path):
        """Another time, with as many rows as tilts, would scramble them."""
        path = make_mrc(tmp_path / "x.st")
        path.with_suffix(".tlt").write_text("\n".join(f"{a:7.2f}" for a in self.ANGLES))
        items = open_path(path)
        assert len(single_sinograms(items, "auto")) == 12
        with pytest.raises(
            UserError, match=r"says itself which axis is which; leave out data\.lay"
        ):
            single_sinograms(items, "projections")

    def test_without_angles_it_says_so(self, tmp_path):
        items = open_path(make_mrc(tmp_path / "x.st"))
        assert items[0].geometry.angles is None
        assert any("set physics.angles" in note for note in items[0].notes)

    def test_another_number_of_angles(self, tmp_path):
        path = make_mrc(tmp_path / "x.st")
        path.with_suffix(".tlt").write_text("1\n2\n")
        with pytest.raises(UserError, match="2 angles for 5 sections"):
            open_path(path)


def test_cut_short(tmp_path):
    path = make_mrc(tmp_path / "x.mrc")
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(UserError, match="cut short"):
        open_path(path)
