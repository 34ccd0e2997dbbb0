"""Joseph's system matrix of a geometry, made many views at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import scipy.sparse
import torch

from .geometry import Geometry

#: Crossings of rays with lines of pixels that are worked on at a time, by each thread: 8 MB each of
#: the arrays that are needed for it.
CHUNK = 1 << 20


class Rays(NamedTuple):
    """Rays in order, all of which step along the same axis."""

    start: np.ndarray  # (R,) where each one crosses the first line, in pixels
    slope: np.ndarray  # (R,) how much further it crosses the next one
    by_row: bool  # the lines are rows of the image; else columns


def joseph_matrix(
    geometry: Geometry, views: Sequence[int] | None = None
) -> scipy.sparse.csr_matrix:
    """The system matrix (views·detectors, height·width), lengths in pixels, float32.

    Joseph's method (IEEE TMI 1982): a ray steps from row to row (or from column to column,
    whichever it crosses more squarely) and interpolates linearly between the two pixels beside it.

    Args:
        geometry: of the scan.
        views: the views whose rows are made, by number; none: all.
    """
    chosen = range(len(geometry.angles)) if views is None else views
    rays = len(chosen) * geometry.detectors * geometry.per_detector
    room = 2 * rays * max(geometry.height, geometry.width)
    # What is not written to takes no memory.
    indices, values = np.empty(room, np.int32), np.empty(room, np.float32)
    counts: list[np.ndarray] = []
    filled = 0
    for count, pixels, weights in _pieces(geometry, chosen):
        indices[filled : filled + len(pixels)] = pixels
        values[filled : filled + len(pixels)] = weights
        filled += len(pixels)
        counts.append(count)
    pointer = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.concatenate(counts))])
    pointer = pointer[:: geometry.per_detector]
    kind = np.int32 if filled < 2**31 else np.int64
    shape = len(chosen) * geometry.detectors, geometry.height * geometry.width
    # The arrays stay as they are given: a constructor that checks them would read them all again.
    matrix = scipy.sparse.csr_matrix(shape, dtype=np.float32)
    matrix.data, matrix.indices = values[:filled], indices[:filled].astype(kind, copy=False)
    matrix.indptr = pointer.astype(kind)
    if geometry.per_detector > 1:
        matrix.data /= geometry.per_detector
        matrix.sum_duplicates()
    return matrix


def _pieces(
    geometry: Geometry, views: Sequence[int]
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(entries of each ray, pixels, weights) of consecutive rays, in their order."""

    def entries(rays: Rays) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return _entries(rays, geometry.height, geometry.width)

    threads = torch.get_num_threads()
    if threads == 1:
        yield from map(entries, _runs(geometry, views))
        return
    with ThreadPoolExecutor(threads) as pool:
        waiting = []
        for rays in _runs(geometry, views):
            waiting.append(pool.submit(entries, rays))
            if len(waiting) > 2 * threads:  # no more than are needed to keep all busy
                yield waiting.pop(0).result()
        for future in waiting:
            yield future.result()


def _runs(geometry: Geometry, views: Sequence[int]) -> Iterator[Rays]:
    """All rays in their order, in runs that step along one axis and are not too long."""
    most = max(1, CHUNK // max(geometry.height, geometry.width))
    each = geometry.detectors * geometry.per_detector
    together = max(1, most // each)
    for first in range(0, len(views), together):
        some = [geometry.rays(view) for view in views[first : first + together]]
        point = np.concatenate([p for p, _ in some])
        direction = np.concatenate([d for _, d in some])
        crosses_rows = np.abs(direction[:, 1]) >= np.abs(direction[:, 0])
        changes = np.flatnonzero(np.diff(crosses_rows)) + 1
        ends = np.unique(np.concatenate([changes, np.arange(most, len(point), most), [len(point)]]))
        begin = 0
        for end in ends:
            run = slice(begin, end)
            yield _stepping(geometry, point[run], direction[run], bool(crosses_rows[begin]))
            begin = end


def _stepping(geometry: Geometry, point: np.ndarray, direction: np.ndarray, by_row: bool) -> Rays:
    lines, across = geometry.height, geometry.width
    if not by_row:
        lines, across = across, lines
    along, aside = (1, 0) if by_row else (0, 1)  # the axis stepped along, and interpolated on
    slope = direction[:, aside] / direction[:, along]
    first_line = -(lines - 1) / 2 - point[:, along]
    return Rays(point[:, aside] + slope * first_line + (across - 1) / 2, slope, by_row)


def _entries(rays: Rays, height: int, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each ray and line, in order, the pixel below the crossing and the one above it."""
    lines, across = (height, width) if rays.by_row else (width, height)
    line = np.arange(lines)
    crossing = rays.start[:, None] + rays.slope[:, None] * line
    below = np.floor(crossing)
    share = crossing - below
    # Far outside, where int32 would overflow, nothing is met.
    low = np.clip(below, -2, across).astype(np.int32)
    shape = (*low.shape, 2)
    met = np.empty(shape, bool)
    met[..., 0] = (low >= 0) & (low < across)
    met[..., 1] = (low >= -1) & (low < across - 1) & (share > 0)
    pixel = np.empty(shape, np.int32)
    pixel[..., 0] = (
        low + (line * width).astype(np.int32)
        if rays.by_row
        else (low * np.int32(width) + line.astype(np.int32))
    )
    np.add(pixel[..., 0], 1 if rays.by_row else width, out=pixel[..., 1])
    # Both rounded once, so that the image turned by 180° has the same weights (spectrum.py).
    length = np.hypot(1, rays.slope)[:, None]
    weight = np.empty(shape, np.float32)
    np.multiply(share, length, out=weight[..., 1], casting="same_kind")
    np.multiply(1 - share, length, out=weight[..., 0], casting="same_kind")
    return met.sum((1, 2)), pixel[met], weight[met]
