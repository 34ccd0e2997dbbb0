"""D_θ: the backbones, and the weights that are shipped with the package."""

from __future__ import annotations

import json
from importlib import resources
from itertools import pairwise
from pathlib import Path

import torch
from deepinv.models import Denoiser
from torch import Tensor, nn


def channels_last(x: Tensor) -> Tensor:
    """x (B, C, H, W), the same values with the channels stored last: on CPUs, convolutions then take half the time, and
    what follows keeps the layout. One channel makes no difference in memory, but the strides must tell."""
    if x.ndim != 4 or x.device.type != "cpu":
        return x
    if x.shape[1] == 1:
        return x.reshape(len(x), *x.shape[2:], 1).permute(0, 3, 1, 2)
    return x.contiguous(memory_format=torch.channels_last)


class ConvDenoiser(Denoiser):
    """A small convolutional denoiser, ``D(x, σ) = x − R(x, σ)``, R ``layers`` convolutions of ``channels`` channels.

    The noise level enters as a learnt bias in proportion to σ. Activations are SiLU, so that the map has a smooth
    Jacobian.

    Args:
        in_channels: 1 for real images, 2 for complex ones (real and imaginary part).
        channels, layers: width and depth.
    """

    def __init__(self, in_channels: int = 1, channels: int = 32, layers: int = 6):
        super().__init__()
        if layers < 2:
            raise ValueError(f"layers must be at least 2, got {layers}")
        self.config = {"in_channels": in_channels, "channels": channels, "layers": layers}
        widths = [in_channels, *[channels] * (layers - 1), in_channels]
        convolutions = [nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(widths)]
        self.convolutions = nn.ModuleList(convolutions)
        self.noise = nn.Parameter(torch.zeros(channels))
        with torch.no_grad():
            convolutions[-1].weight.mul_(0.1)

    def forward(self, x: Tensor, sigma: float | Tensor = 0.05) -> Tensor:
        """x (B, C, H, W) in [0, 1] plus noise of standard deviation ``sigma`` (a number, or (B,))."""
        if isinstance(sigma, Tensor):
            sigma = sigma.to(x).reshape(-1, 1, 1, 1)
        h, last = channels_last(x), len(self.convolutions) - 1
        for i, convolution in enumerate(self.convolutions):
            h = convolution(h)
            if i == 0:
                h = h + (10 * sigma) * self.noise[:, None, None]
            if i < last:
                h = nn.functional.silu(h)
        return x - h


class ComplexDenoiser(Denoiser):
    """A real denoiser applied to the real and the imaginary part of (B, 2, H, W), each as an image of its own; likewise to
    every frame of a sequence (B, 2, T, H, W).

    They lie in [−1, 1], the denoiser knows [0, 1]: D_c(x, σ) = 2 D((x + 1) / 2, σ / 2) − 1.
    """

    def __init__(self, denoiser: nn.Module):
        super().__init__()
        self.denoiser = denoiser

    def forward(self, x: Tensor, sigma: float | Tensor = 0.05) -> Tensor:
        parts = x.reshape(-1, 1, *x.shape[-2:])
        if isinstance(sigma, Tensor) and sigma.numel() == len(x):
            sigma = sigma.flatten().repeat_interleave(len(parts) // len(x))
        parts = self.denoiser(parts / 2 + 0.5, sigma / 2)
        return (2 * parts - 1).reshape(x.shape)


def shipped_path() -> Path:
    return Path(str(resources.files("equipoise") / "weights" / "denoiser.safetensors"))


def save_denoiser(denoiser: ConvDenoiser, path: str | Path, about: dict[str, str]) -> None:
    """Weights as safetensors, with the configuration and what made them in the header."""
    from safetensors.torch import save_file

    state = {k: v.contiguous() for k, v in denoiser.state_dict().items()}
    save_file(state, str(path), {"config": json.dumps(denoiser.config), **about})


def load_denoiser(path: str | Path | None = None) -> ConvDenoiser:
    """The denoiser in ``path``, or the one shipped with the package (made by ``equipoise pretrain``)."""
    from safetensors import safe_open

    path = shipped_path() if path is None else Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no denoiser weights there; make them with: equipoise pretrain --out {path}")
    with safe_open(str(path), "pt") as f:
        denoiser = ConvDenoiser(**json.loads(f.metadata()["config"]))
        denoiser.load_state_dict({k: f.get_tensor(k) for k in f.keys()})  # noqa: SIM118
    return denoiser
