"""Is it true? Predicted against true errors, and bounds against what they hold, where the truth is
known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from scipy.stats import spearmanr
from torch import Tensor

from .record import Uncertainty


@dataclass(frozen=True)
class Reliability:
    """How an estimate of the errors of B images compares with their errors."""

    levels: list[float]  #: of bounds
    covered: Tensor  #: (levels, B)  share of the pixels whose truth is within the bounds
    predicted: Tensor  #: (B,)  root mean square error, as estimated
    true: Tensor  #: (B,)  as it is
    width: Tensor  #: (B,)  mean distance of the bounds at the first level

    def coverage(self, place: int = 0) -> float:
        """The share of all pixels within the bounds of a level."""
        return float(self.covered[place].double().mean())

    @property
    def correlation(self) -> float:
        """Spearman's, of predicted and true errors over the images; NaN for fewer than three."""
        return rank_correlation(self.predicted, self.true)

    @property
    def ratio(self) -> float:
        """Predicted over true root mean square error of all images together."""
        return float((self.predicted.square().mean() / self.true.square().mean()).sqrt())

    def as_json(self) -> dict[str, Any]:
        """For results.json."""
        correlation = self.correlation
        return {
            "levels": self.levels,
            "coverage": self.covered.double().mean(1).tolist(),
            "coverage_per_image": self.covered[0].tolist(),
            "predicted_rmse": self.predicted.tolist(),
            "true_rmse": self.true.tolist(),
            "rank_correlation": correlation if correlation == correlation else None,
            "predicted_over_true": self.ratio,
            "mean_width": float(self.width.mean()),
        }


def reliability(u: Uncertainty, truth: Tensor, levels: Sequence[float] = ()) -> Reliability:
    """Compares an estimate with the truth.

    Args:
        u: of B images; its ``widths`` are those of ``levels``.
        truth: (B, …), of the same quantity as ``u.value``.
        levels: of the further bounds.
    """
    error = (truth - u.value).abs()
    half = (u.upper - u.lower) / 2
    centre = (u.upper + u.lower) / 2
    inside = [((truth - centre).abs() <= half).flatten(1).double().mean(1)]
    if u.widths is not None:
        inside += [(error <= width).flatten(1).double().mean(1) for width in u.widths]
    return Reliability(
        [u.level, *levels][: len(inside)],
        torch.stack(inside),
        u.rmse.double(),
        error.double().square().flatten(1).mean(1).sqrt(),
        (u.upper - u.lower).flatten(1).double().mean(1),
    )


def rank_correlation(a: Tensor, b: Tensor) -> float:
    """Spearman's; NaN of fewer than three values, or of values that are all the same."""
    if len(a) < 3 or bool((a == a[0]).all()) or bool((b == b[0]).all()):
        return math.nan
    return float(spearmanr(a.double().cpu().numpy(), b.double().cpu().numpy()).statistic)
