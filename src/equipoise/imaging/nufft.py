"""Non-Cartesian MRI whose products are those of any batch, forward and backward."""

from __future__ import annotations

from typing import Any

from deepinv.physics import NonCartesianMRI
from torch import Tensor


class OfAnyBatch:
    """mri-nufft's operator, which is told the number of images before each product.

    It has to be. deepinv tells it when A is applied; but backward the number is that of whatever
    was computed last, which may be a batch without the samples that are solved already.
    """

    def __init__(self, operator: Any):
        self.operator = operator

    def op(self, x: Tensor) -> Tensor:
        """(B, coils, …) images → (B, coils, samples)."""
        self.operator.n_batchs = len(x)
        measured: Tensor = self.operator.op(x)
        return measured

    def adj_op(self, y: Tensor) -> Tensor:
        """(B, coils, samples) → (B, coils, …)."""
        self.operator.n_batchs = len(y)
        images: Tensor = self.operator.adj_op(y)
        return images

    def __getattr__(self, name: str) -> Any:
        if name == "operator":  # of a copy that has nothing yet
            raise AttributeError(name)
        return getattr(self.operator, name)


def with_any_batch(physics: Any) -> Any:
    """The same operator, of which every non-Cartesian part knows its batch by what it is given."""
    for part in physics.modules() if hasattr(physics, "modules") else ():
        if isinstance(part, NonCartesianMRI) and not isinstance(part.nufft_op, OfAnyBatch):
            part.nufft_op = OfAnyBatch(part.nufft_op)
    return physics
