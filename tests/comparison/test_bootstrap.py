"""What the page reads out of images and of how sure they are."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from equipoise.comparison.bootstrap import readings_of
from equipoise.data.item import Item

NAMES = ("value", "std", "lower", "upper", "measured", "invented")


def item() -> Item:
    return Item("x", Path("x.npy"), (4, 6), lambda: np.zeros((4, 6)))


@pytest.mark.parametrize("frames", [None, 1, 2, 5])
def test_of_a_sequence_the_frame_in_the_middle(frames):
    shape = (4, 6) if frames is None else (frames, 4, 6)
    rng = np.random.default_rng(0)
    shown: Any = SimpleNamespace(**{name: [rng.random(shape) for _ in range(3)] for name in NAMES})
    u: Any = SimpleNamespace(level=0.9)
    readings = readings_of(u, shown, [item()] * 3, count=2)
    assert len(readings) == 2
    for i, reading in enumerate(readings):
        for name in NAMES:
            whole = getattr(shown, name)[i]
            plane = whole if frames is None else whole[frames // 2]
            assert np.array_equal(getattr(reading, name), plane)
        assert reading.level == 0.9


def test_what_was_not_computed_is_not_read():
    shown: Any = SimpleNamespace(**dict.fromkeys(NAMES))
    shown.value = [np.zeros((4, 6))]
    u: Any = SimpleNamespace(level=0.5)
    (reading,) = readings_of(u, shown, [item()])
    assert reading.measured is None
