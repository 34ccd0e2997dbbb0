"""Which measurements a step sees, and how they are read."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from ..errors import UserError
from ..imaging.selection import differs_per_sample, select
from .processes import on_device
from .settings import LearningSettings

if TYPE_CHECKING:
    from ..data.dataset import Dataset


class Part(NamedTuple):
    """What this process handles at once: its share of a step's batch, or a part of that."""

    places: Tensor  # (B,) where they stand in the step's batch
    y: Tensor  # (B, …)
    physics: Any
    truth: Tensor | None = None  # (B, C, …, H, W)
    other_physics: Any = None  # for each sample, the operator of another one


def batch_indices(step: int, count: int, batch: int, seed: int) -> Tensor:
    """Which of ``count`` measurements step ``step`` sees: (batch,).

    Every epoch is a new permutation, a function of the seed and the epoch alone.
    """
    first, last = step * batch, (step + 1) * batch - 1
    pieces = []
    for epoch in range(first // count, last // count + 1):
        rng = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
        order = torch.randperm(count, generator=rng)
        low = max(first - epoch * count, 0)
        high = min(last + 1 - epoch * count, count)
        pieces.append(order[low:high])
    return torch.cat(pieces)


def batches_of_one_size(step: int, groups: Sequence[Tensor], batch: int, seed: int) -> Tensor:
    """Which measurements step ``step`` sees, where they are of several sizes: (batch,), of one.

    An epoch takes each group in an order of its own, and fills its last batch up from its
    beginning; the batches of all groups then come in any order. All of it is a function of the
    seed and the epoch alone.

    Args:
        step: from 0.
        groups: the measurements of each size.
        batch: how many a step sees.
        seed: of the order.
    """
    counts = [-(-len(group) // batch) for group in groups]
    epoch, number = divmod(step, sum(counts))
    rng = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    batches: list[Tensor] = []
    for group, count in zip(groups, counts, strict=True):
        order = group[torch.randperm(len(group), generator=rng)]
        filled = order.repeat(-(-count * batch // len(group)))[: count * batch]
        batches += filled.split(batch)
    return batches[int(torch.randperm(len(batches), generator=rng)[number])]


class Batches:
    """This process's share of every step's batch, part by part, on its device.

    Args:
        dataset: in memory, or streamed.
        settings: ``batch``, ``accumulate``, ``workers``.
        seed: of the order.
        rank, world: which of how many processes this one is.
        device: where the parts go.
        dtype: of the model, to which what is streamed is converted.
        with_truth: hand on the images, where they are known.
        with_others: hand on, for each sample, the operator of another one.

    Raises:
        UserError: there are more parts than measurements in a batch, or there is no other operator.
    """

    def __init__(
        self,
        dataset: Dataset,
        settings: LearningSettings,
        seed: int,
        rank: int,
        world: int,
        device: torch.device,
        dtype: torch.dtype,
        with_truth: bool = False,
        with_others: bool = False,
    ):
        if settings.batch < world * settings.accumulate:
            raise UserError(
                f"learning.batch={settings.batch} cannot be shared by {world} processes in "
                f"{settings.accumulate} part(s) each; raise it to {world * settings.accumulate} or "
                "more"
            )
        if with_others and dataset.differs_in_size:
            raise UserError(
                "objective.operators: the samples are of different sizes, so that the operator of "
                "one does not fit another; set it to 0, or data.size to one size for all"
            )
        if with_others and not differs_per_sample(dataset.scan.physics, len(dataset)):
            raise UserError(
                "objective.operators: all samples share one operator; set it to 0, or give each "
                "its own mask"
            )
        share = torch.arange(settings.batch).tensor_split(world)[rank]
        self.places = share.tensor_split(settings.accumulate)
        physics = on_device(dataset.scan.physics, device)
        self.dataset = replace(dataset, scan=replace(dataset.scan, physics=physics))
        self.settings = settings
        self.seed = seed
        self.device = device
        self.dtype = dtype
        self.with_truth = with_truth
        self.with_others = with_others
        self._reader: Iterator[Any] | None = None  # of streamed data
        self._next_step = 0  # that the reader will give

    def of_step(self, step: int) -> list[Part]:
        """
        Raises:
            UserError: a file cannot be read.
        """
        index = self._indices(step)
        if self.dataset.streamed:
            return self._stream(step, index)
        return [self._look_up(index, places) for places in self.places]

    def _indices(self, step: int) -> Tensor:
        """Which measurements all processes see together: (batch,), of one size."""
        every, batch = torch.arange(len(self.dataset)), self.settings.batch
        if self.dataset.differs_in_size:
            return batches_of_one_size(step, self.dataset.by_size(every), batch, self.seed)
        return batch_indices(step, len(every), batch, self.seed)

    def _look_up(self, batch: Tensor, places: Tensor) -> Part:
        y, physics, truth = self.dataset.own(batch[places])
        if truth is not None:
            truth = truth.to(self.device, y.dtype) if self.with_truth else None
        return Part(places, y.to(self.device), physics, truth, self._others(batch, places))

    def _others(self, batch: Tensor, places: Tensor) -> Any:
        """The operators of the samples before these in the whole batch, so that they do not depend
        on how the batch is shared; where that is the same sample, of the next in the data set."""
        if not self.with_others:
            return None
        count = len(self.dataset)
        before = batch.roll(1)
        others = torch.where(before == batch, (batch + 1) % count, before)
        return select(self.dataset.scan.physics, others[places], count)

    def _stream(self, step: int, index: Tensor) -> list[Part]:
        if self._reader is None or step != self._next_step:
            self._reader = self._read_from(step)
        self._next_step = step + 1
        read = next(self._reader)
        if isinstance(read, UserError):
            raise read
        pieces = read.split([len(places) for places in self.places])
        parts = []
        for places, piece in zip(self.places, pieces, strict=True):
            y, physics, _ = self.dataset.taken_out(index[places], piece)
            others = self._others(index, places)
            y = y.to(self.device, self.dtype)
            parts.append(Part(places, y, physics, other_physics=others))
        return parts

    def _read_from(self, start: int) -> Iterator[Any]:
        """The measurements of each step from ``start`` on, read by ``workers`` processes; or the
        error of the first that cannot be read."""
        workers = self.settings.workers
        if workers and "fork" not in multiprocessing.get_all_start_methods():
            raise UserError(
                "learning.workers: this operating system cannot fork processes; set "
                "learning.workers=0"
            )
        mine = torch.cat(self.places)
        steps = range(start, self.settings.steps)
        indices = (self._indices(k)[mine].tolist() for k in steps)
        loader = DataLoader(
            _Guarded(self.dataset.y),
            batch_sampler=indices,
            num_workers=workers,
            multiprocessing_context="fork" if workers else None,
            collate_fn=_stack,
            # The loader's own seed is drawn from here, not from what a step draws from.
            generator=torch.Generator(),
        )
        return iter(loader)


class _Guarded(TorchDataset):
    """Measurements, or the errors that came in their place: a worker process hands on an error of
    the user's as a value, since one that is raised arrives as the text of a traceback."""

    def __init__(self, measurements: Any):
        self.measurements = measurements

    def __getitem__(self, i: int) -> Tensor | UserError:
        try:
            measurement: Tensor = self.measurements[i]
        except UserError as error:
            return error
        return measurement


def _stack(items: list[Tensor | UserError]) -> Tensor | UserError:
    errors = [item for item in items if isinstance(item, UserError)]
    return errors[0] if errors else torch.stack(items)  # type: ignore[arg-type]
