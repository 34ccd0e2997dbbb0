"""What of k-space was measured: padding told from gaps, and fully sampled scans thinned out."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import UserError
from ..imaging.settings import MRISettings
from .item import Item
from .scan import Scan

#: Zeros on both sides of k-space are padding if they differ by less than this share of its size:
#: a partial Fourier scan leaves out an eighth of one side at least.
PADDING_DIFFERENCE = 0.05


def is_fully_sampled(plane: Tensor) -> bool:
    """Whether a mask (rows, columns) has no gap, save the zeros that k-space is padded with.

    Padding is what no line was measured in on both sides alike. What lies between measured lines
    is a gap, and so is a side that is left out.
    """
    rows, columns = plane.any(1), plane.any(0)
    if not (_is_padded_evenly(rows) and _is_padded_evenly(columns)):
        return False
    inside = plane[_between(rows)][:, _between(columns)]
    no_line_is_missing = min(inside.mean(0).min(), inside.mean(1).min()) > 0.5
    return bool(no_line_is_missing) and float(inside.mean()) > 0.95


def _between(measured: Tensor) -> slice:
    """From the first to the last that was measured."""
    places = torch.nonzero(measured).flatten()
    return slice(int(places[0]), int(places[-1]) + 1)


def _is_padded_evenly(measured: Tensor) -> bool:
    size, inside = len(measured), _between(measured)
    # Frequency zero is at size // 2: of an even size, one place more lies before it than after.
    before = size // 2 - inside.start
    after = inside.stop - 1 - size // 2
    return abs(before - after) <= max(1, PADDING_DIFFERENCE * size)


def planned_inside(settings: MRISettings, measured: Tensor, seed: int) -> Tensor:
    """The mask that ``physics`` plans, (rows, columns), of what was measured: padding has no lines.

    Raises:
        UserError: the centre alone is more than the acceleration allows.
    """
    rows, columns = measured.shape
    along, across = _between(measured.any(1)), _between(measured.any(0))
    # Symmetric about frequency zero, so that the centre of the mask is there.
    half = [
        max(size // 2 - place.start, place.stop - size // 2)
        for size, place in ((rows, along), (columns, across))
    ]
    sides = [min(size, 2 * reach) for size, reach in zip((rows, columns), half, strict=True)]
    try:
        inside = settings.sampling_mask(sides[0], sides[1], seed)
    except ValueError as error:
        raise UserError(f"physics: {error}") from error
    mask = torch.zeros(rows, columns)
    top, left = rows // 2 - sides[0] // 2, columns // 2 - sides[1] // 2
    mask[top : top + sides[0], left : left + sides[1]] = inside
    return mask


def with_masks_found(items: list[Item], scan: Scan, values: Tensor | None) -> tuple[Scan, str]:
    """The scan with the mask of each measurement, and what is said of them.

    Args:
        items: that hold k-space.
        scan: of one mask.
        values: what they hold; None: to be read once for this.

    Raises:
        UserError: nothing was measured.
    """
    every = (scan.to_model(item) for item in items) if values is None else iter(values)
    masks = torch.stack([_measured_points(y, scan) for y in every])
    empty = (masks.flatten(1).sum(1) == 0).nonzero()[:, 0].tolist()
    if empty:
        raise UserError(f"{items[empty[0]].file}: is zero everywhere: nothing was measured")
    found = f"each its own mask, of what is not zero: {float(masks.mean()):.1%} of k-space"
    return scan.with_masks(masks), found


def _measured_points(y: Tensor, scan: Scan) -> Tensor:
    """The mask (1, …, H, W) of k-space (2, coils, H, W), (2, frames, H, W) or (2, H, W): what is
    zero was not measured."""
    seen = (y != 0).any(0, keepdim=True)
    if scan.settings.frames is None and y.ndim == 4:
        seen = seen.any(1)
    return seen.to(y)
