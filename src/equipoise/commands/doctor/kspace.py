"""What the doctor says of MRI: lines, coils, oversampling."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from deepinv.physics import MRI, MultiCoilMRI
from torch import Tensor

from ...data.dataset import Dataset
from .finding import Finding, judged

#: A coil whose strongest sensitivity is below this share of the others' adds noise alone.
WEAK_COIL = 0.02
#: The outer part of the image, on either side, where nothing is if the readout is oversampled.
OUTER = 0.25


def acquisition(sample: Dataset) -> Iterator[Finding]:
    """Of k-space that a scanner measured: which lines, which coils, and whether the readout sees
    more than the object."""
    physics = sample.scan.physics
    if sample.truth is not None or not isinstance(physics, MRI | MultiCoilMRI):
        return
    y = sample.measurements()
    power = y.square().sum(1)  # (B, (coils,) rows, columns)
    plane = power.flatten(0, -3).sum(0)
    yield _lines(plane > 0)
    if isinstance(physics, MultiCoilMRI):
        yield _coils(power)
    yield _outside(sample)


def _lines(plane: Tensor) -> Finding:
    rows, columns = plane.shape
    by_row, by_column = plane.any(1), plane.any(0)
    full_rows, full_columns = plane.float().mean(1), plane.float().mean(0)
    count, axis, size = int(by_row.sum()), "rows", rows
    full = full_rows
    if float(by_column.float().mean()) < float(by_row.float().mean()):
        count, axis, size = int(by_column.sum()), "columns", columns
        full = full_columns
    share = float(plane.float().mean())
    centre = _centre(plane)
    kind = f"{count} of {size} {axis}" if float(full[full > 0].min()) > 0.9 else "scattered points"
    return judged(
        centre >= 8,
        f"lines: {kind} were measured, {share:.1%} of k-space; the middle {centre} × {centre} "
        "points wholly",
        "coil maps and scale are found in a wholly measured middle of 8 × 8 points at least: name "
        "the file with its calibration lines",
        otherwise="note",
    )


def _centre(plane: Tensor) -> int:
    """The side of the largest square about the middle that was measured wholly."""
    rows, columns = plane.shape
    for half in range(1, min(rows, columns) // 2 + 1):
        r, c = rows // 2, columns // 2
        if not bool(plane[r - half : r + half, c - half : c + half].all()):
            return 2 * (half - 1)
    return min(rows, columns) // 2 * 2


def _coils(power: Tensor) -> Finding:
    """power (B, coils, rows, columns)."""
    strength = power.sum((0, 2, 3)).sqrt()
    share = strength / strength.max().clamp_min(1e-30)
    weak = [int(i) for i in torch.nonzero(share < WEAK_COIL)]
    what = (
        f"coils: {len(share)}, the weakest with {float(share.min()):.0%} of the strongest's signal"
    )
    if weak:
        what += f"; number {', '.join(map(str, weak))} (counted from 0) hardly measures anything"
    return judged(
        not weak,
        what,
        "leave such coils out (numpy.delete along the axis of the coils), or look for a broken one",
        otherwise="note",
    )


def _outside(sample: Dataset) -> Finding:
    """Whether the outer half of the image along one axis is empty."""
    physics, y = sample.scan.physics, sample.measurements()
    image = physics.A_adjoint(y).square().sum(1)
    image = image.reshape(-1, *image.shape[-2:]).mean(0)
    shares = []
    for axis in (0, 1):
        profile = image.sum(1 - axis)
        edge = int(OUTER * len(profile))
        outer = torch.cat([profile[:edge], profile[len(profile) - edge :]])
        shares.append(float(outer.sum() / profile.sum().clamp_min(1e-30)))
    emptiest = min(shares)
    axis = ("rows", "columns")[shares.index(emptiest)]
    what = (
        f"field of view: the outer half of the {axis} holds {emptiest:.0%} of the zero-filled "
        "image's energy"
    )
    return judged(
        emptiest > 0.02,
        what,
        "the readout looks oversampled: a file that says so in its header (ISMRMRD, fastMRI) is "
        "cropped when it is read; other files crop yourself, and train in half the time",
        otherwise="note",
    )
