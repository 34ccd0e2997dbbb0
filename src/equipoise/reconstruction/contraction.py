"""What keeps f a contraction near its equilibrium, and what measures it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from deepinv.loss import Loss
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..equilibrium.solve import FlatMap


def _norms(v: Tensor) -> Tensor:
    return torch.linalg.vector_norm(v, dim=1)


def _unit(v: Tensor) -> Tensor:
    return v / _norms(v).clamp_min(torch.finfo(v.dtype).tiny)[:, None]


class JacobianPenalty(Loss):
    """weight · mean relu(‖Jᵀv‖ − bound)², J = ∂f/∂x at the equilibrium, v (of length one) near the direction in which Jᵀ
    gains most.

    A hinge: it does nothing while f contracts by ``bound`` or better along v, in which the adjoint equation converges most
    slowly. That direction is much the same for all images, so v is remembered from call to call: one step of the power
    method a call, which is the vector–Jacobian product that the penalty needs anyway, finds more than three steps from a
    random start would (``results/training.md``).

    Args:
        weight: of the penalty in the loss.
        bound: the gain that is free.
    """

    def __init__(self, weight: float = 0.1, bound: float = 0.9):
        super().__init__()
        if not 0 < bound < 1:
            raise ValueError(f"bound must be in (0, 1), got {bound}")
        self.weight, self.bound = weight, bound
        self.direction: Tensor | None = None  #: (1, N) v, for states of N numbers
        self.gain: Tensor | None = None  #: (B,) of the last call, for the log

    def forward(self, x_net: Tensor, y: Tensor, physics: Any, model: Any, **kwargs: Any) -> Tensor:
        y = y.detach() if isinstance(y, Tensor) else y
        z = model.step.lift(x_net.detach(), y, physics)
        F = FlatMap(model.step.bind(y, physics), z)
        z = F.pack(z).detach().requires_grad_()
        v = self.direction
        if v is None or v.shape[1] != z.shape[1]:
            v = torch.randn(1, z.shape[1], generator=torch.Generator().manual_seed(0))
        v = _unit(v.to(z))
        with torch.enable_grad():
            (Jv,) = torch.autograd.grad(F(z), z, v.expand_as(z), create_graph=True)
        gain = _norms(Jv)
        self.gain = gain.detach()
        told = bool((self.gain.isfinite() & (self.gain > 0)).all())
        self.direction = _unit(Jv.detach()[:1]) if told else v  # never None: processes that share a batch share it
        return self.weight * torch.relu(gain - self.bound).square().mean()


class Jacobian:
    """Products with J = ∂f/∂x at x, and with Jᵀ, sample by sample. f must be differentiable twice."""

    def __init__(self, f: Callable[[Tensor], Tensor], x: Tensor):
        self.x = x.detach().requires_grad_()
        with torch.enable_grad():
            self.out = f(self.x)
            self.dummy = torch.zeros_like(self.out, requires_grad=True)
            (self.vjp,) = torch.autograd.grad(self.out, self.x, self.dummy, create_graph=True)  # linear in dummy

    def T(self, v: Tensor) -> Tensor:
        return torch.autograd.grad(self.out, self.x, v, retain_graph=True)[0].detach()

    def __call__(self, v: Tensor) -> Tensor:
        if self.vjp.grad_fn is None:
            return torch.zeros_like(self.out)
        found = torch.autograd.grad(self.vjp, self.dummy, v, retain_graph=True, allow_unused=True)[0]
        return torch.zeros_like(self.out) if found is None else found.detach()


class Contraction(NamedTuple):
    """How f behaves at a point."""

    radius: Tensor  # (B,) estimate of the spectral radius of ∂f/∂x, from the last power iterations
    norm: Tensor  # (B,) estimate of its largest singular value; NaN where f cannot be differentiated twice


def measure(f: Any, x: Any, iterations: int = 30, rng: torch.Generator | None = None) -> Contraction:
    """Spectral radius and norm of ∂f/∂x at the state x, sample by sample, by power iterations on Jᵀ and on JᵀJ.

    The radius is the geometric mean gain over the last half of the iterations, so that complex pairs do no harm.
    """
    F = FlatMap(f, x)
    J = Jacobian(F, F.pack(x))

    def start() -> Tensor:
        return _unit(torch.randn(J.x.shape, generator=rng, device=J.x.device, dtype=J.x.dtype))

    v, logs = start(), []
    for _ in range(iterations):
        v = J.T(v)
        logs.append(_norms(v).clamp_min(1e-30).log())
        v = _unit(v)
    radius = torch.stack(logs[iterations // 2 :]).mean(0).exp()
    u, v = start(), start()
    Jtu = J.T(u)
    if float(((u * J(v)).sum(1) - (Jtu * v).sum(1)).abs().max()) > 1e-2 * float(_norms(Jtu).max()):
        return Contraction(radius, torch.full_like(radius, torch.nan))  # some operator in f is differentiable but once
    for _ in range(iterations):
        v = _unit(J.T(J(v)))
    return Contraction(radius, _norms(J(v)))


def convolution_norm(weight: Tensor, samples: int = 32) -> Tensor:
    """An upper bound of the spectral norm of the stride-1 convolution with ``weight`` (out, in, k, k), with zero or periodic
    padding, whatever the image's size; at most a few per cent above it (7 % for k = 3).

    That norm is at most sup_ω ‖K(ω)‖ over frequencies ω, K the Fourier transform of the kernel (Sedghi, Gupta and Long, ICLR
    2019). uᴴK(ω)ᴴK(ω)u is a trigonometric polynomial of degree d = k − 1 in each direction; from ``samples`` = n points a
    direction, its maximum is known to within (1 − 2d/n)⁻¹ (Pfister and Bresler 2018). The bound of the kernel reshaped to a
    matrix, which others take, can be k times too small or too large.
    """
    d = max(weight.shape[-2:]) - 1
    if samples <= 2 * d:
        raise ValueError(f"samples must be > {2 * d} for kernels of {d + 1}, got {samples}")
    K = torch.fft.fft2(weight, s=(samples, samples)).permute(2, 3, 0, 1)[: samples // 2 + 1]  # the rest are conjugates
    return torch.linalg.matrix_norm(K, 2).amax() / math.sqrt(1 - 2 * d / samples)


class _Bounded(nn.Module):
    def __init__(self, gain: float):
        super().__init__()
        self.gain = gain

    def forward(self, weight: Tensor) -> Tensor:
        return weight * (self.gain / convolution_norm(weight)).clamp_max(1)


def bounded(network: nn.Module, gain: float = 1.0) -> nn.Module:
    """Gives every convolution of ``network`` a norm of at most ``gain``, in place, whatever is learnt: with 1-Lipschitz
    activations, a chain of n of them is gainⁿ-Lipschitz (SiLU's constant is 1.1).

    Raises:
        ValueError: it has no convolutions, or strided ones, which the bound is not made for.
    """
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    if not convolutions or any(m.stride != (1, 1) or m.dilation != (1, 1) or m.groups != 1 for m in convolutions):
        raise ValueError("bounded needs a network of plain nn.Conv2d layers: stride, dilation and groups 1")
    for convolution in convolutions:
        parametrize.register_parametrization(convolution, "weight", _Bounded(gain))
    return network
