"""How the loop runs: the section ``learning`` of a configuration."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field, PositiveFloat

from ..settings import Settings


class LearningSettings(Settings):
    """The loop."""

    steps: int = Field(1000, ge=1, description="optimiser steps")
    batch: int = Field(8, ge=1, le=100_000, description="measurements in a step")
    workers: int = Field(
        0,
        ge=0,
        description="processes that read ahead, for data.stream (needs an operating system that "
        "forks)",
    )
    lr: float = Field(2e-4, gt=0, description="learning rate of Adam")
    schedule: Literal["cosine", "linear", "constant"] = Field(
        "cosine", description="of the learning rate, down to a tenth of it"
    )
    accumulate: int = Field(
        1,
        ge=1,
        description="parts that a step's batch is handled in, one after the other, to save memory",
    )
    warmup: int | None = Field(
        None,
        ge=0,
        description="steps over which the learning rate rises; none: a tenth of them, at most 50",
    )
    clip: Literal["auto"] | PositiveFloat = Field(
        "auto",
        description="largest norm of the gradient; longer ones are scaled down. auto: the median "
        "of the last 50 steps, since exact gradients have heavy tails",
    )
    ema: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="decay of the running average of the weights, which is what is kept; none: "
        "1 − 10/steps, from 0.9 to 0.99",
    )
    checkpoint_every: int = Field(50, ge=1, description="steps between checkpoints")
    validate_every: int = Field(100, ge=1, description="steps between validations")
    check_every: int = Field(
        0,
        ge=0,
        description="steps between checks, in float64, of how exact the losses are that solve "
        "again (`inexact` in the log); each takes as long as several steps; 0: never",
    )
    patience: int = Field(
        0,
        ge=0,
        description="validations without progress after which training ends; 0: never. Keeps the "
        "best",
    )
    loggers: list[Literal["tensorboard", "wandb", "mlflow"]] = Field(
        [], description="where else than log.jsonl a step is logged"
    )

    @property
    def rise(self) -> int:
        """Steps of the warm-up."""
        return min(50, self.steps // 10) if self.warmup is None else self.warmup

    @property
    def decay(self) -> float:
        """Of the running average: it looks back over a tenth of the steps, or what was asked."""
        return min(0.99, max(0.9, 1 - 10 / self.steps)) if self.ema is None else self.ema

    def rate(self, step: int) -> float:
        """The learning rate of a step, from 0: a linear warm-up, then half a cosine (or a line, or
        nothing) down to a tenth."""
        rise = min(1.0, (step + 1) / max(1, self.rise))
        done = step / self.steps
        if self.schedule == "cosine":
            fall = 0.55 + 0.45 * math.cos(math.pi * done)
        elif self.schedule == "linear":
            fall = 1 - 0.9 * done
        else:
            fall = 1.0
        return self.lr * rise * fall
