"""What measures: an operator of norm 1, its units and its noise.

Here the units of files become those of the model, and those of the model become those of files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from deepinv.physics import LinearPhysics, ZeroNoise
from torch import Tensor

from ..errors import UserError
from ..imaging.fine import TIMES, finer
from ..imaging.framed import Framed
from ..imaging.linear import variant
from ..imaging.mri import prewhiten
from ..imaging.operators import in_double, normalized, with_masks
from ..imaging.scaled import unscaled
from ..imaging.selection import differs_per_sample, samples_of, select
from ..imaging.settings import CartesianSettings, CustomSettings, Physics
from ..imaging.sizes import Size
from ..imaging.tomography import Tomography
from ..imaging.tomography.geometry import view_gaps
from ..imaging.tomography.scanner import ScannerGeometry
from ..imaging.tomography.settings import RaysSettings
from .item import Item
from .seeds import seed_of

#: The size of a scan whose images are not known yet.
STAND_IN = 64


@dataclass(frozen=True)
class KspaceUnits:
    """How the k-space of a scanner becomes the model's: whitened, and divided by ``scale``."""

    covariance: Tensor  #: (coils, coils) of the noise in a complex sample
    scale: float  #: of the whitened image whose brightest parts shall be near 1


@dataclass(frozen=True)
class Scan:
    """y = A x + noise, in the units of the model: ‖A‖ = 1, and x lies in [0, 1].

    In its own units, a scanner measures y = A x / gain. An image in its own units is
    x · scale + offset, with the :class:`Units` of its item.
    """

    settings: Physics  #: what made the operator
    physics: LinearPhysics  #: A; when it is called, it adds the noise
    gain: float  #: what the operator was multiplied by, so that its norm is 1
    image_shape: tuple[int, ...]  #: (C, H, W), or (2, T, H, W) of a sequence
    measurement_shape: tuple[int, ...]
    noise: float = 0.0  #: standard deviation of the noise in y
    peak: float = 1.0  #: of x in measurements of scanners, which counts as 1
    kspace: KspaceUnits | None = None  #: of real acquisitions, whose operator came with the data

    @classmethod
    def planned(cls, settings: Physics, size: Size | Literal["native"], seed: int = 0) -> Scan:
        """The scan that a configuration describes, of images of ``size`` pixels each way, or
        (height, width).

        Of images that are measured at their own size ("native"), it is a stand-in of
        ``STAND_IN`` pixels until they are read: :meth:`for_shape`.

        Raises:
            UserError: the operator cannot be made, or is not linear.
        """
        if size == "native":
            return cls.planned(settings, STAND_IN, seed)
        found = normalized(settings.make(size, seed), size, settings.frames)
        return cls(settings, found.physics, found.gain, found.image_shape, found.measurement_shape)

    def on_finer_grid(self) -> Scan:
        """What measures the same of images with twice as many pixels, each way.

        Raises:
            UserError: this operator has no finer grid.
        """
        physics = finer(self.physics)
        *channels, rows, columns = self.image_shape
        shape = (*channels, TIMES * rows, TIMES * columns)
        return replace(self, physics=physics, image_shape=shape)

    @property
    def has_own_masks(self) -> bool:
        """Whether each sample has a mask of k-space of its own (``physics.masks``)."""
        settings = self.settings
        return isinstance(settings, CartesianSettings) and settings.masks == "each"

    def of_images(self, places: Sequence[int], seed: int) -> Scan:
        """The scan of the images at these places of a data set: where each has a mask of its own,
        it is drawn by ``seed`` and the place.

        Raises:
            UserError: there is no such mask.
        """
        settings: Any = self.settings
        if not self.has_own_masks:
            return self
        seeds = [seed_of(seed, "mask", place) for place in places]
        try:
            masks = torch.stack([settings.mask_of(self.size, own) for own in seeds])
        except ValueError as error:
            raise UserError(f"physics: {error}") from error
        return self.with_masks(masks[:, None])

    def with_masks(self, masks: Tensor) -> Scan:
        """The scan of N samples, of which each has its own mask: (N, 1, …, rows, columns)."""
        return replace(self, physics=with_masks(self.physics, masks))

    def reading(self, geometry: ScannerGeometry | None) -> Scan:
        """The scan of files that say ``geometry``, where it is not this one already.

        Raises:
            UserError: the file's beam is of another kind, or its operator cannot be made.
        """
        settings = self.settings
        if not isinstance(settings, RaysSettings) or geometry is None:
            return self
        if settings.read is not None and geometry.same_as(settings.read):
            return self
        other: Any = settings.reading(geometry)
        return Scan.planned(other, self.size)

    def unseen(self) -> tuple[list[int], Scan] | None:
        """The numbers of the views of a file that ``physics.views`` leaves out, and their scan, in
        the same units; None where none is left out.

        Raises:
            UserError: this is no computed tomography.
        """
        settings = self.settings
        if not isinstance(settings, RaysSettings):
            raise UserError(
                f"physics.kind: {settings.kind} has no views that could be left out; choose views "
                "of parallel_beam or fan_beam with physics.views"
            )
        left, physics = settings.unseen(self.size, self.gain)
        if physics is None:
            return None
        scan = replace(self, physics=physics, measurement_shape=physics.measurement_shape)
        return left, scan.with_noise(self.noise)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of an image."""
        h, w = self.image_shape[-2:]
        return h, w

    @property
    def views(self) -> int | None:
        """How many views of computed tomography measure an image; of scans of several sizes, the
        most. None: something else measures."""
        is_tomography = isinstance(self.settings, RaysSettings)
        return self.measurement_shape[-2] if is_tomography else None

    @property
    def widest_gap(self) -> float | None:
        """Degrees between the two neighbouring views that lie furthest apart, on the half turn
        after which rays come back. None: something other than computed tomography measures."""
        physics = unscaled(self.physics)
        if not isinstance(physics, Tomography):
            return None
        gaps, _ = view_gaps(physics.geometry.angles, 180.0)
        return float(gaps.max())

    # ------------------------------------------------------------------------------ units

    def to_model(self, item: Item) -> Tensor:
        """What an item holds, in the units of the model: an image (1, H, W) or (1, T, H, W), with
        two channels if it is complex, a measurement of ``measurement_shape``, or k-space (2, coils,
        H, W), or (2, H, W) of one coil.

        Raises:
            UserError: the file cannot be read, or holds NaN, or a complex image where A takes real
                ones.
        """
        values = item.array()
        if item.holds == "image":
            return self._image_to_model(item, values)
        if item.holds == "kspace":
            return self._kspace_to_model(values)
        if np.iscomplexobj(values):
            values = np.stack([values.real, values.imag])
        measured = torch.from_numpy(values.astype(np.float32)).reshape(self.measurement_shape)
        return measured * (self.gain / item.units.counts_as_one)

    def measurement_to_native(self, y: Tensor) -> Tensor:
        """A measurement of the model as the scanner would have written it, for images in [0, 1]."""
        settings = self.settings
        if isinstance(settings, RaysSettings) and settings.convention == "skimage":
            y = y.mT  # detectors first
        return y / self.gain

    def _image_to_model(self, item: Item, image: np.ndarray) -> Tensor:
        if not np.iscomplexobj(image):
            return self._channel_to_model(image, item)[None]
        if self.image_shape[0] != 2:
            raise UserError(
                f"{item.file}: holds complex images, but this operator takes real ones; save their "
                "magnitude"
            )
        parts = (image.real, image.imag)
        return torch.stack([self._channel_to_model(part, item) for part in parts])

    def _channel_to_model(self, image: np.ndarray, item: Item) -> Tensor:
        image, units = image.astype(np.float32), item.units
        if units.clip:
            # First: padding far below air must not be averaged into the tissue beside it.
            image = np.clip(image, units.offset, units.offset + units.scale)
        if item.frame is not None:
            image = item.frame.cut(image, units.offset)
        values = units.to_model(_averaged(image, self.size))
        return torch.from_numpy(values).float()

    def _kspace_to_model(self, kspace: np.ndarray) -> Tensor:
        assert self.kspace is not None
        samples = torch.from_numpy(kspace.astype(np.complex64))
        samples = samples if samples.ndim == 3 else samples[None]
        white = prewhiten(samples, self.kspace.covariance) / self.kspace.scale
        return torch.view_as_real(white).movedim(-1, 0).reshape(self.measurement_shape)

    def for_shape(self, shape: tuple[int, ...], seed: int) -> Scan:
        """The same scan of images of another shape, (…, rows, columns).

        Raises:
            UserError: the operator cannot be made for it.
        """
        try:
            return Scan.planned(self.settings, (shape[-2], shape[-1]), seed)
        except UserError as error:
            rows, columns = shape[-2:]
            raise UserError(
                f"data.size=native: images of {rows}×{columns} pixels: {error}"
            ) from error

    # ------------------------------------------------------------------------------ noise

    @property
    def attenuation(self) -> float:
        """What makes line integrals, the logarithms of counts, of measurements of the model.

        Raises:
            UserError: this is no computed tomography.
        """
        if not isinstance(self.settings, RaysSettings):
            raise UserError(
                f"objective.counts: physics.kind={self.settings.kind} measures no line integrals "
                "of photons; leave it out"
            )
        return self.peak / self.gain

    def masked(self, measured: Tensor) -> Scan:
        """The scan without the rays that were not measured, (1, views, detectors) of 0 and 1."""
        assert isinstance(self.physics, Tomography)
        return replace(self, physics=self.physics.masked(measured[0]))

    def unused_noise(self) -> list[str]:
        """What is said of an operator of one's own that comes with noise, before it gets ours."""
        settings = self.settings
        if not isinstance(settings, CustomSettings) or self.noise > 0:
            return []
        model = getattr(unscaled(self.physics), "noise_model", None)
        if model is None or isinstance(model, ZeroNoise):
            return []
        photons = settings.photons
        used = f"noise={settings.noise:g}" if photons is None else f"photons={photons:g}"
        return [
            f"{settings.file.name}: the {type(model).__name__} of this operator is not used; "
            f"the noise is what the configuration says (physics.{used}), so set that to what the "
            "measurements have"
        ]

    def with_noise(self, noise: float) -> Scan:
        """The scan whose physics adds noise of this standard deviation when it is called."""
        physics: Any = variant(self.physics)
        physics.noise_model = self.settings.noise_model(noise, self.gain)
        if isinstance(physics, Framed):
            parts = [variant(part) for part in physics.parts]
            for part in parts:
                part.noise_model = physics.noise_model
            physics.parts = torch.nn.ModuleList(parts)
        return replace(self, physics=physics, noise=noise)

    def noise_level(self, measured: Tensor) -> float:
        """The standard deviation of the noise in measurements like these, as configured.

        Raises:
            UserError: they cannot be counts of photons, and the configuration says they are.
        """
        return self.settings.noise_level(measured, self.gain)

    def measure_clean(self, images: Tensor) -> Tensor:
        """A x of images (N, C, …). One by one: what is measured of an image is the same, to the
        bit, whatever else is measured."""
        clean = []
        with torch.no_grad():
            for i in range(len(images)):
                clean.append(self.alone(i, len(images)).physics.A(images[i : i + 1]))
        return torch.cat(clean)

    def measure(
        self, images: Tensor, seed: int, noise: float | None = None, first: int = 0
    ) -> tuple[Tensor, float]:
        """y = A x + noise of images (N, C, …), and the standard deviation of the noise.

        The noise of each depends on ``seed`` and its place in the data set, where the first of
        these images is at ``first``.
        """
        clean = self.measure_clean(images)
        noise = self.noise_level(clean) if noise is None else noise
        noisy = self.with_noise(noise)
        measured = []
        with torch.random.fork_rng(devices=[]):
            for i in range(len(clean)):
                physics: Any = noisy.alone(i, len(clean)).physics
                torch.manual_seed(seed_of(seed, "noise", first + i))
                measured.append(physics.noise(clean[i : i + 1]))
        return torch.cat(measured), noise

    # ------------------------------------------------------------------------------ parts

    def select(self, index: Tensor, count: int) -> Scan:
        """The scan of some of ``count`` samples, which may have masks or coil maps of their own."""
        return replace(self, physics=select(self.physics, index, count))

    def alone(self, i: int, count: int | None = None) -> Scan:
        """The scan of the i-th of ``count`` samples, where each has a mask of its own; of any,
        where not. None: of as many as there are masks, if the operator's kind is known."""
        masks = samples_of(self.physics)
        count = masks if count is None or masks > 1 else count
        if not differs_per_sample(self.physics, count):
            return self
        return self.select(torch.tensor([i]), count)

    def double(self) -> Scan:
        """The same in float64.

        Raises:
            UserError: the operator cannot compute in it.
        """
        return replace(self, physics=in_double(self.physics, self.measurement_shape))


def _averaged(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(…, H, W) averaged down to ``size``; exact block means where it divides. Where there are
    fewer pixels than that, they are interpolated."""
    if image.shape[-2:] == size:
        return image
    pixels = torch.from_numpy(np.ascontiguousarray(image, dtype=np.float32))
    stack = pixels.reshape(1, -1, *image.shape[-2:])
    if image.shape[-2] < size[0] and image.shape[-1] < size[1]:
        smaller = torch.nn.functional.interpolate(stack, size, mode="bilinear")
    else:
        smaller = torch.nn.functional.adaptive_avg_pool2d(stack, size)
    return smaller.reshape(*image.shape[:-2], *size).numpy()


def native_images(
    images: Tensor, items: Sequence[Item], physics: Any = None
) -> np.ndarray | list[np.ndarray]:
    """Images of the model, (N, C, …, H, W), in their items' units, float64; complex images become
    their magnitude.

    Args:
        images: of the model.
        items: that they were made of, one for each.
        physics: what measured them; where it holds samples of different sizes, each image is taken
            out of its frame.

    Returns:
        (N, …, H, W), or a list of (…, H, W) where their sizes differ. What was padded or cropped to
        fit the model has the size of the original again, if its pixels are the original's.
    """
    if len(images) != len(items):
        raise UserError(f"{len(images)} images for {len(items)} items; name one for each")
    if images.shape[1] == 2:
        images = images.square().sum(1, keepdim=True).sqrt()
    values: list[np.ndarray] = []
    for i, item in enumerate(items):
        image = images[i : i + 1]
        if isinstance(physics, Framed):
            image = physics.image_out(image, int(physics.part[i]))
        native = item.units.to_native(image[0, 0].double().cpu().numpy())
        values.append(item.restored(native))
    return np.stack(values) if len({value.shape for value in values}) == 1 else values
