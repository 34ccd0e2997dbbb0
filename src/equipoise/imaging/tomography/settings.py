"""The settings of computed tomography."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ..noise import PhysicsSettings, SingleImage
from .beams import FanBeam, ParallelBeam

Views = Annotated[int, Field(ge=1)] | Annotated[list[float], Field(min_length=1)]


class RaysSettings(SingleImage, PhysicsSettings):
    """What both kinds of CT have."""

    pixel: float = Field(
        1.0, gt=0, description="length of a pixel's side, in the unit of the sinogram's lengths"
    )
    offset: float = Field(
        0.0,
        description="of the detector's middle from the shadow of the centre of rotation, in "
        "detectors",
    )


class ParallelBeamSettings(RaysSettings):
    """CT with parallel rays."""

    kind: Literal["parallel_beam"] = "parallel_beam"
    angles: Views = Field(20, description="views: how many over 180°, or each in degrees")
    detectors: int | None = Field(
        None, ge=1, description="detectors, each as wide as a pixel; none: the image's diagonal"
    )

    def operator(self, size: int, seed: int) -> ParallelBeam:
        return ParallelBeam(
            size, self.angles, self.detectors, self.pixel, offset=self.offset, normalize=True
        )


class FanBeamSettings(RaysSettings):
    """CT with a fan of rays from one source."""

    kind: Literal["fan_beam"] = "fan_beam"
    angles: Views = Field(40, description="views: how many over 360°, or each in degrees")
    source_distance: float = Field(
        gt=0, description="from the source to the centre of rotation, in pixels"
    )
    detector_distance: float = Field(
        ge=0, description="from the centre of rotation to the detector, in pixels"
    )
    detectors: int | None = Field(
        None, ge=1, description="detectors; none: enough to see the whole image"
    )
    pitch: float | None = Field(
        None,
        gt=0,
        description="width of a detector, in pixels; none: a pixel's shadow at the centre",
    )
    curved: bool = Field(False, description="the detector is an arc about the source")

    def operator(self, size: int, seed: int) -> FanBeam:
        return FanBeam(
            size,
            self.angles,
            self.source_distance,
            self.detector_distance,
            self.detectors,
            self.pixel,
            pitch=self.pitch,
            curved=self.curved,
            offset=self.offset,
            normalize=True,
        )
