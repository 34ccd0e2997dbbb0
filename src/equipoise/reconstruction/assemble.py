"""A model from its description: the section ``model`` of a configuration."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from .. import config as settings
from ..equilibrium import Anderson, Broyden, Implicit, JacobianFree, Neumann, Phantom, Picard, Stop, Unrolled
from ..errors import UserError
from ..imaging.groups import named_group
from .denoisers import ComplexDenoiser, Invariant, load_denoiser, make_denoiser
from .model import EquilibriumReconstructor, UntiedReconstructor
from .steps import ADMM, RED, DouglasRachford, GradientStep, MirrorStep, PrimalDual, ProximalStep, Step


def build_denoiser(config: settings.Model, channels: int, seed: int = 0, shape: dict[str, Any] | None = None) -> torch.nn.Module:
    """The denoiser to start from; with ``shape``, one of that shape whose weights are loaded later."""
    if shape is not None:
        denoiser = make_denoiser(shape)
    elif config.denoiser == "random":
        torch.manual_seed(seed)
        denoiser = make_denoiser({"channels": config.channels, "layers": config.layers})
    else:
        try:
            denoiser = load_denoiser(config.denoiser)
        except FileNotFoundError as error:
            raise UserError(f"model.denoiser: {error}") from error
        except Exception as error:  # safetensors has its own errors, and a header may hold anything
            raise UserError(
                f"model.denoiser: {config.denoiser} is not a denoiser made by `equipoise pretrain`, or it is cut short "
                f"({type(error).__name__}: {error}); make one with: equipoise pretrain --out FILE"
            ) from error
    denoiser = ComplexDenoiser(denoiser) if channels == 2 else denoiser
    return denoiser if config.invariant == "none" else Invariant(denoiser, named_group(config.invariant))


def denoiser_config(model: EquilibriumReconstructor) -> dict[str, Any]:
    """The architecture and shape of a model's denoiser, for its checkpoint."""
    denoiser: Any = model.step.denoiser
    while isinstance(denoiser, (ComplexDenoiser, Invariant)):
        denoiser = denoiser.denoiser
    return denoiser.config


def build_gradient(config: settings.Model) -> Any:
    if config.gradient == "implicit":
        return Implicit(stop=Stop(config.adjoint_rtol, config.adjoint_max_steps), inexact=config.adjoint_inexact)
    if config.gradient == "unrolled":
        return Unrolled(config.depth)
    return {"jacobian_free": JacobianFree, "neumann": Neumann, "phantom": Phantom}[config.gradient]()


MIN_STRENGTH = 1e-4, 0.05  # keeps inner problems well conditioned where there is no noise; of RED, whose pace it is


def build_model(
    config: settings.Model, channels: int, noise: float, seed: int = 0, denoiser: dict[str, Any] | None = None
) -> EquilibriumReconstructor:
    """The reconstructor as it is trained: failures are counted in the log rather than warned about one by one.

    ``noise`` is the standard deviation of the noise in y. A prior of standard deviation σ against noise of standard
    deviation s asks for λ = (s/σ)² in argmin ½‖A u − y‖²/s² + ½‖u − D(x)‖²/σ².
    """
    steps = [
        _build_step(config, build_denoiser(config, channels, seed, denoiser), channels, noise)
        for _ in range(config.depth if config.untied else 1)
    ]
    solver = {"anderson": Anderson, "picard": Picard, "broyden": Broyden}[config.solver]()
    stop = Stop(config.rtol, config.max_steps)
    if config.untied:
        model: EquilibriumReconstructor = UntiedReconstructor(steps, on_failure="ignore")
    else:
        model = EquilibriumReconstructor(steps[0], solver, stop, build_gradient(config), on_failure="ignore")
    return model.double() if config.precision == "64" else model


def _build_step(config: settings.Model, D: torch.nn.Module, channels: int, noise: float) -> Step:
    strength = config.strength
    if strength is None:
        strength = max(MIN_STRENGTH[config.step == "red"], (noise / max(config.sigma, 1e-6)) ** 2)
    step: Step
    match config.step:
        case "proximal" | "admm" | "douglas_rachford":
            kind = {"proximal": ProximalStep, "admm": ADMM, "douglas_rachford": DouglasRachford}[config.step]
            step = kind(D, strength, config.sigma, config.learnable, tol=1e-5 if config.precision != "64" else 1e-12)
        case "red":
            step = RED(D, strength, None, config.sigma, config.learnable)
        case "gradient" | "primal_dual" | "mirror":
            if config.step == "mirror" and channels == 2:
                raise UserError("model.step=mirror is for counts, which complex images do not give; use proximal or gradient")
            other = {"gradient": GradientStep, "primal_dual": PrimalDual, "mirror": MirrorStep}[config.step]
            step = other(D, config.step_size, config.sigma, config.learnable)
    step.precision = torch.bfloat16 if config.precision == "bf16" else None
    return step


def from_pretrained(folder: str | Path) -> EquilibriumReconstructor:
    """The model in ``folder``, which `equipoise export` made.

    Raises:
        UserError: there is none, or its files are damaged or do not belong together.
    """
    from safetensors.torch import load_file

    folder = Path(folder)
    try:
        about = json.loads((folder / "config.json").read_text())
        config = settings.Model.model_validate(about["model"])
        model = build_model(config, about["channels"], about["noise"], denoiser=about["denoiser"])
        model.load_state_dict(load_file(folder / "model.safetensors"))
    except (OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise UserError(f"{folder}: holds no model made by `equipoise export`, or it is damaged ({error})") from error
    except Exception as error:  # safetensors has its own
        raise UserError(f"{folder}/model.safetensors: damaged ({error})") from error
    model.stop = Stop(config.test_rtol, config.test_max_steps)
    return model.eval()
