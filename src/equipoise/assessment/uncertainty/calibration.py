"""By how much bounds must be wider (or may be narrower), learnt from a few truths, or from
measurements that were left out."""

from __future__ import annotations

import math
import warnings
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...errors import ArgumentError
from ...imaging.splitting import split
from .bootstrap import uncertainty
from .noise import noise_variance, with_noise
from .record import Uncertainty, UncertaintyWarning


class Calibration(NamedTuple):
    """What :meth:`Uncertainty.scaled` is given."""

    factor: float
    words: str  #: what it was learnt from, and what it promises


def calibrated_on_truths(u: Uncertainty, truth: Tensor, guarantee: bool = False) -> Calibration:
    """The factor with which the bounds of these images hold their level.

    Args:
        u: of n images, at one level.
        truth: (n, …) of the same quantity.
        guarantee: take the wider factor of conformal risk control (Angelopoulos et al., ICLR 2024)
            of the share of pixels outside: on a further image that is exchangeable with these n, it
            is at most 1 − level in expectation, whatever the images are like.

    Raises:
        ArgumentError: fewer truths than a guarantee needs, level / (1 − level): 9 for 90 %.
    """
    half = ((u.upper - u.lower) / 2).double()
    centre = ((u.upper + u.lower) / 2).double()
    error = (truth.double() - centre).abs()
    tiny = torch.finfo(torch.float64).tiny
    scores = torch.where(error > 0, error / half.clamp_min(tiny), 0).flatten()
    n, missed = len(truth), 1 - u.level
    words = f"{n} truth(s)"
    if guarantee:
        if missed * (n + 1) < 1 - 1e-9:
            needed = math.ceil(u.level / missed - 1e-9)
            raise ArgumentError(
                f"truth: a guarantee of {u.level:.0%} needs at least {needed} images, got {n}; add "
                "some, lower the level, or do without (guarantee=False)"
            )
        missed = max(0.0, (missed * (n + 1) - 1) / n)
        words += f", with a guarantee of {u.level:.0%} in expectation"
    place = min(len(scores), math.ceil((1 - missed) * len(scores))) - 1
    factor = float(scores.sort().values[max(0, place)])
    return Calibration(factor, f"factor {factor:.2f} from {words}")


def calibrated_on_measurements(
    model: Any,
    y: Tensor,
    physics: Any,
    group: Any,
    *,
    noise: Any = None,
    samples: int = 30,
    level: float = 0.9,
    seed: int = 0,
    parts: int = 4,
    keys: Any = None,
) -> Calibration:
    """The factor with which the samples predict measurements that were left out.

    One of ``parts`` of each measurement (views, lines, points) is kept out; the rest is
    reconstructed, x̂, with samples x̃. At what was kept out, A'x̂ misses y' by the error of x̂ and by
    the noise, so that the mean of (A'x̂ − y')² less the noise's variance is the mean square of A'
    applied to the true error; the samples say what it should be. Needs no truth, and sees nothing
    of what no measurement sees.

    Args:
        model: the reconstructor.
        y: (B, …) measurements; a few images suffice.
        physics: of these B images; it has views or a mask.
        group: moves the images.
        noise: as in :func:`uncertainty`.
        samples: for each image.
        level: of the bounds, for the words alone.
        seed: of the draws.
        parts: of which one is kept out.
        keys: as in :func:`uncertainty`.

    Raises:
        TypeError: what is measured cannot be split.
        ValueError: there are fewer views than parts.
    """
    physics = with_noise(physics, noise)
    inside, y_inside, outside, y_outside = split(physics, y, parts, 0)
    measured = (y_outside != 0).flatten(1).sum(1).clamp_min(1)

    def mean_square(v: Tensor) -> Tensor:
        return v.double().square().flatten(1).sum(1) / measured

    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", UncertaintyWarning)
        u = uncertainty(
            model,
            y_inside,
            inside,
            group,
            samples,
            min(level, 1 - 1 / samples),
            seed,
            keep=True,
            keys=keys,
        )
        assert u.samples is not None
        missed = mean_square(outside.A(u.value) - y_outside)
        variance = noise_variance(outside.A(u.value), outside, seed)
        spread = [mean_square(outside.A(one - u.value)) for one in u.samples]
    predicted = torch.stack(spread).mean(0)
    true = (missed - variance).clamp_min(0)
    factor = float((true.sum() / predicted.sum().clamp_min(1e-30)).sqrt())
    words = (
        f"factor {factor:.2f} from {len(y)} measurement(s), of each of which one in {parts} was "
        "left out and predicted"
    )
    return Calibration(factor, words)
