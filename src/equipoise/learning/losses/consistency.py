"""Losses that compare the reconstruction with what is known of the image."""

from __future__ import annotations

from typing import Any

from deepinv.loss import Loss
from torch import Tensor

from ...imaging.linear import solve_spd
from .base import Example, LossValue, RecordedLoss, mean_square


class MeasurementConsistency(RecordedLoss):
    """weight · mean |A x̂ − y|² over the measurements of a sample.

    With ``floor`` = δ > 0, the misfit is counted in the image instead: ⟨r, (AAᵀ + δ)⁻¹ r⟩ / pixels
    with r = A x̂ − y is Σ σᵢ²/(σᵢ² + δ) eᵢ² / pixels for an error e with components eᵢ along the
    singular vectors of A: the mean squared error of the image, as far as the operator sees it above
    a noise of variance δ. In these units one weight of the equivariance term serves all operators.

    Args:
        weight: of the term.
        floor: δ; 0 is the plain misfit.
    """

    def __init__(self, weight: float = 1.0, floor: float = 0.0):
        super().__init__()
        if floor < 0:
            raise ValueError(f"floor must be >= 0, got {floor}; 1e-2 suits operators with ‖A‖ = 1")
        self.weight = weight
        self.floor = floor

    def forward(self, x_net: Tensor, y: Any, physics: Any, **kwargs: Any) -> Tensor:
        return self.evaluate(Example(x_net, y, physics)).value

    def evaluate(self, example: Example) -> LossValue:
        return LossValue(self.weight * self._misfit(example.x_net, example.y, example.physics))

    def _misfit(self, x: Tensor, y: Any, physics: Any) -> Tensor:
        r = physics.A(x) - y
        if not isinstance(r, Tensor):  # stacked physics: a list of measurements
            total: Tensor = sum(part.abs().square().flatten(1).sum(1) for part in r)
            return total / sum(part[0].numel() for part in r)
        if self.floor == 0:
            return r.abs().square().flatten(1).mean(1)

        def M(v: Tensor) -> Tensor:
            out: Tensor = physics.A(physics.A_adjoint(v)) + self.floor * v
            return out

        w = solve_spd(M, r, tol=1e-3, max_iter=100)
        return (r * w).flatten(1).sum(1) / x[0].numel()


class Supervised(RecordedLoss):
    """weight · mean |x̂ − x|²: for the ceiling; the only objective that sees the truth."""

    def __init__(self, weight: float = 1.0):
        super().__init__()
        self.weight = weight

    def forward(self, x_net: Tensor, x: Tensor, **kwargs: Any) -> Tensor:
        return self.evaluate(Example(x_net, x=x)).value

    def evaluate(self, example: Example) -> LossValue:
        assert example.x is not None
        return LossValue(self.weight * mean_square(example.x_net, example.x))


class Weighted(Loss):
    """weight · another loss, such as deepinv's ``SureGaussianLoss``."""

    def __init__(self, loss: Loss, weight: float = 1.0):
        super().__init__()
        self.loss = loss
        self.weight = weight

    def forward(self, **kwargs: Any) -> Tensor:
        value: Tensor = self.loss(**kwargs)
        return self.weight * value

    def adapt_model(self, model: Any, **kwargs: Any) -> Any:
        return self.loss.adapt_model(model, **kwargs)
