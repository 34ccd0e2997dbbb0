"""Stripes of sinograms, which make rings: detectors that differ from their neighbours by the same
amount in all views."""

from __future__ import annotations

import torch
from torch import Tensor

from ...data.dataset import Dataset
from ...imaging.tomography import Tomography
from .finding import Finding

#: The views are averaged to so many: noise becomes less, and objects hardly move.
BLOCKS = 16
#: How many deviations of the noise a stripe is above or below what its neighbours say, and which
#: share of the largest line integral.
ABOVE_NOISE, ABOVE_LARGEST = 7.5, 2e-3
#: Stripes closer than this are one.
NEAR = 2
#: The wall of a tube about the axis is seen on both sides of it, as large as this share of a stripe
#: at least, and so is no stripe. Fewer than so many others may be edges of something round.
AS_LARGE, FEWEST = 0.4, 3
#: Where there are many, some have something alike on the other side by chance: then it counts how
#: alike the two sides are as a whole, which of two mirror images is 1.
MANY, SYMMETRIC = 8, 0.4


def stripes(sample: Dataset) -> Finding:
    """Whether the sinograms of a tomograph have stripes."""
    physics = sample.scan.physics
    assert isinstance(physics, Tomography)
    most, largest, detectors = 0, 0.0, physics.measurement_shape[-1]
    for sinogram in sample.measurements()[:, 0]:
        heights = stripes_of(sinogram, (detectors - 1) / 2 + physics.geometry.offset)
        found = heights[heights != 0]
        if len(found) > most:
            most, largest = len(found), float(found.abs().max() / sinogram.abs().max())
    if not most:
        return Finding("ok", "stripes: no detector differs from its neighbours in all views")
    return Finding(
        "note",
        f"stripes: {most} of {detectors} detectors differ from their neighbours by the "
        f"same amount in all views, by up to {largest:.1%} of the largest line integral: they make "
        "rings, which no operator explains and training learns as part of the object",
        "a newer open beam (data.white) is best; data.rings=sorting removes most of them (pip "
        "install 'equipoise[rings]')",
    )


def stripes_of(sinogram: Tensor, axis: float) -> Tensor:
    """By how much each detector lies above (or below) what its neighbours say, in all views; zero
    where that is noise, and everywhere if the other side of the axis has the same.

    Args:
        sinogram: (views, detectors).
        axis: where the axis of rotation is seen, in detectors from 0.
    """
    views, detectors = sinogram.shape
    heights = torch.zeros(detectors, dtype=torch.float64)
    if detectors <= 2 * NEAR or views < 2:
        return heights
    parts = sinogram.double().cpu().tensor_split(min(BLOCKS, views))
    y = torch.stack([part.mean(0) for part in parts])
    # A cubic through the two neighbours to either side.
    beyond = y[:, 2:-2] - (4 * (y[:, 1:-3] + y[:, 3:-1]) - (y[:, :-4] + y[:, 4:])) / 6
    heights[2:-2] = beyond.median(0).values
    noise = 1.4826 * float(beyond.diff(dim=0).abs().median()) / 2**0.5
    largest = float(sinogram.abs().max())
    least = max(ABOVE_NOISE * noise / len(parts) ** 0.5, ABOVE_LARGEST * largest)
    is_stripe = (heights.abs() > least) & _has_measured_neighbours(sinogram)
    is_stripe &= heights.abs() >= _largest_near(heights.abs())
    opposite = _opposite(heights, axis)
    is_lone = is_stripe & (opposite < AS_LARGE * heights.abs())
    is_many = int(is_stripe.sum()) >= MANY and _symmetry(heights, axis) < SYMMETRIC
    return heights * is_stripe * (is_many or int(is_lone.sum()) >= FEWEST)


def _has_measured_neighbours(sinogram: Tensor) -> Tensor:
    is_dark = ~sinogram.any(0).cpu()
    return _largest_near(is_dark.double()) == 0


def _largest_near(values: Tensor) -> Tensor:
    """Of each detector, the largest value that is no more than ``NEAR`` aside."""
    return torch.nn.functional.max_pool1d(values[None, None], 2 * NEAR + 1, 1, NEAR)[0, 0]


def _mirrored(values: Tensor, axis: float, aside: int = 0) -> Tensor:
    """Of each detector, the value at the place as far on the other side of the axis, or so many
    detectors aside of it; zero where there is none."""
    count = len(values)
    place = (2 * axis - torch.arange(count)).round().long() + aside
    is_there = (place >= 0) & (place < count)
    return values[place.clamp(0, count - 1)] * is_there


def _opposite(heights: Tensor, axis: float) -> Tensor:
    """Of each detector, what is largest, and of its sign, about the place on the other side of the
    axis."""
    above, below = (_mirrored(_largest_near(h), axis) for h in (heights, -heights))
    return torch.where(heights > 0, above, below).clamp_min(0)


def _symmetry(heights: Tensor, axis: float) -> float:
    """How alike the two sides of the axis are: 1, where one is the other's mirror image."""
    power = (heights @ heights).clamp_min(1e-300)
    shifts = range(-NEAR, NEAR + 1)
    return max(float(heights @ _mirrored(heights, axis, aside) / power) for aside in shifts)
