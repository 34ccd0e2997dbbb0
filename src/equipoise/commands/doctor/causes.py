"""Why a tomographic operator does not explain its data: the usual mistakes are tried, and the one
that mends the fit is named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from ...imaging.tomography import Tomography
from ...imaging.tomography.geometry import Geometry
from .trials import Judge, Trial, pairs, trials

#: Measurements that are tried, of those that are given.
SAMPLES = 2
#: What the best trial may leave before two mistakes at once are thought of.
UNEXPLAINED = 0.02
#: Other angles have to leave less than this share of what they leave in any order: the views of an
#: object that is round are all alike, and fit all angles.
OF_ANY_ORDER = 0.5
#: Trials that leave no more than this times what the best one leaves mend the fit as well.
AS_GOOD = 1.05


@dataclass(frozen=True)
class Cause:
    """What would explain the data better, and what it would leave unexplained."""

    trial: Trial  #: the mistake, and the scan had it been made
    before: float  #: how inconsistent the measurements are as the set-up is, as a share of them
    misfit: float  #: how inconsistent they would be
    others: tuple[str, ...] = ()  #: what would explain them as well

    @property
    def name(self) -> str:
        """axis, radians, span, sense, order, magnification, axes or counts."""
        return self.trial.name

    @property
    def what(self) -> str:
        return self.trial.what

    @property
    def remedy(self) -> str:
        return self.trial.remedy


def likely_cause(
    physics: Tomography, y: Tensor, say: Callable[[str], None] = lambda text: None
) -> Cause | None:
    """The mistake that explains measurements best, if one does.

    Args:
        physics: as it is configured.
        y: (B, 1, views, detectors), of which the brightest two are looked at.
        say: is told what is tried.
    """
    values = _telling(y[:, 0].double().cpu().numpy())
    return cause_of(physics.geometry, values, say)


def cause_of(
    geometry: Geometry, y: np.ndarray, say: Callable[[str], None] = lambda text: None
) -> Cause | None:
    """The same of a geometry and sinograms (B, views, detectors)."""
    if not y.any() or len(geometry.angles) < 3:
        return None
    judge = Judge(geometry, y)
    found: list[tuple[float, float, Trial]] = []
    now = judge.of(geometry)
    now_by_fit = judge.by_fit(geometry) if judge.by_moments else now
    in_any_order = judge.of(_shuffled(geometry))
    tried: set[str] = set()
    for trial in trials(judge):
        if trial.name not in tried:
            say(trial.name)
        tried.add(trial.name)
        before = now if trial.values == "as given" else now_by_fit
        if trial.values == "line integrals":
            # What all counts have in common is easily explained.
            before *= _size(y) / _size(y - float(np.median(y)))
        after = judge(trial)
        if trial.turn is not None and after > OF_ANY_ORDER * in_any_order:
            continue
        if after < trial.mends * before:
            found.append((after / max(before, 1e-300), before, trial))
    lowest = min([now, *[share * before for share, before, _ in found]])
    if lowest > UNEXPLAINED:
        say("two mistakes at once")
        for trial in pairs(judge):
            after = judge(trial)
            if after < trial.mends * lowest:
                found.append((after / max(now, 1e-300), now, trial))
    if not found:
        return None
    share, before, best = min(found, key=lambda one: one[0] * (0.5 if _is_sure(one[2]) else 1))
    others = {t.what for s, _, t in found if t.name != best.name and s <= AS_GOOD * share}
    return Cause(best, before, share * before, tuple(sorted(others)))


def _shuffled(geometry: Geometry) -> Geometry:
    """Its angles in an order that means nothing."""
    order = np.random.default_rng(0).permutation(len(geometry.angles))
    return replace(geometry, angles=tuple(geometry.angles[place] for place in order))


def _is_sure(trial: Trial) -> bool:
    """Whether more than the fit says so."""
    return trial.values == "line integrals"


def _size(y: np.ndarray) -> float:
    return float(np.linalg.norm(y))


def _telling(y: np.ndarray) -> np.ndarray:
    """The sinograms with the most in them, of (B, views, detectors)."""
    spread = y.std((1, 2))
    chosen: np.ndarray = y[np.argsort(-spread)[:SAMPLES]]
    return chosen
