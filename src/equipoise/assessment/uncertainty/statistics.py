"""What the samples of an image say: running sums, quantiles, and one record of all images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...equilibrium import Equilibrium, Status
from ...errors import ArgumentError
from .kept import Kept
from .moves import seed_for
from .noise import noise_variance
from .parts import measured_and_invented
from .record import Uncertainty
from .sampling import SampledImage

#: Numbers in the images that are solved for at once, unless the caller says how many images, and
#: the most images.
SOLVED_AT_ONCE, MOST_AT_ONCE = 1 << 19, 16

Quantity = Callable[[Tensor], Tensor]


class _Sums:
    """Running sums of the deviations of one image, in float64."""

    def __init__(self, like: Tensor):
        self.first = torch.zeros(like.shape, dtype=torch.float64, device=like.device)
        self.second = torch.zeros_like(self.first)
        self.count = 0

    def add(self, deviations: Tensor) -> None:
        """(n, …) of finite samples."""
        exact = deviations.double()
        self.first += exact.sum(0, keepdim=True)
        self.second += exact.square().sum(0, keepdim=True)
        self.count += len(exact)

    def mean(self) -> Tensor:
        return self.first / self.count if self.count else self.first + torch.nan

    def root_mean_square(self) -> Tensor:
        return (self.second / self.count).sqrt() if self.count else self.second + torch.nan


class _Tally:
    """What the samples of one image are worth, batch after batch.

    Args:
        x: (1, …) the quantity of the image that the samples deviate from.
        samples: how many there will be.
        keep: the samples themselves too.
        divided: tells what is measured from what is invented; none: that is not asked.
    """

    def __init__(self, x: Tensor, samples: int, keep: bool, divided: _Divided | None):
        self.x, self.divided = x, divided
        self.sums, self.sizes = _Sums(x), Kept(samples, x.numel(), x.dtype)
        self.status: list[Tensor] = []
        self.steps: list[Tensor] = []
        self.rmse: list[Tensor] = []
        self.samples: list[Tensor] | None = [] if keep else None

    def add(self, numbers: range, images: Tensor, values: Tensor, solved: Equilibrium) -> None:
        """Samples by their numbers.

        Args:
            numbers: of the samples, n.
            images: (n, C, …, H, W) deviations of their images.
            values: (n, …) their quantity.
            solved: how each was solved for.
        """
        deviations = values - self.x
        finite = deviations.flatten(1).isfinite().all(1) & (solved.status != Status.NONFINITE)
        self.sums.add(deviations[finite])
        for k, one in zip(numbers, deviations, strict=True):
            self.sizes.write(k, one.abs())
        if self.divided is not None:
            self.divided.add(images[finite])
        self.rmse.append(rms(deviations))
        self.status.append(torch.where(finite, solved.status, int(Status.NONFINITE)))
        self.steps.append(solved.steps)
        if self.samples is not None:
            self.samples.append(values)

    def record(self, levels: list[float]) -> Uncertainty:
        """Of the image; ``levels`` says which share of the deviations each width holds."""
        x, status, rmse = self.x, torch.cat(self.status), torch.cat(self.rmse)
        good = status != Status.NONFINITE
        shares = torch.tensor(levels, dtype=torch.float64)
        widths = self.sizes.quantiles(shares, good.cpu()).reshape(len(levels), *x.shape).to(x)
        self.sizes.close()
        deviation = self.sums.root_mean_square()
        more: dict[str, Any] = {} if self.divided is None else self.divided.record()
        return Uncertainty(
            value=x,
            std=deviation.to(x),
            lower=x - widths[0],
            upper=x + widths[0],
            mean=x + self.sums.mean().to(x),
            rmse=deviation.square().flatten(1).mean(1).sqrt().to(x),
            rmse_upper=_quantile(rmse[good], levels[0]).to(x),
            level=levels[0],
            status=status.max()[None],
            sample_status=status[:, None],
            sample_rmse=rmse[:, None].to(x),
            steps=torch.cat(self.steps)[:, None],
            blind=torch.zeros(1, dtype=torch.bool),
            samples=None if self.samples is None else torch.cat(self.samples)[:, None],
            widths=widths[1:] if len(widths) > 1 else None,
            **more,
        )


def sampled(
    image: SampledImage,
    samples: int,
    levels: list[float],
    quantity: Quantity,
    keep: bool,
    parts: bool,
    batch: int | None,
    done: Callable[[int], None],
) -> Uncertainty:
    """The record of one image, whose samples are made ``batch`` at a time."""

    def of_each(images: Tensor) -> Tensor:
        """(n, …); what is one number of each is a column."""
        values = checked(quantity(images), images)
        return values[:, None] if values.ndim == 1 else values

    batch = max(1, min(MOST_AT_ONCE, SOLVED_AT_ONCE // image.x.numel())) if batch is None else batch
    tally = _Tally(of_each(image.x), samples, keep, _Divided(image) if parts else None)
    for first in range(0, samples, batch):
        numbers = range(first, min(first + batch, samples))
        images, solved = image.solve(numbers)
        tally.add(numbers, images - image.x, of_each(images), solved)
        done(len(numbers))
    return tally.record(levels)


def checked(values: Any, images: Tensor) -> Tensor:
    """What a quantity made of images (n, C, …, H, W), (n, …) as real numbers.

    Raises:
        ArgumentError: it is something else.
    """
    if not (isinstance(values, Tensor) and values.ndim and len(values) == len(images)):
        made = f"of shape {tuple(values.shape)}" if hasattr(values, "shape") else repr(values)[:80]
        raise ArgumentError(
            f"quantity must make a tensor with a row for each of {len(images)} image(s), got "
            f"{type(values).__name__} {made}; images.mean((1, 2, 3)), for instance"
        )
    if values.is_complex():
        raise ArgumentError("quantity must make real numbers, got complex ones; take their abs()")
    return values if values.is_floating_point() else values.to(images.dtype)


def rms(x: Tensor) -> Tensor:
    return x.double().square().flatten(1).mean(1).sqrt()


def _quantile(values: Tensor, level: float) -> Tensor:
    return values.quantile(level)[None] if len(values) else torch.full((1,), torch.nan)


class _Divided:
    """x̂ and the deviations of its samples, each split in what is measured and what is invented."""

    def __init__(self, image: SampledImage):
        clean = image.physics.A(image.x)
        self.physics = image.physics
        self.repeated = image.repeated
        self.variance = noise_variance(clean, self.physics, seed_for(*image.key))
        self.x = measured_and_invented(self.physics, image.x, self.variance)
        self.measured, self.invented = _Sums(image.x), _Sums(image.x)

    def add(self, deviations: Tensor) -> None:
        if len(deviations):
            many = self.repeated(len(deviations))
            parts = measured_and_invented(many, deviations, self.variance)
            self.measured.add(parts.measured)
            self.invented.add(parts.invented)

    def record(self) -> dict[str, Any]:
        return {
            "measured": self.x.measured,
            "invented": self.x.invented,
            "measured_std": self.measured.root_mean_square().to(self.x.measured),
            "invented_std": self.invented.root_mean_square().to(self.x.invented),
        }


#: Fields of which the images are the first axis, and those where they are the second.
BY_IMAGE = (
    *("value", "std", "lower", "upper", "mean", "rmse", "rmse_upper", "status", "blind"),
    *("measured", "invented", "measured_std", "invented_std"),
)
BY_SAMPLE = ("sample_status", "sample_rmse", "steps", "samples", "widths")


def joined(found: list[Uncertainty], level: float, solved: Equilibrium | None) -> Uncertainty:
    """One record of the images'."""
    fields: dict[str, Any] = {}
    for names, axis in ((BY_IMAGE, 0), (BY_SAMPLE, 1)):
        for name in names:
            each = [getattr(u, name) for u in found]
            fields[name] = None if each[0] is None else torch.cat(each, axis)
    if solved is not None:
        fields["status"] = torch.maximum(fields["status"], solved.status)
    return Uncertainty(level=level, solved=solved, **fields)
