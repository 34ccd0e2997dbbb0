"""deepinv's operators and the user's own, brought to one convention: what is needed to train with any of them."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from typing import Any

import torch
from deepinv.physics import MRI, LinearPhysics, MultiCoilMRI
from torch import Tensor

from ..errors import UserError
from .linear import norm, variant
from .tomography import Tomography


class Scaled(LinearPhysics):
    """factor · A for another operator A, which keeps its own proximal map."""

    def __init__(self, physics: LinearPhysics, factor: float):
        super().__init__()
        self.physics, self.factor = physics, factor

    def A(self, x: Tensor, **kwargs: Any) -> Tensor:
        return self.factor * self.physics.A(x)

    def A_adjoint(self, y: Tensor, **kwargs: Any) -> Tensor:
        return self.factor * self.physics.A_adjoint(y)

    def prox_l2(self, z: Tensor, y: Tensor, gamma: Tensor | float, **kwargs: Any) -> Tensor:
        return self.physics.prox_l2(z, y / self.factor, gamma=gamma * self.factor**2, **kwargs)


def prepared(physics: Any, size: int, frames: int | None = None) -> Any:
    """The operator with ‖A‖ = 1, which knows its shapes.

    Its ``gain`` is what it was multiplied by; ``image_shape`` (C, H, W) is the shape of one x, ``measurement_shape`` of one y.
    With ``frames``, x is a complex sequence (2, frames, H, W).

    Raises:
        UserError: it is not linear, or takes neither real (1, size, size) nor complex (2, size, size) images.
    """
    if isinstance(physics, Tomography):
        return physics
    if not isinstance(physics, LinearPhysics):
        raise UserError(
            f"physics: {type(physics).__name__} is no deepinv.physics.LinearPhysics; only linear operators can be trained with"
        )
    trouble = []
    for shape in ((1, size, size), (2, size, size)) if frames is None else ((2, frames, size, size),):
        x = torch.zeros(1, *shape)
        try:
            with torch.no_grad():
                y = physics.A(x)
                back = physics.A_adjoint(y)
        except Exception as error:
            trouble.append(f"{shape}: {type(error).__name__}: {error}")
            continue
        if not isinstance(y, Tensor) or y.is_complex() or back.shape != x.shape:
            trouble.append(
                f"{shape}: A gives {getattr(y, 'shape', type(y))}, A_adjoint {tuple(back.shape)}; y must be one real tensor"
            )
            continue
        largest = norm(physics.A, physics.A_adjoint, x)
        if not (largest > 0 and math.isfinite(largest)):
            raise UserError(
                f"physics: ‖A‖ = {largest}; " + ("A x is zero for every image x" if largest == 0 else "A x is not finite")
            )
        gain = 1.0 if abs(largest - 1) < 1e-3 else 1 / largest
        physics = physics if gain == 1 else Scaled(physics, gain)
        physics.gain, physics.image_shape, physics.measurement_shape = gain, shape, tuple(y.shape[1:])
        return physics
    raise UserError(
        f"physics: {type(physics).__name__} takes neither real images (1, {size}, {size}) nor complex ones (2, {size}, {size}): "
        + "; ".join(trouble)
    )


def from_file(path: Path, size: int) -> Any:
    """What ``physics(size)`` in a Python file returns.

    Raises:
        UserError: the file cannot be run or has no such function.
    """
    spec = importlib.util.spec_from_file_location(f"equipoise_custom_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise UserError(f"physics.file: {path} is no Python file (its name must end in .py)")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        made = module.physics(size) if callable(getattr(module, "physics", None)) else None
    except Exception as error:
        raise UserError(f"physics.file: {path} cannot be run: {type(error).__name__}: {error}") from error
    if not callable(getattr(module, "physics", None)):
        raise UserError(f"physics.file: {path} has no function physics(size) that returns a deepinv LinearPhysics")
    return made


PER_SAMPLE = ("mask", "coil_maps")


def select(physics: Any, index: Tensor, count: int) -> Any:
    """The operator of the samples ``index``, where some of its parameters (coil maps, masks) differ among ``count`` samples."""
    if not isinstance(physics, (MRI, MultiCoilMRI)):
        return physics
    own = {name: b[index] for name, b in physics.named_buffers(recurse=False) if name in PER_SAMPLE and len(b) == count > 1}
    return variant(physics, **own) if own else physics
