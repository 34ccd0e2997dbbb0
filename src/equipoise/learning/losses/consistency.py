"""Losses that compare the reconstruction with what is known of the image."""

from __future__ import annotations

import math
from typing import Any

import torch
from deepinv.loss import Loss
from deepinv.utils import TensorList
from torch import Tensor

from ...imaging.linear import inverse_form
from .base import Example, LossValue, RecordedLoss, checked_weight, mean_square

#: Of the conjugate gradients that count the misfit in the image. Where the iterations do not
#: suffice, which takes a floor below 1e-6, they warn.
TOLERANCE = 1e-3
MOST_ITERATIONS = 1000
#: Of a measurement, in units of the usual one: behind steel hardly a photon comes through.
MOST_VARIANCE = 100.0


class MeasurementConsistency(RecordedLoss):
    """weight · mean |A x̂ − y|² over the measurements of a sample.

    With ``floor`` = δ > 0, the misfit is counted in the image instead: ⟨r, (AAᵀ + δ)⁻¹ r⟩ / pixels
    with r = A x̂ − y is Σ σᵢ²/(σᵢ² + δ) eᵢ² / pixels for an error e with components eᵢ along the
    singular vectors of A: the mean squared error of the image, as far as the operator sees it above
    a noise of variance δ. In these units one weight of the equivariance term serves all operators.

    With ``attenuation``, y · attenuation are line integrals of counted photons, whose variance is
    one over the photons that came through, so v = exp(y · attenuation) up to a factor: r²/v takes
    the place of r², and δ v that of δ. This is the second-order expansion of the Poisson
    log-likelihood of the counts (Sauer and Bouman, IEEE Trans. Signal Processing 41, 1993). v is
    such that the mean of 1/v is 1, and at most ``MOST_VARIANCE``.

    Args:
        weight: of the term.
        floor: δ; 0 is the plain misfit.
        attenuation: what makes line integrals of measurements; None: all are equally noisy.
        weights: by which r² counts, of the shape of a measurement or one that broadcasts to it, and
            then, with a floor, without the inverse: Σ w r² / pixels; None: all count alike.
    """

    def __init__(
        self,
        weight: float = 1.0,
        floor: float = 0.0,
        attenuation: float | None = None,
        weights: Tensor | None = None,
    ):
        super().__init__()
        if not 0 <= floor < math.inf:
            raise ValueError(
                f"floor must be >= 0 and finite, got {floor}; 1e-2 suits operators with ‖A‖ = 1"
            )
        if attenuation is not None and weights is not None:
            raise ValueError(
                "attenuation and weights say both how much a measurement counts; give one of them "
                "(weights=… may hold the photons that came through)"
            )
        self.weight = checked_weight(weight)
        self.floor = floor
        self.attenuation = attenuation
        self.weights = weights
        self.takes_split = weights is None  # which are those of all measurements

    def forward(self, x_net: Tensor, y: Any, physics: Any, **kwargs: Any) -> Tensor:
        return self.evaluate(Example(x_net, y, physics)).value

    def evaluate(self, example: Example) -> LossValue:
        return LossValue(self.weight * self._misfit(example.x_net, example.y, example.physics))

    def _misfit(self, x: Tensor, y: Any, physics: Any) -> Tensor:
        measured = physics.A(x)
        if isinstance(measured, Tensor):
            shapes = [measured.shape[1:]]
        else:  # stacked physics: a list of measurements
            shapes = [part.shape[1:] for part in measured]
        ours, given = _side_by_side(measured), _side_by_side(y)
        if ours.shape != given.shape:
            raise ValueError(
                f"y has {tuple(given.shape)} values (samples, numbers), and the operator measures "
                f"{tuple(ours.shape)} of these images"
            )
        r = ours - given
        if self.weights is not None:
            weighted = r.abs().square() * self.weights.to(r).expand(shapes[0]).flatten()
            return weighted.mean(1) if self.floor == 0 else weighted.sum(1) / x[0].numel()
        variance = self._variance(_side_by_side(y))
        if self.floor == 0:
            return (r.abs().square() / variance).mean(1)

        def M(v: Tensor) -> Tensor:
            w = _apart(v, shapes, measured)
            return _side_by_side(physics.A(physics.A_adjoint(w))) + self.floor * variance * v

        return inverse_form(M, r, TOLERANCE, MOST_ITERATIONS) / x[0].numel()

    def _variance(self, y: Tensor) -> Tensor | float:
        """v of measurements (B, N), without a gradient."""
        if self.attenuation is None:
            return 1.0
        with torch.no_grad():
            photons = torch.exp(-self.attenuation * y)
            share = photons / photons.mean(1, keepdim=True)
            return 1 / share.clamp_min(1 / MOST_VARIANCE)


def _side_by_side(y: Any) -> Tensor:
    """(B, …), or a list of such: (B, N)."""
    parts = [y] if isinstance(y, Tensor) else list(y)
    return torch.cat([part.flatten(1) for part in parts], 1)


def _apart(rows: Tensor, shapes: list[torch.Size], example: Any) -> Any:
    """Undoes :func:`_side_by_side`, in the form of ``example``."""
    pieces = rows.split([shape.numel() for shape in shapes], 1)
    parts = [piece.reshape(-1, *shape) for piece, shape in zip(pieces, shapes, strict=True)]
    return parts[0] if isinstance(example, Tensor) else TensorList(parts)


class Supervised(RecordedLoss):
    """weight · mean |x̂ − x|²: for the ceiling; the only objective that sees the truth."""

    def __init__(self, weight: float = 1.0):
        super().__init__()
        self.weight = checked_weight(weight)

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
        self.weight = checked_weight(weight)

    def forward(self, **kwargs: Any) -> Tensor:
        value: Tensor = self.loss(**kwargs)
        return self.weight * value

    def adapt_model(self, model: Any, **kwargs: Any) -> Any:
        return self.loss.adapt_model(model, **kwargs)
