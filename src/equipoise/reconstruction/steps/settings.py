"""The settings of the steps: what each kind can be told, and how it is made."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import BeforeValidator, Field, PositiveFloat
from torch import nn

from ...errors import UserError
from ...settings import Settings
from ..kinds import named_or
from .base import Step
from .gradient import RED, GradientStep, MirrorStep, PrimalDual
from .proximal import ADMM, DouglasRachford, ProximalStep

Precision = Literal["32", "64", "bf16"]
StepCount = Annotated[int, Field(ge=1, le=1000, strict=True)]


class StepSettings(Settings):
    """What all kinds have."""

    learnable: bool = Field(False, description="train λ or η too")

    def make(
        self,
        denoiser: nn.Module,
        sigma: float,
        noise: float,
        precision: Precision = "32",
        channels: int = 1,
    ) -> Step:
        """The step.

        Args:
            denoiser: D, called as ``denoiser(x, sigma)``.
            sigma: the noise level that D is told.
            noise: the standard deviation of the noise in y, for physics with ‖A‖ = 1.
            precision: "32" or "64" bits; "bf16": of the denoiser's convolutions alone.
            channels: of the images; 2 for complex ones.

        Raises:
            UserError: this step is not for such images.
        """
        tol = 1e-12 if precision == "64" else 1e-5
        step = self._make(denoiser, sigma, noise, tol, channels)
        step.precision = torch.bfloat16 if precision == "bf16" else None
        return step

    def _make(
        self, denoiser: nn.Module, sigma: float, noise: float, tol: float, channels: int
    ) -> Step:
        raise NotImplementedError


class StrengthSettings(StepSettings):
    """What steps with a strength λ have."""

    strength: Literal["auto"] | PositiveFloat | None = Field(
        "auto",
        description="λ; auto: chosen by measurements that are left out, from (noise / sigma)² of "
        "scaled data and at least 1e-3 on; none: that, and at least 1e-4, as in release 0.1",
    )

    #: Where there is hardly any noise. Plug-and-play gains 0.6 to 2 dB over 1e-4 and changes little
    #: up to 3e-3 (CT, 64² to 256², results/native.md), with half the steps of the inner problem.
    smallest_strength: ClassVar[float] = 1e-3
    #: As runs of release 0.1 have it.
    smallest_of_release_0_1: ClassVar[float] = 1e-4

    def default_strength(self, noise: float, sigma: float) -> float:
        """λ, if nobody says.

        A prior of standard deviation σ against noise of standard deviation s asks for λ = (s/σ)² in
        argmin ½‖A u − y‖²/s² + ½‖u − D(x)‖²/σ².
        """
        is_new = self.strength is not None
        smallest = self.smallest_strength if is_new else self.smallest_of_release_0_1
        return max(smallest, (noise / max(sigma, 1e-6)) ** 2)

    def _strength(self, noise: float, sigma: float) -> float:
        given = self.strength
        return given if isinstance(given, float) else self.default_strength(noise, sigma)


class ProximalSettings(StrengthSettings):
    """argmin_u ½‖A u − y‖² + ½λ‖u − D(x)‖²."""

    kind: Literal["proximal"] = "proximal"
    inner: Literal["auto", "exact"] | StepCount = Field(
        "auto",
        description="how the argmin is found where it has no closed form: a number of Chebyshev "
        "steps from x (the same equilibria), auto: as many as the operator asks for; or exact: "
        "conjugate gradients",
    )

    def _make(
        self, denoiser: nn.Module, sigma: float, noise: float, tol: float, channels: int
    ) -> Step:
        strength = self._strength(noise, sigma)
        return ProximalStep(denoiser, strength, sigma, self.learnable, tol, self.inner)


class ADMMSettings(StrengthSettings):
    """The alternating direction method of multipliers."""

    kind: Literal["admm"] = "admm"

    def _make(
        self, denoiser: nn.Module, sigma: float, noise: float, tol: float, channels: int
    ) -> Step:
        return ADMM(denoiser, self._strength(noise, sigma), sigma, self.learnable, tol)


class DouglasRachfordSettings(StrengthSettings):
    """Douglas–Rachford splitting."""

    kind: Literal["douglas_rachford"] = "douglas_rachford"

    def _make(
        self, denoiser: nn.Module, sigma: float, noise: float, tol: float, channels: int
    ) -> Step:
        strength = self._strength(noise, sigma)
        return DouglasRachford(denoiser, strength, sigma, self.learnable, tol)


class REDSettings(StrengthSettings):
    """x − η (Aᵀ(A x − y) + λ (x − D(x))): regularisation by denoising."""

    kind: Literal["red"] = "red"
    strength: Literal["auto"] | PositiveFloat | None = Field(
        "auto",
        description="λ; auto: chosen by measurements that are left out; none: (noise / sigma)² of "
        "scaled data, at least 0.05",
    )

    smallest_strength: ClassVar[float] = 0.05  #: it is the step's pace where A does not see
    smallest_of_release_0_1: ClassVar[float] = 0.05

    def _make(
        self, denoiser: nn.Module, sigma: float, noise: float, tol: float, channels: int
    ) -> Step:
        return RED(denoiser, self._strength(noise, sigma), None, sigma, self.learnable)


class StepSizeSettings(StepSettings):
    """What steps with a step size η have."""

    step_size: float = Field(1.0, gt=0, lt=2, description="η, for an operator of norm 1")


class GradientSettings(StepSizeSettings):
    """D(x − η Aᵀ(A x − y))."""

    kind: Literal["gradient"] = "gradient"

    def _make(
        self, denoiser: nn.Module, sigma: float, noise: float, tol: float, channels: int
    ) -> Step:
        return GradientStep(denoiser, self.step_size, sigma, self.learnable)


class PrimalDualSettings(StepSizeSettings):
    """Primal–dual splitting."""

    kind: Literal["primal_dual"] = "primal_dual"

    def _make(
        self, denoiser: nn.Module, sigma: float, noise: float, tol: float, channels: int
    ) -> Step:
        return PrimalDual(denoiser, self.step_size, sigma, self.learnable)


class MirrorSettings(StepSizeSettings):
    """Mirror descent on the likelihood of counts."""

    kind: Literal["mirror"] = "mirror"

    def _make(
        self, denoiser: nn.Module, sigma: float, noise: float, tol: float, channels: int
    ) -> Step:
        if channels == 2:
            raise UserError(
                "model.step=mirror is for counts, which complex images do not give; use proximal "
                "or gradient"
            )
        return MirrorStep(denoiser, self.step_size, sigma, self.learnable)


StepChoice = Annotated[
    ProximalSettings
    | GradientSettings
    | REDSettings
    | ADMMSettings
    | DouglasRachfordSettings
    | PrimalDualSettings
    | MirrorSettings,
    Field(discriminator="kind"),
    BeforeValidator(named_or("proximal")),
]
