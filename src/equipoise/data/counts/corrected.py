"""Sinograms of raw scans: which rows, laid out how, corrected by which open beam and dark current.

What :func:`corrected` gives are line integrals, a slice each, made when they are read; what it
found out about them is in a :class:`Tally`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np

from ...errors import UserError
from ..formats.base import shown_path
from ..item import Counts, Item
from ..ranges import chosen
from ..settings import SinogramSettings
from .beam import counts_of, named_beam
from .correction import BadCounts, bins, filled, line_integrals
from .layout import single_sinograms
from .looks import look_like_counts, look_like_line_integrals
from .losses import FILLED, LEFT, MASKED, Losses, Tally
from .rings import without_rings

#: So many of a data set's sinograms are looked at to recognise what they are.
LOOKED_AT = 3


class Corrected(NamedTuple):
    """Line integrals, and what becomes known of them as they are read."""

    items: list[Item]  #: one a slice, (views, detectors)
    tally: Tally
    are_counts: bool  #: in their files


def corrected(items: Sequence[Item], options: SinogramSettings, bin: int = 1) -> Corrected:
    """One item a slice, in line integrals (views, detectors), read when it is asked for.

    Args:
        items: of one path; a stack of sinograms, or of projections, is cut.
        options: of the section ``data``.
        bin: as many detectors will be averaged later. Counts of photons must be added up before
            the logarithm instead: what is averaged later is then made equal here.

    Raises:
        UserError: white or dark do not fit, or the numbers are not what they are said to be.
    """
    every = single_sinograms(items, options.layout)
    single = [every[row] for row in chosen(options.rows, len(every), "data.rows")]
    tally = Tally(MASKED if options.dead == "mask" else FILLED)
    if not _are_counts(single[0], options):
        if options.dead == "auto":
            tally.done = LEFT
        _refuse_options_of_counts(single[0], options)
        groups, notes = _groups(single, options.bin_rows)
        made = [_joined(group, partial(_read_integrals, group, options, tally)) for group in groups]
    else:
        white = named_beam(options.white, "data.white", every)
        dark = named_beam(options.dark, "data.dark", every)
        raw = [counts_of(item, white, dark) for item in single]
        for item in raw:
            _check_white(item)
        _check_counts(raw, options)
        groups, notes = _groups(raw, options.bin_rows)
        notes += _assumed(single[0], options)
        made = [
            _joined(group, partial(_read_counts, group, options, bin, tally)) for group in groups
        ]
    first = replace(made[0], notes=(*made[0].notes, *notes))
    return Corrected([first, *made[1:]], tally, _are_counts(single[0], options))


def _groups(items: Sequence[Item], size: int) -> tuple[list[list[Item]], list[str]]:
    """As many rows as become one slice, group by group.

    Raises:
        UserError: there are fewer rows than make one.
    """
    count = len(items) // size
    if count < 1:
        raise UserError(f"data.bin_rows={size}: there are {len(items)} rows of detectors; lower it")
    left_over = len(items) - count * size
    notes = [f"data.bin_rows={size}: {left_over} row(s) at the end are left out"]
    return [list(items[k * size : (k + 1) * size]) for k in range(count)], notes[: left_over > 0]


def _joined(group: list[Item], read: Callable[[], np.ndarray]) -> Item:
    """The item of a slice, which stands where the first of its rows does."""
    first = group[0]
    if len(first.shape) != 2 or first.complex:
        return first  # no sinogram: what takes it will say so
    return replace(first, read=read, holds="measurement", counts=None)


# ------------------------------------------------------------------------- counts, or not


def _are_counts(first: Item, options: SinogramSettings) -> bool:
    if options.values != "auto":
        return options.values == "counts"
    if options.white is not None or options.dark is not None:
        return True
    if first.counts is None:
        return False
    return first.counts.white is not None or look_like_counts(first.read())


def check_line_integrals(items: Sequence[Item], options: SinogramSettings) -> None:
    """Recognises counts that are given as line integrals.

    Raises:
        UserError: they are counts.
    """
    if options.values == "line_integrals":
        return
    some = _spread(items)
    if all(not item.complex and look_like_counts(item.read()) for item in some):
        raise UserError(
            f"{shown_path(items[0].file)}: these look like counts behind the object (largest where "
            "nothing is in the way), not like line integrals: name the open beam as data.white=… "
            "(a file, or its counts as a number; 1 for transmissions) and the dark current as "
            "data.dark=…; or say data.values=line_integrals"
        )


def refuse_options(options: SinogramSettings, what: str) -> None:
    """
    Raises:
        UserError: an option of sinograms was set, and ``what`` says that there are none.
    """
    for key, field in SinogramSettings.model_fields.items():
        if getattr(options, key) != field.default:
            raise UserError(
                f"data.{key}: applies to the sinograms of parallel_beam and fan_beam, but {what}; "
                "leave it out"
            )


def _refuse_options_of_counts(item: Item, options: SinogramSettings) -> None:
    """
    Raises:
        UserError: an option was set that line integrals have no use for.
    """
    for key in ("white", "dark"):
        if getattr(options, key) is not None:
            raise UserError(
                f"{shown_path(item.file)}: data.values=line_integrals, to which data.{key} does "
                "not apply; leave one of them out"
            )


def _check_white(item: Item) -> None:
    """
    Raises:
        UserError: the open beam is not known.
    """
    if item.counts is None or item.counts.white is None:
        raise UserError(
            f"{shown_path(item.file)}: holds counts, but says nothing of the open beam; name it as "
            "data.white=… (a file, or its counts as a number; 1 for transmissions), or, if these "
            "are line integrals, say data.values=line_integrals"
        )


def _check_counts(items: Sequence[Item], options: SinogramSettings) -> None:
    """
    Raises:
        UserError: they are line integrals.
    """
    if options.values == "counts":
        return
    if all(look_like_line_integrals(_transmission(item)) for item in _spread(items)):
        raise UserError(
            f"{shown_path(items[0].file)}: these look like line integrals already (smallest where "
            "nothing is in the way), not like counts beside an open beam: say "
            "data.values=line_integrals and leave out data.white and data.dark; if they are "
            "counts, say data.values=counts"
        )


def _transmission(item: Item) -> np.ndarray:
    """(views, detectors), NaN where there is no open beam."""
    white, dark = _white_and_dark(item)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = (item.read() - dark) / (white - dark)
    return np.where(np.isfinite(share), share, np.nan)


def _white_and_dark(item: Item) -> tuple[np.ndarray, np.ndarray | float]:
    counts = item.counts
    assert counts is not None
    assert counts.white is not None
    dark = 0.0 if counts.dark is None else counts.dark().astype(np.float64)
    return counts.white().astype(np.float64), dark


def _spread(items: Sequence[Item]) -> list[Item]:
    places = np.linspace(0, len(items) - 1, min(len(items), LOOKED_AT)).round().astype(int)
    return [items[i] for i in places]


def _assumed(item: Item, options: SinogramSettings) -> list[str]:
    """What is said of what was assumed, and of what stands above the file."""
    counts, name = item.counts or Counts(), item.file.name
    notes = []
    if options.white is not None and counts.white is not None:
        notes.append(f"{name}: data.white takes the place of the file's own open beam")
    if options.dark is not None and counts.dark is not None:
        notes.append(f"{name}: data.dark takes the place of the file's own dark current")
    if options.dark is None and counts.dark is None:
        notes.append(f"{name}: no dark current is known; taken for 0 (data.dark=… names it)")
    return notes


# ----------------------------------------------------------------------------- what is read


def _read_counts(
    group: list[Item], options: SinogramSettings, bin: int, tally: Tally
) -> np.ndarray:
    """(views, detectors) of the photons of all rows of the group."""
    beams = [_white_and_dark(item) for item in group]
    counts = np.stack([item.read() for item in group], 1)
    white = np.stack([white for white, _ in beams])
    dark = np.stack([np.broadcast_to(dark, white[0].shape) for _, dark in beams])
    first = group[0]
    try:
        found = line_integrals(counts, white, dark, bin)
    except BadCounts as error:
        raise UserError(f"{shown_path(first.file)}, {first.name}: {error}") from error
    _refuse_if_asked(first, found.losses, options)
    tally.add(first.name, found.losses, _repeated(found.measured, bin, counts.shape[-1]))
    values = without_rings(found.values, options.rings)
    return _repeated(values, bin, counts.shape[-1])


def _repeated(binned: np.ndarray, bin: int, detectors: int) -> np.ndarray:
    """(views, detectors) of which the mean of ``bin`` is what is given; the ends that are left
    over go on."""
    if bin == 1:
        return binned
    first, count = bins(detectors, bin)
    repeated = np.repeat(binned, bin, axis=-1)
    return np.pad(repeated, ((0, 0), (first, detectors - first - count * bin)), mode="edge")


def _read_integrals(group: list[Item], options: SinogramSettings, tally: Tally) -> np.ndarray:
    """(views, detectors), the mean of the group's rows."""
    rows = []
    for item in group:
        values = np.asarray(item.read())
        missing = ~np.isfinite(values)
        dead = missing.all(0) | _silent(values)
        numbers = tuple(int(i) for i in np.flatnonzero(dead))
        losses = Losses(numbers, missing=int((missing & ~dead).sum()))
        measured = ~(missing | dead)
        _refuse_if_asked(item, losses, options)
        _refuse_nan(item, losses, missing, options)
        tally.add(item.name, losses, measured)
        if losses and options.dead != "auto":
            values = filled(values, measured)
        rows.append(values)
    mean = rows[0] if len(rows) == 1 else np.mean(rows, axis=0)
    return without_rings(mean, options.rings)


def _silent(values: np.ndarray) -> np.ndarray:
    """(detectors,) those that say 0 in every view, between others that do not."""
    zero = (values == 0).all(0)
    speaks = np.flatnonzero(~zero)
    places = np.arange(values.shape[1])
    if not len(speaks):
        return np.zeros(len(places), bool)
    inside: np.ndarray = zero & (places > speaks[0]) & (places < speaks[-1])
    return inside


def _refuse_if_asked(item: Item, losses: Losses, options: SinogramSettings) -> None:
    """
    Raises:
        UserError: ``data.dead=refuse``, and something measured nothing.
    """
    if losses and options.dead == "refuse":
        raise UserError(
            f"{shown_path(item.file)}, {item.name}: {losses.in_words()}, and data.dead=refuse; set "
            "data.dead=interpolate, or leave the slice out (data.rows)"
        )


def _refuse_nan(item: Item, losses: Losses, missing: np.ndarray, options: SinogramSettings) -> None:
    """
    Raises:
        UserError: nothing is said of what shall become of NaN.
    """
    if options.dead == "auto" and missing.any():
        raise UserError(
            f"{shown_path(item.file)}, {item.name}: {int(missing.sum())} of {missing.size} values "
            f"are NaN or infinite ({losses.in_words()}); set data.dead=interpolate (filled in from "
            "their neighbours) or data.dead=mask (left out of the operator), or leave the file out"
        )
