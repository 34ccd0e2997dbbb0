"""All losses of a batch, ours and others', and every solve that they take."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from deepinv.loss import Loss
from deepinv.models import Reconstructor
from torch import Tensor, nn

from ..equilibrium import Equilibrium, Unrolled
from ..errors import UserError
from ..imaging.splitting import Split
from ..reconstruction.model import EquilibriumReconstructor
from .batching import Part
from .losses import (
    DEFAULT_ACCURACY,
    Accuracy,
    Example,
    LossValue,
    RecordedLoss,
    SecondSolveLoss,
    Splitting,
    Weighted,
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

    def forward(self, y: Any, physics: Any, start: Tensor | None = None) -> Tensor:
        """What the model makes of y (B, …): (B, C, …), sought from an image ``start`` on."""
        model = self.accurate_model()
        if isinstance(model.gradient, Unrolled):
            start = None  # it would remember where it began
        record = model.equilibrium(y, physics, x0=start)
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


class Image:
    """What the model makes of some measurements, once for all losses that look at it.

    Their gradients meet at ``leaf``, and lead to the parameters by one adjoint solve in the end.

    Args:
        made: by the model, (B, C, …).
        split: it is made of the larger part of these measurements; None: of all.
    """

    def __init__(self, made: Tensor, split: Split | None = None):
        self.made = made
        self.split = split
        self.leaf = made.detach().requires_grad_(made.requires_grad)

    def backward(self) -> None:
        if self.leaf.grad is not None:
            self.made.backward(self.leaf.grad)


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

    def explain(self) -> str:
        """Which losses look at splitting's image, and what is not differentiated: a line of words;
        empty where each looks at the image of all measurements."""
        of_most, of_all = self._by_image()
        if self._sharing() is None:
            return ""
        words = f"{', '.join(of_most)} look at the image of most measurements"
        if not of_all:
            return words
        differentiated = any(_needs_gradient(self.losses[name]) for name in of_all)
        verb = "looks" if len(of_all) == 1 else "look"
        return (
            f"{words}; {', '.join(of_all)} {verb} at that of all"
            f"{'' if differentiated else ', which is not differentiated'}"
        )

    def _sharing(self) -> Splitting | None:
        """The splitting loss whose image others look at, too."""
        for loss in self.losses.values():
            if isinstance(loss, Splitting) and loss.takes_split:
                return loss
        return None

    def _by_image(self) -> tuple[list[str], list[str]]:
        """The names of the losses that look at the image of most measurements, where splitting
        shares it, and of those that look at the image of all; neither those whose model is a
        wrapper of their own."""
        own = [name for name, wrapper in self.wrappers.items() if wrapper is self.recorder]
        if self._sharing() is None:
            return [], own
        of_most = [name for name in own if _takes_split(self.losses[name])]
        return of_most, [name for name in own if name not in of_most]

    def _images(self, part: Part) -> dict[str, Image]:
        """By the names of the losses, what they look at; of those whose model is a wrapper of their
        own, none.

        What the model makes of all measurements is sought from the image of most of them on, if
        there is one, and without a gradient, if no loss needs one.
        """
        recorder = self.recorder
        of_most, of_all = self._by_image()
        sharing, start = self._sharing(), None
        images: dict[str, Image] = {}
        if sharing is not None:
            split = sharing.draw(part.y, part.physics)
            most = Image(recorder(split.y, split.physics), split)
            images = dict.fromkeys(of_most, most)
            start = most.leaf.detach()
        if of_all:
            needs = any(_needs_gradient(self.losses[name]) for name in of_all)
            with torch.set_grad_enabled(needs):
                x = recorder(part.y, part.physics, start)
            images |= dict.fromkeys(of_all, Image(x))
        return images

    def _example(
        self,
        name: str,
        part: Part,
        images: dict[str, Image],
        epoch: int,
        directions: dict[str, Tensor],
    ) -> Example:
        """What a loss is given. With the image of a split come the measurements of its larger
        part."""
        model = self.wrappers[name]
        is_recorded = isinstance(self.losses[name], RecordedLoss)
        image = images.get(name)
        example = Example(
            _reconstruct(model, part.y, part.physics) if image is None else image.leaf,
            part.y,
            part.physics,
            self.recorder.accurate_model() if is_recorded else model,
            part.truth,
            epoch,
            part.other_physics,
            directions.get(name),
        )
        if image is not None and image.split is not None:
            split = image.split
            example = replace(example, y=split.y, physics=split.physics, split=split)
        return example

    def differentiate(
        self, part: Part, epoch: int, directions: dict[str, Tensor], share: float = 1.0
    ) -> Evaluated:
        """Evaluates every loss, and adds ``share`` times the gradient of its mean over the samples
        to the parameters.

        Loss by loss, so that the graph of one is gone when the next is made: the largest of them
        is what has to fit into memory, not their sum.
        """
        recorder = self.recorder
        images = self._images(part)
        solves = {"x_net": recorder.take_solves()}
        values = {}
        for name, loss in self.losses.items():
            with _said(name, loss):
                found = evaluate(loss, self._example(name, part, images, epoch, directions))
            if found.value.requires_grad:
                (found.value.mean() * share).backward()
            values[name] = found._replace(value=found.value.detach())
            solves[name] = found.solves + recorder.take_solves()
        for image in dict.fromkeys(images.values()):
            image.backward()
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


@contextmanager
def _said(name: str, loss: Any) -> Iterator[None]:
    """
    Raises:
        UserError: a loss of deepinv's, or the model as it wraps it, refuses such measurements.
    """
    try:
        yield
    except (ValueError, TypeError) as error:
        if isinstance(error, UserError) or not isinstance(loss, Weighted):
            raise
        raise UserError(
            f"objective: {name} does not take these measurements ({error}); give it other "
            "arguments, or leave it out"
        ) from error


def _takes_split(loss: Any) -> bool:
    return isinstance(loss, RecordedLoss) and loss.takes_split


def _needs_gradient(loss: Any) -> bool:
    return not isinstance(loss, RecordedLoss) or loss.needs_gradient


def _reconstruct(model: nn.Module, y: Any, physics: Any) -> Tensor:
    """What a wrapped model makes of y. It remembers what its loss will ask for, if it can."""
    remembers = "update_parameters" in inspect.signature(model.forward).parameters
    x: Tensor = model(y, physics, update_parameters=True) if remembers else model(y, physics)
    return x
