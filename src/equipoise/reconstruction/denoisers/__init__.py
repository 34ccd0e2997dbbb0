"""D_θ: the networks, what wraps them, and the weights that are shipped with the package."""

from .networks import ConvDenoiser, UNet, channels_last
from .proximal import ProximalNetwork
from .weights import (
    ARCHITECTURES,
    SHIPPED,
    load_denoiser,
    make_denoiser,
    save_denoiser,
    shipped_path,
)
from .wrappers import ComplexDenoiser, Invariant, Moved, backbone, is_plain

__all__ = [
    "ARCHITECTURES",
    "SHIPPED",
    "ComplexDenoiser",
    "ConvDenoiser",
    "Invariant",
    "Moved",
    "ProximalNetwork",
    "UNet",
    "backbone",
    "channels_last",
    "is_plain",
    "load_denoiser",
    "make_denoiser",
    "save_denoiser",
    "shipped_path",
]
