"""The trained models as they are, on other problems than their own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from ..assessment.metrics import psnr
from ..assessment.table import Cell, Column, Missing, Row, Table, Value, reason_of
from ..config import Config, changed
from ..data.dataset import Dataset
from ..data.scan import Scan
from ..equilibrium import Stop, Unrolled
from ..imaging.groups import Rotations
from ..imaging.tomography.settings import RaysSettings
from ..machine import write_whole
from ..run import MODEL, Run, load_run, unseen
from .sweep import Comparison, Say
from .trained import Trained

#: Evaluations of f at test time.
ITERATIONS = (3, 5, 10, 20, 40, 80)
TURN = 30.0  # degrees

#: Axis → value → PSNR, or the reason why there is none.
Found = dict[str, dict[str, float | str]]


@dataclass(frozen=True)
class Elsewhere:
    """A problem that differs from the one that was trained for along one axis.

    Args:
        axis: what differs, such as the noise.
        value: how much, in words.
        changes: dotted key → value, of the configuration.
        turn: degrees that the images are turned by.
    """

    axis: str
    value: str
    changes: dict[str, Any] = field(default_factory=dict)
    turn: float = 0.0


def other_problems(config: Config) -> Iterator[Elsewhere]:
    """More and fewer measurements, more noise, other anatomy."""
    physics: Any = config.physics
    views = getattr(physics, "angles", None)
    if isinstance(physics, RaysSettings) and views is None and physics.read is None:
        views = physics.usual_views
    if isinstance(views, int) and physics.views is None:
        for count in (views // 2, views, round(1.5 * views), 2 * views):
            yield Elsewhere("views", str(count), {"physics.angles": count})
    acceleration = getattr(physics, "acceleration", None)
    if acceleration is not None:
        for times in (0.5, 1, 1.5):
            other = {"physics.acceleration": max(1.0, acceleration * times)}
            yield Elsewhere("acceleration", f"{acceleration * times:g}", other)
    if physics.photons is None:
        for times in (1, 3, 10, 30):
            noise = physics.noise * times
            yield Elsewhere("noise", f"{noise:g}", {"physics.noise": noise})
    yield Elsewhere("anatomy", "as trained")
    yield Elsewhere("anatomy", f"turned by {TURN:g}°", turn=TURN)
    if isinstance(config.data.size, int):  # phantoms are square
        phantoms = {"kind": "phantoms", "size": config.data.size}
        yield Elsewhere("anatomy", "phantoms", {"data": phantoms})


def measured_elsewhere(comparison: Comparison, seed: int, problem: Elsewhere) -> Dataset:
    """The measurements of another problem, with their true images."""
    config = changed(comparison.config, problem.changes).model_copy(update={"seed": seed})
    dataset, _ = unseen(config, Scan.planned(config.physics, config.data.size, seed))
    truth = dataset.require_truth()
    if not problem.turn:
        return dataset
    angles = torch.full((len(truth),), problem.turn)
    turned = Rotations().transform(truth, theta=angles)
    y, noise = dataset.scan.measure(turned, seed + 1)
    return replace(dataset, truth=turned, y=y, scan=dataset.scan.with_noise(noise))


def generalise(comparison: Comparison, say: Say = print) -> dict[str, Table]:
    """Axis → a table of the mean PSNR of every trained model along it, over seeds. What is known
    already is not tried again."""
    methods = [m for m in comparison.methods if isinstance(m, Trained)]
    names = [method.name for method in comparison.asked()]
    found: dict[str, list[Found]] = {method.name: [] for method in methods}
    for seed in comparison.every_seed():
        todo: list[Trained] = []
        for method in methods:
            file = _file(comparison, method, seed)
            if file.exists():
                found[method.name].append(json.loads(file.read_text()))
            elif method.name in names and (_folder(comparison, method, seed) / MODEL).exists():
                todo.append(method)
        for method, outcome in _tried(comparison, seed, todo, say):
            found[method.name].append(outcome)
    return _tables({m.label: found[m.name] for m in methods if found[m.name]}, comparison.seeds)


def _folder(comparison: Comparison, method: Trained, seed: int) -> Path:
    return comparison.out / f"{method.name}-{seed}"


def _file(comparison: Comparison, method: Trained, seed: int) -> Path:
    return comparison.out / "scores" / f"elsewhere-{method.name}-{seed}.json"


def _tried(
    comparison: Comparison, seed: int, methods: list[Trained], say: Say
) -> Iterator[tuple[Trained, Found]]:
    """What each model reaches on each problem; what has all its scores is kept."""
    if not methods:
        return
    problems = [
        (problem, measured_elsewhere(comparison, seed, problem))
        for problem in other_problems(comparison.config)
    ]
    here, _ = comparison.unseen(seed)
    for method in methods:
        folder, found = _folder(comparison, method, seed), Found()
        for problem, dataset in problems:
            scores = found.setdefault(problem.axis, {})
            scores[problem.value] = _psnr_or_reason(folder, dataset, None)
        for steps in () if _has_steps_of_its_own(method, comparison) else ITERATIONS:
            scores = found.setdefault("iterations", {})
            scores[str(steps)] = _psnr_or_reason(folder, here, steps)
        if all(isinstance(s, float) for scores in found.values() for s in scores.values()):
            write_whole(_file(comparison, method, seed), json.dumps(found, indent=1))
        say(f"tried elsewhere: {method.name}, seed {seed}")
        yield method, found


def _has_steps_of_its_own(method: Trained, comparison: Comparison) -> bool:
    """Each of its steps has weights of its own, so that there can be no more and no fewer."""
    return bool(getattr(method.configuration(comparison.config).model.gradient, "untied", False))


def _psnr_or_reason(folder: Path, dataset: Dataset, steps: int | None) -> float | str:
    try:
        run = load_run(folder)
        if steps is not None:
            _stop_after(run, steps)
        return float(psnr(run.solve(dataset).value, dataset.require_truth()).mean())
    except Exception as error:  # of any kind: this cell says which
        return reason_of(error)


def _stop_after(run: Run, steps: int) -> None:
    run.model.stop = Stop(0.0, steps)
    if isinstance(run.model.gradient, Unrolled):
        run.model.gradient = Unrolled(steps)


def _tables(found: dict[str, list[Found]], seeds: int) -> dict[str, Table]:
    """Axis → methods and values, with the mean over seeds."""
    tables: dict[str, Table] = {}
    for label, of_seeds in found.items():
        for axis, values in of_seeds[0].items():
            table = tables.setdefault(axis, Table("", [], remarks=""))
            known = [column.key for column in table.columns]
            table.columns += [Column(v, v, ".2f", ".2f") for v in values if v not in known]
            cells = {v: _cell([s[axis][v] for s in of_seeds], seeds) for v in values}
            table.rows.append(Row(label, label, cells))
    return tables


def _cell(scores: list[float | str], seeds: int) -> Cell:
    reasons = [score for score in scores if isinstance(score, str)]
    if reasons:
        return Missing(reasons[0], failed=True)
    if len(scores) < seeds:
        return Missing("not tried with every seed")
    numbers = torch.tensor(scores, dtype=torch.float64)
    return Value(float(numbers.mean()), float(numbers.std()) if len(scores) > 1 else None)
