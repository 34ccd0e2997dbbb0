"""What all steps share: the denoiser, the state and its image, and the map for given measurements.

The state z of a step is the image x, or holds what else the step needs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import torch
from deepinv.physics import LinearPhysics, Physics
from torch import Tensor, nn

from ...equilibrium.result import State
from ...imaging.linear import least_squares, variant
from ...imaging.selection import selector
from ..denoisers import Moved, channels_last

if TYPE_CHECKING:
    from typing_extensions import Self


class Positive(nn.Module):
    """A positive number, learnable on a logarithmic scale."""

    def __init__(self, value: float, learnable: bool):
        super().__init__()
        self.log = nn.Parameter(torch.tensor(math.log(value)), requires_grad=learnable)

    def forward(self) -> Tensor:
        return self.log.exp()


class BoundStep:
    """f(z) = step(z, y, physics), for some measurements: what a fixed-point solver is given."""

    def __init__(self, step: Step, y: Tensor, physics: Physics):
        self.step = step
        self.y = y
        self.physics = physics

    def __call__(self, z: State) -> State:
        out: State = self.step(z, self.y, self.physics)
        return out

    @cached_property
    def restrict(self) -> Callable[[Tensor], BoundStep] | None:
        """The same map for the samples ``index`` (int64) alone.

        None where the operator has parameters for each sample and cannot be told for some of them:
        then a solver lets those that are done ride along.
        """
        if not isinstance(self.y, Tensor):
            return None  # stacked operators, whose y is a list, take whole batches
        physics_of = selector(self.physics, len(self.y), self.y)
        return None if physics_of is None else partial(self._restricted, physics_of)

    def _restricted(self, physics_of: Callable[[Tensor], Physics], index: Tensor) -> BoundStep:
        return BoundStep(self.step.restricted(index), self.y[index], physics_of(index))


class Step(nn.Module):
    """One learned step.

    Args:
        denoiser: D, called as ``denoiser(x, sigma)``, deepinv's way.
        sigma: the noise level that D is told, for images in [0, 1].
    """

    #: Whether it works on each pixel by itself (divides, clamps), beside D and A.
    is_pixel_by_pixel = False

    def __init__(self, denoiser: nn.Module, sigma: float):
        super().__init__()
        if not 0 <= sigma < math.inf:
            raise ValueError(
                f"sigma must be >= 0 and finite, got {sigma}; it is the noise level the denoiser "
                "is told, for images in [0, 1]"
            )
        self.denoiser = denoiser
        self.sigma = float(sigma)
        self.any_layout = True  #: the denoiser may be given images with the channels stored last
        #: of the denoiser's convolutions (bfloat16); None: that of the images
        self.precision: torch.dtype | None = None

    def denoise(self, x: Tensor) -> Tensor:
        """D(x, σ)."""
        if self.precision is not None:
            with torch.autocast(x.device.type, self.precision):
                return self._denoise(x).to(x.dtype)
        return self._denoise(x)

    def _denoise(self, x: Tensor) -> Tensor:
        if self.any_layout:
            try:
                return self.denoiser(channels_last(x), self.sigma)
            except torch.cuda.OutOfMemoryError:
                raise
            except RuntimeError:
                # Some networks take a .view of an activation, which this layout does not have. One
                # that fails with the ordinary layout too has another trouble, which is then raised.
                out: Tensor = self.denoiser(x, self.sigma)
                self.any_layout = False
                return out
        return self.denoiser(x, self.sigma)

    def bind(self, y: Tensor, physics: Physics) -> BoundStep:
        """f(z) for these measurements."""
        return BoundStep(self, y, physics)

    def with_denoiser(self, denoiser: nn.Module) -> Self:
        """The same step with another denoiser; all else is shared."""
        step: Self = variant(self)
        step.denoiser = denoiser
        return step

    def restricted(self, index: Tensor) -> Self:
        """The step for the samples ``index`` (int64) alone, where its denoiser knows each."""
        if not isinstance(self.denoiser, Moved):
            return self
        return self.with_denoiser(self.denoiser.restricted(index))

    def start(self, y: Tensor, physics: Any) -> Tensor:
        """The image from which a solve begins if nobody says.

        Two steps of conjugate gradients from zero, which is less than one denoiser costs.
        """
        if not isinstance(physics, LinearPhysics):
            return physics.A_adjoint(y)
        return least_squares(physics.A, physics.A_adjoint, y, max_iter=2).value

    def lift(self, x: Tensor, y: Tensor, physics: Any) -> State:
        """The state whose image is x; exactly, where x is an equilibrium's."""
        return x

    def image(self, z: Any, y: Tensor, physics: Any) -> Tensor:
        """The image of a state."""
        out: Tensor = z
        return out


def check_strength(strength: float) -> None:
    """λ, which weighs the prior."""
    if not 0 < strength < math.inf:
        raise ValueError(f"strength must be > 0 and finite, got {strength}")
