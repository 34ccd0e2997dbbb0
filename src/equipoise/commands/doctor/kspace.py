"""What the doctor says of MRI: lines, coils, oversampling."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from deepinv.physics import MRI, MultiCoilMRI
from torch import Tensor

from ...data.dataset import Dataset
from ...data.item import Item
from ...imaging.scaled import unscaled
from .finding import Finding, judged

#: A coil whose samples in the middle of k-space are less than this many times those at its edges
#: measures noise, which is the same everywhere.
SILENT_COIL = 2.0
#: The outer part of the image, on either side, where nothing is if the readout is oversampled.
OUTER = 0.25


def is_kspace(physics: Any) -> bool:
    """Whether the operator measures k-space along lines."""
    return isinstance(unscaled(physics), MRI | MultiCoilMRI)


def acquisition(sample: Dataset) -> Iterator[Finding]:
    """Of k-space that a scanner measured: which lines, which coils, and whether the readout sees
    more than the object."""
    physics = unscaled(sample.scan.physics)
    if sample.items[0].holds == "image" or not is_kspace(physics):
        return
    y = sample.measurements()
    power = y.square().sum(1)  # (B, (coils,) rows, columns)
    plane = power.flatten(0, -3).sum(0)
    if sample.truth is None:  # not thinned out here
        yield _lines(plane > 0)
    if isinstance(physics, MultiCoilMRI):
        yield _coils(sample)
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


def _coils(sample: Dataset) -> Finding:
    """As the file has them: whitening mixes coils."""
    contrast = torch.stack([_contrast(item) for item in sample.items]).amax(0)
    silent = [int(i) for i in torch.nonzero(contrast < SILENT_COIL)]
    what = (
        f"coils: {len(contrast)}, the middle of k-space {float(contrast.min()):.1f} to "
        f"{float(contrast.max()):.1f} times as strong as its edges"
    )
    remedy = (
        "leave such coils out (numpy.delete along the axis of the coils), or look for a broken one"
    )
    if len(silent) == len(contrast):
        what += "; in none of them is the middle the strongest"
        remedy = (
            "the zero frequency may lie elsewhere than in the middle, or this is no k-space of an "
            "image (a noise scan, or images): compare with the scanner's own picture"
        )
    elif silent:
        what += f"; number {', '.join(map(str, silent))} (counted from 0) measures noise alone"
    return judged(not silent, what, remedy, otherwise="note")


def _contrast(item: Item) -> Tensor:
    """(coils,) the root mean square of the samples in the middle of k-space, over that of those at
    its edges."""
    size = torch.from_numpy(np.abs(item.array()).astype(np.float32))
    size = size.reshape(-1, *size.shape[-2:])
    rows, columns = size.shape[-2:]
    r, c = rows // 8, columns // 8
    inside = torch.zeros(rows, columns, dtype=torch.bool)
    inside[rows // 2 - r : rows // 2 + r, columns // 2 - c : columns // 2 + c] = True
    outside = torch.ones(rows, columns, dtype=torch.bool)
    outside[2 * r : rows - 2 * r, 2 * c : columns - 2 * c] = False
    return _rms(size[:, inside]) / _rms(size[:, outside]).clamp_min(1e-30)


def _rms(values: Tensor) -> Tensor:
    """(coils,) of the values that were measured, (coils, points)."""
    return (values.square().sum(1) / (values != 0).sum(1).clamp_min(1)).sqrt()


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
    side = ("rows", "columns")[shares.index(emptiest)]
    what = (
        f"field of view: the outer half of the {side} holds {emptiest:.0%} of the zero-filled "
        "image's energy"
    )
    return judged(
        emptiest > 0.02,
        what,
        "the readout looks oversampled: a file that says so in its header (ISMRMRD, fastMRI) is "
        "cropped when it is read; other files crop yourself, and train in half the time",
        otherwise="note",
    )
