"""Equipoise learns to reconstruct images from incomplete, noisy measurements alone.

Names are imported when they are first used, so that the command line answers at once.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .version import __version__ as __version__

if TYPE_CHECKING:
    from .assessment.uncertainty import uncertainty
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
    from .learning.losses import (
        Equivariance,
        JacobianPenalty,
        MeasurementConsistency,
        MultiOperator,
        Recorrupted,
        Splitting,
        Supervised,
    )
    from .reconstruction.contraction import bounded
    from .reconstruction.denoisers import (
        ConvDenoiser,
        Invariant,
        ProximalNetwork,
        UNet,
        load_denoiser,
    )
    from .reconstruction.model import EquilibriumReconstructor
    from .reconstruction.steps import (
        ADMM,
        RED,
        DouglasRachford,
        GradientStep,
        MirrorStep,
        PrimalDual,
        ProximalStep,
    )
    from .run import load_run


_HOME = {
    "assessment.uncertainty": "uncertainty",
    "equilibrium": (
        "GMRES Anderson Broyden Equilibrium EquilibriumError EquilibriumWarning Implicit "
        "JacobianFree Neumann Phantom Picard Status Stop Unrolled fixed_point solve"
    ),
    "imaging.groups": "Reflections Rotations Shifts",
    "imaging.phantoms": "phantoms",
    "imaging.tomography": "FanBeam ParallelBeam",
    "learning.losses": (
        "Equivariance JacobianPenalty MeasurementConsistency MultiOperator Recorrupted Splitting "
        "Supervised"
    ),
    "reconstruction.contraction": "bounded",
    "reconstruction.denoisers": "ConvDenoiser Invariant ProximalNetwork UNet load_denoiser",
    "reconstruction.model": "EquilibriumReconstructor",
    "reconstruction.steps": (
        "ADMM RED DouglasRachford GradientStep MirrorStep PrimalDual ProximalStep"
    ),
    "run": "load_run",
}
_WHERE = {name: module for module, names in _HOME.items() for name in names.split()}

__all__ = [
    "ADMM",
    "GMRES",
    "RED",
    "Anderson",
    "Broyden",
    "ConvDenoiser",
    "DouglasRachford",
    "Equilibrium",
    "EquilibriumError",
    "EquilibriumReconstructor",
    "EquilibriumWarning",
    "Equivariance",
    "FanBeam",
    "GradientStep",
    "Implicit",
    "Invariant",
    "JacobianFree",
    "JacobianPenalty",
    "MeasurementConsistency",
    "MirrorStep",
    "MultiOperator",
    "Neumann",
    "ParallelBeam",
    "Phantom",
    "Picard",
    "PrimalDual",
    "ProximalNetwork",
    "ProximalStep",
    "Recorrupted",
    "Reflections",
    "Rotations",
    "Shifts",
    "Splitting",
    "Status",
    "Stop",
    "Supervised",
    "UNet",
    "Unrolled",
    "bounded",
    "fixed_point",
    "load_denoiser",
    "load_run",
    "phantoms",
    "solve",
    "uncertainty",
]


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        value = getattr(importlib.import_module(f".{_WHERE[name]}", __name__), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'equipoise' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_WHERE])
