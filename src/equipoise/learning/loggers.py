"""Where else than ``log.jsonl`` the steps of a run are logged."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import need
from .log import Report

Logger = Callable[[Report], None]


def _numbers(report: Report) -> dict[str, float]:
    numbers: dict[str, float] = {}
    for name, value in report.__dict__.items():
        if isinstance(value, (int, float)) and name != "step":
            numbers[name] = float(value)
    for name, value in report.parts.items():
        numbers[f"parts/{name}"] = value
    for name, value in report.validation.items():
        numbers[f"validation/{name}"] = value
    return numbers


def _tensorboard(folder: Path, name: str, config: dict[str, Any], start: int) -> Logger:
    from torch.utils.tensorboard import SummaryWriter

    # What a killed run logged after its checkpoint is purged.
    writer = SummaryWriter(str(folder / "tensorboard"), purge_step=start + 1)

    def log(report: Report) -> None:
        for key, value in _numbers(report).items():
            writer.add_scalar(key, value, report.step)
        if report.validation or report.step % 20 == 0 or report.last:
            writer.flush()

    return log


def _wandb(folder: Path, name: str, config: dict[str, Any], start: int) -> Logger:
    os.environ.setdefault("WANDB_MODE", "offline")
    wandb = need("wandb", "wandb")
    run = wandb.init(project="equipoise", name=name, dir=str(folder), config=config, resume="allow")
    return lambda report: run.log(_numbers(report), step=report.step)


def _mlflow(folder: Path, name: str, config: dict[str, Any], start: int) -> Logger:
    mlflow = need("mlflow", "mlflow")
    if "MLFLOW_TRACKING_URI" not in os.environ:
        mlflow.set_tracking_uri((folder / "mlruns").resolve().as_uri())
    mlflow.set_experiment("equipoise")
    mlflow.start_run(run_name=name)
    mlflow.log_params({"config": str(config)[:500]})

    def log(report: Report) -> None:
        metrics = {key.replace("/", "."): value for key, value in _numbers(report).items()}
        mlflow.log_metrics(metrics, step=report.step)
        if report.last:
            mlflow.end_run()  # another run of this process starts one of its own

    return log


LOGGERS = {"tensorboard": _tensorboard, "wandb": _wandb, "mlflow": _mlflow}


def open_loggers(
    names: list[str], folder: Path, name: str, config: dict[str, Any], start: int
) -> list[Logger]:
    """What takes each step's report, for every name; offline unless the logger's own environment
    variables say otherwise.

    Args:
        folder: of the run, whose ``name`` and ``config`` are logged with it.
        start: the step that the run goes on from.

    Raises:
        UserError: a logger is not installed.
    """
    return [LOGGERS[kind](folder, name, config, start) for kind in names]
