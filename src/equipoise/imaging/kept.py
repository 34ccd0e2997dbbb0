"""Some of the numbers that an operator measures."""

from __future__ import annotations

from typing import Any

from deepinv.physics import ComposedLinearPhysics, Inpainting, LinearPhysics
from torch import Tensor


class Kept(Inpainting):
    """What is left of measurements: those where the mask (1 or B, …) is not zero; the last factor
    of a :func:`kept` operator."""


def kept(physics: LinearPhysics, mask: Tensor) -> ComposedLinearPhysics:
    """The same operator, of which some measurements are zero, with its noise elsewhere.

    Args:
        physics: measures (B, …).
        mask: (1 or B, …), 1 where a number is kept and 0 elsewhere.
    """
    last = Kept(tuple(mask.shape[1:]), mask=mask)
    last.noise_model = physics.noise_model
    return ComposedLinearPhysics(physics, last)


def factors(physics: Any) -> list[Any]:
    """Of an operator, the first that is applied first; one that is not composed is its own."""
    return list(physics.physics_list) if isinstance(physics, ComposedLinearPhysics) else [physics]
