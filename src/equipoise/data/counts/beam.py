"""The open beam and the dark current that a configuration names: numbers, or files of frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from ...errors import UserError
from ..formats import open_path
from ..formats.base import shown_path
from ..item import Counts, Item


def named_beam(given: Path | float | None, key: str, scan: Sequence[Item]) -> np.ndarray | None:
    """What ``data.white`` or ``data.dark`` names, (rows, detectors) or (1, detectors).

    Args:
        scan: all its sinograms, one a row of detectors.

    Raises:
        UserError: the file cannot be read, or is of another size than the scan.
    """
    if given is None:
        return None
    detectors = scan[0].shape[-1]
    if isinstance(given, (int, float)):
        return np.full((1, detectors), float(given), np.float32)
    return _mean_of_frames(given, _changed(given), key, len(scan), detectors)


def counts_of(item: Item, white: np.ndarray | None, dark: np.ndarray | None) -> Item:
    """The counts of one row: what the configuration names stands above what the file has."""
    counts, row = item.counts or Counts(), item.index or 0
    if white is not None:
        counts = replace(counts, white=partial(_row_of, white, row))
    if dark is not None:
        counts = replace(counts, dark=partial(_row_of, dark, row))
    return replace(item, counts=counts)


def _row_of(frame: np.ndarray, row: int) -> np.ndarray:
    found: np.ndarray = frame[row if len(frame) > 1 else 0]
    return found


def _changed(path: Path) -> float:
    """When a file, or any file of a folder, was last written; 0 if it is not there, which is said
    where it is read."""
    files = [path, *path.glob("*")] if path.is_dir() else [path]
    return max((file.stat().st_mtime for file in files if file.exists()), default=0.0)


@lru_cache(maxsize=4)
def _mean_of_frames(path: Path, changed: float, key: str, rows: int, detectors: int) -> np.ndarray:
    """The mean of all frames that a file or folder holds.

    Raises:
        UserError: they are of another size than the scan.
    """
    frames = open_path(path)
    shapes = {frame.shape for frame in frames}
    if len(frames) == rows > 1 and frames[0].counts is not None:  # an item a row
        return np.stack([frame.array().mean(0, dtype=np.float64) for frame in frames])
    total, number = np.zeros((1, detectors)), 0
    for frame in frames:
        values = _as_frames(frame.array(), rows, detectors)
        if values is None:
            raise UserError(
                f"{key}={shown_path(path)}: shape {sorted(shapes)[0]} does not fit a scan of "
                f"{rows} row(s) of {detectors} detectors; expected (frames, rows, detectors), "
                "(rows, detectors) or (detectors,)"
            )
        total = total + values.sum(0, dtype=np.float64)
        number += len(values)
    return (total / number).astype(np.float32)


def _as_frames(values: np.ndarray, rows: int, detectors: int) -> np.ndarray | None:
    """(frames, rows or 1, detectors), if the values are of that size."""
    if not values.size or values.shape[-1] != detectors:
        return None
    if values.ndim == 1:
        return values[None, None]
    if values.ndim == 2:
        return values[None] if len(values) == rows else values[:, None]
    return values if values.ndim == 3 and values.shape[1] in (1, rows) else None
