"""The loop: θ is learnt from measurements alone."""

from __future__ import annotations

import json
import math
import multiprocessing
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from ..config import Learning
from ..equilibrium import Status
from ..errors import UserError
from ..imaging.operators import select
from ..reconstruction.model import EquilibriumReconstructor
from .checkpoint import Checkpoint, flatten_optimizer, restore_optimizer, save_latest

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
    gradient: float  #: norm, before clipping
    rate: float  #: learning rate
    images_per_second: float
    skipped: str = ""  #: why the optimiser did not move
    validation: dict[str, float] = field(default_factory=dict)

    def line(self) -> str:
        return json.dumps({k: v for k, v in self.__dict__.items() if v not in ("", {})})


def learning_rate(step: int, settings: Learning) -> float:
    """Linear warm-up, then half a cosine down to a tenth."""
    rise = min(1.0, (step + 1) / max(1, settings.warmup))
    return settings.lr * rise * (0.55 + 0.45 * math.cos(math.pi * step / settings.steps))


def batch_of(step: int, count: int, batch: int, seed: int) -> Tensor:
    """Which measurements step ``step`` sees: every epoch a new permutation, a function of the seed and the step alone."""
    wanted, out = range(step * batch, (step + 1) * batch), []
    for epoch in range(wanted[0] // count, wanted[-1] // count + 1):
        order = torch.randperm(count, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))
        low, high = max(wanted[0] - epoch * count, 0), min(wanted[-1] + 1 - epoch * count, count)
        out.append(order[low:high])
    return torch.cat(out)


class _Schedule(Sampler):
    """The batches from step ``start`` to the last."""

    def __init__(self, start: int, count: int, settings: Learning, seed: int):
        self.start, self.count, self.settings, self.seed = start, count, settings, seed

    def __len__(self) -> int:
        return self.settings.steps - self.start

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.start, self.settings.steps):
            yield batch_of(step, self.count, self.settings.batch, self.seed).tolist()


def read_ahead(y: Dataset, start: int, settings: Learning, seed: int) -> Iterator[Tensor]:
    """The measurements of each step from ``start`` on, read by ``settings.workers`` processes."""
    if settings.workers and "fork" not in multiprocessing.get_all_start_methods():
        raise UserError("learning.workers: this operating system cannot fork processes; set learning.workers=0")
    loader = DataLoader(
        y,
        batch_sampler=_Schedule(start, len(y), settings, seed),  # type: ignore[arg-type]
        num_workers=settings.workers,
        multiprocessing_context="fork" if settings.workers else None,
        generator=torch.Generator(),  # the loader's own seed is drawn from here, not from what a step draws from
    )
    return iter(loader)


class Trainer:
    """Weights, their running average and the optimiser, and the step that moves them.

    All randomness of a step comes from (seed, step), so a run that was stopped goes on exactly as if it had not been.
    """

    def __init__(
        self,
        model: EquilibriumReconstructor,
        physics: Any,
        y: Tensor | Dataset,
        losses: dict[str, Any],
        settings: Learning,
        seed: int,
    ):
        self.model, self.physics, self.y, self.losses, self.settings, self.seed = model, physics, y, losses, settings, seed
        self._ahead: Iterator[Tensor] | None = None  # of data that are read while training
        self.parameters = {k: p for k, p in model.named_parameters() if p.requires_grad}
        self.average = {k: p.detach().clone() for k, p in self.parameters.items()}
        self.optimizer = torch.optim.Adam(self.parameters.values(), settings.lr)
        self.step, self.skipped, self.history = 0, 0, 0.0

    def advance(self) -> Report:
        """One optimiser step; it is skipped, and said why, where the gradient cannot be trusted."""
        s, started = self.settings, time.perf_counter()
        y, physics = self._batch()
        torch.manual_seed(self.seed * 1_000_003 + self.step)  # group draws, noise, power iterations
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, s)

        solved = self.model.equilibrium(y, physics)
        parts = {
            name: loss(x_net=solved.value, y=y, physics=physics, model=self.model).mean() for name, loss in self.losses.items()
        }
        loss = torch.stack(list(parts.values())).sum()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        gradient = float(torch.nn.utils.clip_grad_norm_(self.parameters.values(), s.clip))
        loss, parts = loss.detach(), {k: v.detach() for k, v in parts.items()}

        solves = [solved, *(s for s in (getattr(part, "solved", None) for part in self.losses.values()) if s is not None)]
        adjoints = [s.adjoint for s in solves if s.adjoint is not None]
        residual = torch.cat([s.residual for s in solves])
        why = self._trouble(loss, residual, gradient)
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
        return Report(
            step=self.step,
            loss=float(loss),
            parts={k: float(v) for k, v in parts.items()},
            forward=float(torch.cat([s.steps for s in solves]).float().mean()),
            adjoint=float(torch.cat([a.steps for a in adjoints]).float().mean()) if adjoints else 0.0,
            residual=float(residual.max()),
            adjoint_residual=max((float(a.residual.max()) for a in adjoints), default=0.0),
            unsolved=float(torch.cat([s.status != Status.CONVERGED for s in (*solves, *adjoints)]).float().mean()),
            gradient=gradient,
            rate=learning_rate(self.step - 1, s),
            images_per_second=len(y) / (time.perf_counter() - started),
            skipped=why,
        )

    def _batch(self) -> tuple[Tensor, Any]:
        """The step's measurements, and the operator that made them."""
        if isinstance(self.y, Tensor):
            index = batch_of(self.step, len(self.y), self.settings.batch, self.seed)
            return self.y[index], select(self.physics, index, len(self.y))
        if self._ahead is None:
            self._ahead = read_ahead(self.y, self.step, self.settings, self.seed)
        try:
            return next(self._ahead), self.physics
        except UserError as error:  # from a worker, with its traceback before it
            raise UserError(str(error).strip().splitlines()[-1].removeprefix("equipoise.errors.UserError: ")) from None

    def _trouble(self, loss: Tensor, residual: Tensor, gradient: float) -> str:
        """Why this gradient must not be followed, or nothing."""
        if not math.isfinite(float(loss)) or not math.isfinite(gradient):
            return f"the loss is {float(loss):.3g} and the gradient's norm {gradient:.3g}"
        if bool((residual > 0.1).float().mean() > 0.5):
            return f"most of the batch has no equilibrium: relative residuals up to {float(residual.max()):.1g}"
        usual = self.history
        if usual and gradient > 30 * usual:
            return f"the gradient's norm {gradient:.3g} is far above the usual {usual:.3g}"
        self.history = gradient if not usual else 0.95 * usual + 0.05 * gradient
        return ""

    # ------------------------------------------------------------------------------------------------ state

    def checkpoint(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors = {f"model.{k}": v for k, v in self.parameters.items()}
        tensors |= {f"average.{k}": v for k, v in self.average.items()}
        tensors |= flatten_optimizer(self.optimizer)
        return tensors, {"step": self.step, "skipped": self.skipped, "history": self.history}

    def restore(self, saved: Checkpoint) -> None:
        with torch.no_grad():
            for name, p in self.parameters.items():
                p.copy_(saved.tensors[f"model.{name}"])
                self.average[name].copy_(saved.tensors[f"average.{name}"])
        restore_optimizer(self.optimizer, saved.tensors)
        self.step, self.skipped, self.history = (saved.state[k] for k in ("step", "skipped", "history"))

    def averaged(self) -> dict[str, Tensor]:
        """The model's state with the running average of the weights: what is kept in the end."""
        return {k: self.average.get(k, v).clone() for k, v in self.model.state_dict().items()}


def train(
    trainer: Trainer,
    folder: Path,
    state: dict[str, Any],
    on_report: Callable[[Report], None],
    interrupted: Callable[[], bool] = lambda: False,
    validate: Callable[[], dict[str, float]] | None = None,
) -> bool:
    """Runs ``trainer`` to its last step, with a line a step in ``log.jsonl`` and checkpoints.

    Returns True at the end, False if it was interrupted; in both cases the last state is in the checkpoint.
    """
    s = trainer.settings

    def save() -> None:
        tensors, more = trainer.checkpoint()
        save_latest(folder, tensors, {**state, **more})

    with (folder / "log.jsonl").open("a") as log:
        while trainer.step < s.steps:
            report = trainer.advance()
            last = trainer.step == s.steps
            if validate is not None and (last or trainer.step % s.validate_every == 0):
                report.validation = validate()
            log.write(report.line() + "\n")
            log.flush()
            on_report(report)
            stop = interrupted()
            if last or trainer.step % s.checkpoint_every == 0 or stop:
                save()
            if stop and not last:
                return False
    return True
