"""Tomography in deepinv's contract: A, A_adjoint, A_dagger and prox_l2; and ``fbp``."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from deepinv.physics import LinearPhysics
from torch import Tensor

from ..linear import (
    CGResult,
    conjugate_gradients,
    least_squares,
    norm,
    proximal_l2,
    solve_spd,
    variant,
)
from .fbp import fan_fbp, parallel_fbp
from .geometry import (
    FanGeometry,
    Geometry,
    ParallelGeometry,
    detector_count,
    image_size,
    view_angles,
)
from .projector import system_matrix

#: Up to here Q takes at most 64 MiB in float32, and costs less than conjugate gradients.
DIRECT_RAYS = 4096


class Tomography(LinearPhysics):
    """What parallel and fan beam share: x (B, 1, H, W) → y (B, 1, views, detectors)."""

    def __init__(self, geometry: Geometry, pixel: float, normalize: bool, **kwargs: Any):
        if not (math.isfinite(pixel) and pixel > 0):
            raise ValueError(f"pixel must be a positive length, got {pixel}")
        super().__init__(img_size=(1, geometry.height, geometry.width), **kwargs)
        self.geometry = geometry
        self.matrix = system_matrix(geometry)
        self.pixel = float(pixel)
        self.scale = self.pixel  #: A = scale · (matrix in pixels)
        self.gain = 1.0  #: what normalize() has multiplied A by
        if normalize:
            self.normalize()

    @property
    def angles(self) -> Tensor:
        """(views,) degrees."""
        return torch.tensor(self.geometry.angles)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return 1, self.geometry.height, self.geometry.width

    @property
    def measurement_shape(self) -> tuple[int, int, int]:
        return 1, len(self.geometry.angles), self.geometry.detectors

    def A(self, x: Tensor, **kwargs: Any) -> Tensor:
        """Line integrals of x (B, 1, H, W): (B, 1, views, detectors), in units of x times the unit
        of ``pixel``."""
        if x.ndim != 4 or tuple(x.shape[1:]) != self.image_shape:
            wanted = ", ".join(map(str, self.image_shape))
            raise ValueError(f"x must have shape (B, {wanted}), got {tuple(x.shape)}")
        y = self.matrix.product(x.flatten(1), False)
        return self.scale * y.unflatten(1, self.measurement_shape)

    def A_adjoint(self, y: Tensor, **kwargs: Any) -> Tensor:
        """Aᵀ: the exact transpose. (B, 1, views, detectors) → (B, 1, H, W)."""
        if y.ndim != 4 or tuple(y.shape[1:]) != self.measurement_shape:
            wanted = ", ".join(map(str, self.measurement_shape))
            raise ValueError(
                f"y must have shape (B, {wanted}) for this geometry (1, views, detectors), "
                f"got {tuple(y.shape)}"
            )
        x = self.matrix.product(y.flatten(1), True)
        return self.scale * x.unflatten(1, self.image_shape)

    def __getstate__(self) -> dict[str, Any]:
        """deepinv's defaults are lambdas, which do not pickle: they are left out here and made anew
        below."""
        state = _without_defaults(self.__dict__)
        state["_modules"] = dict(self._modules)
        noise = state["_modules"].get("noise_model")
        if noise is not None:
            noise = copy.copy(noise)
            noise.__dict__ = _without_defaults(noise.__dict__)
            state["_modules"]["noise_model"] = noise
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        fresh = LinearPhysics()
        _restore_defaults(self, fresh)
        noise = self._modules.get("noise_model")
        if noise is not None:
            _restore_defaults(noise, fresh.noise_model)

    def norm(self) -> float:
        """The largest singular value of A (not its square)."""
        like = torch.zeros(1, *self.image_shape, device=self._device_holder.device)
        return norm(self.A, self.A_adjoint, like)

    def normalize(self) -> Tomography:
        """Rescales A so that ‖A‖ = 1, in place; measurements made elsewhere must be multiplied by
        ``gain``."""
        size = self.norm()
        if size == 0:
            raise ValueError(
                "no ray meets the image: check detectors, offset (in detectors) and the distances "
                "(in pixels)"
            )
        factor = 1 / size
        self.scale, self.gain = self.scale * factor, self.gain * factor
        return self

    def views(self, index: Sequence[int]) -> Tomography:
        """The same scan with the views ``index`` alone (and the same scaling): its y is
        ``y[:, :, index]``."""
        part: Tomography = variant(self)
        angles = tuple(self.geometry.angles[i] for i in index)
        part.geometry = replace(self.geometry, angles=angles)
        part.matrix = system_matrix(part.geometry)
        return part

    def A_dagger(self, y: Tensor, tol: float = 1e-4, max_iter: int = 50, **kwargs: Any) -> Tensor:
        """The least-squares solution of smallest norm, by conjugate gradients on AᵀA x = Aᵀy to the
        relative residual ``tol``, or ``max_iter`` iterations: stopping early regularises.
        Differentiable in y."""
        return solve_spd(self.A_adjoint_A, self.A_adjoint(y), tol, max_iter)

    def least_squares(self, y: Tensor, tol: float = 1e-4, max_iter: int = 50) -> CGResult:
        """:meth:`A_dagger` with its account: value, iterations, residual (B,)."""
        return least_squares(self.A, self.A_adjoint, y, tol, max_iter)

    def prox_l2(
        self,
        z: Tensor,
        y: Tensor,
        gamma: Tensor | float,
        tol: float = 1e-6,
        max_iter: int = 200,
        **kwargs: Any,
    ) -> Tensor:
        """argmin_x γ/2 ‖A x − y‖² + ½‖x − z‖², with exact derivatives in z, y and γ.

        x = z + Aᵀ(AAᵀ + 1/γ)⁻¹(y − A z). With at most ``DIRECT_RAYS`` measurements the inverse is
        applied through the eigenvectors of AAᵀ, found once per geometry: two dense products instead
        of tens of projections. Beyond that, conjugate gradients to the relative residual ``tol``.
        """
        if y[0].numel() <= DIRECT_RAYS:
            Q, s = self.matrix.spectrum(z.dtype, z.device)
            r = (y - self.A(z)).flatten(1) @ Q
            inverse = 1 / gamma.reshape(-1, 1) if isinstance(gamma, Tensor) else 1 / gamma
            r = (r / (self.scale**2 * s + inverse)) @ Q.t()
            return z + self.A_adjoint(r.reshape(y.shape))
        return proximal_l2(self.A, self.A_adjoint, z, y, 1 / gamma, tol, max_iter)

    def prox_account(
        self, z: Tensor, y: Tensor, gamma: float, tol: float = 1e-6, max_iter: int = 200
    ) -> CGResult:
        """:meth:`prox_l2` with its account and without its derivative: value, iterations (0 where
        the inverse is applied directly), relative residual (B,) of
        (AᵀA + 1/γ)(x − z) = Aᵀ(y − A z)."""

        def M(u: Tensor) -> Tensor:
            return self.A_adjoint(self.A(u)) + u / gamma

        with torch.no_grad():
            b = self.A_adjoint(y - self.A(z))
            if y[0].numel() <= DIRECT_RAYS:
                step, iterations = self.prox_l2(z, y, gamma) - z, 0
            else:
                step, iterations, _ = conjugate_gradients(M, b, tol=tol, max_iter=max_iter)
            left = (M(step) - b).flatten(1).norm(dim=1)
            size = b.flatten(1).norm(dim=1).clamp_min(torch.finfo(b.dtype).tiny)
            return CGResult(z + step, iterations, left / size)


def _is_default_of_deepinv(value: Any) -> bool:
    return getattr(value, "__name__", "") == "<lambda>" and value.__module__.startswith("deepinv.")


def _without_defaults(attributes: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in attributes.items() if not _is_default_of_deepinv(v)}


def _restore_defaults(module: torch.nn.Module, fresh: torch.nn.Module) -> None:
    for name, value in fresh.__dict__.items():
        if name not in module.__dict__ and _is_default_of_deepinv(value):
            module.__dict__[name] = value


class ParallelBeam(Tomography):
    """Parallel-beam tomography: y = A x, with A a sparse matrix (Joseph) stored with its exact
    transpose.

    Args:
        size: height and width of the image in pixels, or one number for both.
        angles: a number of views spread evenly over [0°, 180°), or the views in degrees. At 0° the
            columns are summed; angles turn as in ``skimage.transform.radon`` and
            ``deepinv.physics.Tomography``.
        detectors: how many, each as wide as a pixel. Default: the diagonal.
        pixel: the length of a pixel's side; y has units of x times this unit.
        offset: of the detector's middle from the shadow of the centre of rotation, in detectors
            (0.25: a quarter offset).
        normalize: rescale to ‖A‖ = 1 (then y has no physical unit any more; see
            :meth:`normalize`).
        **kwargs: what ``deepinv.physics.LinearPhysics`` takes, such as ``noise_model``.
    """

    def __init__(
        self,
        size: int | Sequence[int],
        angles: int | Tensor | Sequence[float],
        detectors: int | None = None,
        pixel: float = 1.0,
        *,
        offset: float = 0.0,
        normalize: bool = False,
        **kwargs: Any,
    ):
        h, w = image_size(size)
        detectors = detector_count(detectors, math.hypot(h, w), offset)
        geometry = ParallelGeometry(h, w, view_angles(angles, 180.0), detectors, float(offset))
        super().__init__(geometry, pixel, normalize, **kwargs)

    def fbp(self, y: Tensor, window: str = "ramp") -> Tensor:
        """Filtered back-projection, with a window on the ramp: "ramp" (none), "shepp-logan",
        "cosine", "hamming", "hann".

        y (B, 1, views, detectors) → (B, 1, H, W), in the units of x.
        """
        assert isinstance(self.geometry, ParallelGeometry)
        return parallel_fbp(self.geometry, self.matrix, y / self.scale, window)


class FanBeam(Tomography):
    """Fan-beam tomography, with a flat or a curved detector.

    Args:
        size: as for :class:`ParallelBeam`, and so are ``pixel``, ``offset`` and ``normalize``.
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
        normalize: bool = False,
        **kwargs: Any,
    ):
        h, w = image_size(size)
        radius = math.hypot(h, w) / 2
        if not source_distance > radius:
            raise ValueError(
                f"source_distance must be larger than half the image's diagonal ({radius:.1f} "
                f"pixels), got {source_distance}"
            )
        if not detector_distance >= 0:
            raise ValueError(f"detector_distance must be >= 0, got {detector_distance}")
        far = source_distance + detector_distance
        pitch = far / source_distance if pitch is None else float(pitch)
        if not (math.isfinite(pitch) and pitch > 0):
            raise ValueError(f"pitch must be a positive number of pixels, got {pitch}")
        half = math.asin(radius / source_distance)
        extent = 2 * far * (half if curved else math.tan(half)) / pitch
        geometry = FanGeometry(
            height=h,
            width=w,
            angles=view_angles(angles, 360.0),
            detectors=detector_count(detectors, extent, offset),
            source_distance=float(source_distance),
            detector_distance=float(detector_distance),
            detector_pitch=pitch,
            curved=bool(curved),
            offset=float(offset),
        )
        super().__init__(geometry, pixel, normalize, **kwargs)

    def fbp(self, y: Tensor, window: str = "ramp") -> Tensor:
        """Filtered back-projection for views spread evenly over a full turn, or over half a turn
        and the fan at least.

        y (B, 1, views, detectors) → (B, 1, H, W), in the units of x.

        Raises:
            ValueError: the views are not evenly spread, or cover less; use ``A_dagger`` then.
        """
        assert isinstance(self.geometry, FanGeometry)
        return fan_fbp(self.geometry, y / self.scale, window)
