"""What a training step tells, and the file that it is told to."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from ..machine import json_text

#: Of a run's folder: one line a step.
FILE = "log.jsonl"


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
    unsolved: float  #: fraction of the solves, forward and adjoint, that missed their tolerance
    overlong: float  #: fraction of the adjoint solutions that ``model.gradient.longest`` shortened
    gain: float  #: largest gain of the adjoint Jacobian that the contraction penalty saw
    gradient: float  #: norm, before clipping
    rate: float  #: learning rate
    images_per_second: float
    waiting: float  #: fraction of the step's time that went into reading measurements
    skipped: str = ""  #: why the optimiser did not move
    shortened: str = ""  #: why the gradient was shortened further than to ``learning.clip``
    warning: str = ""  #: what has been wrong for some time, and what to do about it
    last: bool = False  #: of the run
    ended: str = ""  #: why training ended before its last step
    validation: dict[str, float] = field(default_factory=dict)
    #: by how much losses that solve again miss their exact values, as a share of these
    inexact: dict[str, float] = field(default_factory=dict)

    def line(self) -> str:
        """JSON, without what is empty."""
        known = {k: v for k, v in self.__dict__.items() if v not in ("", {}) and v is not False}
        return json_text(known)


def append_to_log(folder: Path) -> IO[str]:
    """The log of a run, to write lines at its end."""
    return (folder / FILE).open("a")


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The steps of a run's log, in order. Of a step that was made twice, after an interruption, the
    later line counts. Numbers that were not finite, null in the file, are NaN."""
    path = folder / FILE
    rows: dict[int, dict[str, Any]] = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            row = _with_numbers(json.loads(line))
        except json.JSONDecodeError:
            continue  # the last line of a run that was killed
        rows[row["step"]] = row
    return [rows[step] for step in sorted(rows)]


def _with_numbers(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _with_numbers(each) for key, each in value.items()}
    return math.nan if value is None else value
