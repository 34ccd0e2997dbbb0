"""All losses of a batch, ours and others', and every solve that they take."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, NamedTuple

from deepinv.loss import Loss
from deepinv.models import Reconstructor
from torch import Tensor, nn

from ..equilibrium import Equilibrium
from ..reconstruction.model import EquilibriumReconstructor
from .batching import Part
from .losses import (
    DEFAULT_ACCURACY,
    Accuracy,
    Example,
    LossValue,
    RecordedLoss,
    SecondSolveLoss,
    accurate,
    evaluate,
)


class Evaluated(NamedTuple):
    """What the losses of a part of the batch are worth, and the solves by who asked for them."""

    values: dict[str, LossValue]
    solves: dict[str, tuple[Equilibrium, ...]]


class Recorder(Reconstructor):
    """A model as losses of others see it: it keeps the record of every solve that they make.

    Args:
        model: is solved as accurately as
        accuracy: says; none: as it is.
    """

    def __init__(self, model: EquilibriumReconstructor, accuracy: Accuracy | None):
        super().__init__()
        self.model = model
        self.accuracy = accuracy
        self._solves: list[Equilibrium] = []

    def forward(self, y: Any, physics: Any) -> Tensor:
        """What the model makes of y (B, …): (B, C, …)."""
        record = self.accurate_model().equilibrium(y, physics)
        self._solves.append(replace(record, value=None))
        value: Tensor = record.value
        return value

    def accurate_model(self) -> EquilibriumReconstructor:
        """The model, as accurate as it was asked for."""
        if self.accuracy is None:
            return self.model
        exact: EquilibriumReconstructor = accurate(self.model, self.accuracy)
        return exact

    def take_solves(self) -> tuple[Equilibrium, ...]:
        """The records since this was last asked, without their values."""
        solves, self._solves = tuple(self._solves), []
        return solves


class Objective:
    """The losses of a model.

    A loss of deepinv's may wrap the model (``adapt_model``, a part of its contract): R2RLoss,
    SplittingLoss and ScoreLoss, for instance, change the measurements before the model sees them,
    and ask their wrapper afterwards how. Such a loss is given what its own wrapped model makes of
    y; all others what the model makes of y. Wrappers are made once, since they remember things.

    Args:
        model: what is trained.
        losses: by name; ours, deepinv's, or any other in their contract.
    """

    def __init__(self, model: EquilibriumReconstructor, losses: dict[str, Any]):
        self.losses = losses
        self.recorder = Recorder(model, accuracy_for(losses.values()))
        self.wrappers = {name: self._wrapped(loss) for name, loss in losses.items()}

    def _wrapped(self, loss: Any) -> nn.Module:
        if not isinstance(loss, Loss):
            return self.recorder
        model: nn.Module = loss.adapt_model(self.recorder)
        return model

    def differentiate(
        self, part: Part, epoch: int, directions: dict[str, Tensor], share: float = 1.0
    ) -> Evaluated:
        """Evaluates every loss, and adds ``share`` times the gradient of its mean over the samples
        to the parameters.

        Loss by loss, so that the graph of one is gone when the next is made: the largest of them
        is what has to fit into memory, not their sum. What the model makes of y serves all losses;
        their gradients meet there, and lead to the parameters by one adjoint solve in the end.
        """
        recorder = self.recorder
        x_net, x_shared = None, None
        if recorder in self.wrappers.values():
            x_net = recorder(part.y, part.physics)
            x_shared = x_net.detach().requires_grad_(x_net.requires_grad)
        solves = {"x_net": recorder.take_solves()}
        values = {}
        for name, loss in self.losses.items():
            model = self.wrappers[name]
            x = x_shared
            if x is None or model is not recorder:
                x = _reconstruct(model, part.y, part.physics)
            example = Example(
                x,
                part.y,
                part.physics,
                recorder.accurate_model() if isinstance(loss, RecordedLoss) else model,
                part.truth,
                epoch,
                part.other_physics,
                directions.get(name),
            )
            found = evaluate(loss, example)
            if found.value.requires_grad:
                (found.value.mean() * share).backward()
            values[name] = found._replace(value=found.value.detach())
            solves[name] = found.solves + recorder.take_solves()
        if x_net is not None and x_shared is not None and x_shared.grad is not None:
            x_net.backward(x_shared.grad)
        return Evaluated(values, solves)


def accuracy_for(losses: Iterable[Any]) -> Accuracy | None:
    """How accurately the model must be solved for all of these losses; None: as it is.

    What losses of others compare is not known, so they get what ours ask for.
    """
    losses = list(losses)
    asked = [loss.accuracy for loss in losses if isinstance(loss, SecondSolveLoss)]
    if not asked:
        has_others = any(not isinstance(loss, RecordedLoss) for loss in losses)
        return DEFAULT_ACCURACY if has_others else None
    needed = asked[0]
    for accuracy in asked[1:]:
        needed = needed.tightest(accuracy)
    return needed


def _reconstruct(model: nn.Module, y: Any, physics: Any) -> Tensor:
    """What a wrapped model makes of y. It remembers what its loss will ask for, if it can."""
    remembers = "update_parameters" in inspect.signature(model.forward).parameters
    x: Tensor = model(y, physics, update_parameters=True) if remembers else model(y, physics)
    return x
