"""Convolutional networks that take the noise out of an image, told its level σ."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from deepinv.models import Denoiser
from torch import Tensor, nn


def channels_last(x: Tensor) -> Tensor:
    """x (B, C, H, W), the same values with the channels stored last.

    On CPUs, convolutions then take half the time, and what follows keeps the layout. One channel
    makes no difference in memory, but torch chooses the layout by the strides, so they are set.
    """
    if x.ndim != 4 or x.device.type != "cpu":
        return x
    if x.shape[1] == 1:
        return x.reshape(x.shape[0], *x.shape[2:], 1).permute(0, 3, 1, 2)
    return x.contiguous(memory_format=torch.channels_last)


def noise_level(sigma: float | Tensor, x: Tensor) -> float | Tensor:
    """σ as it multiplies images: a number, or one for each sample, (B, 1, 1, 1)."""
    return sigma.to(x).reshape(-1, 1, 1, 1) if isinstance(sigma, Tensor) else sigma


class ConvDenoiser(Denoiser):
    """D(x, σ) = x − R(x, σ), R a chain of ``layers`` convolutions with ``channels`` channels.

    The noise level enters as a learnt bias in proportion to σ. Activations are SiLU, so that the
    map has a smooth Jacobian.

    Args:
        in_channels: 1 for real images, 2 for complex ones (real and imaginary part).
        channels: width.
        layers: depth, at least 2.
    """

    def __init__(self, in_channels: int = 1, channels: int = 32, layers: int = 6):
        super().__init__()
        if layers < 2:
            raise ValueError(f"layers must be at least 2, got {layers}")
        self.config = {
            "architecture": "conv",
            "in_channels": in_channels,
            "channels": channels,
            "layers": layers,
        }
        widths = [in_channels, *[channels] * (layers - 1), in_channels]
        convolutions = [nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(widths)]
        self.convolutions = nn.ModuleList(convolutions)
        self.noise = nn.Parameter(torch.zeros(channels))
        with torch.no_grad():
            convolutions[-1].weight.mul_(0.1)

    def forward(self, x: Tensor, sigma: float | Tensor = 0.05) -> Tensor:
        """x (B, C, H, W) in [0, 1] plus noise of standard deviation ``sigma``: number, or (B,)."""
        sigma = noise_level(sigma, x)
        h = channels_last(x)
        last = len(self.convolutions) - 1
        for i, convolution in enumerate(self.convolutions):
            h = convolution(h)
            if i == 0:
                h = h + (10 * sigma) * self.noise[:, None, None]
            if i < last:
                h = nn.functional.silu(h)
        return x - h


class Merging(nn.Conv2d):
    """The convolution of the channels of two images, one after the other, as a sum of two.

    The gradient of channels that were laid side by side is a part of a tensor, which torch is slow
    to go on with: a vector–Jacobian product of the U-Net takes two thirds of the time this way.
    """

    def forward(self, first: Tensor, second: Tensor) -> Tensor:  # type: ignore[override]
        weight = self.weight  # computed anew at each look, where it is parametrised
        count = first.shape[1]
        of_first = self._conv_forward(first, weight[:, :count], self.bias)
        of_second = self._conv_forward(second, weight[:, count:], None)
        return of_first + of_second


class UNet(Denoiser):
    """D(x, σ) = x − R(x, σ), R a small U-Net.

    Each of its ``scales`` has half the size and twice the ``channels`` of the one above. SiLU,
    average pooling and bilinear interpolation keep the map smooth; the noise level enters as in
    :class:`ConvDenoiser`. Images whose sides are no multiple of 2^(scales − 1) are padded by
    reflection.

    Args:
        in_channels: 1 for real images, 2 for complex ones (real and imaginary part).
        channels: width at full size.
        scales: how many sizes, at least 2.
    """

    def __init__(self, in_channels: int = 1, channels: int = 16, scales: int = 3):
        super().__init__()
        if scales < 2:
            raise ValueError(f"scales must be at least 2, got {scales}")
        self.config = {
            "architecture": "unet",
            "in_channels": in_channels,
            "channels": channels,
            "scales": scales,
        }
        widths = [channels * 2**k for k in range(scales)]
        self.down = nn.ModuleList(self._block(a, b) for a, b in pairwise([in_channels, *widths]))
        self.up = nn.ModuleList(self._block(a + b, b, Merging) for b, a in pairwise(widths))
        self.last = nn.Conv2d(channels, in_channels, 3, padding=1)
        self.noise = nn.ParameterList(torch.zeros(width) for width in widths)
        with torch.no_grad():
            self.last.weight.mul_(0.1)

    @staticmethod
    def _block(
        inputs: int, outputs: int, convolution: type[nn.Conv2d] = nn.Conv2d
    ) -> nn.ModuleList:
        first = convolution(inputs, outputs, 3, padding=1)
        second = nn.Conv2d(outputs, outputs, 3, padding=1)
        return nn.ModuleList([first, second])

    def forward(self, x: Tensor, sigma: float | Tensor = 0.05) -> Tensor:
        """x (B, C, H, W) in [0, 1] plus noise of standard deviation ``sigma``: number, or (B,)."""
        sigma = noise_level(sigma, x)
        silu = nn.functional.silu
        rows, columns = x.shape[-2:]
        multiple = 2 ** (len(self.down) - 1)
        padding = (0, -columns % multiple, 0, -rows % multiple)
        h = channels_last(nn.functional.pad(x, padding, mode="reflect"))
        scales = []
        block: Any
        for i, block in enumerate(self.down):
            if i > 0:
                h = nn.functional.avg_pool2d(h, 2)
            h = silu(block[0](h) + (10 * sigma) * self.noise[i][:, None, None])
            h = silu(block[1](h))
            scales.append(h)
        for i in range(len(self.up) - 1, -1, -1):
            h = nn.functional.interpolate(h, scale_factor=2, mode="bilinear", align_corners=False)
            block = self.up[i]
            h = silu(block[0](h, scales[i]))
            h = silu(block[1](h))
        return x - self.last(h)[..., :rows, :columns]
