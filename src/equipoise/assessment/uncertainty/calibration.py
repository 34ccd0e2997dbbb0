"""By how much bounds must be wider (or may be narrower), learnt from a few truths, or from
measurements that were left out."""

from __future__ import annotations

import math
import warnings
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...errors import ArgumentError
from ...imaging.operators import proximal
from ...imaging.splitting import split
from .bootstrap import uncertainty
from .noise import noise_variance, with_noise
from .record import Uncertainty

#: Of the noise, so that what hardly any detector sees is not divided by zero.
SMALLEST_VARIANCE = 1e-6


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
    reconstructed, x̂, with samples x̃. What was kept out, y', differs from A'x̂ by the error of x̂
    and by the noise. Less what noise alone would make, that is A' of the true error, for which the
    samples have A'(x̃ − x̂). Both are compared as the images that explain them. It needs no truth,
    and sees nothing of what no measurement sees.

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
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # cautions are about u, which nobody sees
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
        clean = outside.A(u.value)
        variance = noise_variance(clean, outside, seed)
        drawn = [_mean_square_seen(outside, _fresh(clean, outside, k), variance) for k in range(4)]
        missed = _mean_square_seen(outside, y_outside - clean, variance)
        spread = [_mean_square_seen(outside, outside.A(x - u.value), variance) for x in u.samples]
    predicted = torch.stack(spread).mean(0)
    true = (missed - torch.stack(drawn).mean(0)).clamp_min(0)
    factor = float((true.sum() / predicted.sum().clamp_min(1e-30)).sqrt())
    words = (
        f"factor {factor:.2f} from {len(y)} measurement(s), of each of which one in {parts} was "
        "left out and predicted"
    )
    return Calibration(factor, words)


def _fresh(clean: Tensor, physics: Any, number: int) -> Tensor:
    """Noise alone, of measurements like ``clean``."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(number)
        fresh: Tensor = physics.noise(clean) - clean
        return fresh


def _mean_square_seen(physics: Any, residual: Tensor, variance: float) -> Tensor:
    """(B,) of the smallest image that explains a residual, (AᵀA + δ)⁻¹Aᵀ r: so that details weigh
    as much as what is coarse, which operators pass with a larger gain."""
    nothing = torch.zeros_like(physics.A_adjoint(residual))
    delta = max(variance, SMALLEST_VARIANCE)
    seen = proximal(physics, nothing, residual, delta, max_iter=100)
    return seen.double().square().flatten(1).mean(1)
