"""The learned steps f_θ(z; y): each reads as its equation."""

from .base import BoundStep, Positive, Step
from .gradient import RED, GradientStep, MirrorStep, PrimalDual
from .proximal import ADMM, DouglasRachford, ProximalStep

__all__ = [
    "ADMM",
    "RED",
    "BoundStep",
    "DouglasRachford",
    "GradientStep",
    "MirrorStep",
    "Positive",
    "PrimalDual",
    "ProximalStep",
    "Step",
]
