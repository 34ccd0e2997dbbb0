"""Equipoise learns to reconstruct images from incomplete, noisy measurements alone.

Names are imported when they are first used, so that the command line answers at once.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .equilibrium import (
        GMRES,
        Anderson,
        Broyden,
        Equilibrium,
        EquilibriumError,
        EquilibriumWarning,
        Implicit,
        JacobianFree,
        Neumann,
        Phantom,
        Picard,
        Status,
        Stop,
        Unrolled,
        fixed_point,
        solve,
    )
    from .imaging.groups import Reflections, Rotations, Shifts
    from .imaging.phantoms import phantoms
    from .imaging.tomography import FanBeam, ParallelBeam
    from .learning.objectives import Equivariance, MeasurementConsistency, Supervised
    from .reconstruction.contraction import JacobianPenalty
    from .reconstruction.denoisers import ConvDenoiser, load_denoiser
    from .reconstruction.model import EquilibriumReconstructor
    from .reconstruction.steps import GradientStep, ProximalStep
    from .runs import load_run

__version__ = "0.1.0"

_HOME = {
    "equilibrium": (
        "GMRES Anderson Broyden Equilibrium EquilibriumError EquilibriumWarning Implicit JacobianFree Neumann Phantom Picard "
        "Status Stop Unrolled fixed_point solve"
    ),
    "imaging.groups": "Reflections Rotations Shifts",
    "imaging.phantoms": "phantoms",
    "imaging.tomography": "FanBeam ParallelBeam",
    "learning.objectives": "Equivariance MeasurementConsistency Supervised",
    "reconstruction.contraction": "JacobianPenalty",
    "reconstruction.denoisers": "ConvDenoiser load_denoiser",
    "reconstruction.model": "EquilibriumReconstructor",
    "reconstruction.steps": "GradientStep ProximalStep",
    "runs": "load_run",
}
_WHERE = {name: module for module, names in _HOME.items() for name in names.split()}

__all__ = [
    "GMRES",
    "Anderson",
    "Broyden",
    "ConvDenoiser",
    "Equilibrium",
    "EquilibriumError",
    "EquilibriumReconstructor",
    "EquilibriumWarning",
    "Equivariance",
    "FanBeam",
    "GradientStep",
    "Implicit",
    "JacobianFree",
    "JacobianPenalty",
    "MeasurementConsistency",
    "Neumann",
    "ParallelBeam",
    "Phantom",
    "Picard",
    "ProximalStep",
    "Reflections",
    "Rotations",
    "Shifts",
    "Status",
    "Stop",
    "Supervised",
    "Unrolled",
    "fixed_point",
    "load_denoiser",
    "load_run",
    "phantoms",
    "solve",
]


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        value = getattr(importlib.import_module(f".{_WHERE[name]}", __name__), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'equipoise' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_WHERE])
