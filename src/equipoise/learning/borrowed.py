"""deepinv's losses, by the names of their classes: the section ``objective.deepinv``."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import deepinv
import torch
from deepinv.loss import Loss
from deepinv.physics.generator import BernoulliSplittingMaskGenerator
from torch import Tensor

from ..errors import UserError, shortened
from ..imaging.draws import per_sample
from ..imaging.framed import Framed
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
#: UNSURE's step, as a share of the variance that it starts from: deepinv's own (1e-4) is for noise
#: of a tenth of the signal, and leaves a small one behind at once.
UNSURE_STEP = 0.05


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
    weight = arguments.pop("weight", 1.0)
    is_number = isinstance(weight, (int, float)) and not isinstance(weight, bool)
    if not (is_number and math.isfinite(weight) and weight >= 0):
        raise UserError(f"{key}.weight must be a finite number >= 0, got {weight!r}")
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
    return Weighted(loss, float(weight))


def _completed(arguments: dict[str, Any], taken: Any, scan: Scan) -> dict[str, Any]:
    """The arguments with objects in place of their names, and with those that the scan says."""
    made = {name: _made(name, value, scan) for name, value in arguments.items()}
    noise: Any = getattr(scan.physics, "noise_model", None)
    levels = {"sigma": getattr(noise, "sigma", None), "gain": getattr(noise, "gain", None)}
    if levels["sigma"] is None and levels["gain"] is None:
        levels["sigma"] = getattr(scan, "noise", 0.0) or None  # of samples of several sizes
    for name, level in levels.items():
        if name in taken and name not in made and level is not None:
            made[name] = float(level)
    if made.get("unsure") is True and "gain" not in taken and "sigma" in made:
        made.setdefault("step_size", UNSURE_STEP * made["sigma"] ** 2)
    if "mask_generator" in taken and "mask_generator" not in made:
        made["mask_generator"] = _made("mask_generator", 0.9, scan)
    if "transform" in taken and taken["transform"].default is inspect.Parameter.empty:
        made.setdefault("transform", named_group("rotations"))
    if "T_e" in taken:  # deepinv's own default interpolates: its inverse is no adjoint
        made.setdefault("T_e", named_group("rotations"))
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
        if isinstance(scan.physics, Framed) or len(shape) > 4 or _has_frames(scan):
            raise ValueError(
                "its masks are for single images of one size; set objective.splitting instead"
            )
        plane = (shape[0], *shape[-2:])  # the same for all coils
        return SplittingMasks(plane, split_ratio=float(value))
    return value


def _has_frames(scan: Scan) -> bool:
    """Whether images are sequences."""
    return len(getattr(scan, "image_shape", ())) > 3


class SplittingMasks(BernoulliSplittingMaskGenerator):
    """deepinv's random masks, of which each sample draws its own: whatever is in the batch beside
    it, in whichever process, and the same when a run goes on."""

    def step(
        self, batch_size: int = 1, input_mask: Tensor | None = None, **kwargs: Any
    ) -> dict[str, Tensor]:
        has_rows = (
            input_mask is not None
            and input_mask.ndim > len(self.img_size)
            and len(input_mask) == batch_size
        )

        def draw(index: Sequence[int]) -> Tensor:
            masks = []
            for i in index:
                self.rng.manual_seed(int(torch.randint(2**62, ())))
                own = input_mask[i : i + 1] if has_rows and input_mask is not None else input_mask
                masks.append(super(SplittingMasks, self).step(1, input_mask=own, **kwargs)["mask"])
            return torch.cat(masks)

        mask = per_sample(draw, batch_size)
        return {"mask": mask if input_mask is None else mask.to(input_mask.device)}
