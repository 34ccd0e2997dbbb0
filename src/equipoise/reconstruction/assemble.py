"""For build.py alone, until it goes: models from the configuration of release 0.1."""

from __future__ import annotations

from typing import Any

import torch

from .model import EquilibriumReconstructor, ModelSettings, denoiser_config
from .settings import ProximalSettings, REDSettings, model_section_of_release_0_1

__all__ = ["MIN_STRENGTH", "build_denoiser", "build_gradient", "build_model", "denoiser_config"]

MIN_STRENGTH = (ProximalSettings.smallest_strength, REDSettings.smallest_strength)


def _settings(config: Any) -> ModelSettings:
    tree = model_section_of_release_0_1(config.model_dump(), lenient=True)
    return ModelSettings.model_validate(tree)


def build_denoiser(
    config: Any, channels: int, seed: int = 0, shape: dict[str, Any] | None = None
) -> torch.nn.Module:
    return _settings(config).make_denoiser(channels, seed, shape)


def build_gradient(config: Any) -> Any:
    return _settings(config).gradient.make()


def build_model(
    config: Any, channels: int, noise: float, seed: int = 0, denoiser: dict[str, Any] | None = None
) -> EquilibriumReconstructor:
    return _settings(config).make(channels, noise, seed, denoiser)
