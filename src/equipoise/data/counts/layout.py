"""How raw scans lie in their files: sinogram after sinogram, or view after view."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from ...errors import UserError
from ..item import Item
from ..memory import block_size
from ..settings import Layout


def single_sinograms(items: Sequence[Item], layout: Layout) -> list[Item]:
    """One item a sinogram (views, detectors), as they are in their files; its ``index`` is the row
    of detectors."""
    if layout == "projections" and items[0].counts is None:
        if items[0].geometry is not None:
            raise UserError(
                f"{items[0].file}: says itself which axis is which; leave out "
                "data.layout=projections"
            )
        return _across(items)
    single: list[Item] = []
    for item in items:
        shape = item.shape
        while len(shape) > 2 and shape[0] == 1:
            shape = shape[1:]
        if len(shape) == 3:
            stack = replace(item, shape=shape, read=partial(_reshaped, item.read, shape))
            single += stack.along_first_axis()
        else:
            single.append(replace(item, shape=shape, read=partial(_reshaped, item.read, shape)))
    return [replace(item, index=row) for row, item in enumerate(single)]


def _reshaped(read: Callable[[], np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    values = read()
    return values if values.shape == shape else values.reshape(shape)


def _across(items: Sequence[Item]) -> list[Item]:
    """Sinograms out of projections: files or pages of (rows, detectors), or stacks of them."""
    if len(items) == 1 and len(items[0].shape) == 3:
        views, rows, detectors = items[0].shape
        return [
            replace(
                items[0],
                name=f"{items[0].name}_{row:03d}",
                shape=(views, detectors),
                index=row,
                read=partial(_row_of_stack, items[0].read, row),
                series=str(items[0].file),
            )
            for row in range(rows)
        ]
    planes = tuple(items)
    shapes = {item.shape for item in planes}
    if len(shapes) > 1 or len(planes[0].shape) != 2:
        found = ", ".join(str(shape) for shape in sorted(shapes)[:3])
        raise UserError(
            f"{planes[0].file}: data.layout=projections needs one stack (views, rows, detectors), "
            f"or a file or page (rows, detectors) for each view, all of one size; got {found}"
        )
    rows, detectors = planes[0].shape
    frames = _Frames(planes)
    folder = planes[0].file.parent
    name = folder.name if planes[0].file != planes[-1].file else planes[0].file.stem
    return [
        replace(
            planes[0],
            name=f"{name}_{row:03d}",
            shape=(len(planes), detectors),
            index=row,
            read=partial(frames.row, row),
            patient=name,
            series=str(folder),
        )
        for row in range(rows)
    ]


def _row_of_stack(read: Callable[[], np.ndarray], row: int) -> np.ndarray:
    sinogram: np.ndarray = read()[:, row]
    return sinogram


class _Frames:
    """Projections in files of their own, of which some rows are kept at once."""

    #: Bytes that are kept.
    BLOCK = block_size()

    def __init__(self, planes: tuple[Item, ...]):
        self.planes = planes
        rows, detectors = planes[0].shape
        self.at_once = max(1, min(rows, self.BLOCK // max(1, len(planes) * detectors * 4)))
        self.first, self.block = -1, np.empty(0)

    def row(self, row: int) -> np.ndarray:
        first = row - row % self.at_once
        if first != self.first:
            rows = slice(first, first + self.at_once)
            self.block = np.stack([np.asarray(plane.read())[rows] for plane in self.planes])
            self.first = first
        sinogram: np.ndarray = self.block[:, row - first]
        return sinogram
