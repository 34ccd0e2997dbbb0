"""What keeps f a contraction near its equilibrium, and what measures it."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from deepinv.loss import Loss
from torch import Tensor


def _norms(v: Tensor) -> Tensor:
    return torch.linalg.vector_norm(v.flatten(1), dim=1)


def _unit(v: Tensor) -> Tensor:
    return v / _norms(v).clamp_min(torch.finfo(v.dtype).tiny).reshape(-1, *[1] * (v.ndim - 1))


def _random(like: Tensor, rng: torch.Generator | None) -> Tensor:
    return torch.randn(like.shape, generator=rng, device=like.device, dtype=like.dtype)


class JacobianPenalty(Loss):
    """mean relu(‖Jᵀv‖ − bound)², J = ∂f/∂x at the equilibrium, v (of length one) after some power iterations of Jᵀ.

    A hinge: it does nothing while f contracts by ``bound`` or better along the direction in which the adjoint equation
    converges most slowly. Each power iteration costs one vector–Jacobian product.

    Args:
        weight: of the penalty in the loss.
        bound: the gain that is free.
        iterations: of the power method, from a random start.
        rng: generator of the start; None: torch's global one.
    """

    def __init__(self, weight: float = 0.1, bound: float = 0.9, iterations: int = 3, rng: torch.Generator | None = None):
        super().__init__()
        if not 0 < bound < 1:
            raise ValueError(f"bound must be in (0, 1), got {bound}")
        self.weight, self.bound, self.iterations, self.rng = weight, bound, iterations, rng
        self.gain: Tensor | None = None  # (B,) of the last call, for the log

    def forward(self, x_net: Tensor, y: Tensor, physics: Any, model: Any, **kwargs: Any) -> Tensor:
        x = x_net.detach().requires_grad_()
        with torch.enable_grad():
            out = model.step.bind(y.detach(), physics)(x)
            v = _unit(_random(x, self.rng))
            for _ in range(self.iterations):
                v = _unit(torch.autograd.grad(out, x, v, retain_graph=True)[0])
            (Jv,) = torch.autograd.grad(out, x, v, create_graph=True)
            gain = _norms(Jv)
        self.gain = gain.detach()
        return self.weight * torch.relu(gain - self.bound).square().mean()


class Contraction(NamedTuple):
    """How f behaves at a point."""

    radius: Tensor  # (B,) estimate of the spectral radius of ∂f/∂x, from the last power iterations
    norm: Tensor  # (B,) estimate of its largest singular value


def measure(f: Any, x: Tensor, iterations: int = 30, rng: torch.Generator | None = None) -> Contraction:
    """Spectral radius and norm of ∂f/∂x at x, sample by sample, by power iterations on Jᵀ and on JᵀJ.

    The radius is the geometric mean gain over the last half of the iterations, so that complex pairs do no harm.
    """
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        out = f(x)
        dummy = torch.zeros_like(out, requires_grad=True)
        (vjp,) = torch.autograd.grad(out, x, dummy, create_graph=True)  # linear in dummy: its derivative is J

        def Jt(v: Tensor) -> Tensor:
            return torch.autograd.grad(out, x, v, retain_graph=True)[0]

        def J(v: Tensor) -> Tensor:
            return torch.autograd.grad(vjp, dummy, v, retain_graph=True)[0]

        v, logs = _unit(_random(x, rng)), []
        for _ in range(iterations):
            v = Jt(v)
            logs.append(_norms(v).clamp_min(1e-30).log())
            v = _unit(v)
        radius = torch.stack(logs[iterations // 2 :]).mean(0).exp()
        v = _unit(_random(x, rng))
        for _ in range(iterations):
            v = _unit(Jt(J(v)))
        return Contraction(radius, _norms(J(v)).detach())
