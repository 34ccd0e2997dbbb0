"""Where else than ``log.jsonl`` the steps of a run are logged."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import need
from .train import Report


def _numbers(report: Report) -> dict[str, float]:
    out = {k: float(v) for k, v in report.__dict__.items() if isinstance(v, (int, float)) and k != "step"}
    out |= {f"parts/{k}": v for k, v in report.parts.items()}
    return out | {f"validation/{k}": v for k, v in report.validation.items()}


def _tensorboard(folder: Path, name: str, config: dict[str, Any], start: int) -> Callable[[Report], None]:
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(folder / "tensorboard"), purge_step=start + 1)  # what a killed run logged after its checkpoint

    def log(report: Report) -> None:
        for key, value in _numbers(report).items():
            writer.add_scalar(key, value, report.step)
        if report.validation or report.step % 20 == 0 or report.last:
            writer.flush()

    return log


def _wandb(folder: Path, name: str, config: dict[str, Any], start: int) -> Callable[[Report], None]:
    os.environ.setdefault("WANDB_MODE", "offline")
    run = need("wandb", "wandb").init(project="equipoise", name=name, dir=str(folder), config=config, resume="allow")
    return lambda report: run.log(_numbers(report), step=report.step)


def _mlflow(folder: Path, name: str, config: dict[str, Any], start: int) -> Callable[[Report], None]:
    mlflow = need("mlflow", "mlflow")
    if "MLFLOW_TRACKING_URI" not in os.environ:
        mlflow.set_tracking_uri((folder / "mlruns").resolve().as_uri())
    mlflow.set_experiment("equipoise")
    mlflow.start_run(run_name=name)
    mlflow.log_params({"config": str(config)[:500]})

    def log(report: Report) -> None:
        mlflow.log_metrics({k.replace("/", "."): v for k, v in _numbers(report).items()}, step=report.step)
        if report.last:
            mlflow.end_run()  # another run of this process starts one of its own

    return log


LOGGERS = {"tensorboard": _tensorboard, "wandb": _wandb, "mlflow": _mlflow}


def open_loggers(names: list[str], folder: Path, name: str, config: dict[str, Any], start: int) -> list[Callable[[Report], None]]:
    """What takes each step's report, for every name; offline unless the logger's own environment variables say otherwise.

    Raises:
        UserError: a logger is not installed.
    """
    return [LOGGERS[kind](folder, name, config, start) for kind in names]
