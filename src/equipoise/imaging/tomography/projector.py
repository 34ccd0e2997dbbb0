"""The projector: Joseph's system matrix of a geometry, and products with it and its transpose."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from ..linear import at_least_single, full_precision
from .geometry import Geometry


def joseph_matrix(geometry: Geometry) -> scipy.sparse.csr_matrix:
    """The system matrix (views·detectors, height·width), lengths in pixels.

    Joseph's method (IEEE TMI 1982): a ray steps from row to row (or from column to column,
    whichever it crosses more squarely) and interpolates linearly between the two pixels beside it.
    """
    views = [_view_matrix(geometry, view) for view in range(len(geometry.angles))]
    return scipy.sparse.vstack(views, "csr")


def _view_matrix(geometry: Geometry, view: int) -> scipy.sparse.csr_matrix:
    """The rows of :func:`joseph_matrix` that belong to one view, (detectors, height·width)."""
    point, direction = geometry.rays(view)
    crosses_rows = np.abs(direction[:, 1]) >= np.abs(direction[:, 0])
    rays, pixels, values = [], [], []
    for by_row in (True, False):
        chosen = np.flatnonzero(crosses_rows if by_row else ~crosses_rows)
        parts = _interpolate(geometry, point[chosen], direction[chosen], by_row)
        for ray, pixel, value in parts:
            rays.append((chosen[ray] // geometry.per_detector).astype(np.int32))
            pixels.append(pixel)
            values.append(value / geometry.per_detector)
    entries = np.concatenate(values), (np.concatenate(rays), np.concatenate(pixels))
    shape = geometry.detectors, geometry.height * geometry.width
    return scipy.sparse.coo_matrix(entries, shape).tocsr()


def _interpolate(
    geometry: Geometry, point: np.ndarray, direction: np.ndarray, by_row: bool
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(ray, pixel, weight) of what the rays meet on each line that they step through, once for the
    pixel below the crossing and once for the one above."""
    h, w = geometry.height, geometry.width
    lines, across = (h, w) if by_row else (w, h)
    along, aside = (1, 0) if by_row else (0, 1)  # the axis stepped along, and interpolated on
    slope = direction[:, aside] / direction[:, along]
    line = np.arange(lines)
    distance = line - (lines - 1) / 2 - point[:, along][:, None]
    crossing = point[:, aside][:, None] + slope[:, None] * distance + (across - 1) / 2
    low = np.floor(crossing).astype(np.int32)
    high_weight = crossing - low
    length = np.hypot(1, slope)[:, None]
    parts = []
    for position, weight in ((low, 1 - high_weight), (low + 1, high_weight)):
        ray, step = np.nonzero((position >= 0) & (position < across) & (weight > 0))
        place = position[ray, step]
        pixel = line[step] * w + place if by_row else place * w + line[step]
        value = (weight * length)[ray, step].astype(np.float32)
        parts.append((ray, pixel.astype(np.int32), value))
    return parts


class SystemMatrix:
    """A sparse matrix and its transpose, made once per geometry and shared by all operators that
    have it."""

    def __init__(self, geometry: Geometry, forward: scipy.sparse.csr_matrix | None = None):
        self.geometry = geometry
        if forward is None:
            forward = joseph_matrix(geometry)
        self._host = (forward, forward.T.tocsr())
        self._ready: dict[tuple[bool, torch.dtype, torch.device], Tensor] = {}
        self._spectra: dict[tuple[torch.dtype, torch.device], tuple[Tensor, Tensor]] = {}

    def __deepcopy__(self, memo: dict) -> SystemMatrix:
        return self

    def __reduce__(self) -> tuple:
        return system_matrix, (self.geometry,)

    @property
    def fewer_pixels(self) -> bool:
        """Whether there are fewer pixels than rays."""
        rays, pixels = self._host[0].shape
        return bool(pixels < rays)

    @property
    def smaller_side(self) -> int:
        """The number of rays, or that of pixels if there are fewer."""
        return int(min(self._host[0].shape))

    @property
    def nbytes(self) -> int:
        """What the matrix and all that was made of it take."""
        parts = [part for m in self._host for part in (m.data, m.indices, m.indptr)]
        own = ("cpu", torch.float32)  # of these, the tensors are the host's arrays
        copies = [
            m.values()
            for (_, dtype, device), m in self._ready.items()
            if (device.type, dtype) != own
        ]
        spectra = [part for spectrum in self._spectra.values() for part in spectrum]
        return sum(part.nbytes for part in [*parts, *copies, *spectra])

    def on(self, transpose: bool, dtype: torch.dtype, device: torch.device) -> Tensor:
        """The matrix (or its transpose) as a sparse tensor of this precision on this device."""
        key = (transpose, dtype, device)
        if key not in self._ready:
            m = self._host[transpose]
            with warnings.catch_warnings():
                # torch's sparse rows are in beta; products are all that is used of them.
                warnings.filterwarnings("ignore", "Sparse CSR tensor support")
                self._ready[key] = torch.sparse_csr_tensor(
                    torch.from_numpy(m.indptr),
                    torch.from_numpy(m.indices),
                    torch.from_numpy(m.data).to(dtype),
                    m.shape,
                    check_invariants=False,
                ).to(device)
        return self._ready[key]

    def spectrum(self, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
        """The smaller of M Mᵀ and Mᵀ M as Q diag(s) Qᵀ: Q (n, n) and s (n,) for n =
        :attr:`smaller_side`; found once per precision, in float64."""
        key = (dtype, device)
        if key not in self._spectra:
            m = self._host[0].astype(np.float64)
            gram = m.T @ m if self.fewer_pixels else m @ m.T
            s, Q = torch.linalg.eigh(torch.from_numpy(gram.toarray()))
            self._spectra[key] = Q.to(device, dtype), s.clamp_min(0).to(device, dtype)
        return self._spectra[key]

    def product(self, x: Tensor, transpose: bool) -> Tensor:
        """(B, columns) → (B, rows), differentiable any number of times, forward and backward.

        In float32 at least; under ``torch.autocast`` the result is float32 too.
        """
        if torch.is_autocast_enabled(x.device.type):
            x = at_least_single(x)
        return _Product.apply(x, self, transpose)

    def views(self, index: Sequence[int]) -> SystemMatrix:
        """The matrix of the views ``index`` alone, which is rows of this one."""
        geometry = replace(self.geometry, angles=tuple(self.geometry.angles[i] for i in index))
        count, detectors = len(self.geometry.angles), self.geometry.detectors
        start = np.asarray([int(i) % count for i in index]) * detectors
        rows = (start[:, None] + np.arange(detectors)).ravel()
        return _remembered(geometry, lambda: SystemMatrix(geometry, self._host[0][rows]))


#: How much the matrices may take that are remembered for geometries that nobody uses just now.
MEMORY = 2 * 2**30
_matrices: OrderedDict[Geometry, SystemMatrix] = OrderedDict()


def system_matrix(geometry: Geometry) -> SystemMatrix:
    """The matrix of a geometry, made when it is first asked for."""
    return _remembered(geometry, lambda: SystemMatrix(geometry))


def _remembered(geometry: Geometry, make: Callable[[], SystemMatrix]) -> SystemMatrix:
    """Forgets the matrices not asked for the longest when all of them take more than ``MEMORY``:
    a number of entries would be too few for a scan split into many parts, or too many for large
    ones."""
    if geometry not in _matrices:
        _matrices[geometry] = make()
        taken = sum(matrix.nbytes for matrix in _matrices.values())
        while taken > MEMORY and len(_matrices) > 1:
            taken -= _matrices.popitem(last=False)[1].nbytes
    _matrices.move_to_end(geometry)
    return _matrices[geometry]


def forget_matrices() -> None:
    """Lets the next operator of any geometry make its matrix anew."""
    _matrices.clear()


class _Product(torch.autograd.Function):
    """M x or Mᵀ x: each is the derivative of the other."""

    @staticmethod
    def forward(x: Tensor, matrix: SystemMatrix, transpose: bool) -> Tensor:
        dtype = x.dtype if x.dtype == torch.float64 else torch.float32
        with full_precision(x):  # sparse products are there for float32 and float64 alone
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
    def vmap(
        info: Any, in_dims: tuple, x: Tensor, matrix: SystemMatrix, transpose: bool
    ) -> tuple[Tensor, int]:
        x = x.movedim(in_dims[0], 0)
        out = _Product.apply(x.flatten(0, 1), matrix, transpose)
        return out.unflatten(0, x.shape[:2]), 0
