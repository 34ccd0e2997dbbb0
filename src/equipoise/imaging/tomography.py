"""Computed tomography as one sparse matrix: exactly matched forward and backward projection."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from numbers import Integral
from typing import Any

import numpy as np
import scipy.sparse
import torch
from deepinv.physics import LinearPhysics
from torch import Tensor

from .linear import CGResult, conjugate_gradients, norm, proximal_l2, solve_spd


@dataclass(frozen=True)
class ParallelGeometry:
    """A parallel beam: lengths in pixels. The detector's axis is (cos θ, −sin θ) in (column, row)."""

    height: int
    width: int
    angles: tuple[float, ...]  # degrees
    detectors: int

    def rays(self, view: int) -> tuple[np.ndarray, np.ndarray]:
        """A point and a direction, (detectors, 2) each in (column, row) from the centre, of every ray of a view."""
        theta = math.radians(self.angles[view])
        s = np.arange(self.detectors) - (self.detectors - 1) / 2
        point = s[:, None] * np.array([math.cos(theta), -math.sin(theta)])
        return point, np.broadcast_to([math.sin(theta), math.cos(theta)], point.shape)


@dataclass(frozen=True)
class FanGeometry:
    """A fan beam: the source turns at ``source_distance`` from the centre, the detector at ``detector_distance``
    on the other side. At angle 0 the rays run down the rows, as in the parallel beam."""

    height: int
    width: int
    angles: tuple[float, ...]
    detectors: int
    source_distance: float
    detector_distance: float
    detector_pitch: float
    curved: bool

    def rays(self, view: int) -> tuple[np.ndarray, np.ndarray]:
        theta = math.radians(self.angles[view])
        across = np.array([math.cos(theta), -math.sin(theta)])
        along = np.array([math.sin(theta), math.cos(theta)])
        far = self.source_distance + self.detector_distance
        s = (np.arange(self.detectors) - (self.detectors - 1) / 2) * self.detector_pitch
        angle = s / far if self.curved else np.arctan2(s, far)
        direction = np.cos(angle)[:, None] * along + np.sin(angle)[:, None] * across
        return np.broadcast_to(-self.source_distance * along, direction.shape), direction


Geometry = ParallelGeometry | FanGeometry


def joseph(geometry: Geometry) -> scipy.sparse.csr_matrix:
    """The system matrix (views·detectors, height·width), lengths in pixels.

    Joseph's method (IEEE TMI 1982): a ray steps from row to row (or from column to column, whichever it crosses more
    squarely) and interpolates linearly between the two pixels beside it.
    """
    rows: list[np.ndarray] = []
    cols: list[np.ndarray] = []
    values: list[np.ndarray] = []
    h, w = geometry.height, geometry.width
    for view in range(len(geometry.angles)):
        point, direction = geometry.rays(view)
        steep = np.abs(direction[:, 1]) >= np.abs(direction[:, 0])  # crosses rows
        for by_row in (True, False):
            ray = np.flatnonzero(steep if by_row else ~steep)
            if len(ray) == 0:
                continue
            n, across = (h, w) if by_row else (w, h)
            i, j = (1, 0) if by_row else (0, 1)  # the axis stepped along, the axis interpolated on
            slope = direction[ray, j] / direction[ray, i]
            step = np.arange(n)
            at = point[ray, j][:, None] + slope[:, None] * (step - (n - 1) / 2 - point[ray, i][:, None]) + (across - 1) / 2
            low = np.floor(at).astype(np.int64)
            high_weight = at - low
            length = np.hypot(1, slope)[:, None]
            for pixel, weight in ((low, 1 - high_weight), (low + 1, high_weight)):
                r, k = np.nonzero((pixel >= 0) & (pixel < across) & (weight > 0))
                p = pixel[r, k]
                rows.append((view * geometry.detectors + ray[r]).astype(np.int32))
                cols.append((step[k] * w + p if by_row else p * w + step[k]).astype(np.int32))
                values.append((weight * length)[r, k].astype(np.float32))
    shape = (len(geometry.angles) * geometry.detectors, h * w)
    matrix = scipy.sparse.coo_matrix((np.concatenate(values), (np.concatenate(rows), np.concatenate(cols))), shape)
    return matrix.tocsr()


class SystemMatrix:
    """A sparse matrix and its transpose, made once per geometry and shared by all operators that have it."""

    def __init__(self, geometry: Geometry):
        self.geometry = geometry
        forward = joseph(geometry)
        self._host = (forward, forward.T.tocsr())
        self._ready: dict[tuple[bool, torch.dtype, torch.device], Tensor] = {}
        self._spectra: dict[tuple[torch.dtype, torch.device], tuple[Tensor, Tensor]] = {}

    def __deepcopy__(self, memo: dict) -> SystemMatrix:
        return self

    def __reduce__(self) -> tuple:
        return system_matrix, (self.geometry,)

    def on(self, transpose: bool, dtype: torch.dtype, device: torch.device) -> Tensor:
        key = (transpose, dtype, device)
        if key not in self._ready:
            m = self._host[transpose]
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Sparse CSR tensor support")  # in beta; products are all we use
                self._ready[key] = torch.sparse_csr_tensor(
                    torch.from_numpy(m.indptr),
                    torch.from_numpy(m.indices),
                    torch.from_numpy(m.data).to(dtype),
                    m.shape,
                    check_invariants=False,
                ).to(device)
        return self._ready[key]

    def spectrum(self, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
        """M Mᵀ = Q diag(s) Qᵀ: Q (rays, rays) and s (rays,), found in float64, once per precision."""
        key = (dtype, device)
        if key not in self._spectra:
            m = self._host[0].astype(np.float64)
            s, Q = torch.linalg.eigh(torch.from_numpy((m @ m.T).toarray()))
            self._spectra[key] = Q.to(device, dtype), s.clamp_min(0).to(device, dtype)
        return self._spectra[key]

    def product(self, x: Tensor, transpose: bool) -> Tensor:
        """(B, columns) → (B, rows), differentiable any number of times, forward and backward."""
        return _Product.apply(x, self, transpose)


@lru_cache(maxsize=32)
def system_matrix(geometry: Geometry) -> SystemMatrix:
    return SystemMatrix(geometry)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, matrix: SystemMatrix, transpose: bool) -> Tensor:
        dtype = x.dtype if x.dtype == torch.float64 else torch.float32
        out = matrix.on(transpose, dtype, x.device) @ x.to(dtype).t().contiguous()
        return out.t().contiguous().to(x.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, ctx.matrix, ctx.transpose = inputs

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None]:
        return _Product.apply(g, ctx.matrix, not ctx.transpose), None, None

    @staticmethod
    def jvp(ctx: Any, dx: Tensor, *_: Any) -> Tensor:
        return _Product.apply(dx, ctx.matrix, ctx.transpose)

    @staticmethod
    def vmap(info: Any, in_dims: tuple, x: Tensor, matrix: SystemMatrix, transpose: bool) -> tuple[Tensor, int]:
        x = x.movedim(in_dims[0], 0)
        out = _Product.apply(x.flatten(0, 1), matrix, transpose)
        return out.unflatten(0, x.shape[:2]), 0


def _size(size: int | Sequence[int]) -> tuple[int, int]:
    h, w = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
    if h < 1 or w < 1:
        raise ValueError(f"size must be at least 1 pixel each way, got {size}")
    return h, w


def _angles(angles: int | Tensor | Sequence[float], span: float) -> tuple[float, ...]:
    if isinstance(angles, Integral) and not isinstance(angles, bool):
        if angles < 1:
            raise ValueError(f"angles must be at least 1 view, got {angles}")
        return tuple(span * i / int(angles) for i in range(int(angles)))
    if isinstance(angles, (bool, float)) or getattr(angles, "ndim", 1) == 0:
        raise ValueError(f"angles must be a whole number of views or a sequence of degrees, got {angles!r}")
    values = torch.as_tensor(angles, dtype=torch.float64).flatten()
    if len(values) == 0 or not bool(values.isfinite().all()):
        raise ValueError(f"angles must be finite degrees, at least one, got {values.tolist()}")
    return tuple(values.tolist())


DIRECT_RAYS = 4096  # up to here Q takes at most 64 MiB in float32, and its products cost less than conjugate gradients

WINDOWS = ("ramp", "shepp-logan", "cosine", "hamming", "hann")


class _Tomography(LinearPhysics):
    """What parallel and fan beam share: x (B, 1, H, W) → y (B, 1, views, detectors)."""

    def __init__(self, geometry: Geometry, pixel: float, normalize: bool, **kwargs: Any):
        if not (math.isfinite(pixel) and pixel > 0):
            raise ValueError(f"pixel must be a positive length, got {pixel}")
        super().__init__(img_size=(1, geometry.height, geometry.width), **kwargs)
        self.geometry = geometry
        self.matrix = system_matrix(geometry)
        self.pixel = float(pixel)
        self.scale = self.pixel  # A = scale · (matrix in pixels)
        self.gain = 1.0  # what normalize() has multiplied A by
        if normalize:
            self.normalize()

    @property
    def angles(self) -> Tensor:
        """(views,) degrees."""
        return torch.tensor(self.geometry.angles)

    @property
    def measurement_shape(self) -> tuple[int, int, int]:
        return 1, len(self.geometry.angles), self.geometry.detectors

    def A(self, x: Tensor, **kwargs: Any) -> Tensor:
        """Line integrals of x (B, 1, H, W): (B, 1, views, detectors), in units of x times the unit of ``pixel``."""
        shape = (1, self.geometry.height, self.geometry.width)
        if x.ndim != 4 or tuple(x.shape[1:]) != shape:
            raise ValueError(f"x must have shape (B, {', '.join(map(str, shape))}), got {tuple(x.shape)}")
        return self.scale * self.matrix.product(x.flatten(1), False).unflatten(1, self.measurement_shape)

    def A_adjoint(self, y: Tensor, **kwargs: Any) -> Tensor:
        """Aᵀ: the exact transpose. (B, 1, views, detectors) → (B, 1, H, W)."""
        if y.ndim != 4 or tuple(y.shape[1:]) != self.measurement_shape:
            raise ValueError(
                f"y must have shape (B, {', '.join(map(str, self.measurement_shape))}) for this geometry "
                f"(1, views, detectors), got {tuple(y.shape)}"
            )
        g = self.geometry
        return self.scale * self.matrix.product(y.flatten(1), True).unflatten(1, (1, g.height, g.width))

    def norm(self) -> float:
        """The largest singular value of A (not its square)."""
        g = self.geometry
        return norm(self.A, self.A_adjoint, torch.zeros(1, 1, g.height, g.width, device=self._device_holder.device))

    def normalize(self) -> _Tomography:
        """Rescales A so that ‖A‖ = 1, in place; measurements made elsewhere must be multiplied by ``gain``."""
        factor = 1 / self.norm()
        self.scale, self.gain = self.scale * factor, self.gain * factor
        return self

    def views(self, index: Sequence[int]) -> _Tomography:
        """The same scan with the views ``index`` alone (and the same scaling): its y is ``y[:, :, index]``."""
        part = copy.copy(self)
        part._modules, part._buffers = dict(self._modules), dict(self._buffers)
        part.geometry = replace(self.geometry, angles=tuple(self.geometry.angles[i] for i in index))
        part.matrix = system_matrix(part.geometry)
        return part

    def A_dagger(self, y: Tensor, tol: float = 1e-4, max_iter: int = 50, **kwargs: Any) -> Tensor:
        """The least-squares solution of smallest norm, by conjugate gradients on AᵀA x = Aᵀy to the relative residual
        ``tol``, or ``max_iter`` iterations: stopping early regularises. Differentiable in y."""
        return solve_spd(self.A_adjoint_A, self.A_adjoint(y), None, tol, max_iter)

    def least_squares(self, y: Tensor, tol: float = 1e-4, max_iter: int = 50) -> CGResult:
        """:meth:`A_dagger` with its account: value, iterations, residual (B,)."""
        return conjugate_gradients(self.A_adjoint_A, self.A_adjoint(y), None, tol, max_iter)

    def prox_l2(self, z: Tensor, y: Tensor, gamma: Tensor | float, tol: float = 1e-6, max_iter: int = 200, **kwargs: Any) -> Tensor:
        """argmin_x γ/2 ‖A x − y‖² + ½‖x − z‖², with exact derivatives in z, y and γ.

        x = z + Aᵀ(AAᵀ + 1/γ)⁻¹(y − A z). With at most ``DIRECT_RAYS`` measurements the inverse is applied through the
        eigenvectors of AAᵀ, found once per geometry: two dense products instead of tens of projections. Beyond that,
        conjugate gradients to the relative residual ``tol``.
        """
        if y[0].numel() <= DIRECT_RAYS:
            Q, s = self.matrix.spectrum(z.dtype, z.device)
            r = (y - self.A(z)).flatten(1) @ Q
            inverse = 1 / gamma if not isinstance(gamma, Tensor) else 1 / gamma.reshape(-1, 1)
            r = (r / (self.scale**2 * s + inverse)) @ Q.t()
            return z + self.A_adjoint(r.reshape(y.shape))
        return proximal_l2(self.A, self.A_adjoint, z, y, 1 / gamma, tol, max_iter)


class ParallelBeam(_Tomography):
    """Parallel-beam tomography: y = A x, with A a sparse matrix (Joseph) stored with its exact transpose.

    Args:
        size: height and width of the image in pixels, or one number for both.
        angles: a number of views spread evenly over [0°, 180°), or the views in degrees. At 0° the columns are summed;
            angles turn as in ``skimage.transform.radon`` and ``deepinv.physics.Tomography``.
        detectors: how many, each as wide as a pixel, centred on the image. Default: the diagonal.
        pixel: the length of a pixel's side; y has units of x times this unit.
        normalize: rescale to ‖A‖ = 1 (then y has no physical unit any more; see :meth:`normalize`).
        **kwargs: what ``deepinv.physics.LinearPhysics`` takes, such as ``noise_model``.
    """

    def __init__(
        self,
        size: int | Sequence[int],
        angles: int | Tensor | Sequence[float],
        detectors: int | None = None,
        pixel: float = 1.0,
        *,
        normalize: bool = False,
        **kwargs: Any,
    ):
        h, w = _size(size)
        detectors = math.ceil(math.hypot(h, w)) if detectors is None else detectors
        if detectors < 1:
            raise ValueError(f"detectors must be at least 1, got {detectors}")
        super().__init__(ParallelGeometry(h, w, _angles(angles, 180.0), int(detectors)), pixel, normalize, **kwargs)

    def fbp(self, y: Tensor, window: str = "ramp") -> Tensor:
        """Filtered back-projection, with a window on the ramp: "ramp" (none), "shepp-logan", "cosine", "hamming", "hann".

        The ramp is the Fourier transform of its band-limited kernel, so that the mean is right (Kak and Slaney 1988,
        section 3.3). y (B, 1, views, detectors) → (B, 1, H, W), in the units of x.
        """
        filtered = filter_rows(y / self.scale, window)
        return self.A_adjoint(filtered) / self.scale * (math.pi / len(self.geometry.angles))


class FanBeam(_Tomography):
    """Fan-beam tomography, with a flat or a curved detector.

    Args:
        size, pixel, normalize: as for :class:`ParallelBeam`.
        angles: a number of views spread evenly over [0°, 360°), or the views in degrees.
        source_distance: from the source to the centre of rotation, in pixels; it must lie outside the image.
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
        normalize: bool = False,
        **kwargs: Any,
    ):
        h, w = _size(size)
        radius = math.hypot(h, w) / 2
        if source_distance <= radius:
            raise ValueError(
                f"source_distance must be larger than half the image's diagonal ({radius:.1f} pixels), got {source_distance}"
            )
        if detector_distance < 0:
            raise ValueError(f"detector_distance must be >= 0, got {detector_distance}")
        far = source_distance + detector_distance
        pitch = far / source_distance if pitch is None else float(pitch)
        half = math.asin(radius / source_distance)
        extent = 2 * far * (half if curved else math.tan(half))
        detectors = math.ceil(extent / pitch) if detectors is None else detectors
        super().__init__(
            FanGeometry(
                h, w, _angles(angles, 360.0), int(detectors), float(source_distance), float(detector_distance), pitch, curved
            ),
            pixel,
            normalize,
            **kwargs,
        )

    def fbp(self, y: Tensor, window: str = "ramp") -> Tensor:
        """Filtered back-projection for views spread evenly over a full turn (Kak and Slaney 1988, section 3.4).

        Each view is weighted by the cosine of its rays' angles, filtered, and smeared back along the fan with the inverse
        square of the distance to the source. y (B, 1, views, detectors) → (B, 1, H, W), in the units of x.

        Raises:
            ValueError: the views do not cover a full turn evenly; use ``A_dagger`` then.
        """
        g = self.geometry
        assert isinstance(g, FanGeometry)
        gaps = torch.tensor([*g.angles[1:], g.angles[0] + 360.0]) - torch.tensor(g.angles)
        if float((gaps - 360.0 / len(g.angles)).abs().max()) > 1e-3:
            raise ValueError(f"fbp needs views spread evenly over 360°, got {list(g.angles)}; use A_dagger for other scans")
        D, far = g.source_distance, g.source_distance + g.detector_distance
        k = torch.arange(g.detectors, device=y.device, dtype=y.dtype) - (g.detectors - 1) / 2
        if g.curved:
            step = g.detector_pitch / far  # the angle between rays
            weighted = y * D * torch.cos(k * step)
            n = torch.arange(g.detectors, dtype=torch.float64) * step
            filtered = filter_rows(weighted, window, step, torch.where(n == 0, 1.0, n / torch.sin(n).clamp_min(1e-9)) ** 2)
        else:
            step = g.detector_pitch * D / far  # detectors as seen at the centre of rotation
            s = k * step
            weighted = y * D / torch.sqrt(D * D + s * s)
            filtered = filter_rows(weighted, window, step)
        rows = torch.arange(g.height, device=y.device, dtype=y.dtype) - (g.height - 1) / 2
        cols = torch.arange(g.width, device=y.device, dtype=y.dtype) - (g.width - 1) / 2
        out = y.new_zeros(len(y), 1, g.height, g.width)
        for view, angle in enumerate(g.angles):
            c, sn = math.cos(math.radians(angle)), math.sin(math.radians(angle))
            across = cols[None, :] * c - rows[:, None] * sn
            depth = D + cols[None, :] * sn + rows[:, None] * c
            at = torch.atan2(across, depth) / step if g.curved else D * across / depth / step
            square = across.square() + depth.square() if g.curved else (depth / D).square()
            at = (at + (g.detectors - 1) / 2).clamp(0, g.detectors - 1)
            low = at.floor().long().clamp_max(g.detectors - 2) if g.detectors > 1 else at.long()
            row = filtered[:, 0, view]
            value = torch.lerp(row[:, low], row[:, (low + 1).clamp_max(g.detectors - 1)], (at - low)[None])
            out[:, 0] += value / square
        return out * (math.pi / len(g.angles)) / self.scale


def filter_rows(y: Tensor, window: str = "ramp", pitch: float = 1.0, factor: Tensor | None = None) -> Tensor:
    """Convolves every detector row of y (…, detectors) with the band-limited ramp, times a window in frequency.

    ``factor`` (detectors,) multiplies the kernel at distance 0, 1, …: the equiangular fan's (γ / sin γ)².
    """
    if window not in WINDOWS:
        raise ValueError(f"window must be one of {', '.join(WINDOWS)}, got {window!r}")
    n = y.shape[-1]
    size = max(64, 2 ** math.ceil(math.log2(2 * n)))
    k = torch.cat([torch.arange(0, size // 2 + 1), torch.arange(-(size // 2) + 1, 0)]).to(torch.float64)
    kernel = torch.where(k.remainder(2) == 1, -1 / (math.pi * k).square().clamp_min(1), torch.zeros_like(k))
    kernel[0] = 0.25
    if factor is not None:
        distance = k.abs().long()
        kernel = torch.where(distance < n, kernel * factor[distance.clamp_max(n - 1)], torch.zeros_like(kernel))
    ramp = torch.fft.rfft(kernel).real
    f = torch.linspace(0, 1, len(ramp), dtype=torch.float64)  # of the Nyquist frequency
    ramp = (
        ramp
        * {
            "ramp": torch.ones_like(f),
            "shepp-logan": torch.sinc(f / 2),
            "cosine": torch.cos(math.pi / 2 * f),
            "hamming": 0.54 + 0.46 * torch.cos(math.pi * f),
            "hann": 0.5 + 0.5 * torch.cos(math.pi * f),
        }[window]
    )
    return torch.fft.irfft(torch.fft.rfft(y, size) * ramp.to(y), size)[..., :n] / pitch
