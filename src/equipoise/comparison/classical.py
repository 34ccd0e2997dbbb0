"""Methods that learn nothing, each as good as its setting makes it."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor

from ..assessment.baselines import (
    NoBackprojection,
    filtered_backprojection,
    total_variation,
    truncated_least_squares,
    zero_filled,
)
from ..config import Config
from ..data.dataset import Dataset
from ..data.scan import Scan
from ..imaging.tomography import WINDOWS
from ..learning.search import Ladder, Setting, decades
from .method import Fitted, Method, Problem, Unavailable
from .tuning import in_words

#: Physics whose measurements are rays: filtered backprojection is made for them.
RAYS = ("parallel_beam", "fan_beam")
#: Of conjugate gradients.
ITERATIONS = Ladder(
    tuple(int(n) for n in decades((1, 2, 5), 0, 3)), first=(10, 20, 50, 100), default=20
)
#: Of total variation.
WEIGHTS = Ladder(decades((1, 3), -7, 0), first=(3e-5, 1e-4, 3e-4, 1e-3, 3e-3), default=1e-4)


class Classical(Method):
    """Reconstructs all measurements at once, with a tuned setting."""

    def ladders(self, scan: Scan) -> dict[str, Ladder]:
        """What is tuned."""
        return {}

    def reconstruct(self, y: Tensor, physics: Any, setting: Setting) -> Tensor:
        """(B, …) → (B, C, …, H, W)."""
        raise NotImplementedError

    def in_words(self, setting: Setting) -> str:
        """The setting, as the table shows it."""
        return in_words(setting)

    def fit(self, problem: Problem) -> Fitted:
        """The method with the best setting for the images that are known."""

        def reconstruct(dataset: Dataset, setting: Setting) -> Tensor:
            y, physics, _ = dataset.batch(torch.arange(len(dataset)))
            with torch.no_grad():
                return self.reconstruct(y, physics, setting)

        ladders = self.ladders(problem.scan)
        setting = problem.tuner.best(self.name, ladders, reconstruct)
        return Fitted(lambda dataset: reconstruct(dataset, setting), self.in_words(setting))


class FilteredBackprojection(Classical):
    """Tomography's classic."""

    name = "fbp"
    label = "FBP"

    def excluded(self, config: Config) -> str:
        if config.physics.kind in (*RAYS, "custom"):
            return ""
        return f"filtered backprojection is for rays; {config.physics.kind} has none"

    def ladders(self, scan: Scan) -> dict[str, Ladder]:
        fbp = getattr(scan.physics, "fbp", None)
        if fbp is None or "window" not in inspect.signature(fbp).parameters:
            return {}
        return {"window": Ladder(WINDOWS, first=None, default="ramp")}

    def reconstruct(self, y: Tensor, physics: Any, setting: Setting) -> Tensor:
        try:
            return filtered_backprojection(y, physics, str(setting.get("window", "ramp")))
        except NoBackprojection as error:
            raise Unavailable(str(error)) from error


class ZeroFilled(Classical):
    """Where there are no rays: what was not measured counts as zero."""

    name = "zero_filled"
    label = "Zero-filled"

    def excluded(self, config: Config) -> str:
        if config.physics.kind not in RAYS:
            return ""
        return "zero-filling is for samples of a transform; rays have fbp"

    def reconstruct(self, y: Tensor, physics: Any, setting: Setting) -> Tensor:
        return zero_filled(y, physics)

    def in_words(self, setting: Setting) -> str:
        return "Aᵀ y"


class LeastSquares(Classical):
    """Conjugate gradients, stopped in time."""

    name = "least_squares"
    label = "Least squares"

    def ladders(self, scan: Scan) -> dict[str, Ladder]:
        return {"iterations": ITERATIONS}

    def reconstruct(self, y: Tensor, physics: Any, setting: Setting) -> Tensor:
        return truncated_least_squares(y, physics, int(setting["iterations"]))

    def in_words(self, setting: Setting) -> str:
        return f"{setting['iterations']} iterations"


class TotalVariation(Classical):
    """Few edges."""

    name = "tv"
    label = "Total variation"

    def ladders(self, scan: Scan) -> dict[str, Ladder]:
        return {"weight": WEIGHTS}

    def reconstruct(self, y: Tensor, physics: Any, setting: Setting) -> Tensor:
        return total_variation(y, physics, float(setting["weight"]))
