"""Which points of k-space are measured: masks (rows, columns) of 0 and 1."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ...errors import need

#: So often a search for a density halves its interval: to a part in a billion.
PATIENCE = 30


def cartesian_mask(
    rows: int, columns: int, acceleration: float, center: float = 0.08, seed: int = 0
) -> Tensor:
    """A variable-density mask of phase-encoding lines: whole columns are measured.

    ``columns / acceleration`` lines: the central fraction ``center``, and others drawn without
    replacement with a density that falls off as (1 − |k|)², seeded.

    Raises:
        ValueError: the centre alone is more than the acceleration allows.
    """
    if not 1 <= acceleration <= columns:
        raise ValueError(
            f"acceleration must be in [1, {columns}] for {columns} lines, got {acceleration}"
        )
    total = round(columns / acceleration)
    middle = max(1, round(center * columns))
    if middle > total:
        raise ValueError(
            f"center={center} keeps {middle} of {columns} lines, but acceleration={acceleration} "
            f"allows {total} in all; lower one of them"
        )
    line = torch.arange(columns) - columns // 2
    density = (1 - line.abs() / (columns / 2 + 1)).square()
    start = columns // 2 - middle // 2
    density[start : start + middle] = 0
    measured = torch.zeros(columns)
    measured[start : start + middle] = 1
    if total > middle:
        rng = torch.Generator().manual_seed(seed)
        others = torch.multinomial(density, total - middle, replacement=False, generator=rng)
        measured[others] = 1
    return measured.expand(rows, columns).clone()


def _check(rows: int, columns: int, acceleration: float, center: float) -> None:
    """Of masks of single points."""
    if not 1 <= acceleration <= rows * columns:
        raise ValueError(
            f"acceleration must be in [1, {rows * columns}] for {rows}×{columns} points, got "
            f"{acceleration}"
        )
    if center**2 > 1 / acceleration:
        raise ValueError(
            f"center={center} keeps {center**2:.1%} of k-space, but acceleration={acceleration} "
            f"allows {1 / acceleration:.1%} in all; lower one of them"
        )


def poisson_disc_mask(
    rows: int, columns: int, acceleration: float, center: float = 0.08, seed: int = 0
) -> Tensor:
    """A variable-density Poisson-disc mask of single points, for two phase-encoding directions.

    Points keep their distance, the more the farther out (Bridson 2007, as in sigpy), around a fully
    sampled block of the fraction ``center`` each way, frequency zero at least. Their number is met
    within 10 %.

    Raises:
        ValueError: the centre alone is more than the acceleration allows, or it is below 1.2 and
            not 1, where points cannot keep a distance.
        UserError: sigpy is not installed.
    """
    _check(rows, columns, acceleration, center)
    if acceleration == 1:
        return torch.ones(rows, columns)
    if acceleration < 1.2:  # sigpy searches for minutes, and misses it
        raise ValueError(
            f"points of a Poisson-disc mask keep their distance: acceleration must be 1, or at "
            f"least 1.2, got {acceleration}"
        )
    sigpy = need("sigpy.mri", "mri")
    block = (max(1, round(center * rows)), max(1, round(center * columns)))
    try:
        mask = sigpy.poisson(
            (rows, columns),
            acceleration,
            calib=block,
            crop_corner=False,
            seed=seed,
            tol=_Tolerance(0.1 * acceleration),
        )
    except ValueError as error:
        raise ValueError(
            f"no Poisson-disc mask of {rows}×{columns} points has acceleration={acceleration} "
            f"within 10 % and center={center}: raise acceleration, lower center, or take "
            'mask="lines"'
        ) from error
    points = torch.from_numpy(abs(mask)).float()
    # sigpy's block has its middle between two points where a side is even and the block's odd.
    top = rows // 2 - block[0] // 2
    left = columns // 2 - block[1] // 2
    points[top : top + block[0], left : left + block[1]] = 1
    return points


class _Tolerance:
    """A tolerance that gives up after ``PATIENCE`` comparisons: where no density has the
    acceleration, sigpy goes on halving its interval for ever."""

    __array_ufunc__ = None  # numbers of NumPy leave the comparison to this class

    def __init__(self, value: float):
        self.value = value
        self.left = PATIENCE

    def __gt__(self, error: float) -> bool:
        self.left -= 1
        if self.left < 0:
            raise ValueError(f"no density was found in {PATIENCE} halvings")
        return bool(error < self.value)

    def __le__(self, error: float) -> bool:
        return bool(error >= self.value)


def radial_mask(
    rows: int, columns: int, acceleration: float, center: float = 0.08, seed: int = 0
) -> Tensor:
    """Grid points along spokes through the centre, and a disc of the fraction ``center``.

    Each spoke is turned by the golden angle from the one before (Winkelmann et al., IEEE TMI 2007),
    the first by ``seed``. Spokes are added until rows·columns / ``acceleration`` points are
    measured.

    Raises:
        ValueError: the centre alone is more than the acceleration allows, or spokes, which never
            meet the corners, cannot measure as many points.
    """
    _check(rows, columns, acceleration, center)
    if acceleration == 1:
        return torch.ones(rows, columns)
    r, c = torch.meshgrid(
        torch.arange(rows) - rows // 2, torch.arange(columns) - columns // 2, indexing="ij"
    )
    height = center * rows / 2 + 0.5
    width = center * columns / 2 + 0.5
    mask = ((r / height) ** 2 + (c / width) ** 2 <= 1).float()
    along = torch.linspace(-1, 1, 4 * max(rows, columns) + 1, dtype=torch.float64)
    golden = math.pi * (math.sqrt(5) - 1) / 2
    turn = float(torch.rand((), generator=torch.Generator().manual_seed(seed))) * math.pi
    spokes = 0
    while float(mask.sum()) < rows * columns / acceleration:
        if spokes > 16 * max(rows, columns):  # denser than the grid, at every angle
            share = float(mask.mean())
            raise ValueError(
                f"spokes do not meet the corners of k-space and measure {share:.0%} of it at most: "
                f"acceleration must be 1, or at least {1.001 / share:.3f}, got {acceleration}"
            )
        i = (rows // 2 + along * rows / 2 * math.sin(turn)).round().long()
        j = (columns // 2 + along * columns / 2 * math.cos(turn)).round().long()
        inside = (i >= 0) & (i < rows) & (j >= 0) & (j < columns)
        mask[i[inside], j[inside]] = 1
        turn += golden
        spokes += 1
    return mask


#: name in a configuration → (rows, columns, acceleration, center, seed) → mask
MASKS: dict[str, Callable[[int, int, float, float, int], Tensor]] = {
    "lines": cartesian_mask,
    "poisson_disc": poisson_disc_mask,
    "radial": radial_mask,
}


def sampled(kspace: Tensor) -> Tensor:
    """The mask of an acquisition (…, rows, columns): 1 where some coil measured anything but zero.

    Some coil of some slice, that is: all leading dimensions are taken together.
    """
    measured = kspace != 0
    if kspace.ndim > 2:
        measured = measured.flatten(0, -3).any(0)
    return measured.float()


def calibration_size(mask: Tensor) -> int:
    """The side of the largest fully sampled square around the centre of a mask (rows, columns)."""
    rows, columns = mask.shape
    full = 0
    for side in range(1, min(rows, columns) + 1):
        top = rows // 2 - side // 2
        left = columns // 2 - side // 2
        if not bool(mask[top : top + side, left : left + side].all()):
            break
        full = side
    return full
