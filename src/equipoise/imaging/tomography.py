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

from .linear import CGResult, conjugate_gradients, least_squares, norm, proximal_l2, solve_spd, variant


@dataclass(frozen=True)
class ParallelGeometry:
    """A parallel beam: lengths in pixels. The detector's axis is (cos θ, −sin θ) in (column, row)."""

    height: int
    width: int
    angles: tuple[float, ...]  # degrees
    detectors: int
    offset: float  # of the detector's middle from the centre's shadow, in detectors

    def rays(self, view: int) -> tuple[np.ndarray, np.ndarray]:
        """A point and a direction, (detectors, 2) each in (column, row) from the centre, of every ray of a view."""
        theta = math.radians(self.angles[view])
        s = np.arange(self.detectors) - (self.detectors - 1) / 2 + self.offset
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
    offset: float

    def fan(self) -> np.ndarray:
        """(detectors,) the angle of every ray against the central one."""
        far = self.source_distance + self.detector_distance
        s = (np.arange(self.detectors) - (self.detectors - 1) / 2 + self.offset) * self.detector_pitch
        return s / far if self.curved else np.arctan2(s, far)

    def rays(self, view: int) -> tuple[np.ndarray, np.ndarray]:
        theta = math.radians(self.angles[view])
        across = np.array([math.cos(theta), -math.sin(theta)])
        along = np.array([math.sin(theta), math.cos(theta)])
        angle = self.fan()
        direction = np.cos(angle)[:, None] * along + np.sin(angle)[:, None] * across
        return np.broadcast_to(-self.source_distance * along, direction.shape), direction


Geometry = ParallelGeometry | FanGeometry


def joseph(geometry: Geometry) -> scipy.sparse.csr_matrix:
    """The system matrix (views·detectors, height·width), lengths in pixels.

    Joseph's method (IEEE TMI 1982): a ray steps from row to row (or from column to column, whichever it crosses more
    squarely) and interpolates linearly between the two pixels beside it.
    """
    h, w = geometry.height, geometry.width
    views = []
    for view in range(len(geometry.angles)):
        point, direction = geometry.rays(view)
        steep = np.abs(direction[:, 1]) >= np.abs(direction[:, 0])  # crosses rows
        rows, cols, values = [], [], []
        for by_row in (True, False):
            ray = np.flatnonzero(steep if by_row else ~steep)
            n, across = (h, w) if by_row else (w, h)
            i, j = (1, 0) if by_row else (0, 1)  # the axis stepped along, the axis interpolated on
            slope = direction[ray, j] / direction[ray, i]
            step = np.arange(n)
            at = point[ray, j][:, None] + slope[:, None] * (step - (n - 1) / 2 - point[ray, i][:, None]) + (across - 1) / 2
            low = np.floor(at).astype(np.int32)
            high_weight = at - low
            length = np.hypot(1, slope)[:, None]
            for pixel, weight in ((low, 1 - high_weight), (low + 1, high_weight)):
                r, k = np.nonzero((pixel >= 0) & (pixel < across) & (weight > 0))
                p = pixel[r, k]
                rows.append(ray[r].astype(np.int32))
                cols.append((step[k] * w + p if by_row else p * w + step[k]).astype(np.int32))
                values.append((weight * length)[r, k].astype(np.float32))
        entries = np.concatenate(values), (np.concatenate(rows), np.concatenate(cols))
        views.append(scipy.sparse.coo_matrix(entries, (geometry.detectors, h * w)).tocsr())
    return scipy.sparse.vstack(views, "csr")


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


def _detectors(detectors: int | None, extent: float, offset: float) -> int:
    """How many: as given, or enough for ``extent`` (in detectors) on both sides of the offset."""
    if not math.isfinite(offset):
        raise ValueError(f"offset must be a finite number of detectors, got {offset}")
    if detectors is None:
        return math.ceil(extent + 2 * abs(offset))
    if isinstance(detectors, bool) or int(detectors) != detectors or detectors < 1:
        raise ValueError(f"detectors must be a whole number, at least 1, got {detectors}")
    return int(detectors)


DIRECT_RAYS = 4096  # up to here Q takes at most 64 MiB in float32, and its products cost less than conjugate gradients

WINDOWS = ("ramp", "shepp-logan", "cosine", "hamming", "hann")


def _default_of_deepinv(value: Any) -> bool:
    return getattr(value, "__name__", "") == "<lambda>" and value.__module__.startswith("deepinv.")


class Tomography(LinearPhysics):
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
    def image_shape(self) -> tuple[int, int, int]:
        return 1, self.geometry.height, self.geometry.width

    @property
    def measurement_shape(self) -> tuple[int, int, int]:
        return 1, len(self.geometry.angles), self.geometry.detectors

    def A(self, x: Tensor, **kwargs: Any) -> Tensor:
        """Line integrals of x (B, 1, H, W): (B, 1, views, detectors), in units of x times the unit of ``pixel``."""
        if x.ndim != 4 or tuple(x.shape[1:]) != self.image_shape:
            raise ValueError(f"x must have shape (B, {', '.join(map(str, self.image_shape))}), got {tuple(x.shape)}")
        return self.scale * self.matrix.product(x.flatten(1), False).unflatten(1, self.measurement_shape)

    def A_adjoint(self, y: Tensor, **kwargs: Any) -> Tensor:
        """Aᵀ: the exact transpose. (B, 1, views, detectors) → (B, 1, H, W)."""
        if y.ndim != 4 or tuple(y.shape[1:]) != self.measurement_shape:
            raise ValueError(
                f"y must have shape (B, {', '.join(map(str, self.measurement_shape))}) for this geometry "
                f"(1, views, detectors), got {tuple(y.shape)}"
            )
        return self.scale * self.matrix.product(y.flatten(1), True).unflatten(1, self.image_shape)

    def __getstate__(self) -> dict[str, Any]:
        """deepinv's defaults are lambdas, which do not pickle: they are left out here and made anew below."""
        state = {k: v for k, v in self.__dict__.items() if not _default_of_deepinv(v)}
        state["_modules"] = dict(self._modules)
        if (noise := state["_modules"].get("noise_model")) is not None:
            noise = copy.copy(noise)
            noise.__dict__ = {k: v for k, v in noise.__dict__.items() if not _default_of_deepinv(v)}
            state["_modules"]["noise_model"] = noise
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        fresh = LinearPhysics()
        for mine, default in ((self, fresh), (self._modules.get("noise_model"), fresh.noise_model)):
            if mine is not None:
                lost = {k: v for k, v in default.__dict__.items() if k not in mine.__dict__ and _default_of_deepinv(v)}
                mine.__dict__.update(lost)

    def norm(self) -> float:
        """The largest singular value of A (not its square)."""
        return norm(self.A, self.A_adjoint, torch.zeros(1, *self.image_shape, device=self._device_holder.device))

    def normalize(self) -> Tomography:
        """Rescales A so that ‖A‖ = 1, in place; measurements made elsewhere must be multiplied by ``gain``."""
        size = self.norm()
        if size == 0:
            raise ValueError("no ray meets the image: check detectors, offset (in detectors) and the distances (in pixels)")
        factor = 1 / size
        self.scale, self.gain = self.scale * factor, self.gain * factor
        return self

    def views(self, index: Sequence[int]) -> Tomography:
        """The same scan with the views ``index`` alone (and the same scaling): its y is ``y[:, :, index]``."""
        part: Tomography = variant(self)
        part.geometry = replace(self.geometry, angles=tuple(self.geometry.angles[i] for i in index))
        part.matrix = system_matrix(part.geometry)
        return part

    def A_dagger(self, y: Tensor, tol: float = 1e-4, max_iter: int = 50, **kwargs: Any) -> Tensor:
        """The least-squares solution of smallest norm, by conjugate gradients on AᵀA x = Aᵀy to the relative residual
        ``tol``, or ``max_iter`` iterations: stopping early regularises. Differentiable in y."""
        return solve_spd(self.A_adjoint_A, self.A_adjoint(y), tol, max_iter)

    def least_squares(self, y: Tensor, tol: float = 1e-4, max_iter: int = 50) -> CGResult:
        """:meth:`A_dagger` with its account: value, iterations, residual (B,)."""
        return least_squares(self.A, self.A_adjoint, y, tol, max_iter)

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

    def prox_account(self, z: Tensor, y: Tensor, gamma: float, tol: float = 1e-6, max_iter: int = 200) -> CGResult:
        """:meth:`prox_l2` with its account and without its derivative: value, iterations (0 where the inverse is applied
        directly), relative residual (B,) of (AᵀA + 1/γ)(x − z) = Aᵀ(y − A z)."""

        def M(u: Tensor) -> Tensor:
            return self.A_adjoint(self.A(u)) + u / gamma

        with torch.no_grad():
            b = self.A_adjoint(y - self.A(z))
            if y[0].numel() <= DIRECT_RAYS:
                step, iterations = self.prox_l2(z, y, gamma) - z, 0
            else:
                step, iterations, _ = conjugate_gradients(M, b, tol=tol, max_iter=max_iter)
            left, size = ((v.flatten(1).norm(dim=1)) for v in (M(step) - b, b))
            return CGResult(z + step, iterations, left / size.clamp_min(torch.finfo(b.dtype).tiny))


class ParallelBeam(Tomography):
    """Parallel-beam tomography: y = A x, with A a sparse matrix (Joseph) stored with its exact transpose.

    Args:
        size: height and width of the image in pixels, or one number for both.
        angles: a number of views spread evenly over [0°, 180°), or the views in degrees. At 0° the columns are summed;
            angles turn as in ``skimage.transform.radon`` and ``deepinv.physics.Tomography``.
        detectors: how many, each as wide as a pixel. Default: the diagonal.
        pixel: the length of a pixel's side; y has units of x times this unit.
        offset: of the detector's middle from the shadow of the centre of rotation, in detectors (0.25: a quarter offset).
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
        offset: float = 0.0,
        normalize: bool = False,
        **kwargs: Any,
    ):
        h, w = _size(size)
        detectors = _detectors(detectors, math.hypot(h, w), offset)
        super().__init__(ParallelGeometry(h, w, _angles(angles, 180.0), detectors, float(offset)), pixel, normalize, **kwargs)

    def fbp(self, y: Tensor, window: str = "ramp") -> Tensor:
        """Filtered back-projection, with a window on the ramp: "ramp" (none), "shepp-logan", "cosine", "hamming", "hann".

        The ramp is the Fourier transform of its band-limited kernel, so that the mean is right (Kak and Slaney 1988,
        section 3.3). y (B, 1, views, detectors) → (B, 1, H, W), in the units of x.
        """
        filtered = filter_rows(y / self.scale, window)
        return self.A_adjoint(filtered) / self.scale * (math.pi / len(self.geometry.angles))


class FanBeam(Tomography):
    """Fan-beam tomography, with a flat or a curved detector.

    Args:
        size: as for :class:`ParallelBeam`, and so are ``pixel``, ``offset`` and ``normalize``.
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
        offset: float = 0.0,
        normalize: bool = False,
        **kwargs: Any,
    ):
        h, w = _size(size)
        radius = math.hypot(h, w) / 2
        if not source_distance > radius:
            raise ValueError(
                f"source_distance must be larger than half the image's diagonal ({radius:.1f} pixels), got {source_distance}"
            )
        if not detector_distance >= 0:
            raise ValueError(f"detector_distance must be >= 0, got {detector_distance}")
        far = source_distance + detector_distance
        pitch = far / source_distance if pitch is None else float(pitch)
        if not (math.isfinite(pitch) and pitch > 0):
            raise ValueError(f"pitch must be a positive number of pixels, got {pitch}")
        half = math.asin(radius / source_distance)
        detectors = _detectors(detectors, 2 * far * (half if curved else math.tan(half)) / pitch, offset)
        distances = float(source_distance), float(detector_distance), pitch
        geometry = FanGeometry(h, w, _angles(angles, 360.0), detectors, *distances, bool(curved), float(offset))
        super().__init__(geometry, pixel, normalize, **kwargs)

    def fbp(self, y: Tensor, window: str = "ramp") -> Tensor:
        """Filtered back-projection for views spread evenly over a full turn, or over half a turn and the fan at least.

        Each view is weighted by the cosine of its rays' angles, filtered, and smeared back along the fan with the inverse
        square of the distance to the source (Kak and Slaney 1988, section 3.4). In a short scan some lines are measured twice
        and some once; smooth weights make up for it (Noo, Defrise, Clackdoyle and Kudo, Phys. Med. Biol. 2002).
        y (B, 1, views, detectors) → (B, 1, H, W), in the units of x.

        Raises:
            ValueError: the views are not evenly spread, or cover less; use ``A_dagger`` then.
        """
        g = self.geometry
        assert isinstance(g, FanGeometry)
        weights, between = _redundancy(g)
        D, far = g.source_distance, g.source_distance + g.detector_distance
        fan = torch.from_numpy(g.fan()).to(y)
        weighted = y * torch.from_numpy(weights).to(y) * torch.cos(fan)
        if g.curved:
            weighted = weighted * D
            step = g.detector_pitch / far  # the angle between rays
            n = torch.arange(g.detectors, dtype=torch.float64) * step
            filtered = filter_rows(weighted, window, step, torch.where(n == 0, 1.0, n / torch.sin(n).clamp_min(1e-9)) ** 2)
        else:
            step = g.detector_pitch * D / far  # detectors as seen at the centre of rotation
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
            at = (at + (g.detectors - 1) / 2 - g.offset).clamp(0, g.detectors - 1)
            low = at.floor().long().clamp_max(max(g.detectors - 2, 0))
            row = filtered[:, 0, view]
            value = torch.lerp(row[:, low], row[:, (low + 1).clamp_max(g.detectors - 1)], (at - low)[None])
            out[:, 0] += value / square
        return out * between / self.scale


def _redundancy(g: FanGeometry) -> tuple[np.ndarray, float]:
    """Weights (views, detectors) that count every line of a scan once, and the angle between views in radians.

    Source angle β and fan angle γ measure the same line as β + 180° + 2γ and −γ do. Each gets its share
    c(β) / Σ c over the angles that measure it, c falling to zero over 10° at both ends of a short scan.
    """
    angles = np.radians(np.sort(np.asarray(g.angles)))
    n, turn, fan = len(angles), 2 * math.pi, g.fan()
    between = (angles[-1] - angles[0]) / max(n - 1, 1)
    remedy = f"fbp needs views spread evenly over 360°, or at least {180 + 2 * math.degrees(np.abs(fan).max()):.0f}° of it"
    if n < 2 or np.abs(np.diff(angles) - between).max() > 1e-4 or n * between > turn * (1 + 1e-4):
        raise ValueError(f"{remedy}; the views here are {list(g.angles)}; use A_dagger for other scans")
    sides, needed = (-fan.min(), fan.max()), math.asin(min(g.height, g.width) / 2 / g.source_distance)
    if min(sides) < min(needed, 0.95 * max(sides)):
        raise ValueError(f"the detector's offset={g.offset:g} leaves one side of the image unseen; use A_dagger instead of fbp")
    if abs(n * between - turn) < 1e-4:
        return np.full((n, g.detectors), 0.5), between
    if n * between < math.pi + 2 * np.abs(fan).max() - between:
        raise ValueError(f"{remedy}; these {n} views cover {math.degrees(n * between):.0f}°; use A_dagger for other scans")
    start, end = angles[0] - between / 2, angles[-1] + between / 2
    ramp = math.radians(10)

    def c(beta: np.ndarray) -> np.ndarray:
        edge = np.clip(np.minimum(beta - start, end - beta) / ramp, 0, 1)
        return np.sin(math.pi / 2 * edge) ** 2

    beta = np.radians(np.asarray(g.angles))[:, None]
    opposite = start + np.remainder(beta + math.pi + 2 * fan - start, turn)
    total = c(beta) + c(opposite)
    return c(beta) / np.maximum(total, 1e-12), between


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
