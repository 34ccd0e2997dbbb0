"""The loop: step, validate, log, save."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from .checkpoint import save_latest
from .log import Report, append_to_log
from .processes import any_of
from .trainer import Trainer

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def train(
    trainer: Trainer,
    folder: Path,
    state: dict[str, Any],
    on_report: Callable[[Report], None],
    interrupted: Callable[[], bool] = lambda: False,
    validate: Callable[[dict[str, Tensor], Fabric], dict[str, float]] | None = None,
) -> bool:
    """Runs ``trainer`` to its last step, with a line a step in ``log.jsonl`` and checkpoints.

    Args:
        folder: of the run; the first process writes there.
        state: what is saved with every checkpoint.
        on_report: is given every step's report, in the first process.
        interrupted: whether to stop after this step.
        validate: scores of the averaged weights, by name. Every process calls it, and must get the
            same (:class:`~equipoise.learning.validation.Validator`).

    Returns:
        True at the end, False if it was interrupted. In both cases the last state is in the
        checkpoint.
    """
    settings, fabric = trainer.settings, trainer.fabric
    first = fabric.global_rank == 0
    with append_to_log(folder) if first else nullcontext() as log:
        while trainer.step < settings.steps:
            report = trainer.advance()
            report.last = trainer.step == settings.steps
            due = report.last or trainer.step % settings.validate_every == 0
            if validate is not None and due:
                report.validation = validate(trainer.averaged(), fabric)
                if trainer.note_validation(report.validation):
                    report.ended = f"no progress since step {trainer.progress.best_step}"
                    report.last = True
            if log is not None:
                log.write(report.line() + "\n")
                log.flush()
                on_report(report)
            stop = any_of(fabric, interrupted())
            save = report.last or stop or trainer.step % settings.checkpoint_every == 0
            if first and save:
                tensors, numbers = trainer.checkpoint()
                save_latest(folder, tensors, {**state, **numbers, "ended": report.ended})
            if report.last:
                return True
            if stop:
                return False
    return True
