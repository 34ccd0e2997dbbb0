"""Real scans are judged by the views that nobody used."""

from __future__ import annotations

import pytest
import torch
from scans import PIXEL, SIZE, disc, write

from equipoise.assessment.reference import reference_of, seen_by_all, unseen_views
from equipoise.config import parse
from equipoise.data.load import load_dataset
from equipoise.data.scan import Scan
from equipoise.imaging.tomography.geometry import FanGeometry, ParallelGeometry, refined
from equipoise.run import described


def dataset_of(folder, **physics):
    tree = {
        "data": {"path": str(folder), "size": SIZE, "peak": 0.05},
        "physics": {
            "kind": "fan_beam",
            "bin": 4,
            "views": "0:90:6",
            "image_pixel": PIXEL,
            **physics,
        },
    }
    config = described(parse(tree, "test"))
    return load_dataset(config.data, Scan.planned(config.physics, config.data.size))


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scans")
    write(folder)
    return reference_of(dataset_of(folder))


def test_the_true_image_predicts_the_unseen_views_and_is_near_both_references(reference):
    true = torch.stack([disc(SIZE, 0.3), disc(SIZE, 0.6)])[:, None] / 0.05
    scores = reference.scores(true)
    assert (
        len(reference.unseen.scan.physics.geometry.angles) == 75
    )  # of 91, the last the first again
    assert max(scores["unseen"]) < 0.01
    assert min(scores["to_least_squares"]) > 35
    assert min(scores["to_fbp"]) > 32
    assert reference.apart() > 32


def test_each_measure_falls_with_the_error(reference):
    true = torch.stack([disc(SIZE, 0.3), disc(SIZE, 0.6)])[:, None] / 0.05
    good, bad = reference.scores(true), reference.scores(true.flip(0))
    for a, b in zip(good["unseen"], bad["unseen"], strict=True):
        assert b > 3 * a
    for name in ("to_least_squares", "to_fbp"):
        assert all(a > b + 3 for a, b in zip(good[name], bad[name], strict=True))


def test_what_lies_outside_the_circle_does_not_count(reference):
    true = torch.stack([disc(SIZE, 0.3), disc(SIZE, 0.6)])[:, None] / 0.05
    changed = torch.where(reference.circle, true, torch.ones(()))
    assert reference.psnr(changed, true).min() == 200.0
    assert 0.5 < float(reference.circle.float().mean()) < 0.785


def test_a_narrow_detector_sees_less(tmp_path):
    write(tmp_path, ["a"])
    wide = seen_by_all(dataset_of(tmp_path))
    aside = seen_by_all(dataset_of(tmp_path, offset=30.0))
    assert int(aside.sum()) < 0.6 * int(wide.sum())


def test_no_view_is_left_or_the_truth_is_known(tmp_path):
    write(tmp_path, ["a"])
    assert unseen_views(dataset_of(tmp_path, views=None)) is None
    tree = {"data": {"size": 16, "count": 2}, "physics": {"kind": "parallel_beam", "angles": 8}}
    config = parse(tree, "test")
    phantoms = load_dataset(config.data, Scan.planned(config.physics, 16))
    assert unseen_views(phantoms) is None
    assert reference_of(phantoms) is None


@pytest.mark.parametrize("times", [1, 2, 5])
def test_a_finer_grid_has_the_same_rays(times):
    fan = FanGeometry(8, 8, (10.0,), 6, 20.0, 10.0, 1.5, False, 0.25, (0.5, -0.5))
    parallel = ParallelGeometry(8, 8, (10.0,), 6, 0.25, 1.25, (0.5, -0.5))
    for g in (fan, parallel):
        other = refined(g, times, 3)
        point, direction = g.rays(0)
        points, directions = other.rays(0)
        assert points[1::3] == pytest.approx(times * point)  # the middle one of three
        assert directions[1::3] == pytest.approx(direction)
