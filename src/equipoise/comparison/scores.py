"""What became of a method with one seed, and the file that keeps it."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..assessment.table import Missing
from ..machine import write_whole

#: Costs of a method, all of them means for an image or totals of its training.
COSTS = (
    "evaluations",
    "converged",
    "seconds",
    "train_seconds",
    "memory_mb",
    "threads",
    "parameters",
)


@dataclass
class Score:
    """Scores of every image, or the reason why there are none.

    Args:
        psnr: of each image, in dB.
        ssim: of each image.
        names: of the images.
        patients: of the images.
        setting: that the method was fitted with.
        costs: see ``COSTS``; what does not apply is left out.
        missing: why there are no scores.
        failed: there should have been some.
        again: the same command tries again.
    """

    psnr: list[float] = field(default_factory=list)
    ssim: list[float] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    patients: list[str] = field(default_factory=list)
    setting: str = ""
    costs: dict[str, float] = field(default_factory=dict)
    missing: str = ""
    failed: bool = False
    again: bool = False

    @property
    def is_there(self) -> bool:
        return not self.missing

    @property
    def mean_psnr(self) -> float:
        return sum(self.psnr) / len(self.psnr)

    def reason(self, seed: int, seeds: int) -> Missing:
        """Why there are no scores; of one seed of several, with the seed."""
        where = f"seed {seed}: " if seeds > 1 else ""
        return Missing(where + self.missing, self.failed)

    def as_json(self) -> dict[str, Any]:
        """With the costs beside the scores."""
        tree = asdict(self)
        costs = tree.pop("costs")
        if self.is_there:
            for key in ("missing", "failed", "again"):
                tree.pop(key)
        else:
            tree = {key: tree[key] for key in ("missing", "failed", "again")}
        return tree | costs


def write_score(file: Path, score: Score) -> None:
    """Keeps a score."""
    write_whole(file, json.dumps(score.as_json()))


def read_score(file: Path) -> Score | None:
    """What became of a method, if that is known: not where its file is damaged."""
    if not file.exists():
        return None
    try:
        tree = json.loads(file.read_text())
    except ValueError:
        return None
    costs = {key: tree.pop(key) for key in COSTS if key in tree}
    return Score(**tree, costs=costs)


def check_finite(psnr: list[float]) -> str:
    """Why images cannot be scored; empty, if all of them are."""
    bad = sum(1 for value in psnr if not math.isfinite(value))
    return f"{bad} of {len(psnr)} images are not finite" if bad else ""
