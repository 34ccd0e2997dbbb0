"""The settings of how the fixed-point equation is solved and differentiated."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from ..equilibrium import (
    Anderson,
    Broyden,
    Implicit,
    JacobianFree,
    Neumann,
    Phantom,
    Picard,
    Stop,
    Unrolled,
)
from ..settings import Settings
from .kinds import named_or


class AndersonSettings(Settings):
    """Anderson acceleration."""

    kind: Literal["anderson"] = "anderson"
    memory: int = Field(10, ge=1, le=1000, description="differences that are remembered")

    def make(self) -> Anderson:
        return Anderson(self.memory)


class PicardSettings(Settings):
    """z ← f(z)."""

    kind: Literal["picard"] = "picard"
    damping: float = Field(1.0, gt=0, le=1, description="share of f(z) in the next z")

    def make(self) -> Picard:
        return Picard(self.damping)


class BroydenSettings(Settings):
    """Broyden's good method."""

    kind: Literal["broyden"] = "broyden"
    memory: int = Field(10, ge=1, le=1000, description="updates that are remembered")

    def make(self) -> Broyden:
        return Broyden(self.memory)


SolverChoice = Annotated[
    AndersonSettings | PicardSettings | BroydenSettings,
    Field(discriminator="kind"),
    BeforeValidator(named_or("anderson")),
]


class ImplicitSettings(Settings):
    """The exact gradient, by an adjoint solve."""

    kind: Literal["implicit"] = "implicit"
    rtol: float = Field(
        1e-2, gt=0, lt=1, description="relative residual at which the adjoint solve stops"
    )
    max_steps: int = Field(
        40, ge=1, description="most vector–Jacobian products in the adjoint solve"
    )
    inexact: float = Field(
        0,
        ge=0,
        description="c: the adjoint's tolerance is at least c times the forward residual",
    )
    longest: float | None = Field(
        10.0,
        gt=0,
        description="the longest a sample's adjoint solution may be, in lengths of what comes in; "
        "it is shortened beyond. 10 is what a contraction by 0.9 needs; none: no bound",
    )

    def make(self) -> Implicit:
        longest = math.inf if self.longest is None else self.longest
        stop = Stop(self.rtol, self.max_steps)
        return Implicit(stop=stop, inexact=self.inexact, longest=longest)


class JacobianFreeSettings(Settings):
    """The gradient of one application of f."""

    kind: Literal["jacobian_free"] = "jacobian_free"

    def make(self) -> JacobianFree:
        return JacobianFree()


class NeumannSettings(Settings):
    """The adjoint's series, cut short."""

    kind: Literal["neumann"] = "neumann"
    terms: int = Field(5, ge=0, description="terms of the series")

    def make(self) -> Neumann:
        return Neumann(self.terms)


class PhantomSettings(Settings):
    """Some damped applications of f, unrolled from the equilibrium."""

    kind: Literal["phantom"] = "phantom"
    steps: int = Field(5, ge=1, description="applications of f that are unrolled")
    damping: float = Field(0.5, gt=0, le=1, description="share of f(z) in the next z")

    def make(self) -> Phantom:
        return Phantom(self.steps, self.damping)


class UnrolledSettings(Settings):
    """Ordinary backpropagation through some steps; no equilibrium is asked for."""

    kind: Literal["unrolled"] = "unrolled"
    steps: int = Field(10, ge=1, description="how many steps, in training and after")
    untied: bool = Field(False, description="each step has weights of its own")
    checkpointing: bool = Field(
        False, description="keep only about 2√steps of them in memory, at the cost of one more pass"
    )

    @model_validator(mode="after")
    def _one_or_the_other(self) -> UnrolledSettings:
        if self.untied and self.checkpointing:
            raise ValueError(
                "checkpointing is for steps that share their weights; set one to false"
            )
        return self

    def make(self) -> Unrolled:
        return Unrolled(self.steps, self.checkpointing)


GradientChoice = Annotated[
    ImplicitSettings | JacobianFreeSettings | NeumannSettings | PhantomSettings | UnrolledSettings,
    Field(discriminator="kind"),
    BeforeValidator(named_or("implicit")),
]
