"""The loss that predicts some measurements from the others."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...imaging.draws import shared
from ...imaging.splitting import split
from .base import Example, LossValue
from .consistency import MeasurementConsistency
from .second_solve import DEFAULT_ACCURACY, Accuracy, SecondSolveLoss, reconstruct_again


class Splitting(SecondSolveLoss):
    """Measurement splitting (SSDU; Yaman et al., MRM 2020): reconstruct from some measurements,
    predict the others.

    The measurements fall into ``parts`` interleaved parts. Each call leaves one out, reconstructs
    from the rest, and counts the misfit to what was left out, as :class:`MeasurementConsistency`
    does. Left-out measurements are true ones: they tell about the part of the image that the rest
    cannot see. The solve starts from the rest alone, not at x̂, which has seen what is to be
    predicted.

    Args:
        parts: how many; one is left out, in turn at random.
        weight: as for :class:`MeasurementConsistency`, and so are ``floor`` and ``attenuation``.
        accuracy: of the equilibrium that predicts.
    """

    def __init__(
        self,
        parts: int = 5,
        weight: float = 1.0,
        floor: float = 0.0,
        accuracy: Accuracy = DEFAULT_ACCURACY,
        attenuation: float | None = None,
    ):
        super().__init__(accuracy)
        if parts < 2:
            raise ValueError(f"parts must be at least 2, got {parts}")
        self.parts = parts
        self.weight = weight
        self.misfit = MeasurementConsistency(weight, floor, attenuation)

    def forward(self, x_net: Tensor, y: Any, physics: Any, model: Any, **kwargs: Any) -> Tensor:
        return self.evaluate(Example(x_net, y, physics, model)).value

    def evaluate(self, example: Example) -> LossValue:
        part = int(shared(lambda: torch.randint(self.parts, ())))
        rest, y_rest, left_out, y_left_out = split(example.physics, example.y, self.parts, part)
        x, solves = reconstruct_again(example.model, y_rest, rest, self.accuracy)
        misfit = self.misfit(x_net=x, y=y_left_out, physics=left_out)
        return LossValue(misfit, solves)
