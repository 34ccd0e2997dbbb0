"""The equivariant bootstrap: the error of a reconstruction, estimated without the truth."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ...equilibrium.result import whole_number
from ...errors import ArgumentError
from .cautions import cautions, tell
from .moves import check_group
from .noise import with_noise
from .record import Uncertainty
from .sampling import SampledImage, estimate
from .statistics import Quantity, joined, sampled


@torch.no_grad()
def uncertainty(
    model: Any,
    y: Any,
    physics: Any,
    group: Any,
    samples: int = 100,
    level: float = 0.9,
    seed: int = 0,
    *,
    noise: Any = None,
    keep: bool = False,
    quantity: Quantity | None = None,
    parts: bool = False,
    levels: Sequence[float] = (),
    value: Tensor | None = None,
    keys: Sequence[int] | None = None,
    batch: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Uncertainty:
    """How far from the truth a reconstruction is, estimated from its measurement alone.

    The equivariant bootstrap (Tachella and Pereyra, 2023, arXiv 2310.11838): x̂ is moved by a random
    element g of ``group``, measured with fresh noise, reconstructed and moved back; the spread of
    many such samples x̃ = T_g⁻¹ f*(A T_g x̂ + noise) about x̂ estimates the error of x̂, also of what
    A does not see. docs/uncertainty.md says when to trust it.

    What is drawn for a sample depends on ``seed``, its number and the image's key alone, whatever
    else is in the batch. Memory does not grow with ``samples``, unless ``keep``.

    Args:
        model: an ``EquilibriumReconstructor``, whose solves start at T_g x̂, or anything that is
            called as ``model(y, physics)``.
        y: (B, …) measurements, or a list of such for stacked operators; float32 or float64.
        physics: the linear operator that measured y, with ‖A‖ of about 1.
        group: ``Rotations()``, ``Reflections()``, ``Shifts()``, a chain, or any deepinv transform,
            under which images stay images; None: the parametric bootstrap without moves.
        samples: how many for each image.
        level: of the bounds, in (0, 1).
        seed: of all draws, ≥ 0.
        noise: standard deviation of the noise in y, one number or (B,), or a noise model; default
            ``physics.noise_model``.
        keep: return the samples as well, (samples, B, C, …, H, W).
        quantity: of which the uncertainty is asked, a function of images (n, C, …, H, W) → (n, …);
            default: the image itself. ``value`` and all else are then this quantity's.
        parts: also split x̂ in what y determines and what the prior adds, with the uncertainty of
            both (a least-squares solve for each sample).
        levels: of further quantiles of |x̃ − x̂|, for ``widths``.
        value: x̂, where it is known already.
        keys: a whole number for each image, which makes its draws its own; default: all alike.
        batch: samples that are solved for at once.
        progress: called with the number of solves that are done, and of all: first with 0.

    Raises:
        ArgumentError: too few samples for the level, a group that needs square images, no known
            noise, or another argument out of bounds (a ``UserError`` and a ``ValueError``).

    Warns:
        UncertaintyWarning: the group is blind to the null space of A, say.
        EquilibriumWarning: some samples did not converge (as ``model.on_failure`` says).
    """
    samples, seed = whole_number("samples", samples, 1), _checked_seed(seed)
    every = [checked_level(p, samples) for p in (level, *levels)]
    physics = with_noise(physics, noise)
    solved = None
    if value is None:
        value, solved = estimate(model, y, physics)
    value = value.detach()
    check_group(group, value)
    count = len(value)
    if count == 0:
        raise ArgumentError("y holds no measurement, (0, …); at least one is needed")
    keys = [0] * count if keys is None else [whole_number("keys", key, 0) for key in keys]
    if len(keys) != count:
        raise ArgumentError(f"keys: one for each of {count} images is needed, got {len(keys)}")
    done = _Progress(progress, samples * count)
    found = []
    for b in range(count):
        image = SampledImage(model, physics, value[b : b + 1], b, count, y, group, (seed, keys[b]))
        found.append(sampled(image, samples, every, quantity or _itself, keep, parts, batch, done))
    u = joined(found, every[0], solved)
    u.notes += cautions(u, y, physics, group, value, seed)
    tell(u, getattr(model, "on_failure", "warn"))
    return u


def _itself(x: Tensor) -> Tensor:
    return x


def _checked_seed(seed: Any) -> int:
    try:
        return whole_number("seed", seed, 0)
    except ValueError as error:
        raise ArgumentError(str(error)) from error


def checked_level(level: float, samples: int) -> float:
    """
    Raises:
        ArgumentError: it is no level, or there are too few samples to tell its quantile.
    """
    if isinstance(level, str) or not 0 < level < 1:
        raise ArgumentError(f"level must be in (0, 1), got {level!r}; 0.9 gives 90 % bounds")
    if samples * (1 - level) < 1 - 1e-9:
        needed = math.ceil(1 / (1 - level) - 1e-9)
        raise ArgumentError(
            f"samples must be at least {needed} for the {level:g} quantile, got {samples}: fewer "
            f"say nothing about what one in {needed} exceeds; take more samples or a lower level"
        )
    return float(level)


class _Progress:
    """Counts solves."""

    def __init__(self, tell: Callable[[int, int], None] | None, total: int):
        self.tell, self.total, self.done = tell, total, 0
        if tell is not None:
            tell(0, total)

    def __call__(self, count: int) -> None:
        self.done += count
        if self.tell is not None:
            self.tell(self.done, self.total)
