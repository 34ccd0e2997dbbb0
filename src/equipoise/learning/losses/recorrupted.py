"""The loss that adds noise to the input, and takes it from the target."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...imaging.draws import per_sample
from .base import Example, LossValue, checked_weight, mean_square
from .second_solve import DEFAULT_ACCURACY, Accuracy, SecondSolveLoss, reconstruct_again


class Recorrupted(SecondSolveLoss):
    """Recorrupted-to-recorrupted (Pang et al., CVPR 2021): weight · mean |A f*(y + a σ w) − (y − σ
    w / a)|² with w ~ N(0, 1): the two have independent noise, so that the expectation is that of a
    clean target, up to a constant. For Gaussian noise.

    Args:
        sigma: the noise's standard deviation σ.
        weight: of the term.
        a: how the noise is shared between input and target.
        accuracy: of the equilibrium that predicts.
    """

    def __init__(
        self,
        sigma: float,
        weight: float = 1.0,
        a: float = 0.5,
        accuracy: Accuracy = DEFAULT_ACCURACY,
    ):
        super().__init__(accuracy)
        if not (sigma > 0 and a > 0):
            raise ValueError(f"sigma and a must be > 0, got {sigma} and {a}")
        self.sigma = sigma
        self.weight = checked_weight(weight)
        self.a = a

    def forward(self, x_net: Tensor, y: Any, physics: Any, model: Any, **kwargs: Any) -> Tensor:
        return self.evaluate(Example(x_net, y, physics, model)).value

    def evaluate(self, example: Example) -> LossValue:
        y, physics = example.y, example.physics
        w = self._noise(y)
        x, solves = reconstruct_again(example.model, y + self.a * w, physics, self.accuracy)
        return LossValue(self.weight * mean_square(physics.A(x), y - w / self.a), solves)

    def _noise(self, y: Tensor) -> Tensor:
        """σ w, where anything is measured: what is not measured has no noise."""

        def draw(index: Sequence[int]) -> Tensor:
            return torch.randn(len(index), *y.shape[1:], dtype=y.dtype)

        w = self.sigma * per_sample(draw, len(y)).to(y.device)
        return w * (y != 0)
