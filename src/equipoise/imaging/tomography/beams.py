"""Parallel and fan beam."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any

from torch import Tensor

from ..linear import at_least_single, full_precision
from ..sizes import image_size
from .conventions import Convention, layout
from .fbp import fan_fbp, parallel_fbp
from .geometry import FanGeometry, ParallelGeometry, detector_count, view_angles
from .physics import Tomography

#: Rays per detector; more of them cost memory and change nothing.
MOST_RAYS = 64


class ParallelBeam(Tomography):
    """Parallel-beam tomography: y = A x, with A a sparse matrix (Joseph) stored with its exact
    transpose.

    Args:
        size: height and width of the image in pixels, or one number for both.
        angles: a number of views spread evenly over [0°, 180°), or the views in degrees. At 0° the
            columns are summed; angles turn as in ``skimage.transform.radon`` and
            ``deepinv.physics.Tomography``.
        detectors: how many. Default: enough for the diagonal.
        pixel: the length of a pixel's side; y has units of x times this unit.
        pitch: width of a detector, in pixels.
        offset: of the detector's middle from the shadow of the centre of rotation, in detectors
            (0.25: a quarter offset).
        rays: how many rays are traced for each detector, which measures their mean.
        convention: "ours", or where "skimage" or "astra" put the axis (see ``conventions.py``).
        normalize: rescale to ‖A‖ = 1 (then y has no physical unit any more; see
            :meth:`normalize`).
        **kwargs: what ``deepinv.physics.LinearPhysics`` takes: ``noise_model``, ``sensor_model``,
            ``max_iter``, ``tol`` and ``solver`` of :meth:`A_dagger` and :meth:`prox_l2`,
            ``implicit_backward_solver`` of solvers other than "CG", ``device``.
    """

    def __init__(
        self,
        size: int | Sequence[int],
        angles: int | Tensor | Sequence[float],
        detectors: int | None = None,
        pixel: float = 1.0,
        *,
        pitch: float = 1.0,
        offset: float = 0.0,
        rays: int = 1,
        convention: Convention = "ours",
        normalize: bool = False,
        **kwargs: Any,
    ):
        h, w = image_size(size)
        pitch = _positive_pitch(pitch)
        detectors = detector_count(detectors, math.hypot(h, w) / pitch, offset)
        theirs = layout(convention, "parallel", h, w, detectors)
        geometry = ParallelGeometry(
            height=h,
            width=w,
            angles=view_angles(angles, 180.0),
            detectors=detectors,
            offset=float(offset) + theirs.offset,
            pitch=pitch,
            axis=theirs.axis,
            per_detector=_rays_per_detector(rays),
        )
        super().__init__(geometry, pixel, normalize, **kwargs)

    def fbp(self, y: Tensor, window: str = "ramp") -> Tensor:
        """Filtered back-projection, with a window on the ramp: "ramp" (none), "shepp-logan",
        "cosine", "hamming", "hann". Views need not be evenly spread.

        y (B, 1, views, detectors) → (B, 1, H, W), in the units of x.
        """
        assert isinstance(self.geometry, ParallelGeometry)
        self._check_measurements(y)
        with full_precision(y):
            y = self.filled(at_least_single(y)) / self.scale
            return parallel_fbp(self.geometry, self.matrix, y, window)


class FanBeam(Tomography):
    """Fan-beam tomography, with a flat or a curved detector.

    Args:
        size: as for :class:`ParallelBeam`, and so are ``pixel``, ``offset``, ``rays``,
            ``convention`` and ``normalize``.
        angles: a number of views spread evenly over [0°, 360°), or the views in degrees.
        source_distance: from the source to the centre of rotation, in pixels; it must lie outside
            the image.
        detector_distance: from the centre of rotation to the detector, in pixels.
        detectors: how many. Default: enough to see the whole image.
        pitch: width of a detector, in pixels. Default: a pixel's shadow at the centre.
        curved: the detector is an arc about the source, its pitch an arc length.
    """

    def __init__(
        self,
        size: int | Sequence[int],
        angles: int | Tensor | Sequence[float],
        source_distance: float,
        detector_distance: float,
        detectors: int | None = None,
        pixel: float = 1.0,
        *,
        pitch: float | None = None,
        curved: bool = False,
        offset: float = 0.0,
        rays: int = 1,
        convention: Convention = "ours",
        normalize: bool = False,
        **kwargs: Any,
    ):
        h, w = image_size(size)
        radius = math.hypot(h, w) / 2
        if not radius < source_distance < math.inf:
            raise ValueError(
                f"source_distance must be finite and larger than half the image's diagonal "
                f"({radius:.1f} pixels), got {source_distance}: give it in pixels, or set the "
                "pixel's size"
            )
        if not 0 <= detector_distance < math.inf:
            raise ValueError(
                f"detector_distance must be a finite number of pixels, at least 0, got "
                f"{detector_distance}"
            )
        far = source_distance + detector_distance
        pitch = far / source_distance if pitch is None else _positive_pitch(pitch)
        half = math.asin(radius / source_distance)
        extent = 2 * far * (half if curved else math.tan(half)) / pitch
        detectors = detector_count(detectors, extent, offset)
        theirs = layout(convention, "fan", h, w, detectors)
        geometry = FanGeometry(
            height=h,
            width=w,
            angles=tuple(angle + theirs.turn for angle in view_angles(angles, 360.0)),
            detectors=detectors,
            source_distance=float(source_distance),
            detector_distance=float(detector_distance),
            detector_pitch=-pitch if theirs.mirrored else pitch,
            curved=bool(curved),
            offset=float(offset) + theirs.offset,
            axis=theirs.axis,
            per_detector=_rays_per_detector(rays),
        )
        super().__init__(geometry, pixel, normalize, **kwargs)

    def fbp(self, y: Tensor, window: str = "ramp") -> Tensor:
        """Filtered back-projection for views over a full turn, or over half a turn and the fan at
        least; they need not be evenly spread. ``window`` as for :class:`ParallelBeam`.

        y (B, 1, views, detectors) → (B, 1, H, W), in the units of x.

        Raises:
            ValueError: some line through the image is not measured; use ``A_dagger`` then.
        """
        assert isinstance(self.geometry, FanGeometry)
        self._check_measurements(y)
        with full_precision(y):
            y = self.filled(at_least_single(y)) / self.scale
            return fan_fbp(self.geometry, y, window)


def _positive_pitch(pitch: float) -> float:
    if not (math.isfinite(pitch) and pitch > 0):
        raise ValueError(f"pitch must be a positive number of pixels, got {pitch}")
    return float(pitch)


def _rays_per_detector(rays: int) -> int:
    is_whole = isinstance(rays, Real) and not isinstance(rays, bool) and float(rays).is_integer()
    if not is_whole or not 1 <= rays <= MOST_RAYS:
        raise ValueError(f"rays must be a whole number in [1, {MOST_RAYS}], got {rays!r}")
    return int(rays)
