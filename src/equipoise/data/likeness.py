"""Whether measurements are like those that a model has learnt from: of their scale and sign."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from .dataset import Dataset

#: Of so many measurements, evenly spread, the values are looked at.
SAMPLES = 32
#: By more, one way or the other, measurements are on another scale than those learnt from.
OTHER_SCALE = 10.0
#: From this share of its size on, the mean of measurements tells their sign.
SIGNED = 0.3


def size_and_mean(dataset: Dataset) -> list[float]:
    """Root mean square and mean of its measurements (the median of each), in the units of the
    model; empty where all are zero."""
    y = dataset.spread(SAMPLES).measurements().flatten(1).double()
    sizes = y.square().mean(1).sqrt()
    if not sizes.any():
        return []
    kept = sizes > 0
    both = (sizes[kept].tolist(), y.mean(1)[kept].tolist())
    return [statistics.median(each) for each in both]


def unlike(learnt: Sequence[float] | None, dataset: Dataset) -> list[str]:
    """What a model has not learnt about measurements like these, in words: another scale, or
    another sign.

    Args:
        learnt: :func:`size_and_mean` of what it learnt from; None or empty where nothing was kept.
    """
    given = size_and_mean(dataset) if learnt else []
    if not learnt or not given:
        return []
    (size_then, mean_then), (size, mean) = learnt, given
    found = []
    times = size / size_then
    if not 1 / OTHER_SCALE <= times <= OTHER_SCALE:
        found.append(
            f"these measurements are {times:.3g} times as large as those the run learnt from, a "
            "scale that the model does not know: bring them to the same units"
        )
    if mean_then > SIGNED * size_then and mean < -SIGNED * size:
        found.append(
            "these measurements are negative where those the run learnt from are positive: change "
            "their sign"
        )
    return found
