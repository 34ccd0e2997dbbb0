"""deepinv's networks, with weights from a file; their shapes are read from the weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import deepinv.models
import torch
from torch import Tensor, nn

#: What stands around a network's weights in files of other programs.
WRAPPERS = ("state_dict", "params", "model")


class DRUNet(deepinv.models.DRUNet):
    """deepinv's DRUNet (Zhang et al., "Plug-and-play image restoration with deep denoiser prior",
    IEEE TPAMI 2022).

    Images whose sides are no multiple of 8, or less than 32, are padded by repetition: deepinv
    cuts those of more than 64 pixels into pieces, and f would not be one map.

    Args:
        in_channels: 1 for real images.
        widths: channels of each of the four scales.
        blocks: residual blocks at each scale.
    """

    def __init__(
        self,
        in_channels: int = 1,
        widths: tuple[int, ...] = (64, 128, 256, 512),
        blocks: int = 4,
    ):
        super().__init__(in_channels, in_channels, nc=tuple(widths), nb=blocks, pretrained=None)
        self.config = {
            "architecture": "drunet",
            "in_channels": in_channels,
            "widths": list(widths),
            "blocks": blocks,
        }

    def forward(self, x: Tensor, sigma: float | Tensor = 0.05) -> Tensor:
        """x (B, C, H, W) in [0, 1] plus noise of standard deviation ``sigma``: number, or (B,)."""
        rows, columns = x.shape[-2:]
        missing = [max(32, side + -side % 8) - side for side in (columns, rows)]
        padded = nn.functional.pad(x, (0, missing[0], 0, missing[1]), mode="replicate")
        out: Tensor = super().forward(padded, sigma)
        return out[..., :rows, :columns]


class DeepinvUNet(deepinv.models.UNet):
    """deepinv's U-Net, without batch normalisation. It does not know the noise level.

    Args:
        in_channels: 1 for real images.
        widths: channels of each scale.
    """

    def __init__(self, in_channels: int = 1, widths: tuple[int, ...] = (64, 128, 256, 512)):
        super().__init__(
            in_channels, in_channels, batch_norm=False, channels_per_scale=tuple(widths)
        )
        self.config = {
            "architecture": "deepinv_unet",
            "in_channels": in_channels,
            "widths": list(widths),
        }


def drunet_of(file: Path) -> DRUNet:
    """The network that a file of weights belongs to, with these weights.

    Raises:
        ValueError: they are of another network, or of colour images.
    """
    weights = read_weights(file)
    head = _required(weights, "m_head.weight", file)
    body = [f"m_down{k}" for k in (1, 2, 3)]
    blocks = sum(name.startswith("m_body.") and name.endswith("res.0.weight") for name in weights)
    downs = [_required(weights, f"{name}.{blocks}.weight", file) for name in body]
    widths = (head.shape[0], *(down.shape[0] for down in downs))
    _check_grey(head.shape[1] - 1, file)
    network = DRUNet(1, widths, blocks)
    network.load_state_dict(weights)
    return network


def deepinv_unet_of(file: Path) -> DeepinvUNet:
    """The same for the U-Net.

    Raises:
        ValueError: they are of another network, of colour images, or have batch normalisation.
    """
    weights = read_weights(file)
    first = _required(weights, "Conv1.0.weight", file)
    _check_grey(first.shape[1], file)
    if any("running_mean" in name for name in weights):
        raise ValueError(
            f"{file}: has batch normalisation, which makes the samples of a batch depend on each "
            "other; train the network with batch_norm=False"
        )
    scales = [name for name in (f"Conv{k}.0.weight" for k in range(1, 10)) if name in weights]
    network = DeepinvUNet(1, tuple(weights[name].shape[0] for name in scales))
    network.load_state_dict(weights)
    return network


def read_weights(file: Path) -> dict[str, Tensor]:
    """Tensors by name, of safetensors or of what ``torch.save`` wrote; nothing is unpickled.

    Raises:
        ValueError: it holds no weights.
    """
    if file.suffix.lower() == ".safetensors":
        from safetensors.torch import load_file

        return load_file(str(file))
    found: Any = torch.load(file, map_location="cpu", weights_only=True)
    for name in WRAPPERS:
        if isinstance(found, Mapping) and isinstance(found.get(name), Mapping):
            found = found[name]
    if not isinstance(found, Mapping) or not all(isinstance(v, Tensor) for v in found.values()):
        raise ValueError(f"{file}: holds {type(found).__name__}, not the weights of a network")
    return {str(name).removeprefix("module."): value for name, value in found.items()}


def _required(weights: Mapping[str, Tensor], name: str, file: Path) -> Tensor:
    if name not in weights:
        raise ValueError(f"{file}: has no {name}: these are the weights of another network")
    return weights[name]


def _check_grey(channels: int, file: Path) -> None:
    if channels != 1:
        raise ValueError(
            f"{file}: is for images of {channels} channels, and 1 is needed (grey values; the "
            "parts of complex images are denoised one by one); take the weights for grey images"
        )
