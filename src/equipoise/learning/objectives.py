"""What is minimised: losses in deepinv's contract, ``loss(x_net=, x=, y=, physics=, model=) → (B,) or scalar``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from deepinv.loss import Loss
from torch import Tensor

from ..equilibrium import Equilibrium, Unrolled
from ..imaging.draws import per_sample, shared
from ..imaging.linear import solve_spd
from ..imaging.operators import select
from ..imaging.splitting import split
from ..reconstruction.model import EquilibriumReconstructor


def _mse(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).abs().square().flatten(1).mean(1)


def _solve(loss: Any, model: Any, y: Tensor, physics: Any, near: Tensor) -> Tensor:
    """What the model makes of y; an equilibrium model starts at ``near``, where its answer should be, and its account
    (without the graph) is left in ``loss.solved`` for the log. What is unrolled remembers where it started, and must not
    start at an answer that has seen what is to be predicted."""
    if not isinstance(model, EquilibriumReconstructor):
        out: Tensor = model(y, physics)
        return out
    record = model.equilibrium(y, physics, x0=None if isinstance(model.gradient, Unrolled) else near.detach())
    loss.solved = replace(record, value=None)
    x: Tensor = record.value
    return x


def _measured(x: Tensor, physics: Any, noise: bool) -> Any:
    """What the operator measures of x, with noise (and sensor model) if asked, which each sample draws for itself."""
    clean = physics.A(x)
    if not noise:
        return clean
    if not isinstance(clean, Tensor):
        return physics.sensor(physics.noise(clean))

    def draw(index: Sequence[int]) -> Tensor:
        part = select(physics, torch.tensor(index), len(x))
        return part.sensor(part.noise(clean[index[0] : index[-1] + 1]))

    return per_sample(draw, len(x))


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

    The reconstruction is moved by one draw of ``group`` for each sample (or by ``group.n_trans`` draws), measured again and
    reconstructed again. An equilibrium model starts its second solve at T_g x̂, its own answer once it is trained.

    Args:
        group: ``Rotations``, ``Reflections``, ``Shifts``, or any deepinv transform.
        weight: α.
        noise: add the physics' noise (and sensor model) to the second measurement.
        stop_gradient: treat the target T_g x̂ as a constant (its measurement is not). Otherwise, as in the paper, a smoother x̂ is
            a target that is easier to hit, and learning it lowers the loss: 0.4 dB on CT and inpainting (results/training.md).
    """

    def __init__(self, group: Any, weight: float = 1.0, noise: bool = True, stop_gradient: bool = True):
        super().__init__()
        self.group, self.weight, self.noise, self.stop_gradient = group, weight, noise, stop_gradient
        self.solved: Equilibrium | None = None

    def forward(self, x_net: Tensor, physics: Any, model: Any, **kwargs: Any) -> Tensor:
        frames = x_net.flatten(1, -3)  # of a sequence (B, C, T, H, W), all frames move alike
        moved = self.group(frames).reshape(-1, *x_net.shape[1:])
        if len(moved) > len(x_net):  # several draws: each sample's operator as often
            physics = select(physics, torch.arange(len(x_net)).repeat(len(moved) // len(x_net)), len(x_net))
        again = _solve(self, model, _measured(moved, physics, self.noise), physics, moved)
        return self.weight * _mse(again, moved.detach() if self.stop_gradient else moved)


class Splitting(Loss):
    """Measurement splitting (SSDU; Yaman et al., MRM 2020): reconstruct from some measurements, predict the others.

    The measurements fall into ``parts`` interleaved parts. Each call leaves one out, reconstructs from the rest, and
    counts the misfit to what was left out, as :class:`MeasurementConsistency` does. Left-out measurements are true ones:
    they tell about the part of the image that the rest cannot see.

    Args:
        parts: how many; one is left out, in turn at random.
        weight: as for :class:`MeasurementConsistency`, and so is ``floor``.
    """

    def __init__(self, parts: int = 5, weight: float = 1.0, floor: float = 0.0):
        super().__init__()
        if parts < 2:
            raise ValueError(f"parts must be at least 2, got {parts}")
        self.parts, self.weight = parts, weight
        self.misfit = MeasurementConsistency(weight, floor)
        self.solved: Equilibrium | None = None

    def forward(self, x_net: Tensor, y: Tensor, physics: Any, model: Any, **kwargs: Any) -> Tensor:
        k = int(shared(lambda: torch.randint(self.parts, ())))
        seen, y_seen, left, y_left = split(physics, y, self.parts, k)
        return self.misfit(x_net=_solve(self, model, y_seen, seen, x_net), y=y_left, physics=left)


class MultiOperator(Loss):
    """Multi-operator imaging (Tachella, Chen and Davies, NeurIPS 2022): weight · mean |x̂ − f*(A' x̂)|², A' the operator of another
    sample of the batch; with a ``group``, MOEI: T_g x̂ in place of x̂. For data whose samples have masks or coils of their own.

    Args:
        weight: of the term.
        group: moves the image first.
        noise: add the physics' noise to the second measurement.
    """

    def __init__(self, weight: float = 1.0, group: Any = None, noise: bool = True):
        super().__init__()
        self.weight, self.group, self.noise = weight, group, noise
        self.solved: Equilibrium | None = None

    def forward(self, x_net: Tensor, physics: Any, model: Any, **kwargs: Any) -> Tensor:
        other = select(physics, torch.arange(len(x_net)).roll(1), len(x_net))
        x = x_net if self.group is None else self.group(x_net.flatten(1, -3)).reshape(x_net.shape)
        return self.weight * _mse(_solve(self, model, _measured(x, other, self.noise), other, x), x)


class Recorrupted(Loss):
    """Recorrupted-to-recorrupted (Pang et al., CVPR 2021): weight · mean |A f*(y + a σ w) − (y − σ w / a)|² with w ~ N(0, 1): the
    two have independent noise, so that the expectation is that of a clean target, up to a constant. For Gaussian noise.

    Args:
        sigma: the noise's standard deviation σ.
        weight: of the term.
        a: how the noise is shared between input and target.
    """

    def __init__(self, sigma: float, weight: float = 1.0, a: float = 0.5):
        super().__init__()
        if not (sigma > 0 and a > 0):
            raise ValueError(f"sigma and a must be > 0, got {sigma} and {a}")
        self.sigma, self.weight, self.a = sigma, weight, a
        self.solved: Equilibrium | None = None

    def forward(self, x_net: Tensor, y: Tensor, physics: Any, model: Any, **kwargs: Any) -> Tensor:
        w = self.sigma * per_sample(lambda index: torch.randn(len(index), *y.shape[1:], dtype=y.dtype), len(y)).to(y.device)
        w = w * (y != 0)  # what is not measured has no noise
        x = _solve(self, model, y + self.a * w, physics, x_net)
        return self.weight * _mse(physics.A(x), y - w / self.a)


class Weighted(Loss):
    """weight · another loss, such as deepinv's ``SureGaussianLoss``."""

    def __init__(self, loss: Loss, weight: float = 1.0):
        super().__init__()
        self.loss, self.weight = loss, weight

    def forward(self, **kwargs: Any) -> Tensor:
        value: Tensor = self.loss(**kwargs)
        return self.weight * value


class Supervised(Loss):
    """weight · mean |x̂ − x|²: for the ceiling; the only objective that sees the truth."""

    def __init__(self, weight: float = 1.0):
        super().__init__()
        self.weight = weight

    def forward(self, x_net: Tensor, x: Tensor, **kwargs: Any) -> Tensor:
        return self.weight * _mse(x_net, x)
