"""The search for a setting goes on until the best one lies inside what was looked at."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import equipoise as eq
from equipoise.comparison.tuning import Tuner, in_words, judge_of
from equipoise.config import parse
from equipoise.data.scan import Scan
from equipoise.errors import UserError
from equipoise.imaging.linear import least_squares
from equipoise.learning.search import Ladder, decades, search
from equipoise.run import load_data

WEIGHTS = Ladder(decades((1, 3), -7, 0), first=(3e-5, 1e-4, 3e-4, 1e-3, 3e-3), default=1e-4)


def test_decades():
    assert decades((1, 3), -2, -1) == (0.01, 0.03, 0.1, 0.3)
    assert decades((1, 2, 5), 0, 1) == (1, 2, 5, 10, 20, 50)


class TestSearch:
    @settings(max_examples=60, deadline=None)
    @given(st.integers(0, len(WEIGHTS.values) - 1))
    def test_finds_the_best_wherever_it_is(self, place):
        """Of a score that falls on both sides of its peak, also far outside what is tried first."""
        best = WEIGHTS.values[place]
        found = search(lambda s: -abs(math.log(s["weight"] / best)), {"weight": WEIGHTS})
        assert found == {"weight": best}

    @settings(max_examples=60, deadline=None)
    @given(st.integers(0, 8), st.integers(0, 11), st.floats(-0.9, 0.9))
    def test_of_two_options_at_once(self, i, j, slant):
        """A concave score with a slanted ridge: each neighbour of what is found is worse."""
        a = Ladder(tuple(range(9)), first=(3, 4, 5), default=4)
        b = Ladder(tuple(range(12)), first=(4, 5, 6, 7), default=5)

        def score(s):
            u, v = s["a"] - i, s["b"] - j
            return -(u * u + v * v + slant * u * v)

        found = search(score, {"a": a, "b": b})
        for da, db in ((1, 0), (-1, 0), (0, 1), (0, -1)):
            there = {"a": found["a"] + da, "b": found["b"] + db}
            if there["a"] in a.values and there["b"] in b.values:
                assert score(there) <= score(found)

    def test_tries_no_more_than_it_needs(self):
        tried = []

        def score(setting):
            tried.append(setting["weight"])
            return -abs(math.log(setting["weight"] / 3e-4))

        search(score, {"weight": WEIGHTS})
        assert sorted(tried) == [3e-5, 1e-4, 3e-4, 1e-3, 3e-3]

    def test_names_have_no_neighbours_to_go_on_to(self):
        windows = Ladder(("ramp", "hann", "cosine"), first=None, default="ramp")
        scores = {"ramp": 1.0, "hann": 3.0, "cosine": 2.0}
        assert search(lambda s: scores[s["window"]], {"window": windows}) == {"window": "hann"}
        assert not windows.ends_at("ramp")

    def test_a_score_that_is_no_number_loses(self):
        scores = {3e-5: math.nan, 1e-4: math.nan, 3e-4: 1.0}
        found = search(lambda s: scores.get(s["weight"], math.nan), {"weight": WEIGHTS})
        assert found == {"weight": 3e-4}

    def test_the_ends_of_a_ladder_are_known(self):
        assert WEIGHTS.ends_at(1e-7)
        assert WEIGHTS.ends_at(3.0)
        assert not WEIGHTS.ends_at(3e-3)


def test_a_ladder_begins_where_it_says():
    assert [WEIGHTS.values[k] for k in WEIGHTS.start()] == [3e-5, 1e-4, 3e-4, 1e-3, 3e-3]
    with pytest.raises(ValueError, match=r"tuple.index"):
        Ladder((1, 2), first=(0, 2), default=1).start()


def test_a_setting_in_words():
    assert in_words({"sigma": 0.02, "strength": 0.0031416}) == "sigma 0.02, strength 0.00314"
    assert in_words({"window": "hann"}) == "window hann"


@pytest.mark.parametrize("views", [[0, 2, 4], 2])
def test_an_empty_scan_does_not_choose(tmp_path, views):
    """It has no misfit, and is not counted: the others tell which setting is best."""
    y = eq.ParallelBeam(16, 12).A(eq.phantoms(3, 16))[:, 0]
    y[1] = 0
    np.save(tmp_path / "s.npy", y.numpy())
    tree = {
        "data": {"path": str(tmp_path / "s.npy"), "kind": "measurements", "size": 16},
        "physics": {"kind": "parallel_beam", "angles": 12, "views": views},
    }
    config = parse(tree, "test")
    dataset = load_data(config, Scan.planned(config.physics, 16))
    judge = judge_of(dataset)
    y, physics, _ = dataset.batch(torch.arange(3))
    images = least_squares(physics.A, physics.A_adjoint, y, 1e-4, 50).value
    assert judge(images) > judge(0.5 * images) > -math.inf


def test_no_score_is_no_choice(tmp_path):
    tuner = Tuner(lambda: None, say=lambda text: None)
    tuner._dataset, tuner._judge = object(), lambda images: math.nan
    with pytest.raises(UserError, match="some method cannot be tuned: no setting makes images"):
        tuner.best("some method", {"weight": WEIGHTS}, lambda dataset, setting: None)
