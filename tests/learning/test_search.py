"""The search for the best setting goes on over what came to nothing."""

from __future__ import annotations

import math

import pytest

from equipoise.learning.search import LOST_BETWEEN, Ladder, search

LADDER = Ladder(tuple(range(10)), first=(2,), default=2)


@pytest.mark.parametrize("lost", range(LOST_BETWEEN + 2))
@pytest.mark.parametrize("way", [1, -1])
def test_settings_that_came_to_nothing_are_no_wall(lost, way):
    """Up to a few of them lie between one setting and its neighbour."""
    ladder = Ladder(tuple(range(10)), first=(4,), default=4)
    nothing = [4 + way * k for k in range(1, lost + 1)]

    def score(setting):
        return math.nan if setting["a"] in nothing else way * setting["a"]

    end = 9 if way > 0 else 0
    assert search(score, {"a": ladder})["a"] == (end if lost <= LOST_BETWEEN else 4)


def test_of_two_ladders():
    def score(setting):
        a, b = setting["a"], setting["b"]
        return math.nan if a in (3, 4) else -((a - 6) ** 2) - (b - 7) ** 2

    assert search(score, {"a": LADDER, "b": LADDER}) == {"a": 6, "b": 7}


def test_nothing_is_tried_twice_nor_without_need():
    tried = []

    def score(setting):
        tried.append(setting["a"])
        return -abs(setting["a"] - 3)

    assert search(score, {"a": LADDER}) == {"a": 3}
    assert sorted(tried) == [1, 2, 3, 4]


def test_it_begins_at_several():
    """Between the best and where it begins there may be a valley."""

    def score(setting):
        return {1: 1, 2: 2, 3: 1, 4: 0, 5: 1, 6: 3, 7: 4, 8: 3}.get(setting["a"], -1)

    assert search(score, {"a": Ladder(tuple(range(10)), first=(2,), default=2)}) == {"a": 2}
    assert search(score, {"a": Ladder(tuple(range(10)), first=(2, 5), default=2)}) == {"a": 2}
    assert search(score, {"a": Ladder(tuple(range(10)), first=(2, 6), default=2)}) == {"a": 7}
