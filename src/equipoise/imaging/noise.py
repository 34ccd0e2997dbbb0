"""The settings that every operator has: y = A x + noise."""

from __future__ import annotations

import deepinv.physics
from deepinv.physics import LinearPhysics
from pydantic import Field
from torch import Tensor

from ..errors import UserError
from ..settings import Settings
from .sizes import Size

#: Counts are drawn as whole numbers of 64 bits.
MOST_PHOTONS = 1e15


class NoiseSettings(Settings):
    """The noise of the measurements: Gaussian, or of counted photons."""

    noise: float = Field(
        0.001,
        ge=0,
        description="standard deviation of the noise, as a fraction of the largest measurement",
    )
    photons: float | None = Field(
        None,
        gt=0,
        le=MOST_PHOTONS,
        description="Poisson noise instead: how many counts a measurement of 1 stands for (of an "
        "image in [0, 1])",
    )

    def noise_level(self, clean: Tensor, gain: float) -> float:
        """Standard deviation of the noise in measurements like ``clean`` (of any shape).

        It is ``noise`` times the largest of them, or that of the counts. ``gain`` is what the
        operator was multiplied by to have ‖A‖ = 1.

        Raises:
            UserError: there are photons, but measurements are negative, as counts cannot be.
        """
        largest = float(clean.abs().max())
        if self.photons is None:
            return self.noise * largest
        if float(clean.min()) < -1e-3 * largest:
            raise UserError(
                "physics.photons: these measurements are negative in places, counts are not; leave "
                "it out and set physics.noise"
            )
        return float((clean.clamp_min(0).mean() * gain / self.photons).sqrt())

    def noise_model(self, sigma: float, gain: float) -> deepinv.physics.NoiseModel:
        """What deepinv adds to clean measurements: Gaussian noise of standard deviation ``sigma``,
        or that of the counts."""
        if self.photons is None:
            return deepinv.physics.GaussianNoise(sigma)
        return deepinv.physics.PoissonNoise(gain / self.photons, clip_positive=True)


class PhysicsSettings(NoiseSettings):
    """What the settings of every operator can do."""

    def make(self, size: Size, seed: int) -> LinearPhysics:
        """The operator for images of ``size`` pixels; ``seed`` of what is random in it.

        Raises:
            UserError: a setting does not fit the size or another one, or a package is missing.
        """
        try:
            return self.operator(size, seed)
        except (ValueError, ImportError) as error:
            raise UserError(f"physics: {error}") from error

    def operator(self, size: Size, seed: int) -> LinearPhysics:
        raise NotImplementedError


class SingleImage:
    """For what measures single images: a sequence would have a number of ``frames``."""

    @property
    def frames(self) -> None:
        return None
