"""The loop: θ is learnt from measurements alone, by one process or by several that share each batch."""

from __future__ import annotations

import atexit
import copy
import json
import logging
import math
import multiprocessing
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..config import Learning
from ..equilibrium import Equilibrium, Status
from ..errors import UserError
from ..imaging.draws import seeded
from ..imaging.operators import select
from ..reconstruction.contraction import JacobianPenalty
from ..reconstruction.model import EquilibriumReconstructor
from .checkpoint import Checkpoint, flatten_optimizer, restore_optimizer, save_latest

if TYPE_CHECKING:
    from lightning_fabric import Fabric

PATIENCE = 20  # steps in a row that may be skipped before the run is stopped


@dataclass
class Report:
    """One step, as it goes to the log and to the progress bar."""

    step: int
    loss: float
    parts: dict[str, float]
    forward: float  #: evaluations of f in a solve, mean over the step's solves and samples
    adjoint: float  #: vector–Jacobian products in an adjoint solve, likewise
    residual: float  #: largest relative residual
    adjoint_residual: float
    unsolved: float  #: fraction of the samples' solves, forward and adjoint, that did not reach their tolerance
    gain: float  #: largest gain of the adjoint Jacobian that the contraction penalty saw
    gradient: float  #: norm, before clipping
    rate: float  #: learning rate
    images_per_second: float
    waiting: float  #: fraction of the step's time that went into reading measurements
    skipped: str = ""  #: why the optimiser did not move
    shortened: str = ""  #: why the gradient was shortened further than to ``learning.clip``
    last: bool = False  #: of the run
    ended: str = ""  #: why training ended before its last step
    validation: dict[str, float] = field(default_factory=dict)

    def line(self) -> str:
        return json.dumps({k: v for k, v in self.__dict__.items() if v not in ("", {}) and v is not False})


def learning_rate(step: int, settings: Learning) -> float:
    """Linear warm-up, then half a cosine (or a line, or nothing) down to a tenth."""
    rise, done = min(1.0, (step + 1) / max(1, settings.warmup)), step / settings.steps
    fall = {"cosine": 0.55 + 0.45 * math.cos(math.pi * done), "linear": 1 - 0.9 * done, "constant": 1.0}[settings.schedule]
    return settings.lr * rise * fall


def processes() -> Fabric:
    """The process group that ``torchrun`` has started this process in (gloo on CPUs, NCCL on GPUs), or this process alone.

    Raises:
        UserError: the others cannot be reached.
    """
    from lightning_fabric import Fabric

    count, here = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    for name in ("lightning_fabric", "lightning_fabric.utilities"):
        logging.getLogger(name).setLevel(logging.ERROR)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        fabric = Fabric(accelerator=device, devices=here, num_nodes=count // here, strategy="ddp" if count > 1 else "auto")
        fabric.launch()
    except Exception as error:  # lightning has its own
        raise UserError(f"the {count} processes of this run cannot reach each other: {error}") from error
    if count > 1:
        atexit.register(_leave)
    return fabric


def _leave() -> None:
    """Ends the process group before the interpreter does, or its threads may outlive what they work on (an abort at exit)."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def batch_of(step: int, count: int, batch: int, seed: int) -> Tensor:
    """Which measurements step ``step`` sees: every epoch a new permutation, a function of the seed and the step alone."""
    wanted, out = range(step * batch, (step + 1) * batch), []
    for epoch in range(wanted[0] // count, wanted[-1] // count + 1):
        order = torch.randperm(count, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))
        low, high = max(wanted[0] - epoch * count, 0), min(wanted[-1] + 1 - epoch * count, count)
        out.append(order[low:high])
    return torch.cat(out)


def read_ahead(y: Dataset, start: int, settings: Learning, seed: int, where: Tensor) -> Iterator[Tensor]:
    """The measurements at ``where`` in the batch of each step from ``start`` on, read by ``settings.workers`` processes."""
    if settings.workers and "fork" not in multiprocessing.get_all_start_methods():
        raise UserError("learning.workers: this operating system cannot fork processes; set learning.workers=0")
    batches = (batch_of(step, len(y), settings.batch, seed)[where].tolist() for step in range(start, settings.steps))  # type: ignore[arg-type]
    loader = DataLoader(
        y,
        batch_sampler=batches,
        num_workers=settings.workers,
        multiprocessing_context="fork" if settings.workers else None,
        generator=torch.Generator(),  # the loader's own seed is drawn from here, not from what a step draws from
    )
    return iter(loader)


@dataclass
class _Tally:
    """What a step's parts add up to, over parts and processes: sums, and largest values."""

    sums: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    largest: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    def count(self, kind: str, solves: list[Equilibrium]) -> None:
        for s in solves:
            self.sums[f"{kind} steps"] += float(s.steps.sum())
            self.sums[f"{kind} solves"] += len(s.steps)
            self.sums["unsolved"] += float((s.status != Status.CONVERGED).sum())
            self.sums[f"{kind} lost"] += float((s.residual > 0.1).sum())
            self.largest[f"{kind} residual"] = max(self.largest[f"{kind} residual"], float(s.residual.max()))

    def reduce(self, fabric: Fabric) -> None:
        if fabric.world_size > 1:
            for values, how in ((self.sums, "sum"), (self.largest, "max")):
                keys = sorted(values)
                total = together(fabric, torch.tensor([values[k] for k in keys], dtype=torch.float64), how)
                values.update(zip(keys, total.tolist()))


def together(fabric: Fabric, values: Tensor, how: str = "sum") -> Tensor:
    """The sum (or maximum, minimum) of ``values`` over the processes.

    Raises:
        UserError: one of them is gone.
    """
    try:
        out: Tensor = fabric.all_reduce(values.to(fabric.device), reduce_op=how)
    except RuntimeError as error:
        raise UserError(
            "another process of this run is gone, so this one ends as well; the last checkpoint is whole. Start it again with the "
            f"same command, with as many processes as you like ({str(error).splitlines()[0]})"
        ) from error
    return out


def on_device(physics: Any, device: torch.device) -> Any:
    """The operator there: a copy, since data that are measured while they are read keep theirs."""
    return physics if device.type == "cpu" else copy.deepcopy(physics).to(device)


class Trainer:
    """Weights, their running average and the optimiser, and the step that moves them.

    All randomness of a step comes from (seed, step) and a sample's place in the batch: a run that was stopped goes on exactly
    as if it had not been, and one batch gives the same gradient however many processes or parts share it.
    """

    def __init__(
        self,
        model: EquilibriumReconstructor,
        physics: Any,
        y: Tensor | Dataset,
        losses: dict[str, Any],
        settings: Learning,
        seed: int,
        fabric: Fabric | None = None,
        truth: Tensor | None = None,
    ):
        self.truth = truth  # for a supervised loss alone
        self.fabric = processes() if fabric is None else fabric
        rank, world = self.fabric.global_rank, self.fabric.world_size
        if settings.batch < world * settings.accumulate:
            raise UserError(
                f"learning.batch={settings.batch} cannot be shared by {world} processes in {settings.accumulate} part(s) each; "
                f"raise it to {world * settings.accumulate} or more"
            )
        #: places in the batch that are this process's, part by part
        self.share = torch.arange(settings.batch).tensor_split(world)[rank].tensor_split(settings.accumulate)
        self.model, self.physics = model.to(self.fabric.device), on_device(physics, self.fabric.device)
        self.y, self.losses, self.settings, self.seed = y, losses, settings, seed
        self._ahead: Iterator[Tensor] | None = None  # of data that are read while training
        self.parameters = {k: p for k, p in model.named_parameters() if p.requires_grad}
        self.average = {k: p.detach().clone() for k, p in self.parameters.items()}
        self.best: dict[str, Tensor] = {}  # the average that validated best
        self.optimizer = torch.optim.Adam(self.parameters.values(), settings.lr)
        self.step, self.skipped, self.history = 0, 0, 0.0
        self.best_score, self.best_step = math.inf, 0

    def advance(self) -> Report:
        """One optimiser step; where the gradient cannot be trusted it is skipped, or shortened, and said why."""
        s, started = self.settings, time.perf_counter()
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, s)
        self.optimizer.zero_grad(set_to_none=True)
        tally, waited = self._differentiate()
        self._share_gradient()
        tally.reduce(self.fabric)
        gradient = float(torch.nn.utils.clip_grad_norm_(self.parameters.values(), s.clip))
        parts = {name: tally.sums[f"loss {name}"] for name in self.losses}
        why = self._trouble(sum(parts.values()), tally, gradient)
        shortened = "" if why else self._shorten(gradient)
        if not why:
            self.optimizer.step()
            decay = min(s.ema, (self.step + 1) / (self.step + 10))  # a young average follows quickly
            for name, p in self.parameters.items():
                self.average[name].lerp_(p.detach(), 1 - decay)
        self.skipped = self.skipped + 1 if why else 0
        self.step += 1
        if self.skipped >= PATIENCE:
            raise UserError(
                f"step {self.step}: {PATIENCE} steps in a row were skipped ({why}); the last checkpoint holds the state before. "
                "Start another run (name=… or out=…) with a higher objective.contraction, or a lower learning.lr"
            )
        sums, solves = tally.sums, tally.sums["forward solves"] + tally.sums["adjoint solves"]
        seconds = time.perf_counter() - started
        return Report(
            step=self.step,
            loss=sum(parts.values()),
            parts=parts,
            forward=sums["forward steps"] / max(1, sums["forward solves"]),
            adjoint=sums["adjoint steps"] / max(1, sums["adjoint solves"]),
            residual=tally.largest["forward residual"],
            adjoint_residual=tally.largest["adjoint residual"],
            unsolved=sums["unsolved"] / max(1, solves),
            gain=tally.largest["gain"],
            gradient=gradient,
            rate=learning_rate(self.step - 1, s),
            images_per_second=s.batch / seconds,
            waiting=waited / seconds,
            skipped=why,
            shortened=shortened,
        )

    def _differentiate(self) -> tuple[_Tally, float]:
        """Adds the gradient of this process's share of the batch to the parameters, and tallies it."""
        tally, started = _Tally(), time.perf_counter()
        batches = list(self._batches())
        waited = time.perf_counter() - started
        penalties = [loss for loss in self.losses.values() if isinstance(loss, JacobianPenalty)]
        before = [p.direction for p in penalties]
        after: list[Tensor | None] = []
        for where, (y, physics, x) in zip(self.share, batches):
            for penalty, direction in zip(penalties, before):
                penalty.direction = direction
            with seeded((self.seed, self.step), where.tolist()):
                solved = self.model.equilibrium(y, physics)
                given = {"x_net": solved.value, "x": x, "y": y, "physics": physics, "model": self.model}
                fraction = len(where) / self.settings.batch
                parts = {name: loss(**given).mean() * fraction for name, loss in self.losses.items()}
                torch.stack(list(parts.values())).sum().backward()
            solves = [solved, *(s for s in (getattr(part, "solved", None) for part in self.losses.values()) if s is not None)]
            tally.count("forward", solves)
            tally.count("adjoint", [s.adjoint for s in solves if s.adjoint is not None])
            for name, value in parts.items():
                tally.sums[f"loss {name}"] += float(value.detach())
            for penalty in penalties:
                if penalty.gain is not None:
                    tally.largest["gain"] = max(tally.largest["gain"], float(penalty.gain.max()))
            after = after or [p.direction for p in penalties]
        for penalty, direction in zip(penalties, after):
            penalty.direction = direction
            if self.fabric.world_size > 1 and direction is not None:  # that of the first process
                own = direction if self.fabric.global_rank == 0 else torch.zeros_like(direction)
                penalty.direction = together(self.fabric, own)
        return tally, waited

    def _share_gradient(self) -> None:
        """Replaces the gradient of each process by the sum over all."""
        if self.fabric.world_size == 1:
            return
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters.values()]
        total = together(self.fabric, torch.cat([g.flatten() for g in grads]))
        for p, g in zip(self.parameters.values(), total.split([g.numel() for g in grads])):
            p.grad = g.view_as(p)

    def _batches(self) -> Iterator[tuple[Tensor, Any, Tensor | None]]:
        """This process's share of the step's measurements, part by part, the operator that made them, and the truth, if any."""
        device = self.fabric.device
        if isinstance(self.y, Tensor):
            index = batch_of(self.step, len(self.y), self.settings.batch, self.seed)
            for where in self.share:
                some = index[where]
                x = None if self.truth is None else self.truth[some].to(device, self.y.dtype)
                yield self.y[some].to(device), select(self.physics, some, len(self.y)), x
            return
        if self._ahead is None:
            self._ahead = read_ahead(self.y, self.step, self.settings, self.seed, torch.cat(self.share))
        try:
            y = next(self._ahead)
        except UserError as error:  # from a worker, with its traceback before it
            raise UserError(str(error).strip().splitlines()[-1].removeprefix("equipoise.errors.UserError: ")) from None
        dtype = next(self.model.parameters()).dtype
        for part in y.split([len(where) for where in self.share]):
            yield part.to(device, dtype), self.physics, None

    def _trouble(self, loss: float, tally: _Tally, gradient: float) -> str:
        """Why this gradient must not be followed, or nothing."""
        if not math.isfinite(loss) or not math.isfinite(gradient):
            return f"the loss is {loss:.3g} and the gradient's norm {gradient:.3g}"
        if tally.sums["forward lost"] > 0.5 * tally.sums["forward solves"]:
            return f"most of the batch has no equilibrium: relative residuals up to {tally.largest['forward residual']:.1g}"
        return ""

    def _shorten(self, gradient: float) -> str:
        """Scales a gradient far outside its history down to the usual norm, and says so.

        It is not skipped: where the penalty has woken up, only a step can put it to sleep. The history follows, at most 30-fold
        a step, so that what stays is usual soon. What is shorter than ``learning.clip`` can do no harm.
        """
        usual = self.history or gradient
        self.history = 0.95 * usual + 0.05 * min(gradient, 30 * usual)
        if gradient <= max(30 * usual, self.settings.clip):
            return ""
        for p in self.parameters.values():
            if p.grad is not None:
                p.grad.mul_(min(1.0, usual / self.settings.clip))  # it was clipped before
        return f"the gradient's norm {gradient:.3g} is far above the usual {usual:.3g}"

    def validated(self, scores: dict[str, float]) -> bool:
        """Takes note of a validation without ground truth; whether there has been no progress for ``patience`` of them."""
        s = self.settings
        score = scores["held_out"] if "held_out" in scores else scores["misfit"]
        if score < self.best_score:
            self.best_score, self.best_step = score, self.step
            self.best = {k: v.clone() for k, v in self.average.items()}
        return bool(s.patience) and self.step - self.best_step >= s.patience * s.validate_every

    # ------------------------------------------------------------------------------------------------ state

    def checkpoint(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors = {f"model.{k}": v for k, v in self.parameters.items()}
        tensors |= {f"average.{k}": v for k, v in self.average.items()} | {f"best.{k}": v for k, v in self.best.items()}
        for name, loss in self.losses.items():
            if isinstance(getattr(loss, "direction", None), Tensor):
                tensors[f"direction.{name}"] = loss.direction
        tensors |= flatten_optimizer(self.optimizer)
        return tensors, {k: getattr(self, k) for k in ("step", "skipped", "history", "best_score", "best_step")}

    def restore(self, saved: Checkpoint) -> None:
        with torch.no_grad():
            for name, p in self.parameters.items():
                p.copy_(saved.tensors[f"model.{name}"])
                self.average[name].copy_(saved.tensors[f"average.{name}"])
        self.best = {k: saved.tensors[f"best.{k}"].to(v) for k, v in self.average.items() if f"best.{k}" in saved.tensors}
        for name, loss in self.losses.items():
            if f"direction.{name}" in saved.tensors:
                loss.direction = saved.tensors[f"direction.{name}"].to(self.fabric.device)
        restore_optimizer(self.optimizer, saved.tensors)
        for k in ("step", "skipped", "history", "best_score", "best_step"):
            setattr(self, k, saved.state[k])

    def averaged(self) -> dict[str, Tensor]:
        """The model's state with the running average of the weights."""
        return {k: self.average.get(k, v).clone() for k, v in self.model.state_dict().items()}

    def kept(self) -> dict[str, Tensor]:
        """What is kept in the end: the average, or, with ``patience``, the one that validated best."""
        return self.averaged() | (self.best if self.settings.patience else {})


def train(
    trainer: Trainer,
    folder: Path,
    state: dict[str, Any],
    on_report: Callable[[Report], None],
    interrupted: Callable[[], bool] = lambda: False,
    validate: Callable[[], dict[str, float]] | None = None,
) -> bool:
    """Runs ``trainer`` to its last step, with a line a step in ``log.jsonl`` and checkpoints; the first process writes.

    Returns True at the end, False if it was interrupted; in both cases the last state is in the checkpoint.
    """
    s, fabric = trainer.settings, trainer.fabric
    first, several = fabric.global_rank == 0, fabric.world_size > 1
    with (folder / "log.jsonl").open("a") if first else open(os.devnull, "w") as log:
        while trainer.step < s.steps:
            report = trainer.advance()
            last = trainer.step == s.steps
            if validate is not None and (last or trainer.step % s.validate_every == 0):
                scores = validate() if first else {}
                if several:  # of the first process, which knows their names
                    names = ("psnr", "misfit", "unsolved", "held_out")
                    pairs = torch.tensor([[scores.get(k, 0.0), float(k in scores)] for k in names], dtype=torch.float64)
                    scores = {k: v for k, (v, known) in zip(names, together(fabric, pairs).tolist()) if known}
                report.validation = scores
                if trainer.validated(report.validation):
                    report.ended = f"no progress since step {trainer.best_step}"
                    last = True
            report.last = last
            if first:
                log.write(report.line() + "\n")
                log.flush()
                on_report(report)
            stop = interrupted()
            if several:
                stop = bool(together(fabric, torch.tensor(float(stop)), "max") > 0)
            if first and (last or trainer.step % s.checkpoint_every == 0 or stop):
                tensors, more = trainer.checkpoint()
                save_latest(folder, tensors, {**state, **more, "ended": report.ended})
            if last:
                return True
            if stop:
                return False
    return True
