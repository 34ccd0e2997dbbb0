"""From the scores of a method to its row of the table."""

from __future__ import annotations

import torch

from ..assessment.table import Cell, Column, Interval, Missing, Row, Value
from ..errors import UserError
from .method import Method
from .scores import Score
from .statistics import bootstrap
from .trained import Trained

COLUMNS = [
    Column("psnr", "PSNR (dB)", ".2f", ".2f"),
    Column("ssim", "SSIM", ".4f", ".4f"),
    Column("difference", "difference (dB)", "+.2f"),
    Column("interval", "95 % interval", "+.2f"),
    Column("evaluations", "evaluations", ".0f"),
    Column("converged", "converged", ".0%"),
    Column("seconds", "ms / image", ".1f", scale=1e3),
    Column("train_seconds", "training (min)", ".1f", scale=1 / 60),
    Column("memory_mb", "memory (MB)", ".0f"),
    Column("parameters", "parameters", ",.0f"),
]
MEANS = ("evaluations", "converged", "seconds", "train_seconds", "memory_mb", "parameters")

#: What became of a method, seed by seed; None: it was not tried yet.
Seeds = list[Score | None]


def reference(methods: list[Method], found: dict[str, Seeds]) -> Method | None:
    """What differences are from: the first trained method that has scores, which is the (first)
    configuration as it is, if it is taken in; otherwise the first of all."""
    scored = [m for m in methods if any(s is not None and s.is_there for s in found[m.name])]
    trained = [m for m in scored if isinstance(m, Trained)]
    return next(iter([*trained, *scored]), None)


def row_of(method: Method, scores: Seeds, against: Seeds, seeds: list[int]) -> Row:
    """Means, deviations over seeds, and the difference from the reference.

    Raises:
        UserError: the two were scored on different images.

    Args:
        method: that the row is of.
        scores: what became of it, seed by seed.
        against: of the reference, likewise; empty for the reference itself.
        seeds: their numbers.
    """
    good = [score for score in scores if score is not None and score.is_there]
    cells: dict[str, Cell] = {}
    if good:
        cells["psnr"] = _over_seeds([score.psnr for score in good])
        cells["ssim"] = _over_seeds([score.ssim for score in good])
    for key in MEANS:
        values = [score.costs[key] for score in good if key in score.costs]
        if values:
            cells[key] = Value(sum(values) / len(values))
    pairs = [
        (score, other)
        for score, other in zip(scores, against, strict=False)
        if score is not None and score.is_there and other is not None and other.is_there
    ]
    if pairs:
        differences = [_difference(score, other) for score, other in pairs]
        paired = torch.tensor(differences, dtype=torch.float64)
        (score, _), *_ = pairs
        difference = bootstrap(paired, score.patients)
        cells["difference"] = Value(difference.mean)
        if paired.numel() > 1:  # one image with one seed tells nothing of how sure it is
            cells["interval"] = Interval(difference.low, difference.high)
    return Row(
        method.name,
        method.label,
        cells,
        remark=_settings(good),
        missing=_missing(scores, seeds),
        more={"seeds": len(good)},
    )


def _over_seeds(values: list[list[float]]) -> Value:
    means = torch.tensor([sum(v) / len(v) for v in values], dtype=torch.float64)
    return Value(float(means.mean()), float(means.std()) if len(means) > 1 else None)


def _difference(score: Score, other: Score) -> list[float]:
    if score.names != other.names:
        raise UserError(
            "two methods were scored on different images, so the data have changed since the first "
            "of them; compare anew in another folder, with --out"
        )
    return [p - q for p, q in zip(score.psnr, other.psnr, strict=True)]


def _settings(good: list[Score]) -> str:
    """The setting; where it differs from seed to seed, each."""
    return " / ".join(dict.fromkeys(score.setting for score in good))


def _missing(scores: Seeds, seeds: list[int]) -> list[Missing]:
    """Why some seeds, or all of them, have no scores."""
    known = [(seed, score) for seed, score in zip(seeds, scores, strict=True) if score is not None]
    bad = [(seed, score) for seed, score in known if not score.is_there]
    same = {score.missing for _, score in bad}
    if len(bad) == len(seeds) and len(same) == 1:
        (_, score), *_ = bad
        reasons = [Missing(score.missing, score.failed)]
    else:
        reasons = [score.reason(seed, len(seeds)) for seed, score in bad]
    untried = [str(seed) for seed, score in zip(seeds, scores, strict=True) if score is None]
    if untried:
        reasons.append(Missing(f"not scored yet: seed {', '.join(untried)}"))
    return reasons
