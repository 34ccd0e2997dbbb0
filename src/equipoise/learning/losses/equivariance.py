"""Losses that measure the reconstruction again: moved, or with another operator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from ...imaging.draws import per_sample
from ...imaging.selection import differs_per_sample, select, selector
from .base import Example, LossValue, checked_weight, mean_square
from .second_solve import DEFAULT_ACCURACY, Accuracy, SecondSolveLoss, reconstruct_again, refined

#: Of the moved image: as target (True), as ``"image"``, which is measured as well, or not at all.
StopGradient = bool | Literal["image"]


class Equivariance(SecondSolveLoss):
    """Equivariant imaging (Chen, Tachella and Davies, ICCV 2021): weight · mean |T_g x̂ − f*(A T_g
    x̂)|².

    The reconstruction is moved by one draw of ``group`` for each sample (or by ``group.n_trans``
    draws), measured again and reconstructed again. An equilibrium model starts its second solve at
    T_g x̂, its own answer once it is trained; both of its solves are made as accurate as
    ``accuracy`` says, whatever the model's own tolerance is.

    Args:
        group: ``Rotations``, ``Reflections``, ``Shifts``, or any deepinv transform.
        weight: α.
        noise: add the physics' noise (and sensor model) to the second measurement.
        stop_gradient: treat the target T_g x̂ as a constant (its measurement is not). "image": its
            measurement too, so that x̂ is a picture of which the model is shown a measurement, and
            which it is to find. False: neither, as in the paper; then a smoother x̂ is a target that
            is easier to hit, and learning it lowers the loss: 0.4 dB on CT and inpainting
            (results/training.md).
        accuracy: of the two equilibria that are compared.

    Raises:
        ValueError: a weight or ``stop_gradient`` that is none.
    """

    def __init__(
        self,
        group: Any,
        weight: float = 1.0,
        noise: bool = True,
        stop_gradient: StopGradient = True,
        accuracy: Accuracy = DEFAULT_ACCURACY,
    ):
        super().__init__(accuracy)
        self.group = group
        self.weight = checked_weight(weight)
        self.noise = noise
        if stop_gradient not in (True, False, "image"):
            raise ValueError(f'stop_gradient must be True, False or "image", got {stop_gradient!r}')
        self.stop_gradient = stop_gradient
        self.needs_gradient = stop_gradient != "image"

    def forward(
        self, x_net: Tensor, physics: Any, model: Any, y: Any = None, **kwargs: Any
    ) -> Tensor:
        return self.evaluate(Example(x_net, y, physics, model)).value

    def evaluate(self, example: Example) -> LossValue:
        with torch.set_grad_enabled(self.needs_gradient and torch.is_grad_enabled()):
            x, first = refined(example, self.accuracy)
        if not self.needs_gradient:
            x = x.detach()
        physics = example.physics
        moved = move(self.group, x)
        if len(moved) > len(x):  # several draws: each sample's operator as often
            draws = len(moved) // len(x)
            physics = select(physics, torch.arange(len(x)).repeat(draws), len(x))
        y = measure_again(moved, physics, self.noise)
        again, second = reconstruct_again(example.model, y, physics, self.accuracy, start=moved)
        target = moved.detach() if self.stop_gradient else moved
        return LossValue(self.weight * mean_square(again, target), first + second)


class MultiOperator(SecondSolveLoss):
    """Multi-operator imaging (Tachella, Chen and Davies, NeurIPS 2022): weight · mean |x̂ − f*(A'
    x̂)|², A' the operator of another sample; with a ``group``, MOEI: T_g x̂ in place of x̂. For data
    whose samples have masks or coils of their own.

    Our trainer says which operator is another sample's; where another trainer calls the loss, it is
    that of the sample before in the batch.

    Args:
        weight: of the term.
        group: moves the image first.
        noise: add the physics' noise to the second measurement.
        accuracy: of the two equilibria that are compared.
    """

    def __init__(
        self,
        weight: float = 1.0,
        group: Any = None,
        noise: bool = True,
        accuracy: Accuracy = DEFAULT_ACCURACY,
    ):
        super().__init__(accuracy)
        self.weight = checked_weight(weight)
        self.group = group
        self.noise = noise

    def forward(
        self, x_net: Tensor, physics: Any, model: Any, y: Any = None, **kwargs: Any
    ) -> Tensor:
        return self.evaluate(Example(x_net, y, physics, model)).value

    def evaluate(self, example: Example) -> LossValue:
        x, first = refined(example, self.accuracy)
        other = example.other_physics
        if other is None:
            other = _of_the_sample_before(example.physics, len(x))
        if self.group is not None:
            x = move(self.group, x)
        y = measure_again(x, other, self.noise)
        again, second = reconstruct_again(example.model, y, other, self.accuracy, start=x)
        return LossValue(self.weight * mean_square(again, x), first + second)


def _of_the_sample_before(physics: Any, count: int) -> Any:
    """
    Raises:
        ValueError: there is no other operator.
    """
    if not differs_per_sample(physics, count):
        raise ValueError(
            f"MultiOperator: the {count} sample(s) of this batch share one operator; it needs two "
            "or more in a batch, each with a mask or coil maps of its own"
        )
    return select(physics, torch.arange(count).roll(1), count)


def move(group: Any, x: Tensor) -> Tensor:
    """T_g x. The frames of a sequence (B, C, T, H, W) all move alike."""
    moved: Tensor = group(x.flatten(1, -3)).reshape(-1, *x.shape[1:])
    return moved


def measure_again(x: Tensor, physics: Any, noise: bool) -> Any:
    """What the operator measures of x (B, C, H, W).

    With noise (and sensor model) if asked, which each sample draws for itself where the operator of
    one sample is known.
    """
    clean = physics.A(x)
    if not noise:
        return clean
    physics_of = selector(physics, len(x), clean) if isinstance(clean, Tensor) else None
    if physics_of is None:
        return physics.sensor(physics.noise(clean))  # for all at once

    def draw(index: Sequence[int]) -> Tensor:
        part = physics_of(torch.tensor(index))
        noisy: Tensor = part.sensor(part.noise(clean[index[0] : index[-1] + 1]))
        return noisy

    return per_sample(draw, len(x))
