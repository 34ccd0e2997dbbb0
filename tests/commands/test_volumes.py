"""From the files of MR scanners to pictures: train, reconstruct, evaluate."""

from __future__ import annotations

import json

import numpy as np
import pytest
from support import quiet, tiny_tree

from equipoise.commands.reconstruct import reconstruct
from equipoise.commands.train import train_run
from equipoise.comparison import evaluation as evaluation_module
from equipoise.comparison.classical import ZeroFilled
from equipoise.comparison.evaluation import evaluate
from equipoise.config import parse
from equipoise.data.formats import open_path
from equipoise.errors import UserError
from equipoise.run import load_run

MRI = {"kind": "mri", "acceleration": 2, "center": 0.4, "noise": 0.001}
SHORT = {"steps": 2, "batch": 2, "validate_every": 2, "checkpoint_every": 2}


def config_of(folder, data):
    tree = {**tiny_tree(learning=SHORT), "data": data, "physics": MRI, "out": str(folder)}
    return parse(tree, "test")


def test_mr_comes_back_as_mr(tmp_path):
    """Slices that are not square are padded, and have their own size and place again."""
    pydicom = pytest.importorskip("pydicom")
    from data.formats.test_dicom_mr import magnitude, make_mr

    folder = tmp_path / "in"
    for patient in "ABC":
        for k in range(2):
            name = folder / patient / f"{k}"
            series = f"1.2.{ord(patient)}"
            pixels = magnitude(k, 14, 16)
            make_mr(name, pixels, patient=patient, z=k, SeriesInstanceUID=series)
    data = {"kind": "images", "path": str(folder), "size": 16, "holdout": 0.3}
    config = config_of(tmp_path / "run", data)
    said: list[str] = []
    assert train_run(config, said.append)
    assert "note: images of 14×16 pixels are padded with air to 16×16 (data.fit)" in said
    assert said[0].startswith("holding out 2 of 6 measurements: patients")
    reconstruct(load_run(tmp_path / "run"), folder, tmp_path / "out", said.append)
    assert said[-1].endswith("out; images are the magnitudes of the complex ones")
    items = open_path(tmp_path / "out")
    assert [item.patient for item in items] == ["A", "A", "B", "B", "C", "C"]
    for item in items:
        data = pydicom.dcmread(item.file)
        assert (data.Rows, data.Columns) == (14, 16)
        assert data.Modality == "MR"
        assert list(data.ImagePositionPatient)[:2] == [-10, -20]
        # In the scanner's own units, near what was measured.
        original = magnitude(int(item.position), 14, 16)
        assert np.corrcoef(item.array().ravel(), original.ravel())[0, 1] > 0.5
        assert 0.3 < item.array().mean() / original.mean() < 1.5


def test_fastmri_of_different_sizes_is_scored_as_fastmri_does(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation_module, "classical_methods", lambda config: [ZeroFilled()])
    h5py = pytest.importorskip("h5py")
    pytest.importorskip("sigpy")
    from data.scanners import make_fastmri

    folder = tmp_path / "in"
    folder.mkdir()
    for name, columns in (("a", 36), ("b", 40), ("c", 36)):
        make_fastmri(folder / f"{name}.h5", coils=2, rows=64, columns=columns, slices=1)
    data = {"kind": "auto", "path": str(folder), "size": 16, "holdout": 0.6}
    config = config_of(tmp_path / "run", data)
    assert train_run(config, quiet)
    run = load_run(tmp_path / "run")
    evaluation = evaluate(run, score="fastmri")
    table = evaluation.fastmri
    assert [row.key for row in table.rows] == list(evaluation.images)
    scores = {row.key: row.cells["ssim"].mean for row in table.rows}
    assert 0 < scores["equipoise"] < 1
    saved = json.loads((evaluation.folder / "results.json").read_text())
    volumes = saved["fastmri"]["methods"]["zero_filled"]["volumes"]
    assert len(volumes) == 2
    with pytest.raises(UserError, match="the only other convention that is known is fastmri"):
        evaluate(run, score="other")
    reconstruct(run, folder, tmp_path / "out", quiet)
    for name in "abc":  # each cropped to its own target, as the challenge wants it
        made, given = tmp_path / "out" / f"{name}.h5", folder / f"{name}.h5"
        with h5py.File(made) as written, h5py.File(given) as original:
            assert written["reconstruction"].shape == original["reconstruction_rss"].shape
