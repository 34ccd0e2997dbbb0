"""Methods that are trained: the configuration, and what is changed in it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from ..config import Config, changed, dump
from ..data.dataset import Dataset
from ..errors import UserError
from ..learning.log import read_log
from ..learning.search import Ladder, Setting
from ..machine import largest_memory, write_whole
from ..run import load_run
from .method import Failed, Fitted, Interrupted, Method, Problem, Unavailable
from .plugged import STRENGTHS, count_parameters, reconstructed_in_tuning, strength_of

#: Exit codes of `equipoise train`: it gave up, which is a result; somebody stopped it.
GAVE_UP, STOPPED = 3, 130
#: Few steps get further with a larger λ.
UNROLLED_STRENGTHS = Ladder(STRENGTHS.values, first=(1.0, 3.0, 10.0, 30.0, 100.0), default=1.0)


@dataclass(frozen=True)
class Trained(Method):
    """A configuration that is trained, each time in a process of its own.

    Args:
        name: of the method, and of its run.
        label: in tables and figures.
        changes: dotted key → value, of what differs from the configuration that is compared.
        terms: losses of the objective that are kept, with their weights there (or 1); None: all.
    """

    name: str
    label: str
    changes: dict[str, Any] = field(default_factory=dict)
    terms: tuple[str, ...] | None = None

    def configuration(self, config: Config) -> Config:
        """What is trained; all else (data, start, budget) is the same.

        Raises:
            UserError: the configuration does not allow it.
        """
        gradient = {} if config.model.gradient.kind == "implicit" else {"model.gradient": IMPLICIT}
        return changed(config, {**gradient, **self._weights(config), **self.changes})

    def _weights(self, config: Config) -> dict[str, Any]:
        if self.terms is None:
            return {}
        weights = weights_of(config)
        kept: dict[str, Any] = {
            f"objective.{name}.weight": (weight or 1.0) if name in self.terms else 0.0
            for name, weight in weights.items()
        }
        return {**kept, "objective.deepinv": {}} if config.objective.deepinv else kept

    def excluded(self, config: Config) -> str:
        if self.terms == ("splitting",) and not weights_of(config)["splitting"]:
            return "the configuration does not split its measurements (objective.splitting is 0)"
        return ""

    def folder(self, problem: Problem) -> Path:
        """Where it is trained."""
        return problem.folder / f"{self.name}-{problem.seed}"

    def settled(self, problem: Problem) -> Config:
        """What is trained, with λ tuned where steps are unrolled and nobody chose one.

        Raises:
            Unavailable: the configuration does not allow it.
        """
        try:
            config = self.configuration(problem.config)
        except UserError as error:
            raise Unavailable(str(error)) from error
        step: Any = config.model.step
        is_free = getattr(step, "strength", 1.0) in (None, "auto")
        if config.model.gradient.kind == "unrolled" and is_free:
            strength = self._tuned_strength(problem, config)
            config = changed(config, {"model.step.strength": strength})
        folder = self.folder(problem)
        return config.model_copy(update={"name": self.name, "out": folder})

    def _tuned_strength(self, problem: Problem, config: Config) -> float:
        def meaning(dataset: Dataset, values: Setting) -> Setting:
            times, sigma = float(values["times"]), config.model.sigma_value
            return {"strength": strength_of(config, dataset.scan.noise, sigma, times)}

        def reconstruct(dataset: Dataset, setting: Setting) -> Tensor:
            strength = {"model.step.strength": setting["strength"]}
            return reconstructed_in_tuning(changed(config, strength), dataset)

        ladders = {"times": UNROLLED_STRENGTHS}
        return float(problem.tuner.best(self.name, ladders, reconstruct, meaning)["strength"])

    def train(self, problem: Problem) -> dict[str, Any]:
        """Trains it, unless that has been done, and returns what it cost.

        Raises:
            Unavailable: the configuration does not allow it.
            Interrupted: the process was stopped.
            Failed: training gave up.
            UserError: the process came to an error.
        """
        file = self.folder(problem) / "cost.json"
        if not file.exists():
            cost = _train_in_a_process(self.settled(problem), problem.threads)
            write_whole(file, json.dumps(cost))
        cost = json.loads(file.read_text())
        if cost["failed"]:
            raise Failed(cost["failed"])
        return cost

    def fit(self, problem: Problem) -> Fitted:
        """The trained model."""
        cost = self.train(problem)
        run = load_run(self.folder(problem))
        costs = {key: value for key, value in cost.items() if key != "failed"}
        costs["parameters"] = count_parameters(run.model)
        gradient, step = run.config.model.gradient, run.config.model.step
        if gradient.kind != "unrolled":
            return Fitted(run.solve, costs=costs)
        # Unrolled steps have no equilibrium that they could miss.
        costs["evaluations"] = gradient.steps
        strength = getattr(step, "strength", None)
        setting = "" if strength is None else f"strength {strength:.2g}"
        return Fitted(lambda dataset: run.solve(dataset).value, setting, costs)


@dataclass(frozen=True)
class Configured(Trained):
    """One of several configurations that are compared with each other: it is trained as it is."""

    config: Config | None = None

    def configuration(self, config: Config) -> Config:
        assert self.config is not None
        return self.config.model_copy(update={"seed": config.seed})

    def excluded(self, config: Config) -> str:
        return ""


IMPLICIT = {"kind": "implicit"}


def weights_of(config: Config) -> dict[str, Any]:
    """Loss → weight, of all that an objective may be made of; the contraction penalty is no part
    of what is learnt."""
    return {
        name: loss.weight
        for name, loss in config.objective
        if hasattr(loss, "weight") and name != "contraction"
    }


def _train_in_a_process(config: Config, threads: int) -> dict[str, Any]:
    """Runs `equipoise train` in the configuration's folder, and says what it cost.

    Its exit code tells how it ended; the last line that it wrote is for readers alone.
    """
    folder = config.folder
    file, log = _beside(folder, ".yaml"), _beside(folder, ".log")
    write_whole(file, dump(config))
    with log.open("a") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "equipoise", "train", str(file)],
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
            stdout=out,
            stderr=out,
        )
        _, status, usage = os.wait4(process.pid, 0)
    code = os.waitstatus_to_exitcode(status)
    if code < 0 or code == STOPPED:
        raise Interrupted(
            f"{folder}: training was interrupted; the same command goes on from there"
        )
    if code not in (0, GAVE_UP):
        raise UserError(_last_line(log) or f"training ended with exit code {code}")
    seconds = sum(config.learning.batch / row["images_per_second"] for row in read_log(folder))
    return {
        "train_seconds": seconds,
        "memory_mb": largest_memory(usage) / 2**20,
        "threads": threads,
        "failed": (_last_line(log) or "training gave up") if code == GAVE_UP else "",
    }


def _beside(folder: Path, suffix: str) -> Path:
    """A file that is named after a folder, whose name may have dots."""
    return folder.with_name(folder.name + suffix)


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1].strip().removeprefix("error: ") if lines else ""
