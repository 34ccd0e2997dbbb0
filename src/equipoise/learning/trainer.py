"""One training step: batch, losses, gradient, share, clip, step, average."""

from __future__ import annotations

import math
import statistics
import time
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..equilibrium import Unrolled
from ..equilibrium.precision import exact_products
from ..errors import TrainingGaveUp, UserError
from ..imaging.draws import seeded
from ..reconstruction.model import EquilibriumReconstructor
from .batching import Batches, Part
from .checkpoint import Checkpoint, flatten_optimizer, restore_optimizer
from .exactness import check_double, inexactness
from .log import Report
from .losses import MultiOperator
from .memory import check_shared, memory_of, remember
from .objective import Objective
from .processes import from_first, processes, share_gradient
from .settings import LearningSettings
from .tally import Tally

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from ..data.dataset import Dataset

#: Steps in a row that may be skipped before training gives up.
PATIENCE = 20
#: The usual share of unsolved solves above which a warning is due, and how often, in steps.
TOO_MANY_UNSOLVED = 0.5
WARN_EVERY = 100
#: A gradient this many times as long as usual is an outlier.
OUTLIER = 30
#: Steps whose gradients tell what is usual.
MEMORY = 50


@dataclass
class Progress:
    """What training remembers beside tensors."""

    step: int = 0  #: steps made
    skipped: int = 0  #: of these, the last ones in a row that did not move the weights
    history: float = 0.0  #: the usual norm of the gradient; 0: not known yet
    norms: list[float] = field(default_factory=list)  #: of the gradients of the last steps
    unsolved: float = 0.0  #: the usual share of the solves that miss their tolerance
    warned: int = 0  #: at which step that was last complained of
    best_score: float = math.inf
    best_step: int = 0


class Trainer:
    """Weights, their running average and the optimiser, and the step that moves them.

    All randomness of a step comes from (seed, step) and a sample's place in the batch: a run that
    was stopped goes on exactly as if it had not been, and one batch gives the same gradient however
    many processes or parts share it.

    Args:
        model: is trained in place.
        dataset: what to train on. Its ``truth`` is used by a loss named "supervised" alone: without
            one it is not even looked at.
        losses: by name; ours, deepinv's, or any other in their contract.
        settings: of the loop.
        seed: of everything random.
        fabric: the processes that share the batches; none: those that ``torchrun`` has started.

    Raises:
        UserError: the batch cannot be shared as asked; a supervised loss, but no images; checks in
            float64, in which the operator cannot compute.
    """

    def __init__(
        self,
        model: EquilibriumReconstructor,
        dataset: Dataset,
        losses: dict[str, Any],
        settings: LearningSettings,
        seed: int,
        fabric: Fabric | None = None,
    ):
        supervised = "supervised" in losses
        if supervised and dataset.truth is None:
            raise UserError(
                "objective.supervised needs images, and the data are measurements; set it to 0"
            )
        if settings.check_every:
            check_double(dataset.scan, settings.check_every)
        self.fabric = processes() if fabric is None else fabric
        self.model = model.to(self.fabric.device)
        self.losses = losses
        check_shared(losses, self.fabric.world_size, settings.accumulate)
        self.objective = Objective(self.model, losses)
        self.settings = settings
        self.seed = seed
        self.batches = Batches(
            dataset,
            settings,
            seed,
            rank=self.fabric.global_rank,
            world=self.fabric.world_size,
            device=self.fabric.device,
            dtype=next(model.parameters()).dtype,
            with_truth=supervised,
            with_others=any(isinstance(loss, MultiOperator) for loss in losses.values()),
        )
        self.parameters = {k: p for k, p in model.named_parameters() if p.requires_grad}
        self.average = {k: p.detach().clone() for k, p in self.parameters.items()}
        self.best: dict[str, Tensor] = {}  # average and buffers, where they validated best
        self.directions: dict[str, Tensor] = {}  # what contraction penalties remember
        self.optimizer = torch.optim.Adam(self.parameters.values(), settings.lr)
        self.progress = Progress()

    @property
    def buffers(self) -> dict[str, Tensor]:
        """What modules of the model remember beside parameters, such as batch statistics."""
        return dict(self.model.named_buffers())

    @property
    def dataset(self) -> Dataset:
        """What is trained on, with its operator on the device of this process."""
        return self.batches.dataset

    @property
    def step(self) -> int:
        """Steps made."""
        return self.progress.step

    # ------------------------------------------------------------------------------ one step

    def advance(self) -> Report:
        """One optimiser step; where the gradient cannot be trusted it is skipped, or shortened, and
        said why.

        Raises:
            UserError: a measurement cannot be read, or another process is gone.
            TrainingGaveUp: too many steps in a row were skipped.
        """
        started = time.perf_counter()
        parts = self.batches.of_step(self.step)
        waited = time.perf_counter() - started
        self.optimizer.zero_grad(set_to_none=True)
        tally, self.directions = self._differentiate(parts)
        share_gradient(self.fabric, self.parameters.values())
        tally.share(self.fabric)
        norm = self._norm()
        losses = tally.losses(self.losses)
        inexact = self._inexactness(parts[0])
        skipped = self._not_finite(sum(losses.values()), norm) or tally.trouble
        shortened = ""
        rate = self.settings.rate(self.step)
        if not skipped:
            shortened = self._clip(norm)
            self._move(rate)
            self._follow()
        self._count(skipped)
        warning = self._watch(tally.unsolved)
        seconds = time.perf_counter() - started
        return Report(
            step=self.step,
            loss=sum(losses.values()),
            parts=losses,
            forward=tally.mean_steps("forward"),
            adjoint=tally.mean_steps("adjoint"),
            residual=tally.largest["forward residual"],
            adjoint_residual=tally.largest["adjoint residual"],
            unsolved=tally.unsolved,
            overlong=tally.overlong,
            gain=tally.largest["gain"],
            gradient=norm,
            rate=rate,
            images_per_second=self.settings.batch / seconds,
            waiting=waited / seconds,
            skipped=skipped,
            shortened=shortened,
            warning=warning,
            inexact=inexact,
        )

    def _inexactness(self, part: Part) -> dict[str, float]:
        """How exact the losses of this step were, now and then (``learning.check_every``)."""
        every = self.settings.check_every
        if not every or (self.step + 1) % every:
            return {}
        return inexactness(self.model, self.losses, part, (self.seed, self.step))

    def _differentiate(self, parts: list[Part]) -> tuple[Tally, dict[str, Tensor]]:
        """Adds the gradient of this process's share of the batch to the parameters.

        Also tells the directions for the next step: those that the first part of the batch has
        found, so that they do not depend on how the batch is shared.
        """
        tally = Tally(has_tolerance=not isinstance(self.model.gradient, Unrolled))
        directions: dict[str, Tensor] | None = None
        for part in parts:
            turned = self._differentiate_part(part, tally)
            directions = turned if directions is None else directions
        assert directions is not None
        return tally, {k: from_first(self.fabric, v) for k, v in directions.items()}

    def _differentiate_part(self, part: Part, tally: Tally) -> dict[str, Tensor]:
        share = len(part.places) / self.settings.batch
        epoch = self.step * self.settings.batch // len(self.dataset)
        with seeded((self.seed, self.step), part.places.tolist()), exact_products():
            values, solves = self.objective.differentiate(part, epoch, self.directions, share)
        for name, made in solves.items():
            tally.add_solves(name, made)
        for name, found in values.items():
            tally.add_loss(name, found, share)
        return {k: found.direction for k, found in values.items() if found.direction is not None}

    def _norm(self) -> float:
        """Of the gradient, as it is."""
        return float(torch.nn.utils.clip_grad_norm_(self.parameters.values(), math.inf))

    def _not_finite(self, loss: float, gradient: float) -> str:
        if math.isfinite(loss) and math.isfinite(gradient):
            return ""
        return f"the loss is {loss:.3g} and the gradient's norm {gradient:.3g}"

    def _clip(self, norm: float) -> str:
        """Scales a gradient that is longer than the clip down to it; says so if it is an outlier.

        Exact gradients have heavy tails: where f hardly contracts, a sample's gradient can be a
        hundred times as long as usual, and one such step would stay in Adam's second moment for a
        thousand. The clip follows the history, as in AutoClip (Seetharaman et al., MLSP 2020). An
        outlier is not skipped: where the penalty has woken up, only a step can put it to sleep.
        """
        clip = self.settings.clip
        usual = self._usual(norm)
        longest = usual if clip == "auto" else clip
        is_outlier = norm > max(OUTLIER * usual, longest)
        if is_outlier:
            longest = min(longest, usual)
        if norm > longest:
            for p in self.parameters.values():
                if p.grad is not None:
                    p.grad.mul_(longest / norm)
        if not is_outlier:
            return ""
        return f"the gradient's norm {norm:.3g} is far above the usual {usual:.3g}"

    def _usual(self, norm: float) -> float:
        """The norm that gradients usually have, this one included.

        With a clip of one's own it is a running mean, which rises at most 30-fold a step.
        """
        progress = self.progress
        progress.norms = [*progress.norms, norm][-MEMORY:]
        usual = progress.history or norm
        progress.history = 0.95 * usual + 0.05 * min(norm, OUTLIER * usual)
        return statistics.median(progress.norms) if self.settings.clip == "auto" else usual

    def _move(self, rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()

    def _follow(self) -> None:
        """The running average follows the weights; a young one follows quickly."""
        decay = min(self.settings.decay, (self.step + 1) / (self.step + 10))
        for name, p in self.parameters.items():
            self.average[name].lerp_(p.detach(), 1 - decay)

    def _count(self, skipped: str) -> None:
        self.progress.step += 1
        self.progress.skipped = self.progress.skipped + 1 if skipped else 0
        if self.progress.skipped >= PATIENCE:
            raise TrainingGaveUp(
                f"step {self.step}: {PATIENCE} steps in a row were skipped ({skipped}); the last "
                "checkpoint holds the state before. Start another run (name=… or out=…) with a "
                "higher objective.contraction, or a lower learning.lr"
            )

    def _watch(self, unsolved: float) -> str:
        """What to say if more and more solves miss their tolerance, now and then."""
        progress = self.progress
        progress.unsolved = 0.9 * progress.unsolved + 0.1 * unsolved
        if progress.unsolved <= TOO_MANY_UNSOLVED:
            progress.warned = 0
            return ""
        if progress.warned and self.step - progress.warned < WARN_EVERY:
            return ""
        progress.warned = self.step
        return (
            f"{unsolved:.0%} of this step's solves ended before their tolerance, and most have for "
            "some time: the loss and its gradient are inexact. Raise objective.contraction, or "
            "model.sigma a little, or lower learning.lr, in another run; if the residuals go on "
            "falling when they stop, raise model.max_steps and model.gradient.max_steps"
        )

    # ------------------------------------------------------------------------------ validation

    def note_validation(self, scores: dict[str, float]) -> bool:
        """Takes note of a validation without ground truth.

        True if there has been no progress for ``learning.patience`` of them.
        """
        progress, settings = self.progress, self.settings
        score = scores["held_out"] if "held_out" in scores else scores["misfit"]
        if score < progress.best_score:
            progress.best_score, progress.best_step = score, self.step
            changing = self.average.keys() | self.buffers.keys()
            self.best = {k: v for k, v in self.averaged().items() if k in changing}
        waited = self.step - progress.best_step
        return bool(settings.patience) and waited >= settings.patience * settings.validate_every

    def averaged(self) -> dict[str, Tensor]:
        """The model's state with the running average of the weights."""
        state = self.model.state_dict()
        return {name: self.average.get(name, value).clone() for name, value in state.items()}

    def final_weights(self) -> dict[str, Tensor]:
        """The state to keep in the end: the average, or, with ``learning.patience``, the one that
        validated best."""
        return self.averaged() | (self.best if self.settings.patience else {})

    # ------------------------------------------------------------------------------ checkpoint

    def checkpoint(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All that is needed to go on: tensors by name, and numbers."""
        tensors = {f"model.{k}": v for k, v in self.parameters.items()}
        tensors |= {f"buffer.{k}": v for k, v in self.buffers.items()}
        tensors |= {f"average.{k}": v for k, v in self.average.items()}
        tensors |= {f"best.{k}": v for k, v in self.best.items()}
        tensors |= {f"direction.{k}": v for k, v in self.directions.items()}
        memory = memory_of(self.objective.losses, self.objective.wrappers)
        tensors |= {f"memory.{k}": v for k, v in memory.items()}
        tensors |= flatten_optimizer(self.optimizer)
        return tensors, asdict(self.progress)

    def restore(self, saved: Checkpoint) -> None:
        """Goes back to what :meth:`checkpoint` gave.

        Checkpoints of release 0.1 hold no buffers, and not all of ``Progress``.
        """
        tensors, device = saved.tensors, self.fabric.device
        with torch.no_grad():
            for name, p in self.parameters.items():
                p.copy_(tensors[f"model.{name}"])
                self.average[name].copy_(tensors[f"average.{name}"])
            for name, buffer in self.buffers.items():
                if f"buffer.{name}" in tensors:
                    buffer.copy_(tensors[f"buffer.{name}"])
        self.best = _with_prefix("best.", tensors, device)
        self.directions = _with_prefix("direction.", tensors, device)
        memory = _with_prefix("memory.", tensors, device)
        remember(self.objective.losses, self.objective.wrappers, memory)
        restore_optimizer(self.optimizer, tensors)
        known = {field.name for field in fields(Progress)} & saved.state.keys()
        self.progress = Progress(**{name: saved.state[name] for name in known})


def _with_prefix(
    prefix: str, tensors: dict[str, Tensor], device: torch.device
) -> dict[str, Tensor]:
    return {
        k.removeprefix(prefix): v.to(device) for k, v in tensors.items() if k.startswith(prefix)
    }
