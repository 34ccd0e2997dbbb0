"""The samples of one image: moved, measured with fresh noise, reconstructed, moved back."""

from __future__ import annotations

import copy
from typing import Any

import torch
from deepinv.utils.tensorlist import TensorList
from torch import Tensor

from ...equilibrium import Equilibrium, Status, Stop, Unrolled
from ...errors import ArgumentError
from ...imaging.selection import select
from ...reconstruction.model import EquilibriumReconstructor
from .moves import MOVE, Move, seed_for
from .noise import measured

NOISE = MOVE + 1
#: Samples are solved to this share of the model's tolerance, as far as the numbers resolve it: a
#: deviation is a small difference, and the solve starts at the answer that it deviates from.
TIGHTER = 0.01
#: A residual of this many roundings can be reached by networks as they are trained.
RESOLVED = 512


def estimate(model: Any, y: Any, physics: Any) -> tuple[Tensor, Equilibrium | None]:
    """x̂, and its equilibria, where the model has such."""
    if not isinstance(model, EquilibriumReconstructor):
        value: Tensor = model(y, physics)
        return value, None
    solved = _quiet(model, model.stop).equilibrium(y, physics)
    return solved.value, solved


def _quiet(model: EquilibriumReconstructor, stop: Stop) -> EquilibriumReconstructor:
    """The same model, sharing all its parameters, with another tolerance; it never warns."""
    same = copy.copy(model)
    same.stop, same.on_failure = stop, "ignore"
    return same


def _tighter(model: EquilibriumReconstructor, x: Tensor) -> Stop:
    """The tolerance of the samples."""
    if isinstance(model.gradient, Unrolled) or model.step.precision is not None:
        return model.stop
    rtol = max(TIGHTER * model.stop.rtol, RESOLVED * torch.finfo(x.dtype).eps)
    return Stop(min(rtol, model.stop.rtol), model.stop.max_steps, model.stop.atol)


class SampledImage:
    """One image of the batch: how its samples are made.

    Args:
        model: the reconstructor.
        physics: the operator of all images.
        x: (1, C, …, H, W)  x̂.
        b: its place among
        count: images.
        y: measurements of all of them.
        group: moves it.
        key: whole numbers that its draws are made of.
    """

    def __init__(
        self,
        model: Any,
        physics: Any,
        x: Tensor,
        b: int,
        count: int,
        y: Any,
        group: Any,
        key: tuple[int, ...],
    ):
        self.model, self.x, self.group, self.key = model, x, group, key
        self._physics, self._b, self._count, self._y = physics, b, count, y
        self.physics = self.repeated(1)

    def repeated(self, times: int) -> Any:
        """The operator of so many copies of this image.

        Raises:
            ArgumentError: it cannot be told from that of all images.
        """
        if self._count == 1:
            return self._physics
        index = torch.full((times,), self._b)
        try:
            return select(self._physics, index, self._count, self._y)
        except ValueError as error:
            raise ArgumentError(
                f"physics: {error}; or ask for the uncertainty of one image at a time"
            ) from error

    def solve(self, numbers: range) -> tuple[Tensor, Equilibrium]:
        """The samples of these numbers, (n, C, …, H, W), moved back; and their solves."""
        moves, _, found = self._solved(numbers)
        back = [move.undo(one) for move, one in zip(moves, found.value.split(1), strict=True)]
        return torch.cat(back), found

    def errors(self, numbers: range) -> Tensor:
        """f*(A T_g x̂ + noise) − T_g x̂ of these samples, (n, C, …, H, W), not moved back: as the
        operator sees them."""
        _, moved, found = self._solved(numbers)
        errors: Tensor = found.value - moved
        return errors

    def _solved(self, numbers: range) -> tuple[list[Move], Tensor, Equilibrium]:
        moves = [Move(self.group, self.x, seed_for(*self.key, k, MOVE)) for k in numbers]
        moved = [move(self.x) for move in moves]
        y = [
            measured(one, self.physics, seed_for(*self.key, k, NOISE))
            for one, k in zip(moved, numbers, strict=True)
        ]
        many, start = self.repeated(len(numbers)), torch.cat(moved)
        return moves, start, _reconstructed(self.model, _stacked(y), many, start)


def _stacked(y: list[Any]) -> Any:
    if isinstance(y[0], Tensor):
        return torch.cat(y)
    return TensorList([torch.cat(parts) for parts in zip(*y, strict=True)])


def _reconstructed(model: Any, y: Any, physics: Any, start: Tensor) -> Equilibrium:
    """What the model makes of y. A sample that misses the tighter tolerance and not the model's own
    has converged."""
    if isinstance(model, EquilibriumReconstructor):
        unrolled = isinstance(model.gradient, Unrolled)
        exact = _quiet(model, _tighter(model, start))
        found = exact.equilibrium(y, physics, x0=None if unrolled else start)
        near = (found.status == Status.MAX_STEPS) & (found.residual <= model.stop.rtol)
        found.status = torch.where(near, int(Status.CONVERGED), found.status)
        return found
    value: Tensor = model(y, physics)
    finite = value.flatten(1).isfinite().all(1)
    status = torch.where(finite, int(Status.CONVERGED), int(Status.NONFINITE))
    nothing = torch.zeros(len(value))
    return Equilibrium(value, nothing, torch.ones_like(status), status, nothing[None])
