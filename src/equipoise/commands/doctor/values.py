"""What the doctor says of the numbers in sinograms, before anything is made of them."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ...data.counts.losses import LEFT, SATURATED
from ...data.dataset import Dataset
from ...data.unusual import unusual
from ...imaging.tomography import Tomography
from .finding import Finding

#: Line integrals beside the object that are below minus this share of the largest are no noise.
BELOW_AIR = 0.03
#: How many detectors at each end of a view are looked at.
AT_THE_END = 3


def values(sample: Dataset, y: Tensor) -> Iterator[Finding]:
    """Of what a scanner measured: what cannot be right whatever the geometry is.

    Args:
        y: (B, …) of the sample; of a tomograph, line integrals (B, 1, views, detectors).
    """
    if sample.truth is not None:
        return
    names = [item.name for item in sample.items]
    strange = unusual(y, sample.scan, names)
    for one in strange:
        yield Finding("wrong", f"values: {one.what}", one.remedy)
    if strange or not isinstance(sample.scan.physics, Tomography):
        return
    if float(y.mean()) < 0:
        yield Finding(
            "wrong",
            f"values: the line integrals are negative, {float(y.mean()):.3g} on average",
            "line integrals are −log(I / I₀): multiply them by −1",
        )
    else:
        yield from _brighter_than_open(y)
    yield from _saturated(sample)
    yield from _dead_detectors(sample)


def _brighter_than_open(y: Tensor) -> Iterator[Finding]:
    """Rays beside the object that are brighter than the open beam, in most views: it drifted."""
    ends = torch.cat([y[..., :AT_THE_END], y[..., -AT_THE_END:]], -1).flatten(0, -2).mean(-1)
    beside, largest = float(ends.quantile(0.75)), float(y.max())
    if beside < -BELOW_AIR * largest:
        yield Finding(
            "wrong",
            f"values: beside the object line integrals are {beside:.3g} or less in three of four "
            f"views, {-beside / largest:.0%} of the largest, where air is 0: the beam was brighter "
            "there than the open beam that they are divided by",
            "measure the open beam anew (data.white), or subtract from each view what it has "
            "beside the object",
        )


def _saturated(sample: Dataset) -> Iterator[Finding]:
    said = next((note for note in sample.notes if SATURATED in note), None)
    if said is not None:
        yield Finding(
            "wrong",
            f"values: {said}",
            "take a shorter exposure, or the range in which the detector is not saturated",
        )


def _dead_detectors(sample: Dataset) -> Iterator[Finding]:
    left = next((note for note in sample.notes if LEFT in note), None)
    if left is not None:
        yield Finding(
            "wrong",
            f"values: {left}",
            "set data.dead=interpolate, and ask again",
            {"data.dead": "interpolate"},
        )
