"""The settings of the denoisers: which one a model starts from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BeforeValidator, Field
from safetensors import SafetensorError

from ...errors import UserError
from ...settings import Settings
from ..kinds import named_or
from .weights import load_denoiser, make_denoiser


class ShippedSettings(Settings):
    """The network that comes with the package."""

    kind: Literal["shipped"] = "shipped"

    def make(self, seed: int = 0) -> Any:
        return load_denoiser("shipped")


class UNetSettings(Settings):
    """The U-Net that comes with the package."""

    kind: Literal["unet"] = "unet"

    def make(self, seed: int = 0) -> Any:
        return load_denoiser("unet")


class RandomSettings(Settings):
    """A network that nobody has trained."""

    kind: Literal["random"] = "random"
    channels: int = Field(32, ge=1, description="width of a random denoiser")
    layers: int = Field(6, ge=2, description="depth of a random denoiser")

    def make(self, seed: int = 0) -> Any:
        """The same weights for the same ``seed``, which also seeds torch's generator."""
        torch.manual_seed(seed)
        return make_denoiser({"channels": self.channels, "layers": self.layers})


class DenoiserFileSettings(Settings):
    """A file made by `equipoise pretrain`."""

    kind: Literal["file"] = "file"
    path: Path = Field(description="a file made by `equipoise pretrain`")

    def make(self, seed: int = 0) -> Any:
        """
        Raises:
            UserError: it is not there, or holds no denoiser.
        """
        try:
            return load_denoiser(self.path)
        except FileNotFoundError as error:
            raise UserError(f"model.denoiser: {error}") from error
        except (SafetensorError, KeyError, ValueError, TypeError, RuntimeError, OSError) as error:
            # A header may hold anything: no configuration, one of another program, other shapes.
            raise UserError(
                f"model.denoiser: {self.path} is not a denoiser made by `equipoise pretrain`, or "
                f"it is cut short ({type(error).__name__}: {str(error)[:200]}); make one with: "
                "equipoise pretrain --out FILE"
            ) from error


def _kind_or_path(value: Any) -> Any:
    """A word that is no kind is a file's path."""
    if isinstance(value, str) and value not in ("shipped", "unet", "random"):
        return {"kind": "file", "path": value}
    return named_or("shipped")(value)


DenoiserChoice = Annotated[
    ShippedSettings | UNetSettings | RandomSettings | DenoiserFileSettings,
    Field(discriminator="kind"),
    BeforeValidator(_kind_or_path),
]
