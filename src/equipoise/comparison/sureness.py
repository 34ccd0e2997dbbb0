"""Whether a run's own estimate of its errors is true: the bootstrap beside the truth, as it is,
corrected, and calibrated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..assessment import figures
from ..assessment.figures.canvas import Figure
from ..assessment.metrics import magnitude
from ..assessment.reading import Reading
from ..assessment.table import Cell, Column, Missing, Row, Table, Value, reason_of
from ..assessment.uncertainty import (
    Reliability,
    Uncertainty,
    calibrated_on_measurements,
    calibrated_on_truths,
    reliability,
)
from ..assessment.uncertainty.record import decibels
from ..assessment.uncertainty.statistics import BY_IMAGE, BY_SAMPLE
from ..data.dataset import Dataset
from ..run import Run
from .bootstrap import (
    Bootstrap,
    bootstrap,
    in_native_units,
    key_of,
    notes_of,
    readings_of,
    seconds_a_solve,
)

if TYPE_CHECKING:
    from lightning_fabric import Fabric

#: Of the reliability curve, as far as the samples resolve them.
LEVELS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
#: Measurements of which a part is left out, and samples of each: more cost more than they say.
LEFT_OUT_OF, LEFT_OUT_SAMPLES = 4, 20
NO_TRUTH = "the data are measurements, so there is no truth to compare with"
ONE_PATIENT = "all images are one patient's, so no others are left to calibrate on"


@dataclass
class Sureness:
    """What `evaluate --samples` adds to an evaluation.

    Args:
        uncertainty: of all images, as the bootstrap gives it.
        table: a row as it is, corrected, and calibrated.
        readings: of the page's viewer.
        notes: why not to trust it.
        found: what was compared with the truth, by the key of its row.
    """

    uncertainty: Uncertainty
    table: Table
    readings: list[Reading]
    notes: list[str]
    found: dict[str, Reliability] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """What results.json holds."""
        return {
            "level": self.uncertainty.level,
            "samples": len(self.uncertainty.sample_rmse),
            "predicted_psnr": self.uncertainty.psnr.tolist(),
            "notes": self.notes,
            "methods": self.table.as_json(),
            "curves": {key: found.as_json() for key, found in self.found.items()},
        }

    def figure(self) -> Figure | None:
        """Scatter and reliability curve; none without truth."""
        if not self.found:
            return None
        raw = self.found["bootstrap"]
        order = sorted(range(len(raw.levels)), key=lambda k: raw.levels[k])
        curves = {
            self.table.row(key).title: [found.coverage(k) for k in order]
            for key, found in self.found.items()
            if len(found.levels) == len(raw.levels)
        }
        nominal = [raw.levels[k] for k in order]
        return figures.reliability(raw.predicted.tolist(), raw.true.tolist(), nominal, curves)

    def words(self) -> list[str]:
        """Paragraphs of the page."""
        texts = [f"Caution: {note}." for note in self.notes]
        raw = self.found.get("bootstrap")
        if raw is None:
            return texts
        level = self.uncertainty.level
        return [
            f"How sure: the {level:.0%} bounds of the equivariant bootstrap hold "
            f"{raw.coverage():.1%} of the pixels; predicted errors are {raw.ratio:.2f} times the "
            f"true ones, with a rank correlation of {raw.correlation:.2f} over "
            f"{len(raw.true)} images.",
            *texts,
        ]


def sureness(
    run: Run,
    dataset: Dataset,
    value: Tensor,
    asked: Bootstrap,
    progress: Callable[[int, int], None] | None = None,
    say: Callable[[str], None] = print,
    fabric: Fabric | None = None,
) -> Sureness:
    """The bootstrap of a run's reconstructions ``value`` (N, C, …, H, W), beside the truth; what it
    costs is said before it begins. The processes of ``fabric`` share the samples.

    Raises:
        UserError: the group does not fit the images, or there are too few samples.
    """
    say(asked.cost_in_words(len(dataset), seconds_a_solve(run, dataset)))
    finer = [p for p in LEVELS if p != asked.level and asked.samples * (1 - p) >= 1 - 1e-9]
    u = bootstrap(run, dataset, value, asked, levels=tuple(finer), progress=progress, fabric=fabric)
    # As the page shows them beside other methods: in the model's frame.
    framed = [replace(item, frame=None) for item in dataset.items]
    readings = readings_of(u, in_native_units(u, value, framed, None), framed)
    table = Table("bounds", _columns(asked.level), remarks="learnt from")
    found = Sureness(u, table, readings, notes_of(u, dataset.names))
    truth = None if dataset.truth is None else magnitude(dataset.truth)
    _add(found, "bootstrap", "Equivariant bootstrap", u, truth, finer)
    _add(found, "corrected", "… bias corrected", u.corrected(), truth, [])
    _add_calibrated(found, dataset, u, truth, finer)
    _add_calibrated_on_measurements(found, run, dataset, u, truth, asked, finer)
    return found


def _columns(level: float) -> list[Column]:
    return [
        Column("coverage", f"pixels within {level:.0%} bounds", ".1%", ".1%"),
        Column("width", "mean width", ".4f", ".4f"),
        Column("predicted", "predicted error (dB)", ".2f", ".2f"),
        Column("true", "true error (dB)", ".2f", ".2f"),
        Column("ratio", "predicted / true", ".2f"),
        Column("correlation", "rank correlation", ".2f"),
    ]


def _over_images(values: Tensor) -> Value:
    return Value(float(values.double().mean()), float(values.double().std(unbiased=False)))


def _add(
    found: Sureness,
    key: str,
    title: str,
    u: Uncertainty,
    truth: Tensor | None,
    finer: list[float],
    remark: str = "",
) -> None:
    """A row of the table."""
    width = (u.upper - u.lower).flatten(1).double().mean(1)
    names = ("coverage", "true", "ratio", "correlation")
    cells: dict[str, Cell] = {name: Missing(NO_TRUTH) for name in names}
    cells |= {"width": _over_images(width), "predicted": _over_images(decibels(u.rmse))}
    if truth is not None:
        r = reliability(u, truth, finer)
        found.found[key] = r
        cells["coverage"] = _over_images(r.covered[0])
        cells["true"], cells["ratio"] = _over_images(decibels(r.true)), Value(r.ratio)
        few = Missing("a rank correlation needs three images")
        cells["correlation"] = Value(r.correlation) if len(truth) >= 3 else few
    found.table.rows.append(Row(key, title, cells, remark))


def _add_calibrated(
    found: Sureness, dataset: Dataset, u: Uncertainty, truth: Tensor | None, finer: list[float]
) -> None:
    """Half of the patients calibrate the other half, and the other way round."""
    key, title = "calibrated", "… calibrated on the truths of other patients"
    patients = list(dict.fromkeys(dataset.patients))
    if truth is None or len(patients) < 2:
        missing = Missing(NO_TRUTH if truth is None else ONE_PATIENT)
        found.table.rows.append(Row(key, title, missing=[missing]))
        return
    in_first = {name: k % 2 == 0 for k, name in enumerate(patients)}
    first = torch.tensor([in_first[name] for name in dataset.patients])
    factors = torch.ones(len(truth), dtype=u.value.dtype)
    learnt = []
    for half in (first, ~first):
        calibration = calibrated_on_truths(some(u, half), truth[half])
        factors[~half] = calibration.factor
        learnt.append(calibration.words)
    _add(found, key, title, _scaled_each(u, factors), truth, finer, "; ".join(learnt))


def _scaled_each(u: Uncertainty, factors: Tensor) -> Uncertainty:
    """Each image's bounds by its own factor."""
    wide = u.scaled(factors.reshape(-1, *[1] * (u.value.ndim - 1)))
    return replace(wide, rmse=factors * u.rmse, rmse_upper=factors * u.rmse_upper)


def _add_calibrated_on_measurements(
    found: Sureness,
    run: Run,
    dataset: Dataset,
    u: Uncertainty,
    truth: Tensor | None,
    asked: Bootstrap,
    finer: list[float],
) -> None:
    key, title = "calibrated_on_measurements", "… calibrated on measurements that were left out"
    few = dataset.spread(LEFT_OUT_OF)
    y, physics, _ = few.batch(torch.arange(len(few)))
    try:
        calibration = calibrated_on_measurements(
            run.model,
            y.to(next(run.model.parameters()).dtype),
            physics,
            asked.group_of(run),
            samples=min(asked.samples, LEFT_OUT_SAMPLES),
            seed=asked.seed,
            keys=[key_of(item) for item in few.items],
        )
    except (TypeError, ValueError) as error:
        found.table.rows.append(Row(key, title, missing=[Missing(reason_of(error))]))
        return
    _add(found, key, title, u.scaled(calibration.factor), truth, finer, calibration.words)


def some(u: Uncertainty, index: Tensor) -> Uncertainty:
    """The record of some of its images."""
    fields: dict[str, Any] = {}
    for name in BY_IMAGE:
        each = getattr(u, name)
        fields[name] = None if each is None else each[index]
    for name in BY_SAMPLE:
        each = getattr(u, name)
        fields[name] = None if each is None else each[:, index]
    return replace(u, solved=None, **fields)
