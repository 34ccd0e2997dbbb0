"""A data set of images of different sizes: each measured at its own, and held in frames of one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..errors import UserError
from ..imaging.framed import Framed
from .scan import Scan


def in_frames(
    scans: Sequence[Scan], part: Sequence[int], image_shapes: Sequence[tuple[int, ...]]
) -> Scan:
    """One scan for samples that are measured by several, each of images of one shape.

    Args:
        scans: one for each shape.
        part: which of them measures each sample; those of one scan in the order of its own.
        image_shapes: of the images of each scan, (C, …, H, W).

    Raises:
        UserError: their measurements are not in the same units.
    """
    if any(abs(scan.gain / scans[0].gain - 1) > 1e-6 for scan in scans):
        raise UserError(
            f"data.size=native: images of {len(scans)} sizes, and {scans[0].settings.kind} "
            "measures each in other units; set data.size to one size for all"
        )
    seen = [0] * len(scans)
    place = []
    for k in part:
        place.append(seen[k])
        seen[k] += 1
    framed = Framed(
        [scan.physics for scan in scans],
        image_shapes,
        [scan.measurement_shape for scan in scans],
        torch.tensor(list(part)),
        torch.tensor(place),
    )
    return replace(
        scans[0],
        physics=framed,
        image_shape=framed.image_frame,
        measurement_shape=framed.measurement_frame,
        kspace=None,
    )


def framed_measurement(scan: Scan, y: Tensor) -> Tensor:
    """A measurement (…) in its frame."""
    physics: Any = scan.physics
    framed: Tensor = physics.measurement_in(y[None])[0]
    return framed


def framed_truth(scan: Scan, images: Sequence[Tensor]) -> Tensor:
    """(N, C, …, H, W): images (C, …, h, w) in frames. Around them is NaN: there is no truth, and
    what is scored there does not count."""
    physics: Any = scan.physics
    inside = [physics.image_in(torch.ones_like(image)[None])[0] for image in images]
    values = [physics.image_in(image[None])[0] for image in images]
    pairs = zip(values, inside, strict=True)
    return torch.stack([torch.where(there > 0, value, torch.nan) for value, there in pairs])


def noise_of(scan: Scan, clean: Callable[[int], Tensor], places: Sequence[int]) -> float:
    """The noise level that measurements of different shapes share."""
    return scan.noise_level(torch.cat([clean(i).flatten() for i in places]))
