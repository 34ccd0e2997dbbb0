"""The settings of every operator: ``Physics`` is their union, discriminated by ``kind``."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal

import deepinv.physics
import torch
from deepinv.physics.functional import gaussian_blur
from pydantic import BeforeValidator, Field
from torch import Tensor

from .mri import MASKS, birdcage
from .noise import NoiseSettings, PhysicsSettings, SingleImage
from .operators import from_file
from .sizes import Size, image_size
from .tomography.settings import FanBeamSettings, ParallelBeamSettings

__all__ = [
    "BlurSettings",
    "CartesianSettings",
    "CompressedSensingSettings",
    "CustomSettings",
    "DynamicMRISettings",
    "FanBeamSettings",
    "InpaintingSettings",
    "MRISettings",
    "NoiseSettings",
    "NonCartesianMRISettings",
    "ParallelBeamSettings",
    "Physics",
    "SuperResolutionSettings",
]


#: A Gaussian reaches no more than so many times its width, from one end to the other.
REACH = 8
#: deepinv's bicubic filter is so many times as wide as the factor.
BICUBIC = 4


class CartesianSettings(PhysicsSettings):
    """What both kinds of Cartesian MRI have; each frame of a sequence has a mask of its own."""

    mask: Literal["lines", "poisson_disc", "radial"] = Field(
        "lines", description="which points of k-space are measured"
    )
    acceleration: float = Field(4.0, ge=1, description="how many times fewer points than pixels")
    center: float = Field(
        0.08, gt=0, le=1, description="fraction of lines, each way, fully sampled in the centre"
    )
    masks: Literal["one", "each"] = Field(
        "one",
        description="one mask for all images that are measured and all scans that are thinned out, "
        "or for each its own draw",
    )

    def sampling_mask(self, rows: int, columns: int, seed: int) -> Tensor:
        """(rows, columns) of 0 and 1.

        Raises:
            ValueError: the centre alone is more than the acceleration allows.
        """
        return MASKS[self.mask](rows, columns, self.acceleration, self.center, seed)

    def mask_of(self, size: Size, seed: int) -> Tensor:
        """The mask of an image, (rows, columns), or of a sequence, (frames, rows, columns).

        Raises:
            ValueError: the centre alone is more than the acceleration allows.
        """
        return self.sampling_mask(*image_size(size), seed)


class MRISettings(SingleImage, CartesianSettings):
    """Cartesian MRI, with one coil or several."""

    kind: Literal["mri"] = "mri"
    coils: int = Field(
        1, ge=1, le=256, description="simulated coils, for images that are to be measured"
    )

    def operator(self, size: Size, seed: int) -> deepinv.physics.LinearPhysics:
        h, w = image_size(size)
        mask = self.mask_of(size, seed)
        if self.coils == 1:
            return deepinv.physics.MRI(mask=mask, img_size=(h, w))
        maps = birdcage(self.coils, h, w)
        return deepinv.physics.MultiCoilMRI(mask=mask, coil_maps=maps, img_size=(h, w))


class DynamicMRISettings(CartesianSettings):
    """Cartesian MRI of a moving object: a mask for each frame; images that follow each other are
    the frames."""

    kind: Literal["dynamic_mri"] = "dynamic_mri"
    frames: int = Field(8, ge=2, le=1000, description="images in a sequence")

    def operator(self, size: Size, seed: int) -> deepinv.physics.LinearPhysics:
        h, w = image_size(size)
        mask = self.mask_of(size, seed)
        return deepinv.physics.DynamicMRI(mask=mask, img_size=(2, self.frames, h, w))

    def mask_of(self, size: Size, seed: int) -> Tensor:
        h, w = image_size(size)
        return torch.stack([self.sampling_mask(h, w, seed + k) for k in range(self.frames)])


class NonCartesianMRISettings(SingleImage, PhysicsSettings):
    """MRI along radial or spiral trajectories, through mri-nufft (pip install
    'equipoise[nufft]')."""

    kind: Literal["non_cartesian_mri"] = "non_cartesian_mri"
    trajectory: Literal["radial", "spiral"] = Field("radial", description="how k-space is crossed")
    shots: int = Field(24, ge=1, le=100_000, description="spokes, or spiral arms")
    samples: int = Field(128, ge=2, le=100_000, description="samples along each")

    def operator(self, size: Size, seed: int) -> deepinv.physics.LinearPhysics:
        return deepinv.physics.NonCartesianMRI(
            img_size=(2, *image_size(size)),
            trajectory=self.trajectory,
            num_shots=self.shots,
            num_samples_per_shot=self.samples,
        )


class InpaintingSettings(SingleImage, PhysicsSettings):
    """Some pixels are measured, others are not."""

    kind: Literal["inpainting"] = "inpainting"
    keep: float = Field(
        0.5, gt=0, lt=1, description="fraction of the pixels that is measured, at random places"
    )

    def operator(self, size: Size, seed: int) -> deepinv.physics.LinearPhysics:
        shape, rng = (1, *image_size(size)), torch.Generator().manual_seed(seed)
        mask = (torch.rand(shape, generator=rng) < self.keep).float()
        if not mask.any():
            raise ValueError(
                f"keep={self.keep:g} of {shape[1]}×{shape[2]} pixels keeps none; raise it"
            )
        return deepinv.physics.Inpainting(shape, mask=mask)


class BlurSettings(SingleImage, PhysicsSettings):
    """A Gaussian blur, periodic at the borders."""

    kind: Literal["blur"] = "blur"
    width: float = Field(1.5, gt=0, description="standard deviation of the blur, in pixels")

    def operator(self, size: Size, seed: int) -> deepinv.physics.LinearPhysics:
        sides = image_size(size)
        if REACH * self.width + 1 <= min(sides):
            kernel = gaussian_blur(sigma=(self.width, self.width))
        else:
            kernel = _periodic_gaussian(self.width, *sides)
        return deepinv.physics.BlurFFT((1, *sides), filter=kernel)


def _periodic_gaussian(width: float, rows: int, columns: int) -> Tensor:
    """(1, 1, rows, columns) about the middle; what reaches beyond a border comes in again at the
    other one."""
    parts = []
    for side in (rows, columns):
        w = min(width, 4 * side)  # it is flat, to rounding, from there on
        copies = side * torch.arange(-math.ceil(REACH * w / side), math.ceil(REACH * w / side) + 1)
        away = torch.arange(side)[:, None] - side // 2 + copies
        part = (-0.5 * (away.double() / w) ** 2).exp().sum(1)
        parts.append(part / part.sum())
    return torch.outer(*parts).float()[None, None]


class SuperResolutionSettings(SingleImage, PhysicsSettings):
    """A smaller image is measured."""

    kind: Literal["super_resolution"] = "super_resolution"
    factor: int = Field(2, ge=2, description="how many times smaller, each way")

    def operator(self, size: Size, seed: int) -> deepinv.physics.LinearPhysics:
        shape = (1, *image_size(size))
        least = BICUBIC * self.factor
        if min(shape[1:]) < least:
            raise ValueError(
                f"factor={self.factor} takes images of {least} pixels each way or more (its filter "
                f"is as wide), got {shape[1]}×{shape[2]}; lower it, or raise data.size"
            )
        return deepinv.physics.Downsampling(img_size=shape, filter="bicubic", factor=self.factor)


class CompressedSensingSettings(SingleImage, PhysicsSettings):
    """Random projections."""

    kind: Literal["compressed_sensing"] = "compressed_sensing"
    ratio: float = Field(0.3, gt=0, le=1, description="measurements, as a fraction of the pixels")

    def operator(self, size: Size, seed: int) -> deepinv.physics.LinearPhysics:
        rng = torch.Generator().manual_seed(seed)
        h, w = image_size(size)
        count = max(1, round(self.ratio * h * w))
        return deepinv.physics.CompressedSensing(count, (1, h, w), rng=rng)


class CustomSettings(SingleImage, PhysicsSettings):
    """Any operator, written in Python."""

    kind: Literal["custom"] = "custom"
    file: Path = Field(
        description="Python file with a function physics(size) that returns a deepinv "
        "LinearPhysics; size is (height, width) where the image is not square"
    )

    def operator(self, size: Size, seed: int) -> deepinv.physics.LinearPhysics:
        operator: deepinv.physics.LinearPhysics = from_file(self.file, size)
        return operator


def _parallel_beam_unless_said(tree: Any) -> Any:
    """A section without ``kind`` is a parallel beam; a bare name is a kind."""
    if isinstance(tree, str):
        return {"kind": tree}
    return {"kind": "parallel_beam", **tree} if isinstance(tree, dict) else tree


Physics = Annotated[
    Annotated[
        ParallelBeamSettings
        | FanBeamSettings
        | MRISettings
        | DynamicMRISettings
        | NonCartesianMRISettings
        | InpaintingSettings
        | BlurSettings
        | SuperResolutionSettings
        | CompressedSensingSettings
        | CustomSettings,
        Field(discriminator="kind"),
    ],
    BeforeValidator(_parallel_beam_unless_said),
]
