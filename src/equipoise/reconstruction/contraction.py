"""What keeps f a contraction near its equilibrium, and what measures it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..equilibrium.solve import FlatMap


def row_norms(v: Tensor) -> Tensor:
    """(B,) Euclidean norms of the rows of (B, N)."""
    return torch.linalg.vector_norm(v, dim=1)


def unit_rows(v: Tensor) -> Tensor:
    """The rows of (B, N), each of length one."""
    return v / row_norms(v).clamp_min(torch.finfo(v.dtype).tiny)[:, None]


class Jacobian:
    """Products with J = ∂f/∂x at x, and with Jᵀ, sample by sample.

    f must be differentiable twice.
    """

    def __init__(self, f: Callable[[Tensor], Tensor], x: Tensor):
        self.x = x.detach().requires_grad_()
        with torch.enable_grad():
            self.out = f(self.x)
            self.dummy = torch.zeros_like(self.out, requires_grad=True)
            # Linear in dummy, so that its derivative with respect to dummy is a product with J.
            (self.vjp,) = torch.autograd.grad(self.out, self.x, self.dummy, create_graph=True)

    def T(self, v: Tensor) -> Tensor:
        """Jᵀ v."""
        return torch.autograd.grad(self.out, self.x, v, retain_graph=True)[0].detach()

    def __call__(self, v: Tensor) -> Tensor:
        """J v."""
        if self.vjp.grad_fn is None:
            return torch.zeros_like(self.out)
        (Jv,) = torch.autograd.grad(self.vjp, self.dummy, v, retain_graph=True, allow_unused=True)
        return torch.zeros_like(self.out) if Jv is None else Jv.detach()


class Contraction(NamedTuple):
    """How f behaves at a point."""

    #: (B,) estimate of the spectral radius of ∂f/∂x, from the last power iterations
    radius: Tensor
    #: (B,) estimate of its largest singular value; NaN where f cannot be differentiated twice
    norm: Tensor


def measure(
    f: Any, x: Any, iterations: int = 30, rng: torch.Generator | None = None
) -> Contraction:
    """Spectral radius and norm of ∂f/∂x at the state x, sample by sample.

    By power iterations on Jᵀ and on JᵀJ. The radius is the geometric mean gain over the last half
    of the iterations, so that complex pairs do no harm.
    """
    F = FlatMap(f, x)
    J = Jacobian(F, F.pack(x))

    def start() -> Tensor:
        shape = J.x.shape
        return unit_rows(torch.randn(shape, generator=rng, device=J.x.device, dtype=J.x.dtype))

    v = start()
    logs = []
    for _ in range(iterations):
        v = J.T(v)
        logs.append(row_norms(v).clamp_min(1e-30).log())
        v = unit_rows(v)
    radius = torch.stack(logs[iterations // 2 :]).mean(0).exp()
    u = start()
    v = start()
    Jtu = J.T(u)
    gap = ((u * J(v)).sum(1) - (Jtu * v).sum(1)).abs()
    if float(gap.max()) > 1e-2 * float(row_norms(Jtu).max()):
        # Some operator in f is differentiable but once, so that J v is not to be had.
        return Contraction(radius, torch.full_like(radius, torch.nan))
    for _ in range(iterations):
        v = unit_rows(J.T(J(v)))
    return Contraction(radius, row_norms(J(v)))


def convolution_norm(weight: Tensor, samples: int = 32) -> Tensor:
    """An upper bound of the spectral norm of the stride-1 convolution with ``weight``.

    For ``weight`` (out, in, k, k), zero or periodic padding, and images of any size; at most a few
    per cent above the norm (7 % for k = 3).

    That norm is at most sup_ω ‖K(ω)‖ over frequencies ω, K the Fourier transform of the kernel
    (Sedghi, Gupta and Long, ICLR 2019). uᴴK(ω)ᴴK(ω)u is a trigonometric polynomial of degree
    d = k − 1 in each direction; from ``samples`` = n points a direction, its maximum is known to
    within (1 − 2d/n)⁻¹ (Pfister and Bresler 2018). The bound of the kernel reshaped to a matrix,
    which others take, can be k times too small or too large.
    """
    d = max(weight.shape[-2:]) - 1
    if samples <= 2 * d:
        raise ValueError(f"samples must be > {2 * d} for kernels of {d + 1}, got {samples}")
    K = torch.fft.fft2(weight, s=(samples, samples)).permute(2, 3, 0, 1)
    K = K[: samples // 2 + 1]  # the other frequencies are conjugates
    return torch.linalg.matrix_norm(K, 2).amax() / math.sqrt(1 - 2 * d / samples)


class _Bounded(nn.Module):
    """The parametrization of a weight whose convolution has a norm of at most ``gain``."""

    def __init__(self, gain: float):
        super().__init__()
        self.gain = gain

    def forward(self, weight: Tensor) -> Tensor:
        return weight * (self.gain / convolution_norm(weight)).clamp_max(1)


def bounded(network: nn.Module, gain: float = 1.0) -> nn.Module:
    """Gives every convolution of ``network`` a norm of at most ``gain``, whatever is learnt.

    In place. With 1-Lipschitz activations, a chain of n of them is gainⁿ-Lipschitz (SiLU's constant
    is 1.1).

    Raises:
        ValueError: it has no convolutions, or strided ones, which the bound is not made for; the
            gain is not a finite number above 0.
    """
    if not 0 < gain < math.inf:
        raise ValueError(f"gain must be finite and > 0, got {gain}")
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    plain = all(m.stride == (1, 1) and m.dilation == (1, 1) and m.groups == 1 for m in convolutions)
    if not (convolutions and plain):
        raise ValueError(
            "bounded needs a network of plain nn.Conv2d layers: stride, dilation and groups 1"
        )
    for convolution in convolutions:
        parametrize.register_parametrization(convolution, "weight", _Bounded(gain))
    return network
