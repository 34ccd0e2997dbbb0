"""Seeds of what is random about one item of a data set."""

from __future__ import annotations

from typing import Literal

import numpy as np

_PURPOSES = ("noise", "phase", "sample", "mask")


def seed_of(seed: int, purpose: Literal["noise", "phase", "sample", "mask"], place: int) -> int:
    """A seed that has nothing in common with those of other places, purposes and seeds.

    ``seed + place`` would give item 1 of seed 0 what item 0 of seed 1 has. What is random about an
    item depends on its place alone, so that it is the same however many items are read at once.
    """
    words = np.random.SeedSequence([seed, _PURPOSES.index(purpose), place])
    # torch takes seeds of 63 bits.
    return int(words.generate_state(1, np.uint64)[0] >> np.uint64(1))
