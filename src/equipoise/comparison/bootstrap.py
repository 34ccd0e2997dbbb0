"""The equivariant bootstrap of a run on a data set: its group, its draws, its processes, and what
is written and shown of it in the units of the files."""

from __future__ import annotations

import hashlib
import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..assessment.metrics import magnitude
from ..assessment.reading import Reading
from ..assessment.uncertainty import (
    Uncertainty,
    UncertaintyWarning,
    along,
    prior_in_words,
    uncertainty,
    unfinished_in_words,
)
from ..assessment.uncertainty.bootstrap import checked_level
from ..assessment.uncertainty.cautions import cautions
from ..assessment.uncertainty.noise import with_noise
from ..assessment.uncertainty.record import decibels
from ..assessment.uncertainty.statistics import BY_IMAGE, BY_SAMPLE
from ..data.dataset import Dataset
from ..data.item import Item
from ..data.scan import native_images
from ..errors import ArgumentError, UserError
from ..imaging.groups import named_group
from ..learning.processes import on_device, together
from ..run import Run

if TYPE_CHECKING:
    from lightning_fabric import Fabric

GROUPS = ("rotations", "quarter_turns", "reflections", "shifts")


@dataclass(frozen=True)
class Bootstrap:
    """What is asked of the bootstrap of a run.

    Args:
        samples: for each image.
        level: of the bounds.
        seed: of all draws; those of an image depend on its name, too.
        group: one of ``GROUPS``; None: that of the run's equivariance loss.
        factor: deviations and bounds are multiplied by it: a calibration, as `evaluate` finds it.
    """

    samples: int = 30
    level: float = 0.9
    seed: int = 0
    group: str | None = None
    factor: float = 1.0

    def __post_init__(self) -> None:
        checked_level(self.level, self.samples)
        if self.group is not None and self.group not in GROUPS:
            raise UserError(f"--group must be one of {', '.join(GROUPS)}, got {self.group!r}")
        if not (math.isfinite(self.factor) and self.factor > 0):
            raise UserError(
                f"--factor must be a finite number > 0, got {self.factor:g}; `equipoise evaluate "
                "RUN IMAGES --samples` finds one"
            )

    def group_of(self, run: Run) -> Any:
        """What moves the images."""
        if self.group is None:
            return run.config.objective.equivariance.group.make()
        return named_group(self.group)

    def cost_in_words(self, images: int, seconds: float) -> str:
        """Said before it begins; ``seconds``: that one reconstruction takes."""
        total = self.samples * images * seconds
        time = f"{total:.0f} s" if total < 120 else f"{total / 60:.0f} min"
        return (
            f"{self.samples} samples of {images} image(s): {self.samples * images} more solves, "
            f"at most about {time}"
        )


def seconds_a_solve(run: Run, dataset: Dataset) -> float:
    """How long one image takes, once whatever solves share has been prepared."""
    start = time.perf_counter()
    run.solve(dataset.some(torch.tensor([0])))
    return time.perf_counter() - start


def key_of(item: Item) -> int:
    """A number that belongs to an item's name: so its draws are the same alone, in a folder, and in
    whichever process."""
    return int.from_bytes(hashlib.sha256(item.name.encode()).digest()[:6], "big")


def bootstrap(
    run: Run,
    dataset: Dataset,
    value: Tensor,
    asked: Bootstrap,
    *,
    levels: tuple[float, ...] = (),
    parts: bool = True,
    progress: Callable[[int, int], None] | None = None,
    fabric: Fabric | None = None,
) -> Uncertainty:
    """The uncertainty of a run's reconstructions; complex images by their magnitude.

    The processes of ``fabric`` share the images, and each knows the whole outcome.

    Args:
        value: x̂ of all, (N, C, …, H, W).
        levels: of further quantiles.
        parts: split x̂ in what is measured and what is invented.

    Raises:
        UserError: the group does not fit the images, or there are too few samples.
    """
    rank, world = (0, 1) if fabric is None else (fabric.global_rank, fabric.world_size)
    share = torch.arange(len(dataset)).tensor_split(world)[rank]
    if not len(share):
        share = torch.zeros(1, dtype=torch.long)  # its results are thrown away
    parameter = next(run.model.parameters())
    y, physics, _ = dataset.batch(share)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UncertaintyWarning)  # they are in the notes
            found = uncertainty(
                run.model,
                y.to(parameter.device, parameter.dtype),
                on_device(physics, parameter.device),
                asked.group_of(run),
                asked.samples,
                asked.level,
                asked.seed,
                value=value[share].to(parameter),
                keys=[key_of(dataset.items[int(i)]) for i in share],
                quantity=magnitude,
                parts=parts,
                levels=levels,
                progress=progress if rank == 0 else None,
            )
    except ArgumentError as error:
        if "group" in str(error):
            raise UserError(f"{error}; on the command line: --group shifts") from error
        raise
    if fabric is None or world == 1:
        return found.scaled(asked.factor) if asked.factor != 1 else found
    found = _shared(found, share if rank < len(dataset) else share[:0], len(dataset), fabric)
    # What is said of all images is not the sum of what each process would say of its own.
    y, physics, _ = dataset.batch(torch.arange(len(dataset)))
    y, physics = y.to(value.dtype), with_noise(physics)
    found.notes[:] = cautions(found, y, physics, asked.group_of(run), value, asked.seed)
    return found.scaled(asked.factor) if asked.factor != 1 else found


def _shared(found: Uncertainty, share: Tensor, count: int, fabric: Fabric) -> Uncertainty:
    """The record of all images, of which this process has ``share``."""
    whole: dict[str, Any] = {}
    for names, axis in ((BY_IMAGE, 0), (BY_SAMPLE, 1)):
        for name in names:
            part = getattr(found, name)
            if part is None:
                continue
            shape = list(part.shape)
            shape[axis] = count
            filled = torch.zeros(shape, dtype=part.dtype)
            number = filled.long() if part.dtype == torch.bool else filled
            number.index_copy_(axis, share, part.narrow(axis, 0, len(share)).cpu().to(number))
            whole[name] = together(fabric, number, "sum").cpu().to(part.dtype)
    return replace(found, **whole)


# ----------------------------------------------------------------------------------- native units


@dataclass(frozen=True)
class Shown:
    """What is written and drawn of an uncertainty, in the units of the files, float64."""

    value: Any  #: (N, …, H, W), or a list of (…, H, W)
    std: Any
    lower: Any
    upper: Any
    measured: Any  #: these two sum to the value (in units without an offset)
    invented: Any


def in_native_units(u: Uncertainty, x: Tensor, items: list[Item], physics: Any) -> Shown:
    """Bounds as images, deviations without the units' offset; a list of images each, where their
    sizes differ.

    Args:
        x: (N, C, …, H, W) the reconstructions in the units of the model.
        physics: what measured them.
    """
    lower, upper = u.lower.clamp_min(0), u.upper
    if x.shape[1] != 2:
        lower = u.lower  # a magnitude alone cannot be negative
    measured = invented = None
    if u.measured is not None and u.invented is not None:
        measured = native_images(along(u.measured, x), items, physics)
        invented = _without_offset(along(u.invented, x), items, physics)
    return Shown(
        native_images(u.value, items, physics),
        _without_offset(u.std, items, physics),
        native_images(lower, items, physics),
        native_images(upper, items, physics),
        measured,
        invented,
    )


def _without_offset(images: Tensor, items: list[Item], physics: Any) -> Any:
    plain = [replace(item, units=replace(item.units, offset=0.0)) for item in items]
    return native_images(images, plain, physics)


def readings_of(u: Uncertainty, shown: Shown, items: list[Item], count: int = 8) -> list[Reading]:
    """What the page reads out of the first images; of sequences, of the frame in the middle."""

    def plane(images: Any, i: int) -> Any:
        if images is None:
            return None
        one: np.ndarray = images[i]
        return one[len(one) // 2] if one.ndim == 3 else one

    names = ("value", "std", "lower", "upper", "measured", "invented")
    readings = []
    for i, item in enumerate(items[:count]):
        arrays = {name: plane(getattr(shown, name), i) for name in names}
        readings.append(Reading(level=u.level, unit=item.units.word, **arrays))
    return readings


def rows_of(u: Uncertainty) -> list[dict[str, Any]]:
    """What report.json says of each image; errors in the units of the model, in which images lie in
    [0, 1]."""
    shares = prior_shares(u)
    unfinished = u.unfinished
    return [
        {
            "samples": len(u.sample_rmse),
            "predicted_rmse": float(u.rmse[i]),
            "predicted_psnr": float(u.psnr[i]),
            "predicted_psnr_lower": float(decibels(u.rmse_upper[i])),
            "level": u.level,
            "unfinished_samples": int(unfinished[i]),
            "blind": bool(u.blind[i]),
            "prior_share": None if shares is None else float(shares[i]),
        }
        for i in range(len(u.rmse))
    ]


def prior_shares(u: Uncertainty) -> Tensor | None:
    """(N,) the share of each image's energy that the prior supplied."""
    parts = u.parts
    return None if parts is None else parts.share()


def notes_of(u: Uncertainty, names: list[str]) -> list[str]:
    """Why not to trust it: what the bootstrap noticed, samples that did not converge, and images of
    which the prior supplies more than the data."""
    unfinished = unfinished_in_words(u, names)
    shares = prior_shares(u)
    prior = "" if shares is None else prior_in_words(shares, names)
    return [note for note in (*u.notes, unfinished, prior) if note]
