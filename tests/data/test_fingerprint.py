"""Data are known again by what they hold, wherever they lie."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from equipoise.data.fingerprint import SAMPLES, changes, fingerprint
from equipoise.data.item import Item

RNG = np.random.default_rng(0)


def items(arrays: list[np.ndarray], folder: str = "here") -> list[Item]:
    return [
        Item(f"s{k}", Path(folder, f"s{k}.npy"), a.shape, lambda a=a: a)
        for k, a in enumerate(arrays)
    ]


def difference(then: list[np.ndarray], now: list[np.ndarray]) -> str:
    kept = json.loads(json.dumps(fingerprint(items(then))))
    here = items(now, "there")
    return changes(kept, fingerprint(here), [item.name for item in here])


ARRAYS = [RNG.random((6, 9)).astype(np.float32) for _ in range(3)]


def test_the_same_elsewhere():
    assert difference(ARRAYS, ARRAYS) == ""
    rounded = [a * (1 + 1e-7 * RNG.standard_normal(a.shape)) for a in ARRAYS]
    assert difference(ARRAYS, rounded) == ""  # as another machine may read it
    assert changes(None, fingerprint(items(ARRAYS)), []) == ""  # of an earlier release


@pytest.mark.parametrize(
    "change",
    [
        lambda a: a[::-1],  # of the same values, in another order
        lambda a: a.T,
        lambda a: a + 1e-3,
        lambda a: np.where(np.arange(a.size).reshape(a.shape) == 7, 0, a),
        lambda a: a[:, :-1],
        lambda a: a * (1 + 0.01j),
    ],
)
def test_other_values(change):
    assert difference(ARRAYS, [ARRAYS[0], change(ARRAYS[1]), ARRAYS[2]]) == "s1: other values"


def test_other_items():
    assert difference(ARRAYS, ARRAYS[:2]) == "3 of them then, 2 now"
    assert difference(ARRAYS, ARRAYS[::-1]) == "s0 and 1 more: other values"


def test_many_are_looked_at_here_and_there():
    read = []
    many = [
        Item(f"s{k}", Path("x.npy"), (2,), lambda k=k: read.append(k) or np.zeros(2))
        for k in range(1000)
    ]
    fingerprint(many)
    assert len(read) == SAMPLES
    assert {0, 999} < set(read)
