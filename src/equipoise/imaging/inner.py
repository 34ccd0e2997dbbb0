"""How argmin_u ½‖A u − y‖² + ½λ‖u − d‖² is computed inside a step: which way, and why.

A closed form where the operator has one; a few preconditioned Chebyshev steps from the step's own
image, which have the same equilibria; or preconditioned conjugate gradients to a tolerance.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from deepinv.physics import LinearPhysics
from torch import Tensor

from ..errors import UserError
from .chebyshev import REMAINING, Chebyshev, steps_for
from .linear import at_least_single, full_precision, has_other_products
from .preconditioner import Circulant, circulants
from .scaled import closed_form_prox, proximal, unscaled
from .selection import differs_per_sample
from .spectrum import Interval, SpectrumError, random_image, spectrum_interval
from .tomography import FanBeam, ParallelBeam, Tomography

#: "auto", "exact", or a number of Chebyshev steps.
Wanted = int | Literal["auto", "exact"]
Method = Literal["formula", "eigenvectors", "conjugate gradients", "chebyshev"]

#: "auto" looks for eigenvectors in matrices of at most this many rows: those of twice as many take
#: a minute to find, and longer to apply than Chebyshev's steps.
MOST_ROWS = 2048
#: Where an error needs more steps than this to shrink to ``REMAINING``, "auto" takes this many. For
#: λ = 1e-4 a solve and its adjoint take 48, 38, 32 and 27 evaluations with 8, 12, 16 and 24 steps,
#: 21 with the exact map (CT, 128², 45 views, residuals 6e-5 and 3e-4): with a network that costs as
#: much as 20 steps, or 10, sixteen are cheapest.
MOST_STEPS = 16
#: What is remembered of operators that were met.
MOST_REMEMBERED, MOST_BYTES = 64, 256 * 2**20


@dataclass(frozen=True)
class Inner:
    """How the inner problem is solved, and why so."""

    method: Method
    why: str
    preconditioner: Circulant | None = None
    iteration: Chebyshev | None = None

    def solve(
        self,
        physics: Any,
        x: Tensor | None,
        d: Tensor,
        y: Any,
        strength: Tensor | float,
        tol: float,
    ) -> Tensor:
        """argmin_u ½‖A u − y‖² + ½λ‖u − d‖², or Chebyshev's steps from x towards it.

        Args:
            physics: A.
            x: (B, …) where iterations begin; none: d.
            d: (B, …).
            y: what A measures of images like d.
            strength: λ.
            tol: relative residual of conjugate gradients.
        """
        if self.iteration is None:
            start = None if x is None else x.detach()
            return proximal(
                physics, d, y, strength, tol, start=start, precondition=self.preconditioner
            )
        with full_precision(d):
            d = at_least_single(d)
            u = d if x is None else at_least_single(x)
            y = at_least_single(y) if isinstance(y, Tensor) else y

            def M(v: Tensor) -> Tensor:
                return physics.A_adjoint(physics.A(v)) + strength * v

            r = physics.A_adjoint(y - physics.A(u)) + strength * (d - u)
            return u + self.iteration.correction(M, self.P, r)

    def P(self, v: Tensor) -> Tensor:
        """The preconditioner, or the identity."""
        return v if self.preconditioner is None else self.preconditioner(v)

    def select(self, index: Tensor) -> Inner:
        """That of the samples ``index`` (int64)."""
        if self.iteration is None and self.preconditioner is None:
            return self
        P, iteration = self.preconditioner, self.iteration
        return replace(
            self,
            preconditioner=None if P is None else P.select(index),
            iteration=None if iteration is None else iteration.select(index),
        )

    @property
    def steps(self) -> int | None:
        """How many Chebyshev steps, at most, over the samples."""
        return None if self.iteration is None else self.iteration.most_steps

    @property
    def nbytes(self) -> int:
        return 0 if self.preconditioner is None else self.preconditioner.nbytes

    def __str__(self) -> str:
        return f"{self.method}{self._details()}: {self.why}"

    def _details(self) -> str:
        if self.method in ("formula", "eigenvectors"):
            return ""
        P = self.preconditioner
        by = "no preconditioner" if P is None else f"preconditioned by {P.name}"
        if self.iteration is None:
            return f", {by}"
        low = float(self.iteration.interval.low.min())
        high = float(self.iteration.interval.high.max())
        fewest, most = int(self.iteration.steps.min()), self.iteration.most_steps
        count = f"{most}" if fewest == most else f"{fewest} to {most}"
        return f", {count} step(s), {by}, spectrum in [{low:.3g}, {high:.3g}]"


def inner_solve(
    physics: Any,
    y: Any,
    strength: float,
    wanted: Wanted = "auto",
    moving: bool = False,
) -> Inner:
    """How argmin_u ½‖A u − y‖² + ½λ‖u − d‖² is best computed.

    What was found for an operator is remembered.

    Args:
        physics: A, a deepinv LinearPhysics.
        y: (B, …) measurements, or a list of such; only their shape and precision matter.
        strength: λ > 0.
        wanted: "auto": a closed form, or Chebyshev's steps. "exact": a closed form, or conjugate
            gradients. N: that many of Chebyshev's steps.
        moving: λ is being learnt: what is found holds for the values near it too.

    Raises:
        UserError: a number of steps is wanted for an operator whose spectrum cannot be bounded.
    """
    if wanted in ("auto", "exact"):
        closed = _closed_form(physics, MOST_ROWS if wanted == "auto" else None)
        if closed is not None:
            return closed
    if not isinstance(physics, LinearPhysics):
        return _unbounded(wanted, f"{type(physics).__name__} is no LinearPhysics")
    with torch.no_grad(), full_precision(y if isinstance(y, Tensor) else y[0]):
        y = at_least_single(y) if isinstance(y, Tensor) else y
        example = physics.A_adjoint(y)
        if not differs(physics, len(example)):
            example = example[:1]
        reference = _rounded_up(strength) if moving else strength
        key = (_fingerprint(physics, example), reference, wanted, moving)
        if key not in _remembered:
            with torch.inference_mode(False):  # what is remembered serves training too
                plan = _planned(physics, example.clone(), reference, wanted, moving)
            _remember(key, plan)
        _remembered.move_to_end(key)
        return _remembered[key]


def differs(physics: Any, count: int) -> bool:
    """Whether each of ``count`` samples has, or may have, an operator of its own."""
    try:
        return differs_per_sample(physics, count)
    except ValueError:
        return True


def _closed_form(physics: Any, most_rows: int | None) -> Inner | None:
    """What needs no iteration, if there is such a way and it is worth finding."""
    if not closed_form_prox(physics):
        return None
    inner = unscaled(physics)
    if not isinstance(inner, Tomography):
        return Inner("formula", f"{type(inner).__name__} has a closed form")
    side = inner.matrix.smaller_side
    if most_rows is not None and side > most_rows:
        return None
    return Inner("eigenvectors", f"the smaller of AAᵀ and AᵀA has {side} rows")


def _unbounded(wanted: Wanted, reason: str) -> Inner:
    if isinstance(wanted, int):
        raise UserError(
            f"model.step.inner={wanted}: Chebyshev's steps need an interval that holds the "
            f"spectrum of AᵀA + λ, and there is none: {reason}; mend the operator (docs/operator.md"
            '), or set inner to "exact"'
        )
    why = reason if wanted == "auto" else "asked for"
    return Inner("conjugate gradients", why)


def _planned(physics: Any, example: Tensor, strength: float, wanted: Wanted, moving: bool) -> Inner:
    def AtA(v: Tensor) -> Tensor:
        out: Tensor = physics.A_adjoint(physics.A(v))
        return out

    def M(v: Tensor) -> Tensor:
        return AtA(v) + strength * v

    try:
        P, interval = _best(AtA, M, example, strength)
    except SpectrumError as error:
        return _unbounded(wanted, str(error))
    if wanted == "exact":
        return Inner("conjugate gradients", "asked for", P)
    if moving:  # M of a λ below the one rounded up: no larger, and smaller by at most the rounding
        interval = Interval(interval.low / GRID, interval.high)
    needed = steps_for(interval)
    if isinstance(wanted, int):
        steps = torch.full_like(needed, wanted)
        why = "asked for"
    else:
        steps = needed.clamp_max(MOST_STEPS)
        why = f"they leave at most {REMAINING:g} of an error"
        if bool((needed > MOST_STEPS).any()):
            why = f"{int(needed.max())} would leave {REMAINING:g} of an error, at too high a cost"
    return Inner("chebyshev", why, P, Chebyshev.on(interval, steps, example))


def _best(AtA: Any, M: Any, example: Tensor, strength: float) -> tuple[Circulant | None, Interval]:
    """The preconditioner that needs the fewest steps, for each operator by itself; none, if none
    helps with any of them."""
    best: Circulant | None = None
    interval = spectrum_interval(M, lambda v: v, example)
    for P in circulants(AtA, example, strength):
        try:
            found = spectrum_interval(M, P, example)
        except SpectrumError:
            continue  # rounding, at a condition number that is of no use anyway
        better = found.condition < 0.9 * interval.condition
        if bool(better.any()):
            best = P.where(better, best)
            interval = Interval(*(torch.where(better, *pair) for pair in zip(found, interval)))
    return best, interval


#: Values of λ that are learnt are rounded up to powers of this.
GRID = math.sqrt(2)


def _rounded_up(strength: float) -> float:
    return GRID ** math.ceil(math.log(strength, GRID) - 1e-9)


_remembered: OrderedDict[Hashable, Inner] = OrderedDict()


def _remember(key: Hashable, inner: Inner) -> None:
    _remembered[key] = inner
    taken = sum(each.nbytes for each in _remembered.values())
    while len(_remembered) > 1 and (taken > MOST_BYTES or len(_remembered) > MOST_REMEMBERED):
        taken -= _remembered.popitem(last=False)[1].nbytes


def _fingerprint(physics: Any, example: Tensor) -> Hashable:
    """What tells this operator from others: the geometry of a scan, if all of its rays are there;
    else what it does to an image that it has not been fitted to."""
    shape = (tuple(example.shape), example.dtype, example.device)
    is_plain = type(physics) in (ParallelBeam, FanBeam) and not has_other_products(physics)
    if is_plain and physics.seen is None:
        return physics.geometry, physics.scale, shape
    v, w = random_image(example, 3), random_image(example, 4)
    seen = physics.A_adjoint(physics.A(v)) * w
    numbers = seen.flatten(1).double().sum(1).tolist()
    return type(physics).__name__, tuple(numbers), shape
