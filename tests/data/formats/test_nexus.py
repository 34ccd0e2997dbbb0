"""NXtomo: frames of three kinds in one dataset."""

from __future__ import annotations

import numpy as np
import pytest

from equipoise.data.counts import corrected
from equipoise.data.formats import open_path
from equipoise.data.formats.projections import _runs
from equipoise.data.settings import SinogramSettings
from equipoise.errors import UserError

from .make import make_nxtomo

h5py = pytest.importorskip("h5py")
DETECTOR = "entry1/tomo_entry/instrument/detector"


def test_projections_white_and_dark_are_told_apart(tmp_path):
    make_nxtomo(tmp_path / "x.nxs")
    items = open_path(tmp_path / "x.nxs")
    with h5py.File(tmp_path / "x.nxs") as stored:
        frames = stored[f"{DETECTOR}/data"][4:-1]
    assert [item.name for item in items] == ["x_000", "x_001", "x_002"]
    for row, item in enumerate(items):
        assert np.array_equal(item.array(), frames[:, row])
        assert np.array_equal(item.counts.white(), np.full(20, 20_000))
        assert np.array_equal(item.counts.dark(), np.full(20, 100))
    assert items[0].geometry.angles == tuple(np.arange(12) * 15.0)
    found = corrected(items, SinogramSettings(values="counts"))
    right = -np.log((frames[:, 1] - 100.0) / 19_900)
    assert np.allclose(found.items[1].array(), right, atol=1e-5)


def test_runs_of_frames():
    assert _runs((2, 3, 7)) == [slice(2, 4), slice(7, 8)]
    assert _runs((0,)) == [slice(0, 1)]


def test_without_angles_and_without_projections(tmp_path):
    make_nxtomo(tmp_path / "x.nxs")
    with h5py.File(tmp_path / "x.nxs", "r+") as stored:
        del stored["entry1/tomo_entry/sample/rotation_angle"]
    item = open_path(tmp_path / "x.nxs")[0]
    assert item.geometry.angles is None
    assert "set physics.angles" in item.notes[0]
    with h5py.File(tmp_path / "x.nxs", "r+") as stored:
        stored[f"{DETECTOR}/image_key"][...] = 1
    with pytest.raises(UserError, match="none of 17 frames is a projection"):
        open_path(tmp_path / "x.nxs")
    with h5py.File(tmp_path / "x.nxs", "r+") as stored:
        del stored[f"{DETECTOR}/image_key"]
        stored[f"{DETECTOR}/image_key"] = np.zeros(3)
    with pytest.raises(UserError, match="tells 3 frames apart"):
        open_path(tmp_path / "x.nxs")
