"""Whole scans: slice after slice to the disk, in flat memory; what was interrupted goes on."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..assessment.metrics import misfit
from ..assessment.solves import solve_rows
from ..data.dataset import Dataset, Streamed
from ..data.fingerprint import changes, fingerprint
from ..data.formats import new_folder
from ..data.output import Output, check_form, output
from ..data.ranges import Places, chosen
from ..data.scan import native_images
from ..equilibrium import Equilibrium
from ..errors import UserError
from ..learning.processes import any_of
from ..machine import finite_or_none, json_text, write_whole
from ..run import Run

if TYPE_CHECKING:
    from lightning_fabric import Fabric

#: Slices that are solved together. The boundaries are the same after an interruption, and so is
#: every bit of what is solved between them.
BATCH = 16
#: Beside the images, while there are some to come.
PROGRESS, ROWS = "progress.json", "rows.jsonl"
#: Images up to this many bytes are handed back; of more, their account alone.
HANDED_BACK = 64 * 2**20


@dataclass(frozen=True)
class Step:
    """How far a scan is."""

    done: int
    total: int
    seconds: float  #: since this part began
    here: int  #: slices in this part

    @property
    def rate(self) -> float:
        """Slices a second."""
        return self.here / max(self.seconds, 1e-9)

    def __str__(self) -> str:
        left = (self.total - self.done) / max(self.rate, 1e-9)
        return f"slice {self.done}/{self.total}  {self.rate:.3g} slices/s  {_time(left)} left"


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


class WholeScan:
    """A data set's slices, what is done of them, and where their images go.

    Args:
        run: what reconstructs.
        dataset: streamed measurements.
        folder: new, or that of the same work, interrupted.
        form: of the images; see :func:`output`.
        about: what the work is, which is compared.
        is_first: of the processes that share the work: the one that writes.

    Raises:
        UserError: the folder holds something else.
    """

    def __init__(
        self,
        run: Run,
        dataset: Dataset,
        folder: Path,
        form: str,
        about: dict[str, Any],
        is_first: bool = True,
    ):
        check_form(form)
        self.run, self.dataset, self.folder = run, dataset, folder
        self.about = {**about, "as": form, "slices": len(dataset), "weights": _digest(run)}
        self.fingerprint = fingerprint(dataset.items)
        self.done = self._begin(is_first)
        shape = tuple(dataset.scan.image_shape[-2:])
        self.output: Output = output(form, folder, dataset.names, (shape[0], shape[1]))

    def _begin(self, is_first: bool) -> int:
        """How many slices are done."""
        progress = self.folder / PROGRESS
        if progress.is_file():
            try:
                saved = json.loads(progress.read_text())
                done, about = int(saved["done"]), saved["about"]
                kept = saved.get("fingerprint")  # none: of an earlier release
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(f"{progress}: damaged; name a new folder") from error
            if about != self.about:
                changed = [key for key in self.about if about.get(key) != self.about[key]]
                raise UserError(
                    f"{self.folder}: holds a part of another reconstruction (other: "
                    f"{', '.join(changed)}); nothing was written. Name a new folder, or give the "
                    "same command to go on with that one"
                )
            other = changes(kept, self.fingerprint, self.dataset.names)
            if other:
                raise UserError(
                    f"{self.folder}: holds a part of the reconstruction of other measurements "
                    f"({other}); nothing was written. Name a new folder, or put those back"
                )
            if is_first:
                self._cut_rows(done)
            return done
        new_folder(self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._save(0)
        return 0

    def _cut_rows(self, done: int) -> None:
        """Leaves out rows of a batch whose images may not be whole."""
        rows = self.folder / ROWS
        lines = rows.read_text().splitlines(keepends=True) if rows.is_file() else []
        write_whole(rows, "".join(lines[:done]))

    def _save(self, done: int) -> None:
        progress = {"done": done, "about": self.about, "fingerprint": self.fingerprint}
        write_whole(self.folder / PROGRESS, json.dumps(progress, indent=1))
        self.done = done

    # ----------------------------------------------------------------------------- the work

    def reconstruct(
        self,
        fabric: Fabric | None,
        on_step: Callable[[Step], None],
        interrupted: Callable[[], bool],
    ) -> Equilibrium | None:
        """The account of all slices of this part; None, when it was interrupted."""
        total, begun, first_here = len(self.dataset), time.monotonic(), self.done
        kept = 4 * total * torch.Size(self.dataset.scan.image_shape).numel() <= HANDED_BACK
        parts: list[Equilibrium] = []
        while self.done < total:
            if interrupted() if fabric is None else any_of(fabric, interrupted()):
                return None
            last = min(self.done + BATCH, total)
            index = torch.arange(self.done, last)
            part = self.dataset.some(index)
            solved = self.run.solve(part, fabric=fabric)
            if fabric is None or fabric.global_rank == 0:
                self._write(part, solved, self.done)
                self._save(last)
            self.done = last
            parts.append(solved if kept else _without_images(solved))
            on_step(Step(last, total, time.monotonic() - begun, last - first_here))
        return _joined(parts)

    def _write(self, part: Dataset, solved: Equilibrium, first: int) -> None:
        images = np.asarray(native_images(solved.value, part.items), dtype=np.float32)
        self.output.write(first, images)
        with (self.folder / ROWS).open("a") as file:
            for row in account(part, solved):
                file.write(json_text(row) + "\n")

    def rows(self) -> list[dict[str, Any]]:
        """Of all slices."""
        return [json.loads(line) for line in (self.folder / ROWS).read_text().splitlines()]

    def finish(self) -> None:
        """Removes what told how far it was: the last of all, so that until then the same command
        goes on."""
        (self.folder / PROGRESS).unlink()
        (self.folder / ROWS).unlink()

    def examples(self, count: int) -> tuple[Dataset, Tensor]:
        """Some slices, evenly spread, and their images in the units of the model."""
        last = len(self.dataset) - 1
        places = torch.linspace(0, last, min(count, last + 1)).round().long()
        part = self.dataset.some(places)
        images = [
            item.units.to_model(torch.from_numpy(self.output.read(int(place))))
            for place, item in zip(places, part.items, strict=True)
        ]
        return part, torch.stack(images)[:, None]


def account(dataset: Dataset, solved: Equilibrium) -> list[dict[str, Any]]:
    """Residual, steps, status, misfit and unit of each image."""
    rows = solve_rows(solved, dataset.names)
    misfits = misfit(solved.value, dataset.measurements(), dataset.scan.physics)
    for row, value, item in zip(rows, misfits.tolist(), dataset.items, strict=True):
        row["misfit"] = finite_or_none(value)
        if item.units.name:
            row["unit"] = item.units.name
    return rows


def _without_images(solved: Equilibrium) -> Equilibrium:
    """A value of no images, in memory of its own: a view would hold on to all of them."""
    return replace(solved, value=solved.value.new_empty((0, *solved.value.shape[1:])))


def _joined(parts: list[Equilibrium]) -> Equilibrium | None:
    """One record of several, the trace as long as the longest."""
    if not parts:
        return None
    longest = max(len(part.trace) for part in parts)
    traces = [
        torch.cat([part.trace, part.trace[-1:].expand(longest - len(part.trace), -1)])
        for part in parts
    ]
    return Equilibrium(
        torch.cat([part.value for part in parts]),
        torch.cat([part.residual for part in parts]),
        torch.cat([part.steps for part in parts]),
        torch.cat([part.status for part in parts]),
        torch.cat(traces, 1),
    )


def _digest(run: Run) -> str:
    """What tells one model from another."""
    total = hashlib.sha256()
    for name, tensor in sorted(run.model.state_dict().items()):
        total.update(name.encode())
        total.update(tensor.detach().cpu().numpy().tobytes())
    total.update(repr((run.model.stop, run.scan.settings)).encode())
    return total.hexdigest()[:16]


def lazily(dataset: Dataset, rows: Places | None) -> Dataset:
    """Some of a streamed data set, of which nothing is read yet."""
    if rows is None:
        return dataset
    streamed = dataset.y
    assert isinstance(streamed, Streamed)
    places = chosen(rows, len(dataset), "--rows")
    items = [dataset.items[place] for place in places]
    y = Streamed(len(places), lambda i: streamed[places[i]])
    return replace(dataset, items=items, y=y)
