"""What losses remember from step to step, so that a run that goes on goes on with it: UNSURE's
noise level, the place of a scheduler, the count of an annealing wrapper."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from deepinv.loss import Loss
from torch import Tensor, nn

from ..errors import UserError
from .losses import RecordedLoss

#: Attributes of torch's modules that are no memory.
NOT_MEMORY = ("training", "call_super_init", "dump_patches")


def check_shared(losses: dict[str, Any], world: int, parts: int) -> None:
    """
    Raises:
        UserError: a loss learns at every call, and processes or parts share the batches.
    """
    if world == 1 and parts == 1:
        return
    for name, loss in losses.items():
        if isinstance(loss, Loss) and any(
            getattr(owner, "unsure", False) for _, owner in _owners(loss, "")
        ):
            raise UserError(
                f"objective: {name} learns the noise level at each call (unsure), which {world} "
                f"process(es) with {parts} part(s) of a batch each would do apart: take one "
                "process and learning.accumulate=1, or give sigma and leave out unsure"
            )


def memory_of(losses: dict[str, Any], wrappers: dict[str, Any]) -> dict[str, Tensor]:
    """The numbers that losses of others hold, by where they stand."""
    return {key: _as_tensor(value) for key, _, _, value in _numbers(losses, wrappers)}


def _as_tensor(value: bool | int | float | Tensor) -> Tensor:
    """Exactly: Python's numbers have 64 bits."""
    if isinstance(value, Tensor):
        return value.detach()
    return torch.tensor(value, dtype=torch.float64 if isinstance(value, float) else None)


def remember(losses: dict[str, Any], wrappers: dict[str, Any], saved: dict[str, Tensor]) -> None:
    """Puts back what :func:`memory_of` gave; what is not there stays as it is."""
    for key, owner, name, value in list(_numbers(losses, wrappers)):
        if key not in saved:
            continue
        found = saved[key].detach().clone()
        if isinstance(value, Tensor):
            found = found.to(value).requires_grad_(value.requires_grad)
        # A number may have become a tensor since: one of 64 bits is the same as either.
        is_number = not isinstance(value, Tensor) and found.numel() == 1
        is_number = is_number and found.dtype in (torch.bool, torch.int64, torch.float64)
        setattr(owner, name, found.item() if is_number else found)


def _numbers(
    losses: dict[str, Any], wrappers: dict[str, Any]
) -> Iterator[tuple[str, Any, str, bool | int | float | Tensor]]:
    """(key, owner, attribute, value) of each number of the losses that are not ours, and of what
    they have wrapped the model in."""
    for name, loss in losses.items():
        if not isinstance(loss, Loss) or isinstance(loss, RecordedLoss):
            continue
        for place, owner in _owners(loss, "loss"):
            yield from _of(f"{name}.{place}", owner)
        for place, owner in _layers(wrappers.get(name)):
            yield from _of(f"{name}.{place}", owner)


def _of(key: str, owner: Any) -> Iterator[tuple[str, Any, str, Any]]:
    given = inspect.signature(type(owner).__init__).parameters
    for name, value in vars(owner).items():
        is_number = isinstance(value, (bool, int, float)) or (
            isinstance(value, Tensor) and not isinstance(value, nn.Parameter)
        )
        is_setting = name in given and not isinstance(value, Tensor)
        if is_number and name not in NOT_MEMORY and not is_setting:
            yield f"{key}.{name}", owner, name, value


def _owners(loss: Any, place: str) -> Iterator[tuple[str, Any]]:
    """A loss and the losses that it is made of, in attributes or in lists of them."""
    yield place, loss
    inside: dict[str, Any] = {**vars(loss), **getattr(loss, "_modules", {})}
    for name, value in inside.items():
        if isinstance(value, Loss):
            yield from _owners(value, f"{place}.{name}")
        elif isinstance(value, (list, tuple, nn.ModuleList)):
            yield from _owners_in(value, f"{place}.{name}")


def _owners_in(values: Iterable[Any], place: str) -> Iterator[tuple[str, Any]]:
    for k, value in enumerate(values):
        if isinstance(value, Loss):
            yield from _owners(value, f"{place}.{k}")


def _layers(wrapper: Any) -> Iterator[tuple[str, Any]]:
    """The wrappers around the model, from outside; not the model itself."""
    depth = 0
    while isinstance(wrapper, nn.Module) and type(wrapper).__module__.startswith("deepinv."):
        yield f"wrapper.{depth}", wrapper
        wrapper, depth = getattr(wrapper, "model", None), depth + 1
