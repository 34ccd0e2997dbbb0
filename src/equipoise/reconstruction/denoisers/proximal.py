"""A denoiser that is a proximal map by construction."""

from __future__ import annotations

from functools import partial

import torch
from deepinv.models import Denoiser
from torch import Tensor, nn

from .networks import noise_level


class ProximalNetwork(Denoiser):
    """A learned proximal network: D = ∇ψ, ψ strongly convex (Fang, Buchanan, Sulam, ICLR 2024).

    D is then the proximal map of a prior whose value :meth:`prior` gives: its Jacobian is symmetric
    and positive definite by construction. ψ(x) = ½α‖x‖² + ½‖Q x‖² + Σ z, Q a convolution and z the
    last layer of an input-convex network: weights between layers are squares, activations softplus.

    Args:
        in_channels: 1 for real images, 2 for complex ones (real and imaginary part).
        channels: width.
        layers: depth.
        convexity: α in (0, 1).
    """

    def __init__(
        self, in_channels: int = 1, channels: int = 32, layers: int = 4, convexity: float = 0.1
    ):
        super().__init__()
        if not 0 < convexity < 1:
            raise ValueError(f"convexity must be in (0, 1), got {convexity}")
        self.config = {
            "architecture": "proximal",
            "in_channels": in_channels,
            "channels": channels,
            "layers": layers,
            "convexity": convexity,
        }
        self.convexity = convexity
        self.Q = nn.Conv2d(in_channels, channels, 5, padding=2, bias=False)
        self.inputs = nn.ModuleList(
            nn.Conv2d(in_channels, channels, 3, padding=1) for _ in range(layers)
        )
        self.between = nn.ParameterList(
            0.02 * torch.randn(channels, channels, 3, 3) for _ in range(layers - 1)
        )
        self.last = nn.Parameter(torch.full((channels,), 0.02))
        self.noise = nn.Parameter(torch.zeros(2, channels))
        with torch.no_grad():  # D starts as the identity, nearly
            self.Q.weight.mul_(0.01)
            for c in range(in_channels):
                self.Q.weight[c, c, 2, 2] = (1 - convexity) ** 0.5

    def potential(self, x: Tensor, sigma: float | Tensor = 0.05) -> Tensor:
        """ψ(x): (B,)."""
        softplus = partial(nn.functional.softplus, beta=10)
        level = 10 * noise_level(sigma, x)
        z = softplus(self.inputs[0](x) + level * self.noise[0][:, None, None])
        for layer, weight in zip(list(self.inputs)[1:], self.between):
            z = softplus(layer(x) + nn.functional.conv2d(z, weight.square(), padding=1))
        q = self.Q(x) * torch.exp(level * self.noise[1][:, None, None])
        last = (z * self.last.square()[:, None, None]).flatten(1).sum(1)
        total = last + 0.5 * q.square().flatten(1).sum(1)
        return total + 0.5 * self.convexity * x.square().flatten(1).sum(1)

    def forward(self, x: Tensor, sigma: float | Tensor = 0.05) -> Tensor:
        """∇ψ(x), of the shape of x (B, C, H, W)."""
        differentiable = torch.is_grad_enabled()
        with torch.enable_grad():
            x = x if x.requires_grad else x.detach().requires_grad_()
            total = self.potential(x, sigma).sum()
            return torch.autograd.grad(total, x, create_graph=differentiable)[0]

    def prior(self, x: Tensor, sigma: float | Tensor = 0.05) -> Tensor:
        """φ(D(x)) of the prior φ with D = prox_φ, (B,): ⟨x, D(x)⟩ − ½‖D(x)‖² − ψ(x) (Moreau)."""
        d = self.forward(x, sigma)
        return (x * d - 0.5 * d.square()).flatten(1).sum(1) - self.potential(x, sigma)
