"""Solving a whole data set, and scoring weights without training on what they are scored on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..assessment.metrics import is_measured, misfit, psnr
from ..data.dataset import Dataset
from ..equilibrium import Equilibrium
from ..reconstruction.model import EquilibriumReconstructor
from .processes import best_device, on_device, together

if TYPE_CHECKING:
    from lightning_fabric import Fabric

#: How many measurements of which a part is kept out are looked at.
KEPT_OUT_SAMPLES = 16


def solve_dataset(
    model: EquilibriumReconstructor,
    dataset: Dataset,
    batch: int = 16,
    fabric: Fabric | None = None,
) -> Equilibrium:
    """The equilibria of all N measurements, ``batch`` at a time, without a gradient; on a GPU, if
    there is one. What is returned is on the CPU.

    The processes of ``fabric`` share the work, and each knows the whole outcome.
    """
    parameter = next(model.parameters())
    if parameter.device.type == "cpu":
        model = on_device(model, best_device() if fabric is None else fabric.device)
        parameter = next(model.parameters())
    rank, world = (0, 1) if fabric is None else (fabric.global_rank, fabric.world_size)
    share = torch.arange(len(dataset)).tensor_split(world)[rank]
    record = _Record(len(dataset), dataset, model, parameter.dtype)
    with torch.no_grad():
        for index in _batches(dataset, share, batch):
            y, physics, _ = dataset.own(index)
            y = y.to(parameter.device, parameter.dtype)
            solved = model.equilibrium(y, on_device(physics, parameter.device))
            record.fill(index, replace(solved, value=dataset.framed(solved.value)))
    if world > 1:
        assert fabric is not None
        record.share(fabric)
    return record.whole()


def _batches(dataset: Dataset, share: Tensor, batch: int) -> Iterator[Tensor]:
    """At most ``batch`` of the items ``share`` at a time, all of one size."""
    for group in dataset.by_size(share) if len(share) else ():
        yield from group.split(batch)


class _Record:
    """What a solve says of each of N samples, filled batch by batch; what another process fills in
    is zero here."""

    def __init__(
        self, count: int, dataset: Dataset, model: EquilibriumReconstructor, dtype: torch.dtype
    ):
        longest = max(model.stop.max_steps, getattr(model.gradient, "steps", 0)) + 1
        self.value = torch.zeros(count, *dataset.scan.image_shape, dtype=dtype)
        self.residual = torch.zeros(count, dtype=dtype)
        self.steps = torch.zeros(count, dtype=torch.long)
        self.status = torch.zeros(count, dtype=torch.long)
        self.trace = torch.zeros(longest, count, dtype=dtype)
        self.length = torch.zeros(1, dtype=torch.long)

    def fill(self, index: Tensor, solved: Equilibrium) -> None:
        self.value[index] = solved.value.to(self.value)
        self.residual[index] = solved.residual.to(self.residual)
        self.steps[index] = solved.steps.to(self.steps)
        self.status[index] = solved.status.to(self.status)
        length = len(solved.trace)
        self.trace[:length, index] = solved.trace.to(self.trace)
        self.trace[length:, index] = solved.trace[-1:].to(self.trace)
        self.length = self.length.clamp_min(length)

    def share(self, fabric: Fabric) -> None:
        for name in ("value", "residual", "steps", "status", "trace"):
            setattr(self, name, together(fabric, getattr(self, name), "sum").cpu())
        self.length = together(fabric, self.length, "max").cpu()

    def whole(self) -> Equilibrium:
        trace = self.trace[: int(self.length)]
        return Equilibrium(self.value, self.residual, self.steps, self.status, trace)


class Validator:
    """Scores of a model's weights: PSNR (where there is truth) and misfit on what is held out, and
    ``held_out``, the relative misfit to what was kept out of the measurements that are trained on.

    Args:
        model: one of the same shape as the one that is trained; its weights are replaced.
        held_out: measurements that training does not see.
        training: the measurements that are trained on, and
        kept_out: the part of each that was kept from it.
    """

    def __init__(
        self,
        model: EquilibriumReconstructor,
        held_out: Dataset | None,
        training: Dataset | None = None,
        kept_out: Dataset | None = None,
    ):
        self.model = model
        self.held_out = held_out
        self.training = None if kept_out is None or training is None else _first(training)
        self.kept_out = None if kept_out is None else _first(kept_out)

    def __call__(
        self, weights: dict[str, Tensor], fabric: Fabric | None = None
    ) -> dict[str, float]:
        """The scores of these weights. All processes of ``fabric`` must call."""
        self.model.load_state_dict(weights)
        scores: dict[str, float] = {}
        if self.held_out is not None:
            scores |= self._on_held_out(self.held_out, fabric)
        if self.training is not None and self.kept_out is not None:
            solved = solve_dataset(self.model, self.training, fabric=fabric)
            scores["held_out"] = _mean_misfit(solved.value, self.kept_out)
        return scores

    def _on_held_out(self, held_out: Dataset, fabric: Fabric | None) -> dict[str, float]:
        solved = solve_dataset(self.model, held_out, fabric=fabric)
        scores = {"misfit": _mean_misfit(solved.value, held_out)}
        if held_out.truth is not None:
            scores["psnr"] = float(psnr(solved.value, held_out.truth).mean())
        scores["unsolved"] = float((~solved.converged).float().mean())
        return scores


def _first(dataset: Dataset) -> Dataset:
    return dataset.some(torch.arange(min(KEPT_OUT_SAMPLES, len(dataset))))


def _mean_misfit(x: Tensor, dataset: Dataset) -> float:
    y, physics, _ = dataset.batch(torch.arange(len(dataset)))
    misfits = misfit(x.to(y), y, physics).double()
    return float(misfits[is_measured(y)].mean())
