"""Chebyshev's iteration: a number of steps towards the solution of M u = b, linear in u and b.

From u₀, N steps give u with u − u* = p(P M) (u₀ − u*), where p is the polynomial of degree N with
p(0) = 1 that is smallest on the interval of the spectrum of P M (Golub and Varga 1961; Saad 2003,
section 12.3). Because it needs no inner products, it has no tolerance, and its derivative is the
iteration itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .linear import Operator
from .spectrum import Interval

#: What is left of an error within the interval, if nobody says how many steps. A step of a learned
#: prior gains little from more: the prior moves its target in the next one.
REMAINING = 0.5


#: d ← α d + β P r: numbers, or (S, 1, …) where samples differ.
Coefficients = tuple[Tensor | float, Tensor | float]


@dataclass(frozen=True)
class Chebyshev:
    """N steps for each of S operators; a sample takes its own number, whatever others take."""

    interval: Interval
    steps: Tensor  #: (S,) int64
    coefficients: tuple[Coefficients, ...]  #: of each step

    @classmethod
    def on(cls, interval: Interval, steps: Tensor, example: Tensor) -> Chebyshev:
        """For images of the precision and the number of axes of ``example``."""
        return cls(interval, steps, _coefficients(interval, steps, example))

    @property
    def most_steps(self) -> int:
        return len(self.coefficients)

    def remaining(self) -> Tensor:
        """(S,) what is left of an error within the interval, at most."""
        condition = self.interval.condition.clamp_min(1 + 1e-9)
        return 1 / torch.cosh(self.steps * torch.acosh((condition + 1) / (condition - 1)))

    def select(self, index: Tensor) -> Chebyshev:
        """Those of the samples ``index``."""
        if len(self.steps) == 1:
            return self

        def rows(part: Tensor | float) -> Tensor | float:
            return part[index] if isinstance(part, Tensor) else part

        coefficients = tuple((rows(again), rows(new)) for again, new in self.coefficients)
        interval = Interval(self.interval.low[index], self.interval.high[index])
        return Chebyshev(interval, self.steps[index], coefficients)

    def correction(self, M: Operator, P: Operator, r: Tensor) -> Tensor:
        """What N steps add to u₀ with the residual r = b − M u₀, (B, …): linear in r."""
        (_, first), *others = self.coefficients
        d = first * P(r)
        w = d
        for again, new in others:
            r = r - M(d)
            d = again * d + new * P(r)
            w = w + d
        return w


def _coefficients(interval: Interval, steps: Tensor, example: Tensor) -> tuple[Coefficients, ...]:
    """Zero for samples that have taken their steps."""
    low, high = interval
    centre = (high + low) / 2
    radius = ((high - low) / 2).clamp_min(1e-9 * centre)
    sigma = centre / radius
    rho = 1 / sigma
    pairs = [(torch.zeros_like(centre), 1 / centre)]
    for _ in range(1, int(steps.max())):
        new = 1 / (2 * sigma - rho)
        pairs.append((new * rho, 2 * new / radius))
        rho = new
    if len(steps) == 1:
        return tuple((float(again), float(new)) for again, new in pairs)
    shape = (-1, *[1] * (example.ndim - 1))

    def column(part: Tensor, k: int) -> Tensor:
        return torch.where(k < steps, part, 0).to(example).reshape(shape)

    return tuple((column(again, k), column(new, k)) for k, (again, new) in enumerate(pairs))


def steps_for(interval: Interval, remaining: float = REMAINING) -> Tensor:
    """(S,) how many steps leave at most ``remaining`` of an error within the interval."""
    condition = interval.condition.clamp_min(1 + 1e-9)
    rate = torch.acosh((condition + 1) / (condition - 1))
    needed = torch.ceil(math.acosh(1 / remaining) / rate - 1e-9)
    return needed.clamp_min(1).long()
