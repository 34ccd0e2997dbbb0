"""A real scan in raw counts: the tooth, whose material and axis are known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from equipoise.config import parse
from equipoise.data.dataset import Dataset
from equipoise.data.scan import Scan
from equipoise.errors import UserError
from equipoise.run import described, load_data

from .make import DATA, real_data

TOOTH = DATA / "scanner" / "tooth.h5"
h5py = pytest.importorskip("h5py")
pytestmark = [
    real_data,
    pytest.mark.skipif(not TOOTH.exists(), reason=f"no scan at {TOOTH}"),
]


def tooth(data: dict[str, Any] | None = None, **physics: Any) -> Dataset:
    tree = {
        "data": {"path": str(TOOTH), "kind": "measurements", "size": 128, **(data or {})},
        "physics": {"bin": 5, "offset": 23.3, **physics},
    }
    config = described(parse(tree, "tooth"))
    return load_data(config, Scan.planned(config.physics, 128))


def median(dataset: Dataset) -> torch.Tensor:
    """Of what attenuates more than 0.012 per pixel in each slice, by FBP."""
    images = dataset.scan.physics.fbp(dataset.measurements())[:, 0]
    return torch.stack([image[image > 0.012].median() for image in images])


def test_its_material():
    dataset = tooth()
    assert dataset.names == ["tooth_000", "tooth_001"]
    assert tuple(dataset.y.shape) == (2, 1, 181, 128)
    assert torch.allclose(median(dataset), torch.tensor(0.033), rtol=0.03)
    assert any("181 views, 640 detectors" in note for note in dataset.notes)


def test_on_the_other_side_of_the_middle_the_axis_is_wrong():
    assert float(median(tooth(offset=-23.3)).max()) < 0.026


def test_both_rows_in_one():
    (both,) = median(tooth({"bin_rows": 2}))
    assert float(both) == pytest.approx(0.033, rel=0.03)


def test_its_counts_alone_are_not_taken_for_line_integrals(tmp_path):
    with h5py.File(TOOTH) as stored:
        counts = stored["exchange/data"][:, 0]
    np.save(tmp_path / "tooth.npy", counts)
    other = {"path": str(tmp_path / "tooth.npy")}
    with pytest.raises(UserError, match=r"look like counts .* data\.white"):
        tooth(other, detectors=640, angles=181)
    np.save(tmp_path / "white.npy", np.full(640, 31_000.0))
    white = str(tmp_path / "white.npy")
    found = tooth({**other, "white": white, "dark": 105.0}, detectors=640, angles=181)
    assert float(median(found)) == pytest.approx(0.033, rel=0.06)
