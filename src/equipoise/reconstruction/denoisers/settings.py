"""The settings of the denoisers: which one a model starts from."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BeforeValidator, Field
from safetensors import SafetensorError

from ...errors import UserError
from ...settings import Settings
from ..kinds import named_or
from .borrowed import deepinv_unet_of, drunet_of
from .weights import load_denoiser, make_denoiser


class ShippedSettings(Settings):
    """The chain of convolutions that comes with the package."""

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


class BorrowedSettings(Settings):
    """A network of deepinv's, with weights from a file."""

    path: Path = Field(description="weights for grey images: .pth, .pt or .safetensors")

    def _network(self) -> Any:
        raise NotImplementedError

    def make(self, seed: int = 0) -> Any:
        """
        Raises:
            UserError: the file is not there, or holds the weights of another network.
        """
        try:
            return self._network()
        except ValueError as error:
            raise UserError(f"model.denoiser: {error}") from error
        except (SafetensorError, pickle.UnpicklingError, RuntimeError, OSError, EOFError) as error:
            raise UserError(
                f"model.denoiser: {self.path}: cannot be read as the weights of a network "
                f"({type(error).__name__}: {str(error)[:200]}); save them with torch.save or "
                "safetensors"
            ) from error


class DRUNetSettings(BorrowedSettings):
    """deepinv's DRUNet, with weights from a file."""

    kind: Literal["drunet"] = "drunet"

    def _network(self) -> Any:
        return drunet_of(self.path)


class DeepinvUNetSettings(BorrowedSettings):
    """deepinv's U-Net, with weights from a file."""

    kind: Literal["deepinv_unet"] = "deepinv_unet"

    def _network(self) -> Any:
        return deepinv_unet_of(self.path)


#: What a word may mean beside a file's path.
KINDS = ("shipped", "unet", "random", "drunet", "deepinv_unet")


def _kind_or_path(value: Any) -> Any:
    """A word that is no kind is a file's path."""
    if isinstance(value, str) and value not in KINDS:
        return {"kind": "file", "path": value}
    return named_or("unet")(value)


DenoiserChoice = Annotated[
    ShippedSettings
    | UNetSettings
    | RandomSettings
    | DenoiserFileSettings
    | DRUNetSettings
    | DeepinvUNetSettings,
    Field(discriminator="kind"),
    BeforeValidator(_kind_or_path),
]
