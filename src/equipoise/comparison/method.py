"""What a method is: it is fitted to a problem, and then reconstructs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from torch import Tensor

from ..config import Config
from ..data.dataset import Dataset
from ..data.scan import Scan
from ..equilibrium import Equilibrium
from ..errors import UserError
from .tuning import Tuner


class Unavailable(UserError):
    """A method cannot be had for this problem; that is nobody's fault, and its row says why."""


class Failed(UserError):
    """A method came to nothing, and would again: training gave up, an image is not finite."""


class Interrupted(UserError):
    """Somebody wanted to stop; what was done so far is kept."""


@dataclass(frozen=True)
class Problem:
    """What a method is fitted to: measurements of one seed, but not those that it is scored on.

    Args:
        config: data, physics, model, objective, learning and seed.
        scan: what the configuration's operator measures.
        tuner: finds the settings that do best on images that are known, if some are.
        folder: where what is trained is kept.
        threads: that a training may take.
    """

    config: Config
    scan: Scan
    tuner: Tuner
    folder: Path = Path()
    threads: int = 1

    @property
    def seed(self) -> int:
        return self.config.seed


@dataclass(frozen=True)
class Fitted:
    """A method that is ready.

    Args:
        reconstruct: takes measurements, and returns their images (N, C, …, H, W), or the
            equilibria that these are.
        setting: that it was fitted with, in a few words.
        costs: what it took: ``train_seconds``, ``memory_mb``, ``parameters``, ``threads``.
    """

    reconstruct: Callable[[Dataset], Tensor | Equilibrium]
    setting: str = ""
    costs: dict[str, float] = field(default_factory=dict)


class Method(Protocol):
    """A way to reconstruct. One of your own is a subclass with ``name``, ``label`` and ``fit``, and
    a line that registers it: ``register(MyMethod())`` (see ``methods.py``)."""

    name: str  #: by which it is asked for, and under which it is kept
    label: str  #: in tables and figures

    def fit(self, problem: Problem) -> Fitted:
        """The method, ready for measurements like the problem's.

        Raises:
            Unavailable: it does not exist for this problem; the message says why.
        """
        ...

    def excluded(self, config: Config) -> str:
        """Why it has no place beside the other methods of this configuration; empty: it has."""
        return ""
