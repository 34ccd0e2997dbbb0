"""What is minimised: losses in deepinv's contract, ``loss(x_net=, x=, y=, physics=, model=) → (B,) or scalar``."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from deepinv.loss import Loss
from torch import Tensor

from ..equilibrium import Equilibrium
from ..imaging.linear import solve_spd
from ..imaging.splitting import split
from ..reconstruction.model import EquilibriumReconstructor


def _mse(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).abs().square().flatten(1).mean(1)


def _solve(loss: Any, model: Any, y: Tensor, physics: Any, near: Tensor) -> Tensor:
    """What the model makes of y; an equilibrium model starts at ``near``, where its answer should be, and its account
    (without the graph) is left in ``loss.solved`` for the log."""
    if not isinstance(model, EquilibriumReconstructor):
        out: Tensor = model(y, physics)
        return out
    record = model.equilibrium(y, physics, x0=near.detach())
    loss.solved = replace(record, value=None)
    x: Tensor = record.value
    return x


class MeasurementConsistency(Loss):
    """weight · mean |A x̂ − y|² over the measurements of a sample.

    With ``floor`` = δ > 0, the misfit is counted in the image instead: ⟨r, (AAᵀ + δ)⁻¹ r⟩ / pixels with r = A x̂ − y is
    Σ σᵢ²/(σᵢ² + δ) eᵢ² / pixels for an error e with components eᵢ along the singular vectors of A: the mean squared
    error of the image, as far as the operator sees it above a noise of variance δ. In these units one weight of the
    equivariance term serves all operators.
    """

    def __init__(self, weight: float = 1.0, floor: float = 0.0):
        super().__init__()
        if floor < 0:
            raise ValueError(f"floor must be >= 0, got {floor}; 1e-2 suits operators with ‖A‖ = 1")
        self.weight, self.floor = weight, floor

    def forward(self, x_net: Tensor, y: Tensor, physics: Any, **kwargs: Any) -> Tensor:
        r = physics.A(x_net) - y
        if not isinstance(r, Tensor):  # stacked physics: a list of measurements
            total = sum(p.abs().square().flatten(1).sum(1) for p in r)
            return self.weight * total / sum(p[0].numel() for p in r)
        if self.floor == 0:
            return self.weight * r.abs().square().flatten(1).mean(1)

        def M(v: Tensor) -> Tensor:
            return physics.A(physics.A_adjoint(v)) + self.floor * v

        w = solve_spd(M, r, tol=1e-3, max_iter=100)
        return self.weight * (r * w).flatten(1).sum(1) / x_net[0].numel()


class Equivariance(Loss):
    """Equivariant imaging (Chen, Tachella and Davies, ICCV 2021): weight · mean |T_g x̂ − f*(A T_g x̂)|².

    The reconstruction is moved by one draw of ``group`` for each sample, measured again and reconstructed again. An
    equilibrium model starts its second solve at T_g x̂, its own answer once it is trained.

    Args:
        group: ``Rotations``, ``Reflections``, ``Shifts``, or any deepinv transform.
        weight: α.
        noise: add the physics' noise (and sensor model) to the second measurement.
        stop_gradient: treat the target T_g x̂ as a constant (its measurement is not).
    """

    def __init__(self, group: Any, weight: float = 1.0, noise: bool = True, stop_gradient: bool = False):
        super().__init__()
        self.group, self.weight, self.noise, self.stop_gradient = group, weight, noise, stop_gradient
        self.solved: Equilibrium | None = None

    def forward(self, x_net: Tensor, physics: Any, model: Any, **kwargs: Any) -> Tensor:
        frames = x_net.flatten(1, -3)  # of a sequence (B, C, T, H, W), all frames move alike
        moved = self.group(frames).reshape(-1, *x_net.shape[1:])
        y = physics(moved) if self.noise else physics.A(moved)
        again = _solve(self, model, y, physics, moved)
        return self.weight * _mse(again, moved.detach() if self.stop_gradient else moved)


class Splitting(Loss):
    """Measurement splitting (SSDU; Yaman et al., MRM 2020): reconstruct from some measurements, predict the others.

    The measurements fall into ``parts`` interleaved parts. Each call leaves one out, reconstructs from the rest, and
    counts the misfit to what was left out, as :class:`MeasurementConsistency` does. Left-out measurements are true ones:
    they tell about the part of the image that the rest cannot see.

    Args:
        parts: how many; one is left out, in turn at random.
        weight, floor: as for :class:`MeasurementConsistency`.
    """

    def __init__(self, parts: int = 5, weight: float = 1.0, floor: float = 0.0):
        super().__init__()
        if parts < 2:
            raise ValueError(f"parts must be at least 2, got {parts}")
        self.parts, self.weight = parts, weight
        self.misfit = MeasurementConsistency(weight, floor)
        self.solved: Equilibrium | None = None

    def forward(self, x_net: Tensor, y: Tensor, physics: Any, model: Any, **kwargs: Any) -> Tensor:
        k = int(torch.randint(self.parts, ()))
        seen, y_seen, left, y_left = split(physics, y, self.parts, k)
        return self.misfit(x_net=_solve(self, model, y_seen, seen, x_net), y=y_left, physics=left)


class Supervised(Loss):
    """weight · mean |x̂ − x|²: for the ceiling; the only objective that sees the truth."""

    def __init__(self, weight: float = 1.0):
        super().__init__()
        self.weight = weight

    def forward(self, x_net: Tensor, x: Tensor, **kwargs: Any) -> Tensor:
        return self.weight * _mse(x_net, x)
