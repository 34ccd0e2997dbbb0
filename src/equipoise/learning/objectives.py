"""Until ``equipoise/__init__.py`` names ``learning.losses``: the losses under their old address."""

from .losses import (
    Equivariance,
    MeasurementConsistency,
    MultiOperator,
    Recorrupted,
    Splitting,
    Supervised,
    Weighted,
)

__all__ = [
    "Equivariance",
    "MeasurementConsistency",
    "MultiOperator",
    "Recorrupted",
    "Splitting",
    "Supervised",
    "Weighted",
]
