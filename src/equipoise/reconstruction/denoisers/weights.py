"""Denoisers from and to files: weights as safetensors, with the architecture in the header."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any

from .borrowed import DeepinvUNet, DRUNet
from .networks import ConvDenoiser, UNet
from .proximal import ProximalNetwork

ARCHITECTURES: dict[str, Any] = {
    "conv": ConvDenoiser,
    "unet": UNet,
    "proximal": ProximalNetwork,
    "drunet": DRUNet,
    "deepinv_unet": DeepinvUNet,
}
SHIPPED = {"shipped": "denoiser", "unet": "unet"}  #: names of what comes with the package


def make_denoiser(config: dict[str, Any]) -> Any:
    """A denoiser of the architecture and the shape in ``config``, as networks have in theirs."""
    shape = dict(config)
    return ARCHITECTURES[shape.pop("architecture", "conv")](**shape)


def shipped_path(name: str = "shipped") -> Path:
    """The file of a denoiser that comes with the package."""
    return Path(str(resources.files("equipoise") / "weights" / f"{SHIPPED[name]}.safetensors"))


def save_denoiser(denoiser: Any, path: str | Path, about: dict[str, str]) -> None:
    """Weights as safetensors; its configuration, and ``about`` what made them, in the header."""
    from safetensors.torch import save_file

    state = {name: value.contiguous() for name, value in denoiser.state_dict().items()}
    save_file(state, str(path), {"config": json.dumps(denoiser.config), **about})


def load_denoiser(path: str | Path | None = None) -> Any:
    """The denoiser in ``path``, or one that comes with the package: "shipped" (default), "unet".

    Raises:
        FileNotFoundError: there is no such file.
    """
    from safetensors import safe_open

    if path is None or str(path) in SHIPPED:
        path = shipped_path(str(path or "shipped"))
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no denoiser weights there; make them with: equipoise pretrain --out {path}"
        )
    with safe_open(str(path), "pt") as file:
        denoiser = make_denoiser(json.loads(file.metadata()["config"]))
        names = file.keys()
        denoiser.load_state_dict({name: file.get_tensor(name) for name in names})
    return denoiser
