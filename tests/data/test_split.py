"""No patient, and no place of a volume, is on both sides."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from equipoise.data.item import Item
from equipoise.data.split import GAP, split_items
from equipoise.errors import UserError


def item(patient: str, series: str = "", position: float | None = None, volume: str = "") -> Item:
    return Item(
        name="x",
        file=Path("x"),
        shape=(1, 1),
        read=lambda: np.zeros((1, 1)),
        patient=patient,
        series=series,
        position=position,
        volume=volume,
    )


@given(
    patients=st.lists(st.sampled_from("ABCDEF"), min_size=2, max_size=30).filter(
        lambda p: len(set(p)) > 1
    ),
    fraction=st.floats(0.01, 0.99),
    seed=st.integers(0, 9),
)
def test_patients_are_on_one_side(patients, fraction, seed):
    training, held = split_items([item(p) for p in patients], fraction, seed)
    assert sorted(training + held) == list(range(len(patients)))
    assert training
    assert held
    assert not {patients[i] for i in training} & {patients[i] for i in held}


def test_the_same_patients_as_before():
    """The permutation of the first release, whose results were scored on these."""
    patients = [f"P{k:02d}" for k in range(10)]
    assert split_items([item(p) for p in patients], 0.2)[1] == [1, 4]
    assert split_items([item(p) for p in patients], 0.3, seed=1)[1] == [1, 5, 6]


def test_the_middle_of_one_volume():
    training, held = split_items([item("A") for _ in range(20)], 0.2)
    assert held == [8, 9, 10, 11]
    assert training == [0, 1, 2, 3, 4, 15, 16, 17, 18, 19]
    by_position = [item("A", "s", position=2.5 * k) for k in range(20)]
    assert split_items(by_position, 0.2) == (training, held)
    backwards = [item("A", "s", position=-2.5 * k) for k in range(20)]
    assert split_items(backwards, 0.2) == (training, held)
    with pytest.raises(UserError, match=r"6 images of one patient \(A\) are too few"):
        split_items([item("A") for _ in range(6)], 0.2)


@pytest.mark.parametrize("step", [1.0, 5.0])
@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_two_reconstructions_of_one_scan(step, shift):
    """Two kernels, increments or thicknesses: what is held out of one is not trained on in the
    other, nor are its neighbours."""
    items = [item("A", "sharp", 1.0 * k, "v") for k in range(100)]
    items += [item("A", "soft", shift + step * k, "v") for k in range(int(100 / step))]
    training, held = split_items(items, 0.2)
    assert {items[i].series for i in training} == {"sharp", "soft"}
    assert {items[i].series for i in held} == {"sharp", "soft"}
    distances = [abs(items[i].position - items[j].position) for i in training for j in held]
    assert min(distances) > GAP * max(step, 1)


def test_several_volumes_of_one_patient():
    """Before and after: each has positions of its own."""
    items = [item("A", f"s{v}", float(k), f"v{v}") for v in range(2) for k in range(10)]
    training, held = split_items(items, 0.2)
    assert held == [8, 9, 10, 11]
    assert training == [0, 1, 2, 3, 4, 15, 16, 17, 18, 19]
    single = [item("A", f"s{v}", 0.0, f"v{v}") for v in range(20)]
    training, held = split_items(single, 0.2)
    assert len(held) == 4
    assert len(training) == 16
