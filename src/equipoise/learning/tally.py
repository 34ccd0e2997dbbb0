"""What the parts of a step add up to, over parts and processes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from ..equilibrium import Equilibrium, Status
from .losses import LossValue
from .processes import names_of_all, together

if TYPE_CHECKING:
    from lightning_fabric import Fabric

#: A solve whose relative residual is above this is no solution at all.
LOST = 0.1
KINDS = ("forward", "adjoint")


@dataclass
class Tally:
    """Sums, and largest values, by name.

    ``has_tolerance`` is False for what is unrolled: it asks for no equilibrium, its derivative is
    exact wherever it ends, and nothing of it can be unsolved.
    """

    has_tolerance: bool = True
    sums: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    largest: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    def add_solves(self, name: str, solves: Iterable[Equilibrium]) -> None:
        """The solves that ``name`` made, and their adjoints where backward has made some."""
        for number, solve in enumerate(solves):
            self._add("forward", f"{name} {number}", solve)
            if solve.adjoint is not None:
                self._add("adjoint", f"{name} {number}", solve.adjoint)

    def _add(self, kind: str, name: str, solve: Equilibrium) -> None:
        self.sums[f"{kind} steps"] += float(solve.steps.sum())
        self.sums[f"{kind} solves"] += len(solve.steps)
        if solve.shortened is not None:
            self.sums["overlong"] += float(solve.shortened.sum())
        self._raise_to(f"{kind} residual", float(solve.residual.max()))
        if self.has_tolerance:
            self.sums[f"{kind} unsolved"] += float((solve.status != Status.CONVERGED).sum())
            self.sums[f"{kind} solves of {name}"] += len(solve.steps)
            self.sums[f"{kind} lost of {name}"] += float((~(solve.residual <= LOST)).sum())

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
            keys = names_of_all(fabric, values)  # one whose samples are all lost has no adjoint
            mine = torch.tensor([values[key] for key in keys], dtype=torch.float64)
            values.update(zip(keys, together(fabric, mine, how).tolist(), strict=True))

    def losses(self, names: Iterable[str]) -> dict[str, float]:
        """By name, of the whole batch."""
        return {name: self.sums[f"loss {name}"] for name in names}

    def mean_steps(self, kind: str) -> float:
        """Of a solve, "forward" or "adjoint"."""
        return self.sums[f"{kind} steps"] / max(1, self.sums[f"{kind} solves"])

    @property
    def unsolved(self) -> float:
        """The share of the samples' solves that missed their tolerance."""
        solves = sum(self.sums[f"{kind} solves"] for kind in KINDS)
        return sum(self.sums[f"{kind} unsolved"] for kind in KINDS) / max(1, solves)

    @property
    def overlong(self) -> float:
        """The share of the samples' adjoint solutions that were shortened."""
        return self.sums["overlong"] / max(1, self.sums["adjoint solves"])

    @property
    def trouble(self) -> str:
        """Why the gradient must not be followed, or nothing.

        One pass of which half the samples are lost is enough: what the loss compares, or the
        gradient that comes from it, is then no more than where an iteration happened to end.
        """
        for kind, missing in zip(KINDS, ("equilibrium", "adjoint solution"), strict=True):
            for key, lost in self.sums.items():
                of_pass = key.removeprefix(f"{kind} lost of ")
                if of_pass != key and lost >= 0.5 * self.sums[f"{kind} solves of {of_pass}"]:
                    worst = self.largest[f"{kind} residual"]
                    return (
                        f"most of the batch has no {missing}: relative residuals up to {worst:.1g}"
                    )
        return ""
