"""The settings of computed tomography.

What a file says of its scanner (``read``) holds where an option is left out; an option that is set
stands above it. Options in millimetres and their counterparts in pixels exclude each other.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator

from ...errors import UserError
from ...settings import INTERNAL
from ..noise import PhysicsSettings, SingleImage
from ..sizes import Size, image_size
from .beams import MOST_RAYS, FanBeam, ParallelBeam
from .conventions import Convention
from .scanner import ScannerGeometry
from .setup import IN_MILLIMETRES, Setup, fan_setup, parallel_setup, scaled_words
from .views import unseen_views

#: What no scanner has more of.
MOST_VIEWS, MOST_DETECTORS = 100_000, 100_000
#: The axis of rotation is no farther off the detector's middle, in detectors.
FARTHEST = 100_000

Views = Annotated[int, Field(ge=1, le=MOST_VIEWS)] | Annotated[list[float], Field(min_length=1)]
Chosen = (
    Annotated[int, Field(ge=1)]
    | Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
    | str
)


class RaysSettings(SingleImage, PhysicsSettings):
    """What both kinds of CT have."""

    beam: ClassVar[Literal["parallel", "fan"]]
    usual_views: ClassVar[int]  #: where neither the configuration nor a file says how many
    usual_period: ClassVar[float]  #: degrees that a number of views is spread over

    views: Chosen | None = Field(
        None,
        description="which of the views are used: every how many, a range first:end:step of their "
        "numbers (from 0; the end is left out), or a list of numbers; none: all",
    )
    sense: Literal[1, -1] = Field(1, description="-1: the angles turn the other way")
    start: float | None = Field(
        None, description="the angle of the first view, in degrees; none: as the angles say"
    )
    convention: Convention = Field(
        "ours",
        description="where the axis is, and how detectors are counted: ours (the middle), skimage "
        "(pixel and detector size // 2; sinograms are detectors × views) or astra",
    )
    detectors: int | None = Field(
        None,
        ge=1,
        le=MOST_DETECTORS,
        description="detectors in a row of a file; none: as it says, or the image's diagonal",
    )
    bin: int = Field(1, ge=1, description="detectors of the file that are averaged into one")
    rays: int = Field(
        1, ge=1, le=MOST_RAYS, description="rays per (binned) detector, which measures their mean"
    )
    pitch: float | None = Field(
        None,
        gt=0,
        description="width of a detector of the file, in pixels; none: a (binned) detector is as "
        "wide as a pixel, in a fan as its shadow",
    )
    offset: Annotated[float, Field(ge=-FARTHEST, le=FARTHEST)] | Literal["auto"] | None = Field(
        None,
        description="of the detector's middle from the shadow of the centre of rotation, in "
        "detectors of the file; none: as it says, or 0; auto: found in the measurements",
    )
    pixel: float | None = Field(
        None,
        gt=0,
        description="length of a pixel's side, in the unit of the sinogram's lengths; none: as the "
        "file says, or 1",
    )
    detector_pitch: float | None = Field(
        None, gt=0, description="width of a detector of the file, in millimetres"
    )
    image_pixel: float | None = Field(
        None, gt=0, description="side of a pixel of the reconstruction, in millimetres"
    )
    axis_offset: float | None = Field(
        None,
        description="of the detector's middle from the shadow of the axis, on the detector, in "
        "millimetres",
    )
    axis_found: float | None = Field(
        None,
        description="the offset that was found in the data; filled in by the package",
        json_schema_extra=INTERNAL,
    )
    read: ScannerGeometry | None = Field(
        None,
        description="what the data's file says of the scanner; filled in by the package",
        json_schema_extra=INTERNAL,
    )

    @model_validator(mode="before")
    @classmethod
    def _one_unit_each(cls, tree: Any) -> Any:
        if isinstance(tree, dict):
            for plain, millimetres in IN_MILLIMETRES.items():
                if tree.get(plain) is not None and tree.get(millimetres) is not None:
                    raise ValueError(
                        f"{plain} and {millimetres} say the same; set one of them: the first is in "
                        "pixels or detectors, the second in millimetres"
                    )
        return tree

    # ------------------------------------------------------------------------- what is made

    def setup(self, size: Size) -> Setup:
        """The numbers of the beam for images of ``size`` pixels.

        Raises:
            ValueError: something is missing, or two settings contradict each other.
        """
        raise NotImplementedError

    def beam_of(
        self, setup: Setup, size: Size, views: list[int], normalize: bool
    ) -> ParallelBeam | FanBeam:
        """The operator of the views with these numbers."""
        raise NotImplementedError

    def operator(self, size: Size, seed: int) -> ParallelBeam | FanBeam:
        setup = self.setup(size)
        return self.beam_of(setup, size, list(setup.chosen), normalize=True)

    def unseen(self, size: Size, gain: float) -> tuple[list[int], ParallelBeam | FanBeam | None]:
        """The numbers of the views that are left out, and their operator, multiplied by ``gain``
        as that of the used ones is; None where every direction is used.

        Raises:
            UserError: the settings do not fit the size.
        """
        try:
            setup = self.setup(size)
            left = self.left_out(setup)
            return left, self.with_gain(setup, size, left, gain) if left else None
        except ValueError as error:
            raise UserError(f"physics: {error}") from error

    def assumed_offset(self, size: Size) -> float:
        """Where the configuration, the file or the data put the axis, in detectors of the file."""
        plain = self.model_copy(update={"offset": 0.0, "axis_offset": None})
        return (self.setup(size).offset - plain.setup(size).offset) * self.bin

    def left_out(self, setup: Setup) -> list[int]:
        """The numbers of the views that are not used, without directions that repeat a used one."""
        return unseen_views(setup.angles, setup.chosen, self.usual_period)

    def with_gain(
        self, setup: Setup, size: Size, views: list[int], gain: float
    ) -> ParallelBeam | FanBeam:
        """The operator of the views with these numbers, multiplied by ``gain``."""
        physics = self.beam_of(setup, size, views, normalize=False)
        physics.scale, physics.gain = physics.pixel * gain, gain
        return physics

    # --------------------------------------------------------------------------- the file

    def reading(self, geometry: ScannerGeometry | None) -> RaysSettings:
        """The same settings for files that say ``geometry``.

        Raises:
            UserError: the file has the other kind of beam.
        """
        if geometry is not None and geometry.beam not in (None, self.beam):
            raise UserError(
                f"{geometry.source}: says that its beam is {geometry.beam}, and physics.kind is "
                f"{self.beam}_beam; set physics.kind={geometry.beam}_beam"
            )
        return self.model_copy(update={"read": geometry})

    def overridden(self) -> list[str]:
        """What the configuration says otherwise than the file, a sentence each."""
        return scaled_words(self)


class ParallelBeamSettings(RaysSettings):
    """CT with parallel rays."""

    beam = "parallel"
    usual_views = 20
    usual_period = 180.0

    kind: Literal["parallel_beam"] = "parallel_beam"
    angles: Views | None = Field(
        None,
        description="views: how many over 180°, or each in degrees; none: as the file says, or 20",
    )

    def setup(self, size: Size) -> Setup:
        return parallel_setup(self, image_size(size))

    def beam_of(self, setup: Setup, size: Size, views: list[int], normalize: bool) -> ParallelBeam:
        return ParallelBeam(
            size,
            _tensor(setup, views),
            setup.detectors,
            setup.pixel,
            pitch=1.0 if setup.pitch is None else setup.pitch,
            offset=setup.offset,
            rays=self.rays,
            convention=self.convention,
            normalize=normalize,
        )


class FanBeamSettings(RaysSettings):
    """CT with a fan of rays from one source."""

    beam = "fan"
    usual_views = 40
    usual_period = 360.0

    kind: Literal["fan_beam"] = "fan_beam"
    angles: Views | None = Field(
        None,
        description="views: how many over 360°, or each in degrees; none: as the file says, or 40",
    )
    source_distance: float | None = Field(
        None, gt=0, description="from the source to the centre of rotation, in pixels"
    )
    detector_distance: float | None = Field(
        None, ge=0, description="from the centre of rotation to the detector, in pixels"
    )
    source_to_axis: float | None = Field(
        None, gt=0, description="from the source to the axis of rotation, in millimetres"
    )
    source_to_detector: float | None = Field(
        None, gt=0, description="from the source to the detector, in millimetres"
    )
    curved: bool | None = Field(
        None, description="the detector is an arc about the source; none: as the file says, or flat"
    )

    @property
    def has_a_source(self) -> bool:
        """Whether something says how far the source is from the axis."""
        said = (self.source_distance, self.source_to_axis, self.read)
        return any(value is not None for value in said)

    def setup(self, size: Size) -> Setup:
        return fan_setup(self, image_size(size))

    def beam_of(self, setup: Setup, size: Size, views: list[int], normalize: bool) -> FanBeam:
        curved = self.curved
        if curved is None:
            curved = bool(self.read is not None and self.read.curved)
        return FanBeam(
            size,
            _tensor(setup, views),
            setup.source_distance,
            setup.detector_distance,
            setup.detectors,
            setup.pixel,
            pitch=setup.pitch,
            curved=curved,
            offset=setup.offset,
            rays=self.rays,
            convention=self.convention,
            normalize=normalize,
        )


def _tensor(setup: Setup, views: list[int]) -> torch.Tensor:
    return torch.tensor([setup.angles[i] for i in views], dtype=torch.float64)
