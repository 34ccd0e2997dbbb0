"""The loss that predicts some measurements from the others."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...imaging.draws import shared as same_for_all
from ...imaging.groups import Group
from ...imaging.splitting import Split, split
from ...reconstruction.model import EquilibriumReconstructor
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
    predicted. With ``shared``, our trainer gives the same image to consistency (with the rest) and
    to the contraction penalty, and seeks an image of all measurements, where a loss needs one, from
    there on.

    With a ``group``, *equivariant splitting* (Sechaud et al., arXiv 2510.00929): each sample draws
    a move g, the rest is reconstructed as if it were measured by A T_g, and moved back: T_g R(y,
    A T_g). That is the same solve with the denoiser T_g D(T_g⁻¹ x), so it is exact for every
    orthogonal T_g, any angle included, needs no operator of its own, and each sample has its own g.

    Args:
        parts: how many; one is left out, in turn at random.
        group: of the moves; None: none.
        at_random: leave as many out, drawn at random, instead of one of the interleaved parts.
        weights: of a measurement, as for :class:`MeasurementConsistency`.
        weight: as for :class:`MeasurementConsistency`, and so are ``floor`` and ``attenuation``.
        accuracy: of the equilibrium that predicts.
        shared: the image that predicts serves other losses, too; not with a group.

    Raises:
        ValueError: fewer than two parts; an image that is shared, and a group.
    """

    def __init__(
        self,
        parts: int = 5,
        weight: float = 1.0,
        floor: float = 0.0,
        accuracy: Accuracy = DEFAULT_ACCURACY,
        attenuation: float | None = None,
        group: Group | None = None,
        at_random: bool = False,
        weights: Tensor | None = None,
        shared: bool = False,
    ):
        super().__init__(accuracy)
        if not isinstance(parts, int) or parts < 2:
            raise ValueError(f"parts must be a whole number, at least 2, got {parts}")
        self.parts = parts
        self.weight = weight
        self.group = group
        self.at_random = at_random
        if shared and group is not None:
            raise ValueError(
                "shared: with a group the image that predicts is that of another model, whose "
                "denoiser moves along, and serves no other loss; leave one of them out"
            )
        self.takes_split = shared
        self.misfit = MeasurementConsistency(weight, floor, attenuation, weights)

    def forward(self, x_net: Tensor, y: Any, physics: Any, model: Any, **kwargs: Any) -> Tensor:
        return self.evaluate(Example(x_net, y, physics, model)).value

    def evaluate(self, example: Example) -> LossValue:
        if example.split is not None:
            return LossValue(self._misfit(example.x_net, example.split))
        drawn = self.draw(example.y, example.physics)
        model = example.model
        if self.group is not None:
            model = _moved(model, self.group, example.x_net)
        x, solves = reconstruct_again(model, drawn.y, drawn.physics, self.accuracy)
        return LossValue(self._misfit(x, drawn), solves)

    def draw(self, y: Any, physics: Any) -> Split:
        """What is left out of y (B, …) this time, and what stays."""
        part = None if self.at_random else int(same_for_all(lambda: torch.randint(self.parts, ())))
        return split(physics, y, self.parts, part)

    def _misfit(self, x: Tensor, drawn: Split) -> Tensor:
        """(B,) to what was left out."""
        return self.misfit(x_net=x, y=drawn.left_y, physics=drawn.left_physics)


def _moved(model: Any, group: Group, x: Tensor) -> EquilibriumReconstructor:
    """The model as it reconstructs with A T_g, one draw of the group for each image of x.

    Raises:
        TypeError: it is another one than ours.
        ValueError: the group draws several moves for a sample, or the step does not move along.
    """
    if not isinstance(model, EquilibriumReconstructor):
        raise TypeError(
            f"Splitting with a group needs an EquilibriumReconstructor, got "
            f"{type(model).__name__}; deepinv.loss.EquivariantSplittingLoss takes any model"
        )
    if group.n_trans != 1:
        raise ValueError(f"group: one draw for each sample is needed, got n_trans={group.n_trans}")
    return model.moved(group, group.get_params(x.flatten(1, -3)))
