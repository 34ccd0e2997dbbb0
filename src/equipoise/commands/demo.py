"""equipoise demo: phantoms are measured and thrown away, and a model learns from the measurements
alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..comparison.evaluation import Evaluation, evaluate
from ..config import Config, parse
from ..errors import UserError
from ..learning.log import Report
from ..machine import contents, drafts, is_empty
from ..run import is_run, load_run, read_config
from .train import train_run

DEMOS: dict[str, dict[str, Any]] = {
    "ct": {
        "name": "demo-ct",
        "data": {"size": 128, "count": 216},
        "physics": {"kind": "parallel_beam", "angles": 20, "noise": 0.001},
        "model": {
            "sigma": 0.015,
            "step": {"kind": "proximal", "strength": 0.004},
            "solver": {"kind": "anderson", "memory": 5},
            "test_max_steps": 200,
        },
        # Few views, and few minutes: losses solved as images are, and every equilibrium kept.
        "objective": {
            "exact": False,
            "equivariance": {"weight": 0.4},
            "contraction": {"weight": 0.05},
        },
        "learning": {"steps": 54, "batch": 4, "warmup": 3, "lr": 5e-4},
    },
    "mri": {
        "name": "demo-mri",
        "data": {"size": 96, "count": 140},
        "physics": {"kind": "mri", "acceleration": 4.0, "noise": 0.0002},
        "model": {"sigma": 0.05},
        # Few lines and a small denoiser: a smoother target is better (docs/choosing.md).
        "objective": {"equivariance": {"stop_gradient": False}},
        "learning": {"steps": 35, "batch": 4, "warmup": 5},
    },
}
#: Phantoms that are reconstructed in the end, of another seed.
UNSEEN = 24
#: What a demo writes, and what the next one may therefore remove.
WRITTEN = (
    "config.yaml",
    "README.txt",
    "versions.json",
    "log.jsonl",
    "curves.html",
    "curves.png",
    "results.json",
    "grid.png",
    "report.html",
    "checkpoint.safetensors",
    "checkpoint.previous.safetensors",
    "model.safetensors",
)


def demo_config(kind: str, out: Path | None, steps: int | None, seed: int) -> Config:
    """The configuration of a demo.

    Raises:
        UserError: there is no demo of that name.
    """
    if kind not in DEMOS:
        raise UserError(f"demo {kind!r}: there are {' and '.join(DEMOS)}")
    config = parse(DEMOS[kind], f"demo {kind}")
    config.out, config.seed = out, seed
    if steps is not None:
        config.learning.steps = steps
    return config


def demo(
    config: Config,
    say: Callable[[str], None] = print,
    on_report: Callable[[Report], None] = lambda report: None,
) -> Evaluation:
    """Trains on measured phantoms, reconstructs unseen ones, and writes tables, pictures and the
    page to the run folder.

    Raises:
        UserError: the folder holds something else than an earlier demo.
    """
    _clear(config)
    train_run(config, say, on_report)
    return evaluate(load_run(config.folder), folder=config.folder, count=UNSEEN)


def _clear(config: Config) -> None:
    """Removes what an earlier demo left, if that is all there is."""
    folder = config.folder
    if not folder.exists() or (folder.is_dir() and is_empty(folder)):
        return
    if not _is_earlier_demo(config):
        raise UserError(
            f"{folder}: is not empty and not an earlier demo; nothing was written. Name another "
            "folder with --out"
        )
    others = sorted(contents(folder) - set(WRITTEN))
    if others:
        raise UserError(
            f"{folder}: holds {', '.join(others)} beside an earlier demo; nothing was written. "
            "Name another folder with --out"
        )
    for name in (*WRITTEN, *drafts(folder)):
        (folder / name).unlink(missing_ok=True)


def _is_earlier_demo(config: Config) -> bool:
    if not config.folder.is_dir() or not is_run(config.folder):
        return False
    earlier = read_config(config.folder)
    same_data = (earlier.data, earlier.physics) == (config.data, config.physics)
    return earlier.name == config.name and same_data
