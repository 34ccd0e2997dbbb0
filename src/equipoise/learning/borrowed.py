"""deepinv's losses, by the names of their classes: the section ``objective.deepinv``."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import deepinv
from deepinv.loss import Loss
from deepinv.physics.generator import BernoulliSplittingMaskGenerator

from ..errors import UserError, shortened
from ..imaging.groups import named_group
from .losses import Weighted

if TYPE_CHECKING:
    from ..data.scan import Scan

#: What is not to be had by its name, and what to do instead.
OTHERWISE = {
    "SupLoss": "it needs the true images: set objective.supervised",
    "MOILoss": "it needs other operators: set objective.operators",
    "MOEILoss": "it needs other operators: set objective.operators and objective.equivariance",
    "JacobianSpectralNorm": "set objective.contraction",
    "FNEJacobianSpectralNorm": "set objective.contraction",
    "StackedPhysicsLoss": "it is made of losses for stacked operators: give it to the Trainer",
    "BaseLossScheduler": "it is made of other losses: give it to the Trainer",
    "RandomLossScheduler": "it is made of other losses: give it to the Trainer",
    "InterleavedLossScheduler": "it is made of other losses: give it to the Trainer",
    "InterleavedEpochLossScheduler": "it is made of other losses: give it to the Trainer",
    "StepLossScheduler": "it is made of other losses: give it to the Trainer",
}
#: Arguments that are groups, written by the names of ours.
GROUPS = ("transform", "eval_transform", "T_i", "T_e")
#: Arguments that are losses, written by their names.
LOSSES = ("consistency_loss", "prediction_loss")
#: Arguments that the noise of the measurements says, where nobody else does.
FROM_NOISE = ("sigma", "gain")


def loss_names() -> list[str]:
    """What may be asked for by its name."""
    kinds = vars(deepinv.loss).items()
    found = (k for k, v in kinds if inspect.isclass(v) and issubclass(v, Loss) and v is not Loss)
    return sorted(name for name in found if name not in OTHERWISE)


def borrowed(name: str, given: float | dict[str, Any], scan: Scan) -> Weighted:
    """The loss of that name, with its weight.

    Args:
        name: of the class in ``deepinv.loss``.
        given: its weight, or a mapping with ``weight`` (1, if there is none) and the arguments of
            the class. A group is written by its name (rotations, quarter_turns, reflections,
            shifts), a loss by that of its class, and ``mask_generator`` by the share of the
            measurements that is kept.
        scan: what measured; σ and gain are those of its noise.

    Raises:
        UserError: there is no such loss here, or it does not take these arguments.
    """
    key = f"objective.deepinv.{name}"
    if name not in loss_names():
        why = OTHERWISE.get(name, f"there are {', '.join(loss_names())}")
        raise UserError(f"{key}: deepinv's losses are asked for by name, but not this one; {why}")
    arguments = dict(given) if isinstance(given, dict) else {"weight": given}
    weight = float(arguments.pop("weight", 1.0))
    kind = getattr(deepinv.loss, name)
    taken = inspect.signature(kind.__init__).parameters
    unknown = [argument for argument in arguments if argument not in taken]
    if unknown:
        others = ", ".join(a for a in taken if a not in ("self", "args", "kwargs"))
        raise UserError(f"{key}.{unknown[0]}: no such argument; {name} takes {others}")
    try:
        loss = kind(**_completed(arguments, taken, scan))
    except (TypeError, ValueError) as error:
        raise UserError(f"{key}: {shortened(str(error), 200)}") from error
    return Weighted(loss, weight)


def _completed(arguments: dict[str, Any], taken: Any, scan: Scan) -> dict[str, Any]:
    """The arguments with objects in place of their names, and with those that the scan says."""
    made = {name: _made(name, value, scan) for name, value in arguments.items()}
    noise: Any = getattr(scan.physics, "noise_model", None)
    for name in FROM_NOISE:
        level = getattr(noise, name, None)
        if name in taken and name not in made and level is not None:
            made[name] = float(level)
    if "mask_generator" in taken and "mask_generator" not in made:
        made["mask_generator"] = _made("mask_generator", 0.9, scan)
    if "transform" in taken and taken["transform"].default is inspect.Parameter.empty:
        made.setdefault("transform", named_group("rotations"))
    return made


def _made(name: str, value: Any, scan: Scan) -> Any:
    if name in GROUPS and isinstance(value, str):
        try:
            return named_group(value)
        except KeyError as error:
            known = "rotations, quarter_turns, reflections, shifts"
            raise ValueError(f"{name} must be one of {known}, got {value!r}") from error
    if name in LOSSES and isinstance(value, str):
        if value not in loss_names():
            raise ValueError(f"{name} must be one of {', '.join(loss_names())}, got {value!r}")
        kind = getattr(deepinv.loss, value)
        taken = inspect.signature(kind.__init__).parameters
        return kind(**_completed({}, taken, scan))
    if name == "mask_generator" and isinstance(value, (int, float)):
        shape = scan.measurement_shape
        plane = (shape[0], *shape[-2:])  # the same for all coils
        return BernoulliSplittingMaskGenerator(plane, split_ratio=float(value))
    return value
