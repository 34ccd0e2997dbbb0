"""The noise of the samples: that of the operator's noise model, or what the caller says it is.

Gaussian and Poisson noise are drawn in float64 and then rounded, so that a sample in float32 has
the noise of the same sample in float64, on any device.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from deepinv.physics import GaussianNoise, PoissonNoise, ZeroNoise
from deepinv.utils.tensorlist import TensorList
from torch import Tensor, nn

from ...errors import ArgumentError
from ...imaging.linear import per_sample, variant
from ...imaging.scaled import Scaled
from .moves import seed_for, seeded_globally

#: From so many draws the variance of noise is estimated that is not Gaussian.
VARIANCE_DRAWS = 8


def with_noise(physics: Any, given: Any = None) -> Any:
    """The operator with the noise model that is meant.

    That is ``given``: a standard deviation in the units of y, one for each image (B,), or a deepinv
    noise model or any function; without it, the operator's own, and for an operator that was
    multiplied by a number and has none, that of the original.

    Raises:
        ArgumentError: nothing says what noise there is, or a standard deviation is negative.
    """
    if given is not None:
        return _with_model(physics, _model_of(given))
    if isinstance(physics, Scaled) and _is_none(physics.noise_model):
        inner = physics.physics.noise_model
        return physics if _is_none(inner) else _with_model(physics, _times(inner, physics.factor))
    models = _models(physics)
    if not models or not all(callable(model) for model in models):
        raise ArgumentError(
            f"noise: unknown, since this {type(physics).__name__} has no noise_model; pass "
            "noise=σ, its standard deviation in the units of y, or a deepinv noise model such as "
            "PoissonNoise(gain), or noise=0 for none"
        )
    return physics


def is_noiseless(physics: Any) -> bool:
    """Whether no noise is added at all."""
    return all(_is_none(model) for model in _models(physics))


def measured(x: Tensor, physics: Any, seed: int) -> Any:
    """What the operator of one image measures of x (1, C, …), with the noise of ``seed``."""
    return noisy(physics.A(x), physics, seed)


def noisy(clean: Any, physics: Any, seed: int) -> Any:
    """``clean`` (1, …), or a list of such, with noise and whatever the sensor does."""
    generator = torch.Generator().manual_seed(seed)
    models = _models(physics)
    drawing = _with_model(physics, [_drawing(model, generator) for model in models])
    tensors = [clean] if isinstance(clean, Tensor) else list(clean)
    clean = clean if isinstance(clean, Tensor) else TensorList(tensors)  # stacks write into it
    if all(type(model) in (GaussianNoise, PoissonNoise, ZeroNoise) for model in models):
        return drawing.sensor(drawing.noise(clean))
    modules = [m for model in models if isinstance(model, nn.Module) for m in model.modules()]
    with seeded_globally(seed, modules, tensors[0].device):
        return drawing.sensor(drawing.noise(clean))


def noise_variance(clean: Any, physics: Any, seed: int = 0) -> float:
    """The variance of the noise in measurements like ``clean`` of one image, per number that is
    measured: exact for Gaussian noise, else the mean of some draws."""
    models = _models(physics)
    if all(_is_none(model) for model in models):
        return 0.0
    if len(models) == 1 and type(models[0]) is GaussianNoise:
        return float(models[0].sigma.double().square().mean())
    before = [clean] if isinstance(clean, Tensor) else list(clean)
    measured = _measured_places(clean, physics)
    total = 0.0
    for draw in range(VARIANCE_DRAWS):
        drawn = noisy(clean, physics, seed_for(seed, draw))
        after = [drawn] if isinstance(drawn, Tensor) else list(drawn)
        for old, new, places in zip(before, after, measured, strict=True):
            total += float((new - old)[places].abs().double().square().sum())
    count = sum(int(places.sum()) for places in measured)
    return total / VARIANCE_DRAWS / max(1, count)


def _measured_places(clean: Any, physics: Any) -> list[Tensor]:
    """Where numbers of ``clean``, or of each of a list of such, are measured: where some image is
    not zero. A count of no photon is a measurement too; what a mask leaves out is none."""
    generator = torch.Generator().manual_seed(0)

    def random(part: Tensor) -> Tensor:
        return torch.randn(part.shape, generator=generator).to(part)

    is_one = isinstance(clean, Tensor)
    parts = random(clean) if is_one else TensorList([random(part) for part in clean])
    seen = physics.A(physics.A_adjoint(parts))
    return [part != 0 for part in ([seen] if is_one else seen)]


# ----------------------------------------------------------------------------------------- models


def _is_stack(physics: Any) -> bool:
    return "Stacked" in type(physics).__name__ and hasattr(physics, "physics_list")


def _models(physics: Any) -> list[Any]:
    """The noise model; of a stack, those of its parts."""
    if _is_stack(physics):
        return [model for part in physics.physics_list for model in _models(part)]
    return [getattr(physics, "noise_model", None)]


def _with_model(physics: Any, model: Any) -> Any:
    """The operator with another noise model; a stack has one of the list for each part."""
    out = variant(physics)
    if _is_stack(physics):
        parts = list(physics.physics_list)
        models = list(model) if isinstance(model, list) else [model] * len(parts)
        pairs = zip(parts, models, strict=True)
        out.physics_list = nn.ModuleList([_with_model(part, one) for part, one in pairs])
        return out
    model = model[0] if isinstance(model, list) else model
    # A plain function may be a noise model too, which torch refuses in the place of a module.
    out._modules.pop("noise_model", None)
    out.__dict__.pop("noise_model", None)
    if isinstance(model, nn.Module):
        out.noise_model = model
    else:
        out.__dict__["noise_model"] = model
    return out


def _model_of(given: Any) -> Any:
    """A noise model; a number is a standard deviation."""
    if isinstance(given, (int, float, Tensor)) and not isinstance(given, bool):
        sigma = torch.as_tensor(given, dtype=torch.float64).flatten()
        if not bool((sigma.isfinite() & (sigma >= 0)).all()):
            raise ArgumentError(
                f"noise must be a standard deviation ≥ 0 in the units of y, got {given}"
            )
        return GaussianNoise(sigma[0] if len(sigma) == 1 else sigma)
    if callable(given):
        return given
    raise ArgumentError(
        f"noise must be a standard deviation, a deepinv noise model or a function, got {given!r}"
    )


def _is_none(model: Any) -> bool:
    if type(model) is GaussianNoise:
        return not bool(model.sigma.any())
    return type(model) is ZeroNoise


class _Multiplied(nn.Module):
    """The noise of y / factor, times factor."""

    def __init__(self, model: Any, factor: float):
        super().__init__()
        self.model = model
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        drawn: Tensor = self.model(x / self.factor) * self.factor
        return drawn


def _times(model: Any, factor: float) -> Any:
    """The noise model of measurements that are multiplied by ``factor``."""
    if type(model) is GaussianNoise:
        return GaussianNoise(model.sigma * abs(factor))
    return _Multiplied(model, factor)


def _drawing(model: Any, generator: torch.Generator) -> Callable[[Tensor], Tensor]:
    """The noise model, drawing from ``generator`` where it is known how."""
    if isinstance(model, _Multiplied):
        inner = _drawing(model.model, generator)
        return lambda x: inner(x / model.factor) * model.factor
    if type(model) is GaussianNoise:

        def gaussian(x: Tensor) -> Tensor:
            w = torch.randn(x.shape, generator=generator, dtype=torch.float64)
            return x + (per_sample(model.sigma.double().cpu(), w) * w).to(x)

        return gaussian
    if type(model) is PoissonNoise:

        def poisson(x: Tensor) -> Tensor:
            exact = x.detach().double().cpu()
            gain = per_sample(model.gain.double().cpu(), exact)
            counts = torch.poisson((exact / gain).clamp_min(0), generator=generator)
            return (counts * gain if bool(model.normalize) else counts).to(x)

        return poisson
    drawing: Callable[[Tensor], Tensor] = model
    return drawing
