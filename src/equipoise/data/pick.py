"""What a path holds, cut into single images, single measurements, or single acquisitions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import groupby
from pathlib import Path

import numpy as np

from ..errors import UserError
from ..imaging.sizes import Size, image_size
from .formats.base import listed
from .item import BARE, COMPLEX_EITHER, Frame, Holds, Item, Units
from .kspace import is_concentrated
from .settings import DataSize

#: Names of what stands beside the reconstructions in a folder.
RESERVED_NAMES = ("preview", "report")
#: At most so many numbers a pixel are colours, with the opaqueness.
COLOURS = 4
#: No image has fewer rows or columns, and this many times as many of the others.
SMALLEST_SIDE, LONGEST = 8, 4
#: An image that is this many times smaller than the size is not padded.
SMALLEST = 0.5


def images_of(
    items: Sequence[Item], size: DataSize | None = None, fit: str = "refuse"
) -> list[Item]:
    """One item an image, real or complex.

    Args:
        items: images, or stacks of them.
        size: of the images of the model: a number of pixels each way, (rows, columns), or "native",
            each image's own. None: their own, which must be one for all.
        fit: what becomes of images of another shape than ``size``: "pad", "crop" or "refuse", as
            the option ``data.fit`` says.

    Raises:
        UserError: an item holds k-space or no grey image; the images differ in size and none is
            asked for, or they do not fit it.
    """
    images: list[Item] = []
    for item in items:
        if item.holds == "kspace":
            _check_no_kspace(item)
        if len(item.shape) not in (2, 3):
            raise UserError(
                f"{item.file}: expected grey two-dimensional images, got shape {item.shape}"
            )
        item = replace(item, holds="image")
        images += [item] if len(item.shape) == 2 else _slices(item)
    for image in images:
        _check_sides(image)
    if size is None:
        _check_one_shape(images, "images")
    elif size != "native":
        images = _fitted(images, size, fit)
    return uniquely_named(images, "image")


def _check_no_kspace(item: Item) -> None:
    """
    Raises:
        UserError: the file says that it holds k-space, or its numbers, of which no more is known
            than that they are complex, look like it.
    """
    is_open = item.format in COMPLEX_EITHER
    if is_open and not (len(item.shape) in (2, 3) and is_concentrated(item.array())):
        return
    raise UserError(
        f"{item.file}: holds complex k-space, not images; set physics.kind=mri and "
        "data.kind=measurements"
    )


def _check_sides(image: Item) -> None:
    """
    Raises:
        UserError: it is a sliver.
    """
    rows, columns = image.shape
    if min(rows, columns) >= SMALLEST_SIDE or max(rows, columns) < LONGEST * min(rows, columns):
        return
    raise UserError(
        f"{image.file}: an image of {rows}×{columns} pixels, and {SMALLEST_SIDE} are the least on "
        "a side: if the last axis holds channels, save each as an image of its own (a = "
        "numpy.moveaxis(a, -1, 0); a[0], a[1], …)"
    )


def _slices(stack: Item) -> list[Item]:
    """The images of a stack, of which the first axis counts them.

    Raises:
        UserError: it holds the colours of one image.
    """
    count, rows, columns = stack.shape
    is_bare = stack.format in BARE
    if is_bare and columns <= COLOURS and min(count, rows) >= 4 * COLOURS:
        parts = "real and imaginary parts" if columns == 2 else "the colours"
        remedy = "each channel as an image of its own: a[..., 0], a[..., 1], …"
        if columns == 2:
            remedy = "a[..., 0] + 1j * a[..., 1]"
        raise UserError(
            f"{stack.file}: shape {stack.shape} looks like {parts} of one image in the last axis, "
            f"not like {count} images of {rows}×{columns}; save {remedy}"
        )
    if is_bare and count == rows != columns:
        note = (
            f"{stack.file.name}: shape {stack.shape} is taken for {count} images of "
            f"{rows}×{columns}; if the last axis counts them, save numpy.moveaxis(a, -1, 0)"
        )
        stack = replace(stack, notes=(*stack.notes, note))
    return stack.along_first_axis()


def _fitted(images: list[Item], size: Size, fit: str) -> list[Item]:
    """The images with the part of each that the model sees, which is noted."""
    fitted = []
    for image in images:
        frame = _frame(image, image_size(size), fit)
        if frame is not None:
            note = _frame_in_words(image, frame, image_size(size))
            image = replace(image, frame=frame, notes=(*image.notes, note))
        fitted.append(image)
    return fitted


def _frame(item: Item, size: tuple[int, int], fit: str) -> Frame | None:
    """The part of an image that is seen, in its own pixels; none: the whole, which has the
    shape."""
    shape = (item.shape[-2], item.shape[-1])
    largest = max(shape[0] / size[0], shape[1] / size[1])
    if fit == "refuse" or largest < SMALLEST:
        _check_size(item, size)
        return None
    if fit == "crop":
        return None if shape == size else Frame.in_the_middle(shape, *size)
    is_small = shape[0] < size[0] or shape[1] < size[1]
    if not is_small and not _is_distorted(shape, size):
        return None
    rows, columns = (round(side * max(1.0, largest)) for side in size)
    return Frame.in_the_middle(shape, max(rows, shape[0]), max(columns, shape[1]))


def _frame_in_words(item: Item, frame: Frame, size: tuple[int, int]) -> str:
    rows, columns = item.shape[-2:]
    what = f"images of {rows}×{columns} pixels are "
    if frame.rows < rows or frame.columns < columns:
        return f"{what}cropped (padded where smaller) to the middle {size[0]}×{size[1]} (data.fit)"
    what += f"padded with air to {frame.rows}×{frame.columns} (data.fit)"
    is_averaged = (frame.rows, frame.columns) != size
    return f"{what}, and averaged to {size[0]}×{size[1]}" if is_averaged else what


def _check_size(item: Item, size: tuple[int, int]) -> None:
    """
    Raises:
        UserError: the image is smaller, or would be distorted.
    """
    rows, columns = item.shape[-2:]
    h, w = size
    asked = f"{h}" if h == w else f"[{h}, {w}]"
    if rows < h or columns < w:
        raise UserError(
            f"{item.file}: the image has {rows}×{columns} pixels, fewer than size={asked}; lower "
            "data.size"
        )
    if not _is_distorted((rows, columns), size):
        return
    smaller = [h, round(h * columns / rows)] if rows < columns else [round(w * rows / columns), w]
    raise UserError(
        f"{item.file}: the image has {rows}×{columns} pixels, which data.size={asked} would "
        f"distort; set data.size=[{rows}, {columns}], or {smaller}, or data.fit=pad or crop"
    )


def _is_distorted(shape: tuple[int, int], size: tuple[int, int]) -> bool:
    """Whether averaging an image of ``shape`` down to ``size`` would change its proportions."""
    (rows, columns), (h, w) = shape, size
    if h == w and rows == columns:
        return False
    off = abs(w - h * columns / rows), abs(h - w * rows / columns)  # in pixels
    return h == w or min(off) > 0.5


def _check_one_shape(items: Sequence[Item], what: str) -> None:
    file_by_shape: dict[tuple[int, ...], Path] = {}
    for item in items:
        file_by_shape.setdefault(item.shape, item.file)
    if len(file_by_shape) > 1:
        sizes = [
            f"{file.name} is {'×'.join(map(str, shape))}"
            for shape, file in sorted(file_by_shape.items())
        ]
        raise UserError(
            f"{items[0].file.parent}: {what} of different sizes: {listed(sizes)}; put each size in "
            "a folder of its own"
        )


def measurements_of(
    items: Sequence[Item], shape: tuple[int, ...], peak: float, of_rays: bool = True
) -> list[Item]:
    """One item a measurement of ``shape``; an item with one axis more is a stack of them.

    Args:
        peak: the value of x that counts as 1.
        of_rays: these are sinograms.

    Raises:
        UserError: an item does not fit ``shape``, which the geometry measures.
    """
    measurements: list[Item] = []
    for item in items:
        if item.complex and shape[0] != 2:
            raise UserError(
                f"{item.file}: holds complex numbers, but this geometry measures real ones; save "
                "the real part"
            )
        if not fits(item, shape):
            raise UserError(_does_not_fit(item, shape, of_rays))
        item = replace(item, holds="measurement", units=Units.of_measurement(peak))
        if _without_leading_ones(item.shape) == _one_measurement(item, shape):
            measurements.append(item)
        else:
            stack = item.along_first_axis()
            measurements += stack if len(stack) > 1 else [replace(stack[0], name=item.name)]
    return uniquely_named(measurements, "measurement")


def fits(item: Item, shape: tuple[int, ...]) -> bool:
    """Whether an item is a measurement of ``shape``, or a stack of them."""
    if item.complex and shape[0] != 2:
        return False
    wanted = _one_measurement(item, shape)
    if _without_leading_ones(item.shape) == wanted:
        return True
    is_longer = len(item.shape) > len(wanted)
    return is_longer and _without_leading_ones(item.shape[1:]) == wanted


def _one_measurement(item: Item, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of one measurement in a file: complex numbers need no axis for their two parts."""
    return _without_leading_ones(tuple(shape[1:] if item.complex else shape))


def _does_not_fit(item: Item, shape: tuple[int, ...], of_rays: bool) -> str:
    wanted = _one_measurement(item, shape)
    if shape[0] == 2 and not item.complex and item.shape[-1] == 2:
        return (
            f"{item.file}: shape {item.shape} looks like real and imaginary parts in the last "
            "axis; write complex numbers: k[..., 0] + 1j * k[..., 1]"
        )
    if not of_rays:
        return _does_not_fit_the_operator(item, wanted)
    axes = "views × detectors" if len(wanted) == 2 else "channels × views × detectors"
    return (
        f"{item.file}: shape {item.shape} does not fit the geometry, which measures {wanted} "
        f"({axes}); set physics.angles, physics.detectors and data.size to what the scanner did"
    )


def _does_not_fit_the_operator(item: Item, wanted: tuple[int, ...]) -> str:
    shape = item.shape
    remedy = "set physics and data.size to what measured them"
    if len(shape) == 2 and len(wanted) == 2:
        remedy = f"set data.size, where it is the images' own size, or crop them to {wanted}"
    elif shape[:-1] == wanted and shape[-1] <= COLOURS:
        remedy = "its last axis looks like colours, which are not reconstructed: save a.mean(-1)"
    elif len(shape) == 1 and shape[0] == math.prod(wanted):
        remedy = f"save a.reshape{wanted}"
    return (
        f"{item.file}: shape {shape} does not fit the operator, which measures {wanted} each (or a "
        f"stack of such); {remedy}"
    )


def _without_leading_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    while len(shape) > 2 and shape[0] == 1:
        shape = shape[1:]
    return tuple(shape)


def acquisitions_of(items: Sequence[Item]) -> list[Item]:
    """One item the k-space of a slice, (rows, columns) or (coils, rows, columns).

    Raises:
        UserError: an item holds real numbers or has other axes.
    """
    acquisitions: list[Item] = []
    for item in items:
        if not item.complex or not 2 <= len(item.shape) <= 4:
            kind = "complex" if item.complex else "real"
            raise UserError(
                f"{item.file}: expected complex k-space, (slices ×) (coils ×) rows × columns; got "
                f"{kind} numbers of shape {item.shape}"
            )
        item = replace(item, holds="kspace")
        if len(item.shape) == 3 and item.format in COMPLEX_EITHER:
            note = (
                f"{item.file.name}: shape {item.shape} is taken for {item.shape[0]} coils of one "
                "slice; if these are slices of one coil, save kspace[:, None]"
            )
            item = replace(item, notes=(*item.notes, note))
        acquisitions += item.along_first_axis() if len(item.shape) == 4 else [item]
    return uniquely_named(acquisitions, "measurement")


def sequences_of(images: Sequence[Item], frames: int) -> tuple[list[Item], list[str]]:
    """One item a sequence of ``frames`` images that follow each other, and what is left out.

    A sequence is of one series, in the units of its images.

    Raises:
        UserError: there are fewer images than a sequence has frames.
    """
    sequences: list[Item] = []
    for _, group in groupby(images, key=lambda item: (item.series, item.units)):
        series = list(group)
        for start in range(0, len(series) - frames + 1, frames):
            sequences.append(_sequence(series[start : start + frames]))
    if not sequences:
        raise UserError(
            f"{images[0].file}: {len(images)} images, but a sequence has {frames} frames; lower "
            "physics.frames"
        )
    left_out = len(images) - len(sequences) * frames
    notes = []
    if left_out:
        notes = [f"{left_out} images at the end make no whole sequence and are left out"]
    return sequences, notes


def _sequence(frames: list[Item]) -> Item:
    shape = (len(frames), *frames[0].shape)
    read = partial(_read_all, frames)
    return replace(frames[0], shape=shape, read=read, frames=tuple(frames))


def _read_all(items: Sequence[Item]) -> np.ndarray:
    return np.stack([item.array() for item in items])


def uniquely_named(items: Sequence[Item], what: Holds | str) -> list[Item]:
    """The items with names that can be files in one folder.

    Raises:
        UserError: there are none.
    """
    if not items:
        raise UserError(f"nothing to read: the files hold no {what} (empty arrays)")
    taken: set[str] = set()
    named: list[Item] = []
    for item in items:
        plain = item.name.replace("/", "_").replace("\\", "_")
        if plain in RESERVED_NAMES:
            plain += "_"
        name, number = plain, 2
        while name in taken:
            name = f"{plain}-{number}"
            number += 1
        taken.add(name)
        named.append(replace(item, name=name))
    return named
