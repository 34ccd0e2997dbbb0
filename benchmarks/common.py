"""What the scripts in this folder share: the command line, the data, and how a trainer is made."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from equipoise import EquilibriumReconstructor, Stop
from equipoise.assessment.metrics import psnr
from equipoise.config import Config
from equipoise.data.dataset import Dataset
from equipoise.data.scan import Scan
from equipoise.learning.trainer import Trainer
from equipoise.machine import keep_freed_memory
from equipoise.reconstruction.contraction import measure

ROOT = Path(__file__).parents[1]
#: Real data, beside the repository: not everybody has them.
DATA = ROOT.parent / "shared" / "data"
#: Where the benchmarks run that know of GPUs.
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def finish() -> None:
    """Waits for the GPU, if there is one: times are of work that is done."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def machine() -> str:
    """What times were taken on."""
    if DEVICE.type == "cuda":
        return torch.cuda.get_device_name()
    return f"{torch.get_num_threads()} threads"


class Shrunk(nn.Module):
    """``factor`` times a denoiser, so that there are equilibria; counts its evaluations."""

    def __init__(self, denoiser: nn.Module, factor: float):
        super().__init__()
        self.denoiser = denoiser
        self.factor = factor
        self.calls = 0

    def forward(self, x: Tensor, sigma: Any = 0.05) -> Tensor:
        self.calls += 1
        out: Tensor = self.factor * self.denoiser(x, sigma)
        return out


def make_contract(net: Any, step: Any, physics: Any, y: Tensor, radius: float) -> float:
    """Sets ``net.factor`` so that ∂f/∂x at the equilibrium has this spectral radius, the largest
    over the batch; tells the one it has."""
    found = 0.0
    for _ in range(6):
        model = EquilibriumReconstructor(step, stop=Stop(1e-4, 300), on_failure="ignore")
        x = model.equilibrium(y, physics).value
        rng = torch.Generator(y.device).manual_seed(0)
        found = float(measure(step.bind(y, physics), x, 60, rng).radius.max())
        if abs(found - radius) < 1e-3:
            break
        net.factor *= radius / found
    return found


def parser(text: str | None) -> argparse.ArgumentParser:
    """A command line whose help is the script's docstring."""
    raw = argparse.RawDescriptionHelpFormatter
    return argparse.ArgumentParser(description=text, formatter_class=raw)


def arguments(
    parser: argparse.ArgumentParser, keep_memory: bool = True, **quick: Any
) -> argparse.Namespace:
    """The options that were given; ``quick`` are those of ``--quick``, which asks whether the
    script runs at all. Memory that was freed is kept, as the command line does."""
    text = "the smallest form that runs, in a minute; its figures mean nothing"
    parser.add_argument("--quick", action="store_true", help=text)
    given = parser.parse_args()
    if keep_memory:
        keep_freed_memory()
    if given.quick:
        vars(given).update(quick)
    return given


def is_there(path: Path) -> bool:
    """Whether the data are there; otherwise it is said that the script is skipped."""
    if not path.exists():
        print(f"skipped: {path} is not there")
    return path.exists()


def planned_scan(config: Config) -> Scan:
    """The scan that a configuration describes."""
    return Scan.planned(config.physics, config.data.size, config.seed)


def start_model(config: Config, scan: Scan) -> EquilibriumReconstructor:
    """The model of a configuration before training, for measurements of this scan."""
    return config.model.make(scan.image_shape[0], scan.noise, config.seed)


def start_trainer(config: Config, dataset: Dataset) -> Trainer:
    """What `equipoise train` makes of a configuration and its data; the images are put aside."""
    first = dataset.batch(torch.arange(1)).y
    losses = config.objective.make(dataset.scan, first)
    model = start_model(config, dataset.scan)
    return Trainer(model, dataset.without_truth(), losses, config.learning, config.seed)


def mean_psnr(model: EquilibriumReconstructor, dataset: Dataset, stop: Stop | None = None) -> float:
    """In dB, over images whose truth is known; ``stop``: of these solves."""
    usual = model.stop
    model.stop = usual if stop is None else stop
    y, physics, _ = dataset.batch(torch.arange(len(dataset)))
    with torch.no_grad():
        images = model(y, physics)
    model.stop = usual
    return float(psnr(images, dataset.require_truth()).mean())
