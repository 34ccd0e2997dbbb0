"""What turns a denoiser into one for complex images, into one that commutes with a group, or into
one that works on moved images."""

from __future__ import annotations

from typing import Any

import torch
from deepinv.models import Denoiser
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ...imaging.groups import Group
from .networks import ConvDenoiser, UNet


class Invariant(Denoiser):
    """The average of T_g⁻¹ D(T_g x) over a finite group: it commutes with every T_g.

    By construction, and exactly where the group acts exactly (quarter turns, reflections). It costs
    one evaluation of D for each element.

    Args:
        denoiser: D.
        group: with ``elements()``: ``Rotations(multiples=90)``, ``Reflections()``, their product.
    """

    def __init__(self, denoiser: nn.Module, group: Group):
        super().__init__()
        self.denoiser = denoiser
        self.group = group
        self.moves = group.elements()

    def forward(self, x: Tensor, sigma: float | Tensor = 0.05) -> Tensor:
        """x (B, C, H, W), or sequences (B, C, T, H, W) whose frames all move alike."""
        if x.shape[-1] != x.shape[-2] and any("theta" in move for move in self.moves):
            raise ValueError(
                f"images must be square to be turned, got {tuple(x.shape[-2:])}; use Reflections, "
                "or pad them"
            )
        total = torch.zeros_like(x)
        for move in self.moves:
            moved = self.denoiser(self.group.transform(x, **move), sigma)
            total = total + self.group.inverse(moved, True, **move)
        return total / len(self.moves)


class Moved(Denoiser):
    """T_g D(T_g⁻¹ x), with a move g for each image: D as it works on images that lie otherwise.

    A reconstructor R with such a denoiser makes T_g R(y, A T_g) of y and A, exactly: T_g is
    orthogonal, so all that a step does besides (proximal maps and gradients of the misfit, sums)
    is the same for A T_g on T_g⁻¹ x as for A on x.

    Args:
        denoiser: D.
        group: that moves.
        moves: its parameters (B,), as ``group.get_params`` draws them.
    """

    def __init__(self, denoiser: nn.Module, group: Group, moves: dict[str, Tensor]):
        super().__init__()
        self.denoiser = denoiser
        self.group = group
        self.moves = moves

    def forward(self, x: Tensor, sigma: float | Tensor = 0.05) -> Tensor:
        """x (B, C, H, W), or sequences (B, C, T, H, W)."""
        inside = self.denoiser(self.group.inverse(x, True, **self.moves), sigma)
        return self.group.transform(inside, **self.moves)

    def restricted(self, index: Tensor) -> Moved:
        """The same for the images ``index`` (int64) alone."""
        moves = {name: values[index.to(values.device)] for name, values in self.moves.items()}
        return Moved(self.denoiser, self.group, moves)


class ComplexDenoiser(Denoiser):
    """A real denoiser applied to the real and the imaginary part of (B, 2, H, W).

    Each is an image of its own; likewise in every frame of a sequence (B, 2, T, H, W). They lie in
    [−1, 1], and the denoiser knows [0, 1]: D_c(x, σ) = 2 D((x + 1) / 2, σ / 2) − 1.
    """

    def __init__(self, denoiser: nn.Module):
        super().__init__()
        self.denoiser = denoiser

    def forward(self, x: Tensor, sigma: float | Tensor = 0.05) -> Tensor:
        """x (B, 2, …, H, W) plus noise of standard deviation ``sigma``: a number, or (B,)."""
        parts = x.reshape(-1, 1, *x.shape[-2:])
        if isinstance(sigma, Tensor) and sigma.numel() == len(x):
            sigma = sigma.flatten().repeat_interleave(len(parts) // len(x))
        parts = self.denoiser(parts / 2 + 0.5, sigma / 2)
        return (2 * parts - 1).reshape(x.shape)


def backbone(denoiser: nn.Module) -> Any:
    """The network inside wrappers."""
    network: Any = denoiser
    while isinstance(network, (ComplexDenoiser, Invariant, Moved)):
        network = network.denoiser
    return network


def is_plain(denoiser: nn.Module) -> bool:
    """Whether it is one of ours, on real or complex images, and nothing was changed about it."""
    network = denoiser.denoiser if type(denoiser) is ComplexDenoiser else denoiser
    return type(network) in (ConvDenoiser, UNet) and all(map(_is_as_made, denoiser.modules()))


#: Where a module keeps what somebody wants to be called with it.
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
MAKERS = ("torch.nn.modules.", "equipoise.")


def _is_as_made(module: nn.Module) -> bool:
    """Whether calling it does what its class says, and that is torch's or ours."""
    is_hooked = any(getattr(module, name) for name in HOOKS)
    is_replaced = "forward" in vars(module) or parametrize.is_parametrized(module)
    return type(module).__module__.startswith(MAKERS) and not is_hooked and not is_replaced
