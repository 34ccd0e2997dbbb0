"""``physics.offset: auto``: the axis of rotation, found in the measurements that are read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..errors import UserError
from ..imaging.tomography import Tomography
from ..imaging.tomography.axis import AxisEstimate, estimate_axis
from ..imaging.tomography.settings import RaysSettings
from .item import Item
from .scan import Scan

#: Measurements that are looked at.
SAMPLES = 4
#: Nearer than this, in detectors of the file, an axis is where it was.
SAME = 0.05
#: Files whose axes lie further apart, in detectors that are used, are scans of several axes.
APART = 1.0


def with_axis_found(items: Sequence[Item], scan: Scan, anew: bool) -> tuple[Scan, list[str]]:
    """The scan with the axis that its measurements tell, where ``physics.offset`` is auto, and
    what is to be said of it.

    Args:
        items: measurements of the scan's shape.
        anew: look for it though it was found in other data before.
    """
    settings = scan.settings
    if not isinstance(settings, RaysSettings) or settings.offset != "auto":
        return scan, []
    before = settings.axis_found
    if before is not None and not anew:
        return scan, []
    offset, estimate, count = _found(items, scan)
    if not estimate.is_told:
        return scan, [_not_told(before, estimate)]
    width = estimate.uncertainty * settings.bin
    what = (
        f"axis of rotation: physics.offset={offset:+.2f} ± {width:.2f} detectors, found in {count} "
        "of the measurements"
    )
    if before is not None:
        if abs(offset - before) <= max(SAME, width):
            return scan, [f"{what}; {before:+.2f}, found in training, is kept"]
        what += f"; it was {before:+.2f} in training"
    changes: dict[str, Any] = {"axis_found": round(offset, 3)}
    if settings.setup(scan.size).detectors is None:
        changes["detectors"] = scan.measurement_shape[-1] * settings.bin
    moved: Any = settings.model_copy(update=changes)
    return Scan.planned(moved, scan.size), [what]


def _found(items: Sequence[Item], scan: Scan) -> tuple[float, AxisEstimate, int]:
    """The offset in detectors of the file, the estimate in those that are used, and of how many
    measurements it is. Slices of one file have one axis; for files, it is the middle of theirs."""
    settings, physics = scan.settings, scan.physics
    assert isinstance(settings, RaysSettings)
    assert isinstance(physics, Tomography)
    some = [items[int(i)] for i in np.linspace(0, len(items) - 1, SAMPLES).round()]
    some = list({(item.file, item.name): item for item in some}.values())
    groups: dict[Any, list[np.ndarray]] = {}
    for item in some:
        groups.setdefault(item.file, []).append(scan.to_model(item)[0].numpy())
    found = {k: estimate_axis(physics.geometry, np.stack(group)) for k, group in groups.items()}
    by_file = {file: estimate for file, estimate in found.items() if estimate.is_told}
    if not by_file:
        return 0.0, next(iter(found.values())), len(some)
    _check_one_axis(by_file, settings.bin)
    told = list(by_file.values())
    offsets = [estimate.offset for estimate in told]
    middle = float(np.median(offsets))
    scatter = (max(offsets) - min(offsets)) / 2
    width = max(scatter, float(np.median([estimate.uncertainty for estimate in told])))
    moved = (middle - physics.geometry.offset) * settings.bin
    estimate = replace(told[0], offset=middle, uncertainty=width)
    return settings.assumed_offset(scan.size) + moved, estimate, len(some)


def _check_one_axis(told: dict[Any, AxisEstimate], width: int) -> None:
    """
    Args:
        told: the axis that the measurements of each file tell.
        width: detectors of the file that became one.

    Raises:
        UserError: they have different axes, and one operator has one.
    """
    first = min(told, key=lambda file: told[file].offset)
    last = max(told, key=lambda file: told[file].offset)
    apart = told[last].offset - told[first].offset
    if apart > max(APART, 4 * max(estimate.uncertainty for estimate in told.values())):
        raise UserError(
            f"physics.offset=auto: the axes of rotation of {first} and {last} are "
            f"{apart * width:.1f} detectors apart, and one run has one axis; give it the scans of "
            "one axis (data.path), or each scan a run of its own"
        )


def _not_told(before: float | None, estimate: AxisEstimate) -> str:
    taken = "taken to be in the middle, or where the file says"
    if before is not None:
        taken = f"taken to be at {before:+.2f}, as found in training"
    why = "too few views or too narrow an angle"
    if math.isfinite(estimate.uncertainty):
        why += f"; it could be {estimate.uncertainty:.1f} detectors elsewhere"
    elif math.isfinite(estimate.reach):
        why += f", or it is farther than {estimate.reach:.0f} detectors from the middle"
    return (
        f"axis of rotation: these measurements do not tell it ({why}); {taken}: compare with a "
        "scan of something sharp, and set physics.offset"
    )
