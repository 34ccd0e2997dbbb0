"""equipoise runs: what runs there are, how far each is, and what it scored."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ..comparison.evaluation import evaluations
from ..errors import UserError
from ..imaging.sizes import shown_size
from ..learning import checkpoint
from ..learning.log import read_log
from ..run import MODEL, is_run, read_config


class RunSummary(NamedTuple):
    """A line of the list."""

    folder: str
    state: str
    problem: str
    scores: str


def list_runs(folder: Path) -> Iterator[RunSummary]:
    """Every run in ``folder``, with what is below."""
    for path in sorted(p.parent for p in folder.rglob("config.yaml") if is_run(p.parent)):
        try:
            yield _summary(path)
        except UserError as error:
            yield RunSummary(str(path), "unreadable", "", str(error))


def _summary(path: Path) -> RunSummary:
    config, log = read_config(path), read_log(path)
    steps = f"{log[-1]['step'] if log else 0}/{config.learning.steps} steps"
    state = steps
    if (path / MODEL).exists():
        is_whole = checkpoint.is_whole(path / MODEL)
        state = f"trained, {steps}" if is_whole else f"{MODEL} is damaged, {steps}"
    scores: list[str] = []
    validated = [row["validation"] for row in log if row.get("validation")]
    if validated:
        values = " ".join(f"{name} {value:.4g}" for name, value in validated[-1].items())
        scores.append(f"validation {values}")
    for where, results in evaluations(path):
        name = where.name if where != path else "evaluation"
        scores.append(f"{name} {results['methods']['equipoise']['psnr']:.2f} dB")
    problem = f"{config.physics.kind} {shown_size(config.data.size)}"
    return RunSummary(str(path), state, problem, "; ".join(scores))
