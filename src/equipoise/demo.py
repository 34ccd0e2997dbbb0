"""The whole story in minutes: phantoms are measured and thrown away, a model learns from the measurements alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from . import runs
from .assessment.evaluate import Table
from .config import Config, parse
from .errors import UserError
from .learning.train import Report

CONFIGS = {
    "ct": {
        "name": "demo-ct",
        "data": {"size": 64, "count": 240},
        "physics": {"kind": "parallel_beam", "angles": 12, "noise": 0.001},
        "model": {"sigma": 0.015},
        "learning": {"steps": 80, "batch": 8, "warmup": 10},
    },
    "mri": {
        "name": "demo-mri",
        "data": {"size": 96, "count": 140},
        "physics": {"kind": "mri", "acceleration": 4.0, "noise": 0.0002},
        "model": {"sigma": 0.05},
        "objective": {"stop_gradient": False},  # few lines and a small denoiser: smoother is better (docs/choosing.md)
        "learning": {"steps": 35, "batch": 4, "warmup": 5},
    },
}
UNSEEN = 24  # phantoms that are reconstructed in the end, of another seed
MADE: tuple[str, ...] = ("config.yaml", "README.txt", "versions.json", "log.jsonl", "curves.html", "curves.png")
MADE += ("results.json", "grid.png", "report.html")
MADE += ("checkpoint.safetensors", "checkpoint.previous.safetensors", "model.safetensors")


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
    if folder.exists() and (folder.is_file() or any(folder.iterdir())):
        _clear(folder, config)
    runs.train_run(config, say, on_report)
    return runs.evaluate(runs.load_run(folder), folder=folder, count=UNSEEN)


def _clear(folder: Path, config: Config) -> None:
    """Removes what an earlier demo left, if that is all there is."""
    mine = False
    if folder.is_dir() and runs.is_run(folder):
        earlier = runs.read_config(folder)
        mine = (earlier.name, earlier.data, earlier.physics) == (config.name, config.data, config.physics)
    others = sorted(p.name for p in folder.iterdir() if p.name not in MADE) if mine else []
    if not mine or others:
        what = f"holds {', '.join(others)} beside an earlier demo" if others else "is not empty and not an earlier demo"
        raise UserError(f"{folder}: {what}; nothing was written. Name another folder with --out")
    for name in MADE:
        (folder / name).unlink(missing_ok=True)
