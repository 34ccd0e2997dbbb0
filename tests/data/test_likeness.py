"""What a model is said not to have learnt of measurements."""

from __future__ import annotations

import numpy as np
import pytest

import equipoise as eq
from equipoise.config import parse
from equipoise.data.likeness import size_and_mean, unlike
from equipoise.data.scan import Scan
from equipoise.run import load_data


def dataset_of(path, y):
    np.save(path / "y.npy", y)
    data = {"path": str(path / "y.npy"), "kind": "measurements", "size": 24}
    config = parse({"data": data, "physics": {"angles": 20}}, "test")
    return load_data(config, Scan.planned(config.physics, 24))


@pytest.fixture(scope="module")
def sinograms():
    return eq.ParallelBeam(24, 20).A(eq.phantoms(3, 24))[:, 0].numpy()


def test_empty_measurements_do_not_count(tmp_path, sinograms):
    alone = size_and_mean(dataset_of(tmp_path, sinograms[:1]))
    among = sinograms.copy()
    among[1:] = 0
    assert size_and_mean(dataset_of(tmp_path, among)) == pytest.approx(alone)
    assert size_and_mean(dataset_of(tmp_path, 0 * among)) == []


def test_what_is_not_known_is_not_said(tmp_path, sinograms):
    dataset = dataset_of(tmp_path, 1e-6 * sinograms)
    learnt = size_and_mean(dataset_of(tmp_path, sinograms))
    assert len(unlike(learnt, dataset)) == 1
    for nothing in (None, []):  # of an earlier release; of empty measurements
        assert unlike(nothing, dataset) == []
    assert unlike(learnt, dataset_of(tmp_path, 0 * sinograms)) == []
