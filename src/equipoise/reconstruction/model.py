"""x̂ = f*_θ(y): the equilibrium of a learned step, as a reconstructor, and its settings.

Both are in one file because each makes the other's acquaintance: the settings make a reconstructor,
and ``EquilibriumReconstructor.from_pretrained`` reads settings from a folder.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from deepinv.models import Reconstructor
from pydantic import Field, NonNegativeFloat, field_validator
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ..equilibrium import Anderson, Equilibrium, Implicit, Status, Stop, Unrolled, fixed_point
from ..equilibrium.result import UNROLLED, EquilibriumError, OnFailure
from ..equilibrium.solvers import Solver
from ..errors import UserError
from ..imaging.groups import Group, Reflections, Rotations
from ..imaging.linear import variant
from ..imaging.nufft import with_any_batch
from ..settings import Settings
from .denoisers import ComplexDenoiser, Invariant, Moved, backbone, make_denoiser
from .denoisers.settings import DenoiserChoice, UNetSettings
from .earlier import model_section_of_release_0_1
from .solving import (
    AndersonSettings,
    GradientChoice,
    ImplicitSettings,
    SolverChoice,
    UnrolledSettings,
)
from .steps import Step
from .steps.settings import Precision, ProximalSettings, StepChoice

if TYPE_CHECKING:
    from typing_extensions import Self


class EquilibriumReconstructor(Reconstructor):
    """The reconstruction is the fixed point of ``step``: x̂ = f_θ(x̂; y).

    Args:
        step: ``GradientStep``, ``ProximalStep``, …
        solver: of the fixed-point equation; default ``Anderson()``.
        stop: tolerance and the most evaluations of f; default ``Stop(rtol=1e-4, max_steps=100)``.
        gradient: ``Implicit()`` (default, exact), ``JacobianFree()``, …
        on_failure: "warn", "raise" or "ignore" when some sample has not converged.
    """

    def __init__(
        self,
        step: Step,
        solver: Solver | None = None,
        stop: Stop | None = None,
        gradient: Any = None,
        on_failure: OnFailure = "warn",
    ):
        super().__init__()
        self.step = step
        self.solver = Anderson() if solver is None else solver
        self.stop = Stop() if stop is None else stop
        self.gradient = Implicit() if gradient is None else gradient
        self.on_failure: OnFailure = on_failure

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> EquilibriumReconstructor:
        """The model in a folder that `equipoise export` made, ready to reconstruct.

        Raises:
            UserError: there is none, or its files are damaged or do not belong together.
        """
        folder = Path(folder)
        try:
            about = json.loads((folder / "config.json").read_text())
            tree = model_section_of_release_0_1(about["model"], lenient=True)
            settings = ModelSettings.model_validate(tree)
            model = settings.make(about["channels"], about["noise"], denoiser=about["denoiser"])
            model.load_state_dict(load_file(folder / "model.safetensors"))
        except (OSError, KeyError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
            raise UserError(
                f"{folder}: holds no model made by `equipoise export`, or it is damaged "
                f"({type(error).__name__}: {str(error)[:300]})"
            ) from error
        model.stop = settings.test_stop()
        return model.eval()

    def forward(self, y: Tensor, physics: Any, x0: Tensor | None = None) -> Tensor:
        """Measurements y and the operator that made them → images (B, C, H, W).

        ``x0``: where to start the solve.

        Raises:
            TypeError: as :meth:`equilibrium`.
        """
        value: Tensor = self.equilibrium(y, physics, x0).value
        return value

    def equilibrium(self, y: Tensor, physics: Any, x0: Tensor | None = None) -> Equilibrium:
        """The :class:`Equilibrium` behind the image.

        Value, residual, steps, status, trace; the adjoint after backward. Where the step's state
        holds more than the image (``ADMM``), the residual is that of the whole state.

        Raises:
            TypeError: there is no operator, or y is of other numbers than the model or elsewhere.
            ValueError: y holds no measurement.
        """
        if isinstance(y, Tensor) and y.ndim and not len(y):
            raise ValueError(f"y holds no measurement, its shape is {tuple(y.shape)}; give one")
        with _explained(y, physics, self):
            return self._solve(y, physics, x0)

    def _solve(self, y: Tensor, physics: Any, x0: Tensor | None) -> Equilibrium:
        f = self.step.bind(y, with_any_batch(physics))
        with torch.no_grad():
            x0 = self.step.start(y, physics) if x0 is None else x0
            z0 = self.step.lift(x0, y, physics)
        result = fixed_point(
            f,
            z0,
            solver=self.solver,
            stop=self.stop,
            gradient=self.gradient,
            on_failure=self.on_failure,
        )
        return replace(result, value=self.step.image(result.value, y, physics))

    def moved(self, group: Group, moves: dict[str, Tensor]) -> Self:
        """The model that makes T_g R(y, A T_g) of y and A, where this one makes R(y, A): as it
        would reconstruct an image that lies otherwise.

        Args:
            group: orthogonal: ``Rotations``, ``Reflections``, ``Shifts``, or their product.
            moves: the parameters of one g for each measurement, (B,) each.

        Raises:
            ValueError: the step does not move along.
        """
        model: Self = variant(self)
        model.step = _moved_step(self.step, group, moves)
        return model

    def explain(self, y: Tensor, physics: Any) -> str:
        """How the step solves its inner problem for these measurements, and why so: a line of
        words; empty where it has none.

        Raises:
            UserError: a number of steps is asked for, and the operator's spectrum has no bound.
        """
        explain = getattr(self.step, "explain", None)
        return "" if explain is None else str(explain(y, physics))


class UntiedReconstructor(EquilibriumReconstructor):
    """Deep unrolling with weights of its own for each of ``steps``, taken once, in their order.

    No equilibrium, but what equilibrium models are compared with. Its ``step`` is the last.
    """

    def __init__(self, steps: Sequence[Step], on_failure: OnFailure = "warn"):
        super().__init__(steps[-1], gradient=Unrolled(len(steps)), on_failure=on_failure)
        self.before = nn.ModuleList(steps[:-1])

    def moved(self, group: Group, moves: dict[str, Tensor]) -> Self:
        model = super().moved(group, moves)
        model.before = nn.ModuleList(_moved_step(step, group, moves) for step in self.before)
        return model

    def _solve(self, y: Tensor, physics: Any, x0: Tensor | None) -> Equilibrium:
        """What the last step makes; the residual is how far it moved the image."""
        trace: list[Tensor] = []
        step: Any
        with torch.no_grad():
            x0 = self.step.start(y, physics) if x0 is None else x0
            z = self.step.lift(x0, y, physics)
        for step in (*self.before, self.step):
            before = step.image(z, y, physics).detach()
            z = step.bind(y, physics)(z)
            x = step.image(z, y, physics)
            change = torch.linalg.vector_norm((x.detach() - before).flatten(1), dim=1)
            size = torch.linalg.vector_norm(x.detach().flatten(1), dim=1)
            trace.append(change / size.clamp_min(torch.finfo(x.dtype).tiny))
        status = torch.where(
            trace[-1] <= self.stop.rtol, int(Status.CONVERGED), int(Status.MAX_STEPS)
        )
        finite = x.detach().flatten(1).isfinite().all(1)
        status = torch.where(finite, status, int(Status.NONFINITE))
        steps = torch.full_like(status, len(trace))
        found = Equilibrium(x, trace[-1], steps, status, torch.stack(trace))
        found.report(self.on_failure, replace(self.stop, max_steps=len(trace)), UNROLLED)
        return found


@contextmanager
def _explained(y: Any, physics: Any, model: nn.Module) -> Iterator[None]:
    """An error that comes of what the model was given says so, whatever torch says of it.

    Args:
        y: measurements, or a list of them for stacked operators.
        physics: the operator that made them.
        model: whose weights meet them.

    Raises:
        TypeError: instead of the error, if there is no operator, or y is no tensor, or of other
            numbers than the weights or elsewhere.
    """
    try:
        yield
    except (EquilibriumError, torch.cuda.OutOfMemoryError):
        raise
    except (RuntimeError, TypeError, AttributeError) as error:
        why = _unfit(y, physics, model)
        if why:
            raise TypeError(why) from error
        raise


def _unfit(y: Any, physics: Any, model: nn.Module) -> str:
    """What is wrong with what a model was given; nothing, where that is not to be seen."""
    if not callable(getattr(physics, "A", None)):
        return (
            "physics: a model needs the operator that made y (any deepinv.physics.LinearPhysics), "
            f"got {type(physics).__name__}"
        )
    for part in [y] if isinstance(y, Tensor) else y:
        if not isinstance(part, Tensor):
            return (
                "y: measurements are a tensor, or a list of them for a stacked operator, got "
                f"{type(y).__name__}; torch.as_tensor(y) makes one"
            )
        numbers = part.real.dtype if part.is_complex() else part.dtype
        for weights in model.parameters():
            if part.device != weights.device:
                return (
                    f"y is on {part.device} and the model on {weights.device}; move both to one "
                    "(y.to(…), model.to(…), physics.to(…))"
                )
            if numbers != weights.dtype and weights.ndim > 0:  # a lone number goes with any
                return (
                    f"y is {part.dtype} and the model {weights.dtype}; give it "
                    f"y.to({weights.dtype}), or the model and the operator the numbers of y "
                    "(model.double(), physics.double())"
                )
    return ""


def _moved_step(step: Any, group: Group, moves: dict[str, Tensor]) -> Any:
    if step.is_pixel_by_pixel and not group.permutes:
        raise ValueError(
            f"group: a {type(step).__name__} works pixel by pixel, and does not move along with "
            f"{type(group).__name__}; take Reflections or Rotations(multiples=90)"
        )
    return step.with_denoiser(Moved(step.denoiser, group, moves))


#: The noise level that the denoiser is told, where nobody chose one.
USUAL_SIGMA = 0.02


class ModelSettings(Settings):
    """The learned step and how its equilibrium is found and differentiated."""

    step: StepChoice = Field(
        default_factory=lambda: ProximalSettings(), description="which learned step"
    )
    sigma: Literal["auto"] | NonNegativeFloat = Field(
        "auto",
        description="noise level that the denoiser is told; auto: chosen by measurements that are "
        "left out",
    )
    denoiser: DenoiserChoice = Field(
        default_factory=lambda: UNetSettings(),
        description='"unet", "shipped", "random", or a file made by `equipoise pretrain`; drunet '
        "or deepinv_unet: deepinv's, with weights from path",
    )
    invariant: Literal["none", "quarter_turns", "reflections"] = Field(
        "none", description="average the denoiser over this group"
    )
    precision: Precision = Field(
        "32", description="of all numbers; bf16: of the denoiser's convolutions alone"
    )
    solver: SolverChoice = Field(
        default_factory=lambda: AndersonSettings(), description="of the fixed-point equation"
    )
    rtol: float = Field(
        1e-3, gt=0, lt=1, description="relative residual at which a training solve stops"
    )
    max_steps: int = Field(50, ge=1, description="most evaluations of f in a training solve")
    test_rtol: float = Field(
        1e-4, gt=0, lt=1, description="relative residual at which a solve outside training stops"
    )
    test_max_steps: int = Field(
        100, ge=1, description="most evaluations of f in a solve outside training"
    )
    gradient: GradientChoice = Field(
        default_factory=lambda: ImplicitSettings(), description="how it is differentiated"
    )

    @field_validator("precision", mode="before")
    @classmethod
    def _bits(cls, value: Any) -> Any:
        return str(value) if value in (32, 64) else value

    @property
    def sigma_value(self) -> float:
        """The noise level as a number: where it is still to be chosen, where the choice starts."""
        return self.sigma if isinstance(self.sigma, float) else USUAL_SIGMA

    def stop(self) -> Stop:
        """When a solve in training ends."""
        return Stop(self.rtol, self.max_steps)

    def test_stop(self) -> Stop:
        """When a solve outside training ends."""
        return Stop(self.test_rtol, self.test_max_steps)

    def make(
        self,
        channels: int,
        noise: float,
        seed: int = 0,
        denoiser: dict[str, Any] | None = None,
    ) -> EquilibriumReconstructor:
        """The reconstructor as it is trained.

        Solves that fail are counted in the log rather than warned about one by one.

        Args:
            channels: of the images; 2 for complex ones.
            noise: the standard deviation of the noise in y, for physics with ‖A‖ = 1.
            seed: of the weights, where they are random.
            denoiser: from :func:`denoiser_config`, for a network whose weights are loaded later.

        Raises:
            UserError: the denoiser cannot be loaded, or the step is not for such images.
        """

        def step() -> Step:
            D = self.make_denoiser(channels, seed, denoiser)
            return self.step.make(D, self.sigma_value, noise, self.precision, channels)

        model: EquilibriumReconstructor
        if isinstance(self.gradient, UnrolledSettings) and self.gradient.untied:
            steps = [step() for _ in range(self.gradient.steps)]
            model = UntiedReconstructor(steps, on_failure="ignore")
        else:
            solver = self.solver.make()
            gradient = self.gradient.make()
            model = EquilibriumReconstructor(step(), solver, self.stop(), gradient, "ignore")
        return model.double() if self.precision == "64" else model

    def make_denoiser(
        self, channels: int, seed: int = 0, shape: dict[str, Any] | None = None
    ) -> nn.Module:
        """The denoiser to start from; with ``shape``, a network whose weights are loaded later."""
        D: nn.Module = self.denoiser.make(seed) if shape is None else make_denoiser(shape)
        if channels == 2:
            D = ComplexDenoiser(D)
        group = _group(self.invariant)
        return D if group is None else Invariant(D, group)


def _group(name: str) -> Group | None:
    """The finite group that a denoiser is averaged over."""
    match name:
        case "quarter_turns":
            return Rotations(multiples=90)
        case "reflections":
            return Reflections()
        case _:
            return None


def denoiser_config(model: EquilibriumReconstructor) -> dict[str, Any]:
    """The architecture and shape of a model's denoiser, for its checkpoint."""
    config: dict[str, Any] = backbone(model.step.denoiser).config
    return config
