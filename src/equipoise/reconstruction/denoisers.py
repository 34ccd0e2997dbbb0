"""D_θ: the backbones, and the weights that are shipped with the package."""

from __future__ import annotations

import json
from functools import partial
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from deepinv.models import Denoiser
from torch import Tensor, nn

from ..imaging.groups import Group


def channels_last(x: Tensor) -> Tensor:
    """x (B, C, H, W), the same values with the channels stored last: on CPUs, convolutions then take half the time, and
    what follows keeps the layout. One channel makes no difference in memory, but the strides must tell."""
    if x.ndim != 4 or x.device.type != "cpu":
        return x
    if x.shape[1] == 1:
        return x.reshape(x.shape[0], *x.shape[2:], 1).permute(0, 3, 1, 2)
    return x.contiguous(memory_format=torch.channels_last)


class ConvDenoiser(Denoiser):
    """A small convolutional denoiser, ``D(x, σ) = x − R(x, σ)``, R ``layers`` convolutions of ``channels`` channels.

    The noise level enters as a learnt bias in proportion to σ. Activations are SiLU, so that the map has a smooth
    Jacobian.

    Args:
        in_channels: 1 for real images, 2 for complex ones (real and imaginary part).
        channels: width.
        layers: depth, at least 2.
    """

    def __init__(self, in_channels: int = 1, channels: int = 32, layers: int = 6):
        super().__init__()
        if layers < 2:
            raise ValueError(f"layers must be at least 2, got {layers}")
        self.config = {"architecture": "conv", "in_channels": in_channels, "channels": channels, "layers": layers}
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


class UNet(Denoiser):
    """A small U-Net, ``D(x, σ) = x − R(x, σ)``: each of ``scales`` has half the size and twice the ``channels`` of the one above.

    SiLU, average pooling and bilinear interpolation keep the map smooth; the noise level enters as in :class:`ConvDenoiser`.
    Images whose sides are no multiple of 2^(scales − 1) are padded by reflection.
    """

    def __init__(self, in_channels: int = 1, channels: int = 16, scales: int = 3):
        super().__init__()
        if scales < 2:
            raise ValueError(f"scales must be at least 2, got {scales}")
        self.config = {"architecture": "unet", "in_channels": in_channels, "channels": channels, "scales": scales}
        widths = [channels * 2**k for k in range(scales)]
        self.down = nn.ModuleList(self._block(a, b) for a, b in pairwise([in_channels, *widths]))
        self.up = nn.ModuleList(self._block(a + b, b) for b, a in pairwise(widths))
        self.last = nn.Conv2d(channels, in_channels, 3, padding=1)
        self.noise = nn.ParameterList(torch.zeros(w) for w in widths)
        with torch.no_grad():
            self.last.weight.mul_(0.1)

    @staticmethod
    def _block(a: int, b: int) -> nn.ModuleList:
        return nn.ModuleList([nn.Conv2d(a, b, 3, padding=1), nn.Conv2d(b, b, 3, padding=1)])

    def forward(self, x: Tensor, sigma: float | Tensor = 0.05) -> Tensor:
        """x (B, C, H, W) in [0, 1] plus noise of standard deviation ``sigma`` (a number, or (B,))."""
        if isinstance(sigma, Tensor):
            sigma = sigma.to(x).reshape(-1, 1, 1, 1)
        rows, columns = x.shape[-2:]
        multiple = 2 ** (len(self.down) - 1)
        h = nn.functional.pad(x, (0, -columns % multiple, 0, -rows % multiple), mode="reflect")
        h, kept, silu = channels_last(h), [], nn.functional.silu
        block: Any
        for i, block in enumerate(self.down):
            h = silu(block[0](nn.functional.avg_pool2d(h, 2) if i else h) + (10 * sigma) * self.noise[i][:, None, None])
            h = silu(block[1](h))
            kept.append(h)
        for i in range(len(self.up) - 1, -1, -1):
            h = nn.functional.interpolate(h, scale_factor=2, mode="bilinear", align_corners=False)
            block = self.up[i]
            h = silu(block[1](silu(block[0](torch.cat([h, kept[i]], 1)))))
        return x - self.last(h)[..., :rows, :columns]


class ProximalNetwork(Denoiser):
    """A learned proximal network: D = ∇ψ, ψ strongly convex (Fang, Buchanan and Sulam, ICLR 2024).

    D is then the proximal map of a prior whose value :meth:`prior` gives: its Jacobian is symmetric and positive definite by
    construction. ψ(x) = ½α‖x‖² + ½‖Q x‖² + Σ z, Q a convolution and z the last layer of an input-convex network: weights
    between layers are squares, activations softplus.

    Args:
        in_channels: as for :class:`ConvDenoiser`, and so are ``channels`` and ``layers``.
        convexity: α > 0.
    """

    def __init__(self, in_channels: int = 1, channels: int = 32, layers: int = 4, convexity: float = 0.1):
        super().__init__()
        if not 0 < convexity < 1:
            raise ValueError(f"convexity must be in (0, 1), got {convexity}")
        self.config = {"architecture": "proximal", "in_channels": in_channels, "channels": channels, "layers": layers}
        self.config |= {"convexity": convexity}
        self.convexity = convexity
        self.Q = nn.Conv2d(in_channels, channels, 5, padding=2, bias=False)
        self.inputs = nn.ModuleList(nn.Conv2d(in_channels, channels, 3, padding=1) for _ in range(layers))
        self.between = nn.ParameterList(0.02 * torch.randn(channels, channels, 3, 3) for _ in range(layers - 1))
        self.last = nn.Parameter(torch.full((channels,), 0.02))
        self.noise = nn.Parameter(torch.zeros(2, channels))
        with torch.no_grad():  # D starts as the identity, nearly
            self.Q.weight.mul_(0.01)
            for c in range(in_channels):
                self.Q.weight[c, c, 2, 2] = (1 - convexity) ** 0.5

    def potential(self, x: Tensor, sigma: float | Tensor = 0.05) -> Tensor:
        """ψ(x): (B,)."""
        if isinstance(sigma, Tensor):
            sigma = sigma.to(x).reshape(-1, 1, 1, 1)
        softplus = partial(nn.functional.softplus, beta=10)
        level = 10 * sigma
        z = softplus(self.inputs[0](x) + level * self.noise[0][:, None, None])
        for layer, weight in zip(list(self.inputs)[1:], self.between):
            z = softplus(layer(x) + nn.functional.conv2d(z, weight.square(), padding=1))
        q = self.Q(x) * torch.exp(level * self.noise[1][:, None, None])
        total = (z * self.last.square()[:, None, None]).flatten(1).sum(1) + 0.5 * q.square().flatten(1).sum(1)
        return total + 0.5 * self.convexity * x.square().flatten(1).sum(1)

    def forward(self, x: Tensor, sigma: float | Tensor = 0.05) -> Tensor:
        """∇ψ(x), of the shape of x (B, C, H, W)."""
        differentiable = torch.is_grad_enabled()
        with torch.enable_grad():
            x = x if x.requires_grad else x.detach().requires_grad_()
            return torch.autograd.grad(self.potential(x, sigma).sum(), x, create_graph=differentiable)[0]

    def prior(self, x: Tensor, sigma: float | Tensor = 0.05) -> Tensor:
        """φ(D(x)) of the prior φ with D = prox_φ, (B,): ⟨x, D(x)⟩ − ½‖D(x)‖² − ψ(x) (Moreau 1965)."""
        d = self.forward(x, sigma)
        return (x * d - 0.5 * d.square()).flatten(1).sum(1) - self.potential(x, sigma)


class Invariant(Denoiser):
    """The average of T_g⁻¹ D(T_g x) over a finite group: commutes with every T_g by construction, exactly where the group acts
    exactly (quarter turns, reflections). Costs one evaluation of D for each element.

    Args:
        denoiser: D.
        group: with ``elements()``: ``Rotations(multiples=90)``, ``Reflections()``, their product.
    """

    def __init__(self, denoiser: nn.Module, group: Group):
        super().__init__()
        self.denoiser, self.group, self.moves = denoiser, group, group.elements()

    def forward(self, x: Tensor, sigma: float | Tensor = 0.05) -> Tensor:
        if x.shape[-1] != x.shape[-2] and any("theta" in move for move in self.moves):
            raise ValueError(f"images must be square to be turned, got {tuple(x.shape[-2:])}; use Reflections, or pad them")
        frames = x.flatten(1, -3)  # of a sequence, all frames move alike
        total = torch.zeros_like(x)
        for move in self.moves:
            moved = self.denoiser(self.group.transform(frames, **move).reshape(x.shape), sigma)
            total = total + self.group.inverse(moved.reshape(frames.shape), True, **move).reshape(x.shape)
        return total / len(self.moves)


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


ARCHITECTURES: dict[str, Any] = {"conv": ConvDenoiser, "unet": UNet, "proximal": ProximalNetwork}
SHIPPED = {"shipped": "denoiser", "unet": "unet"}  #: names of what comes with the package


def make_denoiser(config: dict[str, Any]) -> Any:
    """A denoiser of the architecture and shape that its ``config`` tells."""
    config = dict(config)
    return ARCHITECTURES[config.pop("architecture", "conv")](**config)


def shipped_path(name: str = "shipped") -> Path:
    return Path(str(resources.files("equipoise") / "weights" / f"{SHIPPED[name]}.safetensors"))


def save_denoiser(denoiser: Any, path: str | Path, about: dict[str, str]) -> None:
    """Weights as safetensors, with the configuration and what made them in the header."""
    from safetensors.torch import save_file

    state = {k: v.contiguous() for k, v in denoiser.state_dict().items()}
    save_file(state, str(path), {"config": json.dumps(denoiser.config), **about})


def load_denoiser(path: str | Path | None = None) -> Any:
    """The denoiser in ``path``, or one that comes with the package (made by ``equipoise pretrain``): ``"shipped"`` (default)
    or ``"unet"``."""
    from safetensors import safe_open

    path = shipped_path(str(path or "shipped")) if path is None or str(path) in SHIPPED else Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no denoiser weights there; make them with: equipoise pretrain --out {path}")
    with safe_open(str(path), "pt") as f:
        denoiser = make_denoiser(json.loads(f.metadata()["config"]))
        denoiser.load_state_dict({k: f.get_tensor(k) for k in f.keys()})  # noqa: SIM118
    return denoiser
