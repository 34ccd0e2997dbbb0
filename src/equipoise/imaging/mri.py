"""What deepinv's MRI physics lacks: sampling masks."""

from __future__ import annotations

import torch
from torch import Tensor


def cartesian_mask(rows: int, columns: int, acceleration: float, center: float = 0.08, seed: int = 0) -> Tensor:
    """A variable-density mask of phase-encoding lines, (rows, columns) of 0 and 1: whole columns are kept.

    ``columns / acceleration`` lines: the central fraction ``center``, and others drawn without replacement with a density
    that falls off as (1 − |k|)², seeded.

    Raises:
        ValueError: the centre alone is more than the acceleration allows.
    """
    total = round(columns / acceleration)
    middle = max(1, round(center * columns))
    if not 1 <= acceleration <= columns:
        raise ValueError(f"acceleration must be in [1, {columns}] for {columns} lines, got {acceleration}")
    if middle > total:
        raise ValueError(
            f"center={center} keeps {middle} of {columns} lines, but acceleration={acceleration} allows {total} in all; "
            "lower one of them"
        )
    line = torch.arange(columns) - columns // 2
    density = (1 - line.abs() / (columns / 2 + 1)).square()
    start = columns // 2 - middle // 2
    density[start : start + middle] = 0
    keep = torch.zeros(columns)
    keep[start : start + middle] = 1
    if total > middle:
        rng = torch.Generator().manual_seed(seed)
        keep[torch.multinomial(density, total - middle, replacement=False, generator=rng)] = 1
    return keep.expand(rows, columns).clone()
