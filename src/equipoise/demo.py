"""The whole story in minutes: phantoms are measured and thrown away, a model learns from the measurements alone."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import torch

from . import build, runs
from .assessment.evaluate import Table
from .config import Config, parse
from .errors import UserError
from .learning.train import Report

CONFIGS = {
    "ct": {
        "name": "demo-ct",
        "data": {"size": 64, "count": 240},
        "physics": {"kind": "parallel_beam", "angles": 20, "noise": 0.002},
        "learning": {"steps": 150, "batch": 8},
    },
    "mri": {
        "name": "demo-mri",
        "data": {"size": 64, "count": 240},
        "physics": {"kind": "mri", "acceleration": 4.0, "noise": 0.0005},
        "learning": {"steps": 150, "batch": 8},
    },
}
UNSEEN = 24  # phantoms that are reconstructed in the end, of another seed


def demo_config(kind: str, out: Path | None, steps: int | None, seed: int) -> Config:
    if kind not in CONFIGS:
        raise UserError(f"demo {kind!r}: there are {' and '.join(CONFIGS)}")
    config = parse(CONFIGS[kind], f"demo {kind}")
    config.out, config.seed = out, seed
    if steps is not None:
        config.learning.steps = steps
    return config


def demo(config: Config, say: Callable[[str], None] = print, on_report: Callable[[Report], None] = lambda r: None) -> Table:
    """Trains on measured phantoms, reconstructs unseen ones, writes tables, pictures and the page to the run folder."""
    folder = config.folder
    if folder.exists() and any(folder.iterdir()):
        if not (folder / "config.yaml").exists() or f"name: {config.name}\n" not in (folder / "config.yaml").read_text():
            raise UserError(f"{folder}: is not empty and not an earlier demo; nothing was written. Name another folder with --out")
        shutil.rmtree(folder)  # an earlier demo: made anew
    runs.train_run(config, say, on_report)
    run = runs.load_run(folder)
    unseen = config.model_copy(deep=True)
    unseen.data.count = UNSEEN
    problem = build.build_problem(unseen, run.physics, seed=config.seed + 500_000)
    torch.manual_seed(config.seed)
    return runs.evaluate(run, problem=problem, folder=folder)
