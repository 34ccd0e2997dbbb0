"""What the parts of a step add up to, over parts and processes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from ..equilibrium import Equilibrium, Status
from .losses import LossValue
from .processes import together

if TYPE_CHECKING:
    from lightning_fabric import Fabric

#: A solve whose relative residual is above this is no solution at all.
LOST = 0.1


@dataclass
class Tally:
    """What the parts of a step add up to, over parts and processes: sums, and largest values."""

    sums: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    largest: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    def add_solves(self, solves: Iterable[Equilibrium]) -> None:
        """Forward solves, and their adjoints where backward has made some."""
        for solve in solves:
            self._add("forward", solve)
            if solve.adjoint is not None:
                self._add("adjoint", solve.adjoint)

    def _add(self, kind: str, solve: Equilibrium) -> None:
        self.sums[f"{kind} steps"] += float(solve.steps.sum())
        self.sums[f"{kind} solves"] += len(solve.steps)
        self.sums[f"{kind} lost"] += float((solve.residual > LOST).sum())
        self.sums["unsolved"] += float((solve.status != Status.CONVERGED).sum())
        self._raise_to(f"{kind} residual", float(solve.residual.max()))

    def add_loss(self, name: str, found: LossValue, share: float) -> None:
        """A loss of a ``share`` of the batch."""
        self.sums[f"loss {name}"] += float(found.value.detach().mean()) * share
        if found.gain is not None:
            self._raise_to("gain", float(found.gain.max()))

    def _raise_to(self, name: str, value: float) -> None:
        self.largest[name] = max(self.largest[name], value)

    def share(self, fabric: Fabric) -> None:
        """Adds up what all processes know."""
        if fabric.world_size == 1:
            return
        for values, how in ((self.sums, "sum"), (self.largest, "max")):
            keys = sorted(values)
            mine = torch.tensor([values[key] for key in keys], dtype=torch.float64)
            values.update(zip(keys, together(fabric, mine, how).tolist(), strict=True))

    def losses(self, names: Iterable[str]) -> dict[str, float]:
        return {name: self.sums[f"loss {name}"] for name in names}

    def mean_steps(self, kind: str) -> float:
        """Of a solve, "forward" or "adjoint"."""
        return self.sums[f"{kind} steps"] / max(1, self.sums[f"{kind} solves"])

    @property
    def unsolved(self) -> float:
        solves = self.sums["forward solves"] + self.sums["adjoint solves"]
        return self.sums["unsolved"] / max(1, solves)

    @property
    def trouble(self) -> str:
        """Why the gradient must not be followed, or nothing."""
        if self.sums["forward lost"] > 0.5 * self.sums["forward solves"]:
            return (
                "most of the batch has no equilibrium: relative residuals up to "
                f"{self.largest['forward residual']:.1g}"
            )
        return ""
