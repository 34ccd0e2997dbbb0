"""The settings of a model, each beside what it makes."""

from .denoisers.settings import (
    DenoiserChoice,
    DenoiserFileSettings,
    RandomSettings,
    ShippedSettings,
    UNetSettings,
)
from .earlier import model_section_of_release_0_1
from .model import ModelSettings, denoiser_config
from .solving import (
    AndersonSettings,
    BroydenSettings,
    GradientChoice,
    ImplicitSettings,
    JacobianFreeSettings,
    NeumannSettings,
    PhantomSettings,
    PicardSettings,
    SolverChoice,
    UnrolledSettings,
)
from .steps.settings import (
    ADMMSettings,
    DouglasRachfordSettings,
    GradientSettings,
    MirrorSettings,
    Precision,
    PrimalDualSettings,
    ProximalSettings,
    REDSettings,
    StepChoice,
)

__all__ = [
    "ADMMSettings",
    "AndersonSettings",
    "BroydenSettings",
    "DenoiserChoice",
    "DenoiserFileSettings",
    "DouglasRachfordSettings",
    "GradientChoice",
    "GradientSettings",
    "ImplicitSettings",
    "JacobianFreeSettings",
    "MirrorSettings",
    "ModelSettings",
    "NeumannSettings",
    "PhantomSettings",
    "PicardSettings",
    "Precision",
    "PrimalDualSettings",
    "ProximalSettings",
    "REDSettings",
    "RandomSettings",
    "ShippedSettings",
    "SolverChoice",
    "StepChoice",
    "UNetSettings",
    "UnrolledSettings",
    "denoiser_config",
    "model_section_of_release_0_1",
]
