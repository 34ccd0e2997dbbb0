"""Raw counts of photons, and the line integrals that they stand for.

−log((data − dark) / (white − dark)): ``white`` is what a detector counts with nothing in the way,
``dark`` what it counts without a beam. What no detector can tell (dead ones, hot ones, values that
are not above the dark current) is filled in from its neighbours, and counted.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .losses import Losses

#: A detector whose open beam is below this share of the row's is dead.
DIMMEST = 0.01
#: A value this many times brighter than the open beam, and than its neighbours, is hot.
HOT, HOTTER_THAN_NEIGHBOURS = 1.2, 1.5
#: In fewer views a detector may say the same by chance.
FEWEST_VIEWS = 8
#: What its neighbours vary at least, as a part of the usual signal: more than by rounding.
VARIES = 0.02
#: Neighbours, with the value itself, that a hot one is compared with.
NEIGHBOURS = 5
#: More counts than this, as a share, that are the largest of all were cut off there; of counts up
#: to the second number many are alike.
MOST_LARGEST, FEW_COUNTS = 0.01, 255
#: What measured nothing is filled in from its neighbours up to this share of a sinogram.
MOST_FILLED = 0.3


class BadCounts(ValueError):
    """What is given as counts cannot be counts. Its text says what they are, and the remedy."""


@dataclass(frozen=True)
class LineIntegrals:
    """A sinogram (views, detectors), which of its values were measured, and what was lost."""

    values: np.ndarray  #: (views, detectors) float32; what was lost is filled in
    measured: np.ndarray  #: (views, detectors) of truth values
    losses: Losses


def line_integrals(
    counts: np.ndarray,
    white: np.ndarray | float,
    dark: np.ndarray | float = 0.0,
    bin: int = 1,
) -> LineIntegrals:
    """−log((counts − dark) / (white − dark)), with what measured nothing filled in.

    Args:
        counts: (views, detectors), or (views, rows, detectors) of which the rows become one.
        white: of each detector with nothing in the way, (detectors,) or (rows, detectors): the mean
            of as many frames as there are.
        dark: of each detector without a beam.
        bin: as many detectors become one: their photons are added up, before the logarithm. What
            is left over at the ends is cut off alike on both sides.

    Raises:
        BadCounts: there is no open beam, or hardly anything is above the dark current.
    """
    signal, beam = _above_dark(counts, white, dark)
    usable = _has_beam(beam)
    signal = np.where(usable, signal, np.nan)
    missing = ~np.isfinite(signal)
    is_hot = _hot(signal, beam)
    bad = missing | is_hot
    silent = (np.where(bad, 0, signal) <= 0).all(0)
    dead_one = bad.all(0) | silent | _stuck(signal)  # (rows, detectors)
    bad |= dead_one
    light = _binned(np.where(bad, 0, signal), bin)
    full = _binned(np.where(bad, 0, np.broadcast_to(beam, signal.shape)), bin)
    with np.errstate(divide="ignore", invalid="ignore"):
        transmission = light / full
    lost = (full > 0) & (transmission <= 0)
    measured = (full > 0) & ~lost
    single = np.broadcast_to(~dead_one, bad.shape)
    losses = Losses(
        dead=tuple(int(i) for i in np.flatnonzero(dead_one.any(0))),
        hot=int((is_hot & single).sum()),
        lost=int((lost & ~lost.all(0)).sum()),
        missing=int((missing & single).sum()),
        cut_off=_cut_off(counts),
    )
    _check_enough(measured, losses)
    values = -np.log(np.where(measured, transmission, 1))
    return LineIntegrals(filled(values, measured), measured, losses)


def _above_dark(
    counts: np.ndarray, white: np.ndarray | float, dark: np.ndarray | float
) -> tuple[np.ndarray, np.ndarray]:
    """(views, rows, detectors) and (rows, detectors), in float64."""
    stack = np.asarray(counts, dtype=np.float64)
    stack = stack[:, None] if stack.ndim == 2 else stack
    current = np.asarray(dark, dtype=np.float64)
    beam = np.broadcast_to(np.asarray(white, dtype=np.float64) - current, stack.shape[1:])
    return stack - current, beam


def _has_beam(beam: np.ndarray) -> np.ndarray:
    """Which detectors see the open beam.

    Raises:
        BadCounts: none does.
    """
    finite = np.isfinite(beam)
    usual = float(np.median(beam[finite])) if finite.any() else 0.0
    if usual <= 0:
        raise BadCounts(
            f"the open beam is not brighter than the dark current (their difference is {usual:.4g} "
            "in the median): are white and dark swapped? See data.white and data.dark"
        )
    with np.errstate(invalid="ignore"):
        seen: np.ndarray = finite & (beam > DIMMEST * usual)
    return seen


def _cut_off(counts: np.ndarray) -> float:
    """The share of counts that are the largest of all; 0, where it is small, as it is by chance, or
    where the counts are so few that many are alike."""
    values = np.asarray(counts)
    top = values.max(initial=0)
    share = float(np.mean(values == top))
    return share if share > MOST_LARGEST and top > FEW_COUNTS else 0.0


def _stuck(signal: np.ndarray) -> np.ndarray:
    """(rows, detectors) those that say the same in every view, between two that do not by far."""
    if len(signal) < FEWEST_VIEWS:
        return np.zeros(signal.shape[1:], bool)
    known = np.where(np.isfinite(signal), signal, 0)
    span = np.ptp(known, axis=0)
    varies = span > VARIES * float(np.median(known))
    alone = np.zeros_like(varies)
    alone[:, 1:-1] = (span[:, 1:-1] == 0) & varies[:, :-2] & varies[:, 2:]
    return alone


def _hot(signal: np.ndarray, beam: np.ndarray) -> np.ndarray:
    """Values far brighter than the open beam and than the detectors beside them."""
    with np.errstate(divide="ignore", invalid="ignore"):
        transmission = signal / beam
        bright = transmission > HOT
    if not bright.any():
        return bright
    usual = _median_of_neighbours(np.where(np.isfinite(transmission), transmission, 1))
    return bright & (transmission > HOTTER_THAN_NEIGHBOURS * usual)


def _median_of_neighbours(values: np.ndarray) -> np.ndarray:
    """Along the last axis, with the ends mirrored."""
    reach = min(NEIGHBOURS // 2, values.shape[-1] - 1)
    padded = np.pad(values, [(0, 0)] * (values.ndim - 1) + [(reach, reach)], mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1, axis=-1)
    middle: np.ndarray = np.median(windows, axis=-1)
    return middle


def _binned(stack: np.ndarray, bin: int) -> np.ndarray:
    """(views, rows, detectors) added up over all rows and over ``bin`` detectors each."""
    columns: np.ndarray = stack.sum(1)
    if bin == 1:
        return columns
    first, count = bins(columns.shape[1], bin)
    kept = columns[:, first : first + count * bin]
    added: np.ndarray = kept.reshape(len(kept), count, bin).sum(-1)
    return added


def bins(detectors: int, bin: int) -> tuple[int, int]:
    """The first detector that is used, and how many there are after binning.

    Raises:
        BadCounts: there are fewer detectors than make one.
    """
    count = detectors // bin
    if count < 1:
        raise BadCounts(f"{detectors} detectors cannot be binned {bin}-fold; lower the binning")
    return (detectors - count * bin) // 2, count


def _check_enough(measured: np.ndarray, losses: Losses) -> None:
    """
    Raises:
        BadCounts: too little was measured for the rest to be filled in.
    """
    share = 1 - float(measured.mean())
    if share > MOST_FILLED:
        raise BadCounts(
            f"{share:.0%} of the values are not above the dark current ({len(losses.dead)} dead "
            f"detectors, {losses.lost} values ≤ 0): are these counts, and are data.white and "
            "data.dark theirs? If they are line integrals already: data.values=line_integrals"
        )


def filled(values: np.ndarray, measured: np.ndarray) -> np.ndarray:
    """(views, detectors) in float32, with what was not measured interpolated linearly along the
    detectors of its view; a view without any, between its neighbours in time."""
    result = np.array(values, dtype=np.float32)
    places = np.arange(values.shape[1])
    empty = ~measured.any(1)
    for view in np.flatnonzero(~measured.all(1) & ~empty):
        known = measured[view]
        result[view, ~known] = np.interp(places[~known], places[known], values[view, known])
    if empty.any() and not empty.all():
        views = np.arange(len(values))
        for detector in places:
            column = result[~empty, detector]
            result[empty, detector] = np.interp(views[empty], views[~empty], column)
    return result
