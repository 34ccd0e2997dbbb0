"""The only place where strings become objects."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from deepinv.physics import MRI, GaussianNoise
from torch import Tensor

from .config import Config
from .config import Model as ModelConfig
from .config import Objective as ObjectiveConfig
from .config import Physics as PhysicsConfig
from .equilibrium import Anderson, Broyden, Implicit, JacobianFree, Neumann, Phantom, Picard, Stop, Unrolled
from .errors import UserError
from .imaging.data import Images, Measurements, kind_of, read_images, read_measurements
from .imaging.groups import Group, Reflections, Rotations, Shifts
from .imaging.mri import cartesian_mask
from .imaging.phantoms import phantoms, smooth_phase
from .imaging.splitting import split
from .imaging.tomography import ParallelBeam
from .learning.objectives import Equivariance, MeasurementConsistency, Splitting
from .reconstruction.contraction import JacobianPenalty
from .reconstruction.denoisers import ComplexDenoiser, ConvDenoiser, load_denoiser
from .reconstruction.model import EquilibriumReconstructor
from .reconstruction.steps import GradientStep, ProximalStep, Step


def build_physics(config: PhysicsConfig, size: int, seed: int = 0) -> Any:
    """The operator with ‖A‖ = 1. ``gain`` is what it was multiplied by, ``measurement_shape`` the shape of one y."""
    try:
        if config.kind == "parallel_beam":
            angles = config.angles if isinstance(config.angles, int) else torch.tensor(config.angles)
            return ParallelBeam(size, angles, config.detectors, config.pixel, normalize=True)
        mask = cartesian_mask(size, size, config.acceleration, config.center, seed)
    except ValueError as error:
        raise UserError(f"physics: {error}") from error
    physics = MRI(mask=mask, img_size=(size, size))
    physics.gain, physics.measurement_shape = 1.0, (2, size, size)
    return physics


def build_denoiser(config: ModelConfig, channels: int, seed: int = 0, shape: dict[str, int] | None = None) -> torch.nn.Module:
    """The denoiser to start from; with ``shape``, one of that shape whose weights are loaded later."""
    if shape is not None:
        denoiser = ConvDenoiser(**shape)
    elif config.denoiser == "random":
        torch.manual_seed(seed)
        denoiser = ConvDenoiser(1, config.channels, config.layers)
    else:
        try:
            denoiser = load_denoiser(None if config.denoiser == "shipped" else config.denoiser)
        except FileNotFoundError as error:
            raise UserError(f"model.denoiser: {error}") from error
        except Exception as error:  # safetensors has its own errors, and a header may hold anything
            raise UserError(
                f"model.denoiser: {config.denoiser} is not a denoiser made by `equipoise pretrain`, or it is cut short "
                f"({type(error).__name__}: {error}); make one with: equipoise pretrain --out FILE"
            ) from error
    return ComplexDenoiser(denoiser) if channels == 2 else denoiser


def denoiser_config(model: EquilibriumReconstructor) -> dict[str, int]:
    """The shape of a model's denoiser, for its checkpoint."""
    denoiser = model.step.denoiser
    inner = denoiser.denoiser if isinstance(denoiser, ComplexDenoiser) else denoiser
    assert isinstance(inner, ConvDenoiser)
    return inner.config


def build_gradient(config: ModelConfig) -> Any:
    if config.gradient == "implicit":
        return Implicit(stop=Stop(config.adjoint_rtol, config.adjoint_max_steps), inexact=config.adjoint_inexact)
    return {"jacobian_free": JacobianFree, "neumann": Neumann, "phantom": Phantom, "unrolled": Unrolled}[config.gradient]()


PHANTOM_SEED = 77_000  # none of the phantoms that the shipped denoiser was trained on
MIN_STRENGTH = 1e-4  # of the proximal step: keeps its inner problem well conditioned where there is no noise


def build_model(
    config: ModelConfig, channels: int, noise: float, seed: int = 0, denoiser: dict[str, int] | None = None
) -> EquilibriumReconstructor:
    """The reconstructor as it is trained: failures are counted in the log rather than warned about one by one.

    ``noise`` is the standard deviation of the noise in y. A prior of standard deviation σ against noise of standard
    deviation s asks for λ = (s/σ)² in argmin ½‖A u − y‖²/s² + ½‖u − D(x)‖²/σ².
    """
    D = build_denoiser(config, channels, seed, denoiser)
    step: Step
    if config.step == "proximal":
        strength = config.strength
        if strength is None:
            strength = max(MIN_STRENGTH, (noise / max(config.sigma, 1e-6)) ** 2)
        step = ProximalStep(D, strength, config.sigma)
    else:
        step = GradientStep(D, config.step_size, config.sigma)
    solver = {"anderson": Anderson, "picard": Picard, "broyden": Broyden}[config.solver]()
    stop = Stop(config.rtol, config.max_steps)
    return EquilibriumReconstructor(step, solver, stop, build_gradient(config), on_failure="ignore")


def build_group(name: str) -> Group:
    return {
        "rotations": lambda: Rotations(),
        "quarter_turns": lambda: Rotations(multiples=90),
        "reflections": lambda: Reflections(),
        "shifts": lambda: Shifts(),
    }[name]()


def build_objective(config: ObjectiveConfig, physics: Any, y: Tensor) -> dict[str, Any]:
    """Name → loss; what is weighted zero is left out.

    Raises:
        UserError: nothing is left, or the measurements cannot be split.
    """
    losses: dict[str, Any] = {}
    if config.consistency:
        losses["consistency"] = MeasurementConsistency(config.consistency, config.floor)
    if config.splitting:
        try:
            split(physics, y[:1], config.parts, 0)
        except (ValueError, TypeError) as error:
            raise UserError(f"objective.parts={config.parts}: {error}, or set objective.splitting=0") from error
        losses["splitting"] = Splitting(config.parts, config.splitting, config.floor)
    if config.equivariance:
        losses["equivariance"] = Equivariance(build_group(config.group), config.equivariance, config.renoise, config.stop_gradient)
    if config.contraction:
        losses["contraction"] = JacobianPenalty(config.contraction, config.bound)
    if not losses:
        raise UserError("objective: all weights are 0, so there is nothing to learn from; raise objective.consistency")
    return losses


@dataclass
class Problem:
    """Measurements in the units of the model, and where they came from."""

    y: Tensor  #: (N, …) for physics with ‖A‖ = 1
    noise: float  #: standard deviation of the noise in y
    source: Images | Measurements
    truth: Tensor | None  #: (N, C, H, W) where images were measured; training never sees it


def as_complex(images: Tensor, seed: int) -> Tensor:
    """Magnitudes (N, 1, H, W) with a smooth synthetic phase: real and imaginary part, (N, 2, H, W)."""
    phase = smooth_phase(len(images), images.shape[-1], seed)[:, None]
    return torch.cat([images * phase.cos(), images * phase.sin()], 1)


def measure(images: Tensor, physics: Any, noise: float, seed: int) -> tuple[Tensor, float]:
    """y = A x + noise for every image, and the noise's standard deviation: ``noise`` times the largest |A x|."""
    with torch.no_grad():
        clean = torch.cat([physics.A(x) for x in images.split(32)])
    sigma = noise * float(clean.abs().max())
    y = clean + sigma * torch.randn(clean.shape, generator=torch.Generator().manual_seed(seed))
    if isinstance(physics, MRI):
        y = y * physics.mask
    return y, sigma


def build_problem(config: Config, physics: Any, path: Any = None, seed: int | None = None) -> Problem:
    """Reads (or makes) the data, and measures them if they are images.

    Args:
        path: data to read instead of those in the configuration.
        seed: of the phantoms and the noise, instead of the configuration's.
    """
    d, seed = config.data, config.seed if seed is None else seed
    kind = d.kind
    if path is None and d.path is None:
        if kind not in ("auto", "phantoms"):
            raise UserError(f"data.path: missing, but data.kind is {kind!r}; name a folder or a file")
        kind = "phantoms"
    elif path is not None or kind in ("auto", "phantoms"):  # what data.kind says is about data.path alone
        path = Path(d.path if path is None else path)  # type: ignore[arg-type]
        npy = kind_of(path) == "npy"
        kind = ("images" if kind == "images" else "measurements") if npy else "images"
    else:
        path = d.path
    if kind == "measurements":
        found = read_measurements(path, tuple(physics.measurement_shape))
        y = found.values * (physics.gain / d.peak)
        return Problem(y, config.physics.noise * float(y.abs().max()), found, None)
    mri = isinstance(physics, MRI)
    if kind == "phantoms":
        looks = ("brain",) if mri else ("thorax", "abdomen", "head")
        values = phantoms(d.count, d.size, PHANTOM_SEED + seed, looks)
        names = [f"phantom_{i:03d}" for i in range(d.count)]
        images = Images(values, names, names, "npy", config.folder, native_shape=(d.size, d.size))
    else:
        images = read_images(path, d.size)
    truth = as_complex(images.values, seed) if mri else images.values
    y, sigma = measure(truth, physics, config.physics.noise, seed + 1)
    return Problem(y, sigma, images, truth)


def set_noise(physics: Any, sigma: float) -> None:
    """The noise that the physics adds when it is called; for MRI it is masked with the measurements."""
    physics.noise_model = GaussianNoise(sigma)
