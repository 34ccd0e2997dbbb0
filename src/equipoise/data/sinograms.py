"""Sinograms in files: what they say of their geometry, which of their views are used, and how their
detectors are binned."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError
from ..imaging.tomography import Tomography
from ..imaging.tomography.geometry import go_all_around
from ..imaging.tomography.scanner import ScannerGeometry
from ..imaging.tomography.settings import RaysSettings
from ..imaging.tomography.setup import Setup
from .counts import Tally, check_line_integrals, corrected
from .counts.losses import MASKED
from .formats import first_item
from .item import Item, Units
from .pick import fits, measurements_of, uniquely_named
from .scan import Scan
from .settings import SinogramSettings


def geometry_of(path: Path, variable: str | None = None) -> ScannerGeometry | None:
    """What the first file of a path says of its scanner; None where it says nothing.

    Raises:
        UserError: it cannot be read.
    """
    item = first_item(path, variable)
    return None if item is None else item.geometry


def common_geometry(items: Sequence[Item]) -> ScannerGeometry | None:
    """What all files say of their scanner.

    Raises:
        UserError: they do not say the same.
    """
    first = items[0]
    for item in items[1:]:
        if item.geometry is first.geometry:
            continue
        if item.geometry is None or first.geometry is None:
            silent, other = (item, first) if item.geometry is None else (first, item)
            raise UserError(
                f"{silent.file}: says nothing of its geometry, and {other.file.name} does; put "
                "each kind in a folder of its own"
            )
        different = first.geometry.differences(item.geometry)
        if different:
            raise UserError(
                f"{item.file}: another geometry than that of {first.file.name} "
                f"({'; '.join(reversed(different))}); put each in a folder of its own"
            )
    return first.geometry


@dataclass(frozen=True)
class Sinograms:
    """Sinograms, the scan that measured them, and what is to be said about both."""

    items: list[Item]  #: one a sinogram, of the views and the detectors that are used
    scan: Scan
    notes: list[str]
    tally: Tally  #: of what was not measured, as they are read
    setup: Setup

    @property
    def measured(self) -> Tensor | None:
        """(1, views, detectors) of 0 and 1: what was measured in all that were read, where what was
        not shall be left out (``data.dead=mask``)."""
        if self.tally.done != MASKED or self.tally.measured is None:
            return None
        used = tuple(self.scan.measurement_shape)
        mask = self.tally.measured.astype(np.float32)
        if mask.shape != used[-2:]:
            setup = self.setup
            mask = _read_part(lambda: mask, setup.chosen, setup.first, used[-1], setup.binned)
        return torch.from_numpy(np.asarray(mask >= 0.5, dtype=np.float32))[None]


def sinograms_of(
    items: Sequence[Item],
    scan: Scan,
    peak: float,
    water: float | None,
    options: SinogramSettings | None = None,
) -> Sinograms:
    """One item a sinogram, of the views and the detectors that are used, in line integrals.

    A file holds all views and detectors, or just those that are used.

    Args:
        scan: as it is configured; what the files say is filled in.
        peak: the value of x that counts as 1.
        water: attenuation of water in the same unit; None: Hounsfield units are not asked for.
        options: how the numbers of the files become line integrals.

    Raises:
        UserError: the files do not fit the geometry, or contradict each other.
    """
    options = SinogramSettings() if options is None else options
    geometry = common_geometry(items)
    elsewhere = _other_geometry(scan, geometry)
    scan = scan.reading(geometry)
    settings = scan.settings
    assert isinstance(settings, RaysSettings)
    setup = settings.setup(scan.size)
    used = tuple(scan.measurement_shape)
    whole = (1, len(setup.angles), setup.file_detectors or used[-1] * setup.binned)
    turned = [_views_first(item, settings, options, (whole, used)) for item in items]
    is_whole = all(item.shape[-1:] == whole[-1:] for item in turned)
    single, tally, are_counts = corrected(turned, options, setup.binned if is_whole else 1)
    found: list[Item] = []
    notes: list[str] = []
    for item in single:
        if whole != used and fits(item, whole):
            for piece in measurements_of([item], whole, peak):
                found.append(_part(piece, setup.chosen, setup))
        else:
            if whole != used and fits(item, used):
                notes.append(
                    f"{item.file.name}: holds the {used[-2]} views of {used[-1]} detectors that "
                    f"are used, not all {whole[-2]} of {whole[-1]}"
                )
            found += measurements_of([item], used if fits(item, used) else whole, peak)
    if not are_counts:
        check_line_integrals(found, options)
    if water is None and geometry is not None:
        water = geometry.water
    units = Units.of_measurement(peak, water, "1/mm" if _in_millimetres(settings) else "")
    named = uniquely_named([replace(item, units=units) for item in found], "measurement")
    words = [*elsewhere, *settings.overridden(), *_geometry_words(settings, setup, used)]
    notes = [*words, *dict.fromkeys(notes)]
    return Sinograms(named, scan, notes, tally, setup)


def unseen_item(item: Item, views: Sequence[int], setup: Setup) -> Item:
    """The views ``views`` of the file that an item is a part of.

    Raises:
        UserError: the file holds the used views alone.
    """
    if item.whole is None:
        raise UserError(
            f"{item.file}: holds the used views alone; the others have to be in the file, too"
        )
    return replace(_part(item.whole, views, setup), name=item.name, units=item.units)


def _part(whole: Item, views: Sequence[int], setup: Setup) -> Item:
    count = setup.detectors
    if count is None:
        count = whole.shape[-1] // setup.binned
    read = partial(_read_part, whole.read, tuple(views), setup.first, count, setup.binned)
    return replace(whole, shape=(len(views), count), read=read, whole=whole)


def _read_part(
    read: Callable[[], np.ndarray], views: tuple[int, ...], first: int, count: int, binned: int
) -> np.ndarray:
    """(views, detectors): the mean of every ``binned`` detectors from the ``first`` on."""
    sinogram = np.asarray(read())
    sinogram = sinogram.reshape(sinogram.shape[-2:])
    rows = sinogram[list(views), first : first + count * binned]
    if binned == 1:
        return rows
    means: np.ndarray = rows.reshape(len(views), count, binned).mean(-1)
    return means


def _views_first(
    item: Item,
    settings: RaysSettings,
    options: SinogramSettings,
    shapes: Sequence[tuple[int, ...]],
) -> Item:
    """The item with its views before its detectors. skimage writes the detectors first.

    Raises:
        UserError: it is asked for, and the file itself says which axis is which.
    """
    is_asked = options.layout == "transposed"
    if is_asked and item.counts is not None and item.counts.white is not None:
        raise UserError(
            f"{item.file}: data.layout=transposed, but this file says itself which axis is which; "
            "leave it out"
        )
    if not (is_asked or settings.convention == "skimage") or len(item.shape) < 2:
        return item
    turned = replace(
        item,
        shape=(*item.shape[:-2], item.shape[-1], item.shape[-2]),
        read=partial(_swapped, item.read),
    )
    return turned if is_asked or any(fits(turned, shape) for shape in shapes) else item


def _swapped(read: Callable[[], np.ndarray]) -> np.ndarray:
    return np.asarray(read()).swapaxes(-1, -2)


# ------------------------------------------------------------------------------------- words

#: Where the ends of projections reach this share of their largest value, they are cut off.
CUT_OFF = 0.1


def cut_off_words(y: Tensor, scan: Scan) -> list[str]:
    """A line, if the object reaches beyond the detector in most views of sinograms (N, 1, views,
    detectors): on the far side alone, where views go all around and complete each other."""
    settings = scan.settings
    if not isinstance(settings, RaysSettings) or not isinstance(scan.physics, Tomography):
        return []
    if y.shape[-1] < 3:
        return []
    largest = y.amax(-1).clamp_min(1e-30)
    geometry = scan.physics.geometry
    first, last = y[..., :2].mean(-1), y[..., -2:].mean(-1)
    ends = torch.maximum(first, last)
    is_completed = go_all_around(geometry.angles) and abs(geometry.offset) > 1
    if is_completed:
        ends = last if geometry.offset > 0 else first
    share = float((ends / largest).flatten().median())
    if share < CUT_OFF:
        return []
    radius = geometry.half_width(is_completed) * scan.physics.pixel
    who = "opposite views together see" if is_completed else "every view sees"
    unit = "mm" if _in_millimetres(settings) else "units of physics.pixel"
    return [
        f"projections are cut off: at an end of the detector they still have {share:.0%} of their "
        f"largest value; {who} {radius:.3g} {unit} around the axis, and images are to be "
        "trusted there alone (or these are counts, or the axis is far from the middle)"
    ]


def _other_geometry(scan: Scan, geometry: ScannerGeometry | None) -> list[str]:
    """A line, where files have another geometry than those that the configuration was made for."""
    settings = scan.settings
    before = settings.read if isinstance(settings, RaysSettings) else None
    if before is None or geometry is None or before.same_as(geometry):
        return []
    different = "; ".join(geometry.differences(before))
    return [
        f"{geometry.source}: another geometry than that of {before.source}, and its own is used "
        f"({different})"
    ]


def _in_millimetres(settings: RaysSettings) -> bool:
    names = ("source_to_axis", "source_to_detector", "detector_pitch", "image_pixel")
    said = (settings, settings.read)
    return any(getattr(where, name, None) is not None for where in said for name in names)


def _geometry_words(settings: RaysSettings, setup: Setup, used: tuple[int, ...]) -> list[str]:
    """One line on what was read from a file, and what is used of it."""
    read = settings.read
    words = []
    if read is not None:
        said = [f"{len(read.angles)} views"] if read.angles is not None else []
        said += [f"{read.detectors} detectors"] if read.detectors is not None else []
        for name in ("detector_pitch", "source_to_axis", "source_to_detector", "image_pixel"):
            value = getattr(read, name)
            said += [] if value is None else [f"{name.replace('_', ' ')} {value:g} mm"]
        words.append(f"geometry from {read.source}: {', '.join(said) or 'nothing'}")
    is_part = len(setup.chosen) < len(setup.angles) or setup.binned > 1
    if is_part or (read is not None and _in_millimetres(settings)):
        unit = " mm" if _in_millimetres(settings) else ""
        words.append(
            f"used: {used[-2]} of {len(setup.angles)} views, {used[-1]} detectors of "
            f"{setup.binned}, pixels of {setup.pixel:g}{unit}"
        )
    return words
