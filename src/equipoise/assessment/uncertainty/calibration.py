"""By how much bounds must be wider (or may be narrower), learnt from a few truths, or from
measurements that were left out."""

from __future__ import annotations

import math
import warnings
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...errors import ArgumentError
from ...imaging.scaled import proximal
from ...imaging.selection import select
from ...imaging.splitting import split
from .moves import check_group
from .noise import noise_variance, noisy, with_noise
from .record import Uncertainty
from .sampling import SampledImage, estimate
from .statistics import MOST_AT_ONCE

#: What is hardly measured is left out of the comparison: noise alone would make an image of this
#: size of it.
NOISE_IN_IMAGE = 0.01
#: Least strength of that, so that nothing is divided by zero.
SMALLEST = 1e-6
#: Of noise alone.
NOISE_DRAWS = 4


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
    seed: int = 0,
    parts: int = 4,
    keys: Any = None,
) -> Calibration:
    """The factor with which the samples predict measurements that were left out.

    One of ``parts`` of each measurement (views, lines, points) is kept out; the rest is
    reconstructed, x̂, with samples x̃. What was kept out, y', differs from A'x̂ by the error of x̂
    and by the noise. Less what noise alone would make, that is A' of the true error, for which the
    samples, before they are moved back, have A'(f*(A T_g x̂ + noise) − T_g x̂). Both are compared as
    the images that explain them. It needs no truth, and sees nothing of what no measurement sees.

    Args:
        model: the reconstructor.
        y: (B, …) measurements; a few images suffice.
        physics: of these B images, whose measurements can be split.
        group: moves the images.
        noise: as in :func:`uncertainty`.
        samples: for each image.
        seed: of the draws.
        parts: of which one is kept out.
        keys: as in :func:`uncertainty`.

    Raises:
        TypeError: what is measured cannot be split.
        ValueError: there are fewer views than parts, or without some there are holes in the image.
    """
    physics = with_noise(physics, noise)
    inside, y_inside, outside, y_outside = split(physics, y, parts, 0)
    keys = [0] * len(y) if keys is None else list(keys)
    true = predicted = 0.0
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of solves that did not converge
        x, _ = estimate(model, y_inside, inside)
        check_group(group, x)
        for b, one in enumerate(x.split(1)):
            image = SampledImage(model, inside, one, b, len(y), y_inside, group, (seed, keys[b]))
            beyond = select(outside, torch.tensor([b]), len(y), y_outside)
            true += _missed(beyond, one, y_outside[b : b + 1])
            predicted += _predicted(image, beyond, samples)
    factor = (max(true, 0.0) / max(predicted, 1e-30)) ** 0.5
    words = (
        f"factor {factor:.2f} from {len(y)} measurement(s), of each of which one in {parts} was "
        "left out and predicted"
    )
    return Calibration(factor, words)


def _missed(physics: Any, x: Tensor, y: Tensor) -> float:
    """The mean square of what explains y − A x, less what noise alone would make."""
    clean = physics.A(x)
    variance = noise_variance(clean, physics)
    found = _mean_square_seen(physics, y - clean, variance)
    noise = [
        _mean_square_seen(physics, noisy(clean, physics, k) - clean, variance)
        for k in range(NOISE_DRAWS)
    ]
    return found - sum(noise) / NOISE_DRAWS


def _predicted(image: SampledImage, physics: Any, samples: int) -> float:
    """The same of the errors that the samples make, without noise."""
    variance = noise_variance(physics.A(image.x), physics)
    total = 0.0
    for first in range(0, samples, MOST_AT_ONCE):
        errors = image.errors(range(first, min(first + MOST_AT_ONCE, samples)))
        for error in errors.split(1):
            total += _mean_square_seen(physics, physics.A(error), variance)
    return total / samples


def _mean_square_seen(physics: Any, residual: Tensor, variance: float) -> float:
    """Of an image that explains a residual (1, …), (AᵀA + δ)⁻¹Aᵀ r: so that details weigh as much
    as what is coarse, which operators pass with a larger gain. The gain of noise is at most
    1 / (2 √δ)."""
    nothing = torch.zeros_like(physics.A_adjoint(residual))
    delta = max(variance / (2 * NOISE_IN_IMAGE) ** 2, SMALLEST)
    seen = proximal(physics, nothing, residual, delta, max_iter=100)
    return float(seen.double().square().mean())
