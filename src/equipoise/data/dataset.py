"""Items, the scan that measured them, and what the model is given of both."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from ..errors import UserError
from ..imaging.framed import Framed
from ..imaging.selection import select
from ..imaging.splitting import split
from ..imaging.tomography.settings import RaysSettings
from .item import Item
from .scan import Scan
from .sinograms import unseen_item
from .split import split_by_name, split_items


class Batch(NamedTuple):
    """Some measurements, the operator that made them, and the images, where they are known."""

    y: Tensor  # (B, …)
    physics: Any
    truth: Tensor | None  # (B, C, …, H, W)


class Streamed(TorchDataset):
    """Measurements that are read, or made, one by one when they are asked for."""

    def __init__(self, count: int, measurement: Callable[[int], Tensor]):
        self.count = count
        self.measurement = measurement

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> Tensor:
        return self.measurement(i)


@dataclass(frozen=True)
class Dataset:
    """N items and their measurements, in the units of the model."""

    items: list[Item]
    scan: Scan
    y: Tensor | Streamed  #: (N, …); streamed, if they are made while training
    truth: Tensor | None = None  #: (N, C, …, H, W) where images were measured
    notes: list[str] = field(default_factory=list)  #: what the reader noticed

    def __len__(self) -> int:
        return len(self.items)

    @property
    def names(self) -> list[str]:
        return [item.name for item in self.items]

    @property
    def patients(self) -> list[str]:
        return [item.patient for item in self.items]

    @property
    def streamed(self) -> bool:
        return isinstance(self.y, Streamed)

    def batch(self, index: Tensor) -> Batch:
        """The measurements ``index`` (B,), their operator, and the images, where they are known."""
        truth = None if self.truth is None else self.truth[index]
        physics = select(self.scan.physics, index, len(self))
        return Batch(self._measurements(index), physics, truth)

    # ------------------------------------------------------------------------ different sizes

    @property
    def differs_in_size(self) -> bool:
        """Whether images or measurements are of different sizes, and held in frames of one."""
        return isinstance(self.scan.physics, Framed)

    def by_size(self, index: Tensor) -> list[Tensor]:
        """The items ``index``, in groups of one size each."""
        physics = self.scan.physics
        return physics.by_size(index) if isinstance(physics, Framed) else [index]

    def own(self, index: Tensor) -> Batch:
        """The same as :meth:`batch`, of items of one size, at that size.

        Raises:
            ValueError: they are of different sizes.
        """
        physics = self.scan.physics
        if not isinstance(physics, Framed):
            return self.batch(index)
        y = self._measurements(index)
        truth = None if self.truth is None else self.truth[index]
        return self.taken_out(index, y, truth)

    def taken_out(self, index: Tensor, y: Tensor, images: Any = None) -> Batch:
        """Measurements (B, …) of the items ``index``, which are of one size, and images of theirs,
        out of their frames."""
        physics = self.scan.physics
        if not isinstance(physics, Framed):
            return Batch(y, select(physics, index, len(self)), images)
        k, operator = physics.own(index, select)
        images = None if images is None else physics.image_out(images, k)
        return Batch(physics.measurement_out(y, k), operator, images)

    def of_one_size(self) -> Dataset:
        """The items of the size that most of them have, in memory, at that size."""
        physics = self.scan.physics
        if not isinstance(physics, Framed):
            return self
        group = max(self.by_size(torch.arange(len(self))), key=len)
        y, operator, truth = self.own(group)
        shape = physics.image_shapes[int(physics.part[group[0]])]
        scan = replace(
            self.scan, physics=operator, image_shape=shape, measurement_shape=tuple(y.shape[1:])
        )
        items = [self.items[int(i)] for i in group]
        return replace(self, items=items, scan=scan, y=y, truth=truth)

    def framed(self, images: Tensor) -> Tensor:
        """Images (B, C, …, h, w) of one size, in frames; the frame's border is zero."""
        physics = self.scan.physics
        return physics.image_in(images) if isinstance(physics, Framed) else images

    def measurements(self) -> Tensor:
        """All of them, (N, …), in memory."""
        return self._measurements(torch.arange(len(self)))

    def _measurements(self, index: Tensor) -> Tensor:
        if isinstance(self.y, Tensor):
            return self.y[index]
        return torch.stack([self.y[int(i)] for i in index])

    def some(self, index: Tensor) -> Dataset:
        """The data set of the items ``index`` alone, in memory."""
        y, _, truth = self.batch(index)
        scan = self.scan.select(index, len(self))
        items = [self.items[int(i)] for i in index]
        return replace(self, items=items, scan=scan, y=y, truth=truth)

    def spread(self, count: int) -> Dataset:
        """At most ``count`` of the items, evenly spread over all of them; where they differ in
        size, over those of the size that most have."""
        whole = self.of_one_size()
        last = len(whole) - 1
        return whole.some(torch.linspace(0, last, min(count, len(whole))).round().long())

    def hold_out(self, which: float | list[str]) -> tuple[Dataset, Dataset]:
        """Those to train on and those that are kept from it, with no patient in both.

        The same for every seed.

        Args:
            which: about how many of the patients are kept, as a fraction of them; or their names.

        Raises:
            UserError: the data are one patient's, and too few to keep a block of slices apart; or
                nothing has such a name, or everything.
        """
        if isinstance(which, list):
            training, held_out = split_by_name(self.items, which)
        else:
            training, held_out = split_items(self.items, which)
        return self.some(torch.tensor(training)), self.some(torch.tensor(held_out))

    def split(self, parts: int, k: int) -> tuple[Dataset, Dataset]:
        """Each measurement without its part ``k`` of ``parts``, and that part of each alone.

        Raises:
            TypeError: what is measured has no views, lines or points that could be left out.
            ValueError: there are fewer of them than parts.
        """
        assert isinstance(self.y, Tensor)
        inside, y_inside, outside, y_outside = split(self.scan.physics, self.y, parts, k)
        return self._with(inside, y_inside), self._with(outside, y_outside)

    def unseen(self) -> Dataset | None:
        """The same sinograms at the views that ``physics.views`` leaves out: their measurements,
        and in ``scan.physics`` the operator of these views, in the same units; None where every
        direction is used. Views that repeat a direction that is used are not among them.

        Raises:
            UserError: this is no computed tomography, or the files hold the used views alone.
        """
        found = self.scan.unseen()
        if found is None:
            return None
        views, scan = found
        settings = scan.settings
        assert isinstance(settings, RaysSettings)
        setup = settings.setup(scan.size)
        items = [unseen_item(item, views, setup) for item in self.items]
        y = torch.stack([scan.to_model(item) for item in items])
        if isinstance(self.y, Tensor):
            y = y.to(self.y.dtype)
        return replace(self, items=items, scan=scan, y=y)

    def _with(self, physics: Any, y: Tensor) -> Dataset:
        scan = replace(self.scan, physics=physics, measurement_shape=tuple(y.shape[1:]))
        return replace(self, scan=scan, y=y)

    def require_truth(self) -> Tensor:
        """The images that were measured.

        Raises:
            UserError: there are none.
        """
        if self.truth is None:
            raise UserError(
                f"{self.items[0].file}: holds measurements, so there is no truth to tune on or to "
                "compare with; name images, as data.path and data.validation"
            )
        return self.truth

    def without_truth(self) -> Dataset:
        return replace(self, truth=None)

    def double(self) -> Dataset:
        """The same in float64. Streamed measurements go on being made in float32."""
        scan = self.scan.double()
        truth = None if self.truth is None else self.truth.double()
        if isinstance(self.y, Tensor):
            return replace(self, scan=scan, y=self.y.double(), truth=truth)
        single = self.y
        y = Streamed(len(single), lambda i: single[i].double())
        return replace(self, scan=scan, y=y, truth=truth)


def repeated(items: list[Item], values: Iterable[Tensor]) -> list[str]:
    """A note for each item whose values are those of an item before it."""
    notes: list[str] = []
    name_by_digest: dict[bytes, str] = {}
    for item, value in zip(items, values, strict=True):
        digest = hashlib.sha256(value.numpy().tobytes()).digest()
        if digest in name_by_digest:
            notes.append(f"{item.name} is identical to {name_by_digest[digest]}")
        name_by_digest.setdefault(digest, item.name)
    return notes


def notes_of(items: Iterable[Item]) -> list[str]:
    """What the readers of these items noticed: each remark once, and what is said of several files
    as of the first."""
    counts: dict[str, int] = {}
    first: dict[str, str] = {}
    for note in dict.fromkeys(note for item in items for note in item.notes):
        name, colon, text = note.partition(": ")
        key = text if colon else note
        counts[key] = counts.get(key, 0) + 1
        first.setdefault(key, name)
    notes = []
    for text, count in counts.items():
        others = f" and {count - 1} more" if count > 1 else ""
        notes.append(text if first[text] == text else f"{first[text]}{others}: {text}")
    return notes
