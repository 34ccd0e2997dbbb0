"""The moves of the samples, each with its own seed.

A draw depends on the seed, on the image's own number and on the number of the sample, and on
nothing else: not on what else is in the batch, nor on which process makes it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from deepinv.transform.base import Transform
from torch import Tensor

from ...errors import ArgumentError

#: What a draw is for: this, or the noise.
MOVE = 0
#: Rotations by more than this, either way, carry what an image that is not square holds out of it.
LARGEST_TURN = 45.0


def seed_for(*key: int) -> int:
    """63 bits that have nothing in common with those of another key."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1))


@contextmanager
def seeded_globally(seed: int, modules: Any, device: torch.device) -> Iterator[None]:
    """In here, torch's global generators, and those that the modules have of their own, start from
    ``seed``; the global ones are as before afterwards."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        # Not torch.manual_seed, which takes 2 ms: as long as a small solve.
        torch.default_generator.manual_seed(seed)
        if devices:
            torch.cuda.manual_seed(seed)
        for module in modules:
            if isinstance(getattr(module, "rng", None), torch.Generator):
                module.rng.manual_seed(seed)
        yield


class Move:
    """T_g for one draw of g, and T_g⁻¹.

    Args:
        group: a deepinv transform; None: nothing moves.
        x: (1, C, …, H, W) an image that is moved.
        seed: of the draw.
    """

    def __init__(self, group: Transform | None, x: Tensor, seed: int):
        # Some transforms remember what they did: each move has its own.
        self.group = copy.deepcopy(group)
        self.params: dict[str, Any] = {}
        if self.group is not None:
            modules = list(self.group.modules())
            for module in modules:
                if hasattr(module, "n_trans"):
                    module.n_trans = 1
            with seeded_globally(seed, modules, x.device):
                self.params = self.group.get_params(_planes(x))

    def __call__(self, x: Tensor) -> Tensor:
        """T_g x, (1, C, …, H, W).

        Raises:
            ArgumentError: it has another shape than x.
        """
        if self.group is None:
            return x
        moved = self.group.transform(_planes(x), **self.params)
        return self._checked(moved, x)

    def undo(self, x: Tensor) -> Tensor:
        """T_g⁻¹ x."""
        if self.group is None:
            return x
        return self._checked(self.group.inverse(_planes(x), **self.params), x)

    def _checked(self, moved: Tensor, x: Tensor) -> Tensor:
        if moved.shape != _planes(x).shape:
            raise ArgumentError(
                f"group: {type(self.group).__name__} makes images of shape "
                f"{tuple(moved.shape[1:])} of images of shape {tuple(x.shape[1:])}; one that keeps "
                "the shape of images that are not square is needed, and one result for each image: "
                "Reflections() or Shifts()"
            )
        return moved.reshape(x.shape).to(x)


def _planes(x: Tensor) -> Tensor:
    """Frames of a sequence (B, C, T, H, W) as channels, which all move alike."""
    return x.flatten(1, -3)


def check_group(group: Any, x: Tensor) -> None:
    """Whether a group can move images like x (B, C, …, H, W).

    Raises:
        ArgumentError: it is no deepinv transform, or it needs square images, and x are not.
    """
    if group is None:
        return
    if not isinstance(group, Transform):
        raise ArgumentError(
            f"group must be a deepinv transform, such as Rotations(), Reflections() or Shifts(), "
            f"or None, got {type(group).__name__}"
        )
    rows, columns = x.shape[-2:]
    if rows == columns:
        return
    for part in group.modules():
        if _turns_far(part):
            raise ArgumentError(
                f"group: {type(part).__name__} needs square images, these have {rows} × {columns} "
                "pixels, which turns by more than 45° carry out of the frame; use Reflections(), "
                "Shifts(), Rotations(multiples=180) or Rotations(limit=10)"
            )


def _turns_far(part: Any) -> bool:
    """Whether a transform (ours, or deepinv's ``Rotate``) draws angles that need square images."""
    limit = getattr(part, "limit", getattr(part, "limits", None))
    if not type(part).__name__.startswith("Rotat") or not isinstance(limit, (int, float)):
        return False
    multiples = getattr(part, "multiples", None)
    half_turns_alone = multiples is not None and float(multiples) % 180 == 0
    return limit > LARGEST_TURN and not half_turns_alone
