"""Methods that cost nothing, and such as fail."""

from __future__ import annotations

import torch

from equipoise.comparison.method import Fitted, Method, Unavailable


class Scaled(Method):
    """The least-squares gradient from zero, times a factor: a method that costs nothing."""

    def __init__(self, name: str, factor: float = 1.0):
        self.name = name
        self.label = f"Scaled by {factor:g}"
        self.factor = factor
        self.fitted: list[int] = []

    def fit(self, problem):
        self.fitted.append(problem.seed)

        def reconstruct(dataset):
            y, physics, _ = dataset.batch(torch.arange(len(dataset)))
            return self.factor * physics.A_adjoint(y)

        return Fitted(reconstruct, f"factor {self.factor:g}")


class Breaking(Scaled):
    """Comes to an error, a reason, or images that are not finite, with some seeds."""

    def __init__(self, name: str, seeds, how: str = "error"):
        super().__init__(name)
        self.seeds = seeds
        self.how = how

    def fit(self, problem):
        fitted = super().fit(problem)
        if problem.seed not in self.seeds:
            return fitted
        if self.how == "error":
            raise RuntimeError("it fell over")
        if self.how == "reason":
            raise Unavailable("there is none for this operator")
        return Fitted(lambda dataset: float("nan") * fitted.reconstruct(dataset))
