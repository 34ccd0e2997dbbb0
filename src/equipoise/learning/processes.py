"""The processes that share a run: who they are, and what they tell each other."""

from __future__ import annotations

import atexit
import copy
import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import UserError

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def processes() -> Fabric:
    """The process group that ``torchrun`` has started this process in (gloo on CPUs, NCCL on GPUs),
    or this process alone.

    Raises:
        UserError: the others cannot be reached.
    """
    from lightning_fabric import Fabric

    count = int(os.environ.get("WORLD_SIZE", 1))
    here = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    for name in ("lightning_fabric", "lightning_fabric.utilities"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        fabric = Fabric(
            accelerator=best_device().type,
            devices=here,
            num_nodes=count // here,
            strategy="ddp" if count > 1 else "auto",
        )
        fabric.launch()
    except Exception as error:  # lightning has its own
        raise UserError(
            f"the {count} processes of this run cannot reach each other: {error}"
        ) from error
    if count > 1:
        atexit.register(_leave)
    return fabric


def best_device() -> torch.device:
    """A GPU, if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _leave() -> None:
    """Ends the process group before the interpreter does, or its threads may outlive what they work
    on (an abort at exit)."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def together(fabric: Fabric, values: Tensor, how: str = "sum") -> Tensor:
    """The sum (or "max", "min") of ``values`` over the processes.

    Raises:
        UserError: one of them is gone.
    """
    try:
        out: Tensor = fabric.all_reduce(values.to(fabric.device), reduce_op=how)
    except RuntimeError as error:
        raise UserError(
            "another process of this run is gone, so this one ends as well; the last checkpoint is "
            "whole. Start it again with the same command, with as many processes as you like "
            f"({str(error).splitlines()[0]})"
        ) from error
    return out


def share_gradient(fabric: Fabric, parameters: Iterable[Tensor]) -> None:
    """Replaces the gradient of each process by the sum over all."""
    if fabric.world_size == 1:
        return
    shared = list(parameters)
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in shared]
    total = together(fabric, torch.cat([g.flatten() for g in gradients]))
    sums = total.split([g.numel() for g in gradients])
    for p, summed in zip(shared, sums, strict=True):
        p.grad = summed.view_as(p)


def from_first(fabric: Fabric, value: Tensor) -> Tensor:
    """What ``value`` is in the first process."""
    if fabric.world_size == 1:
        return value
    return together(fabric, value if fabric.global_rank == 0 else torch.zeros_like(value))


def from_first_object(fabric: Fabric, value: dict[str, float]) -> dict[str, float]:
    """The numbers by name that the first process has."""
    if fabric.world_size == 1:
        return value
    found: dict[str, float] = fabric.broadcast(value)
    return found


def names_of_all(fabric: Fabric, names: Iterable[str]) -> list[str]:
    """The names that any of the processes has, in one order."""
    if fabric.world_size == 1:
        return sorted(names)
    own = sorted(names)
    every = [fabric.broadcast(own, src=rank) for rank in range(fabric.world_size)]
    return sorted({name for each in every for name in each})


@contextmanager
def first_before_others(fabric: Fabric) -> Iterator[None]:
    """The first process does what stands inside, and then the others, who find what it began."""
    if fabric.global_rank:
        together(fabric, torch.zeros(1))
    yield
    if not fabric.global_rank:
        together(fabric, torch.zeros(1))


def any_of(fabric: Fabric, value: bool) -> bool:
    """Whether it is true in some process."""
    if fabric.world_size == 1:
        return value
    return bool(together(fabric, torch.tensor(float(value)), "max") > 0)


def on_device(module: Any, device: torch.device) -> Any:
    """An operator or a model there: a copy, since data that are measured while they are read keep
    their operator, and a run its model."""
    return module if device.type == "cpu" else copy.deepcopy(module).to(device)
