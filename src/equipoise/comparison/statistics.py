"""How sure a difference between two methods is."""

from __future__ import annotations

from typing import NamedTuple

import torch
from scipy.stats import norm as normal
from scipy.stats import t as student
from torch import Tensor


class Difference(NamedTuple):
    """A mean, and the bounds of its confidence interval."""

    mean: float
    low: float
    high: float


def bootstrap(
    difference: Tensor, groups: list[str], draws: int = 4000, level: float = 0.95
) -> Difference:
    """Mean of paired differences, and an interval that holds the true mean.

    Seeds are drawn with replacement, and ``groups`` of images that belong together (those of a
    patient); where there is only one group, images are drawn. The seed of the draws is fixed. Few
    groups and seeds vary less in such draws than in truth: the interval is widened by
    :func:`_widening`.

    Args:
        difference: (seeds, images).
        groups: of each image, such as its patient.
        draws: of the bootstrap.
        level: how often the interval shall hold the truth.
    """
    difference = difference.double()
    members = _members(groups)
    sums = torch.stack([difference[:, images].sum(1) for images in members], 1)  # (seeds, groups)
    sizes = torch.tensor([len(images) for images in members], dtype=torch.float64)
    outside = (1 - level) / 2
    bounds = torch.tensor([outside, 1 - outside], dtype=torch.float64)
    low, high = _drawn_means(sums, sizes, draws).quantile(bounds).tolist()
    mean = float(difference.mean())
    wider = _widening(sums, sizes, outside)
    return Difference(mean, mean + wider * (low - mean), mean + wider * (high - mean))


def _members(groups: list[str]) -> list[list[int]]:
    """The images of each group; where there is only one, each image is a group."""
    members = [[i for i, g in enumerate(groups) if g == name] for name in dict.fromkeys(groups)]
    return members if len(members) > 1 else [[i] for i in range(len(groups))]


def _drawn_means(sums: Tensor, sizes: Tensor, draws: int) -> Tensor:
    """(draws,) mean differences of seeds and groups drawn with replacement."""
    rng = torch.Generator().manual_seed(0)
    seeds, groups = sums.shape
    means = []
    for _ in range(draws):
        some_groups = torch.randint(groups, (groups,), generator=rng)
        some_seeds = torch.randint(seeds, (seeds,), generator=rng)
        total = sums[some_seeds][:, some_groups].sum(1).mean()
        means.append(total / sizes[some_groups].sum())
    return torch.stack(means)


def _widening(sums: Tensor, sizes: Tensor, outside: float) -> float:
    """What the interval lacks: draws from n values have (n − 1)/n of their variance, and the
    quantile is Student's, with the degrees of freedom of Satterthwaite (1946) for the sum of the
    two variances, over groups and over seeds."""
    over_groups = sums.mean(0) / sizes.mean()
    over_seeds = sums.sum(1) / sizes.sum()
    drawn = true = inverse_freedom = 0.0
    for values in (over_groups, over_seeds):
        n = len(values)
        biased = float(values.var(unbiased=False)) / n
        if n > 1 and biased > 0:
            unbiased = biased * n / (n - 1)
            drawn += biased
            true += unbiased
            inverse_freedom += unbiased**2 / (n - 1)
    if drawn == 0:
        return 1.0
    freedom = true**2 / inverse_freedom
    ratio: float = student.ppf(1 - outside, freedom) / normal.ppf(1 - outside)
    return (true / drawn) ** 0.5 * float(ratio)
