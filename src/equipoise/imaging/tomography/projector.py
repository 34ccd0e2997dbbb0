"""The projector: the system matrix of a geometry, and products with it and its transpose."""

from __future__ import annotations

import inspect
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
from .cache import kept_on_disk
from .geometry import Geometry
from .spectrum import Spectrum, spectrum_of
from .turns import by_copies, image_from, images_for, of_views, turned_pixels, turns_of


class SystemMatrix:
    """The system matrix of a scan and its transpose, made once per geometry and shared by all
    operators that have it.

    Views that are turned copies of others have no rows of their own; see ``turns.py``.
    """

    def __init__(self, geometry: Geometry, forward: scipy.sparse.csr_matrix | None = None):
        """``forward``: the rows of the views in ``turns_of(geometry).base``, if they are there."""
        self.geometry = geometry
        self.turns = turns_of(geometry)
        if forward is None:
            forward = kept_on_disk(geometry, self.turns.base)
        self._forward = forward
        self._transpose: scipy.sparse.csr_matrix | None = None
        self._ready: dict[tuple[bool, torch.dtype, torch.device], Tensor] = {}
        self._spectra: dict[tuple[torch.dtype, torch.device], Spectrum] = {}

    def __deepcopy__(self, memo: dict) -> SystemMatrix:
        return self

    def __reduce__(self) -> tuple:
        return system_matrix, (self.geometry,)

    @property
    def shape(self) -> tuple[int, int]:
        """(rays, pixels)."""
        g = self.geometry
        return len(g.angles) * g.detectors, g.height * g.width

    @property
    def fewer_pixels(self) -> bool:
        """Whether there are fewer pixels than rays."""
        rays, pixels = self.shape
        return pixels < rays

    @property
    def smaller_side(self) -> int:
        """The number of rays, or that of pixels if there are fewer."""
        return min(self.shape)

    @property
    def nonzeros(self) -> int:
        """Of the whole matrix, most of which may not be stored."""
        entries = np.diff(self._forward.indptr[:: self.geometry.detectors])  # of each view
        return sum(int(entries[self.turns.place(v)[0]]) for v in range(len(self.geometry.angles)))

    @property
    def nbytes(self) -> int:
        """What the matrix, its transpose and all that was made of them take."""
        m = self._forward
        rows, columns = m.shape
        entries = m.data.nbytes + m.indices.nbytes
        both = 2 * entries + (rows + columns + 2) * m.indptr.itemsize
        own = ("cpu", torch.float32)  # of these, the tensors are the host's arrays
        copies = [
            m.values()
            for (_, dtype, device), m in self._ready.items()
            if (device.type, dtype) != own
        ]
        spectra = sum(spectrum.nbytes for spectrum in self._spectra.values())
        return both + sum(part.nbytes for part in copies) + spectra

    def _host(self, transpose: bool) -> scipy.sparse.csr_matrix:
        if not transpose:
            return self._forward
        if self._transpose is None:
            self._transpose = self._forward.T.tocsr()
        return self._transpose

    def on(self, transpose: bool, dtype: torch.dtype, device: torch.device) -> Tensor:
        """What is stored of the matrix (or of its transpose), the rays of the views
        ``turns.base``, as a sparse tensor of this precision on this device."""
        key = (transpose, dtype, device)
        if key not in self._ready:
            m = self._host(transpose)
            # What is kept serves training too, whoever asks first.
            with torch.inference_mode(False), warnings.catch_warnings():
                # torch's sparse rows are in beta; products are all that is used of them.
                warnings.filterwarnings("ignore", "Sparse CSR tensor support")
                warnings.filterwarnings("ignore", "Sparse invariant checks")
                self._ready[key] = torch.sparse_csr_tensor(
                    torch.from_numpy(m.indptr),
                    torch.from_numpy(m.indices),
                    torch.from_numpy(m.data).to(dtype),
                    m.shape,
                    check_invariants=False,
                ).to(device)
        return self._ready[key]

    def spectrum(self, dtype: torch.dtype, device: torch.device) -> Spectrum:
        """The smaller of M Mᵀ and Mᵀ M, (n, n) for n = :attr:`smaller_side`, by its eigenvectors;
        found once per precision, in float64."""
        key = (dtype, device)
        if key not in self._spectra:
            m = self.rows(range(len(self.geometry.angles))).astype(np.float64)
            gram = m.T @ m if self.fewer_pixels else m @ m.T
            with torch.inference_mode(False):  # as above
                dense = torch.from_numpy(gram.toarray())
                self._spectra[key] = spectrum_of(dense, self._turns()).to(dtype, device)
        return self._spectra[key]

    def _turns(self) -> list[np.ndarray]:
        """What turning the image by 180° may do: to pixels; or to rays, where parallel beams come
        back with the detectors reversed, and fan beams as those of the opposite source."""
        rays, pixels = self.shape
        if self.fewer_pixels:
            return [np.arange(pixels)[::-1]]
        views = len(self.geometry.angles)
        place = np.arange(rays).reshape(views, self.geometry.detectors)
        reversed_detectors = [place[:, ::-1].ravel()]
        opposite = [np.roll(place, views // 2, 0).ravel()] if views % 2 == 0 else []
        return reversed_detectors + opposite

    def product(self, x: Tensor, transpose: bool) -> Tensor:
        """(B, columns) → (B, rows), differentiable any number of times, forward and backward.

        In float32 at least; under ``torch.autocast`` the result is float32 too, and of whole
        numbers. The matrix is real: of complex x both parts are multiplied.
        """
        if x.is_complex():
            return torch.complex(self.product(x.real, transpose), self.product(x.imag, transpose))
        if not x.is_floating_point():
            x = x.float()
        if torch.is_autocast_enabled(x.device.type):
            x = at_least_single(x)
        return _Product.apply(x, self, transpose)

    def multiplied(self, x: Tensor, transpose: bool) -> Tensor:
        """:meth:`product` for float32 and float64, without its derivative."""
        g, turns = self.geometry, self.turns
        if transpose:
            x = by_copies(turns, x.unflatten(1, (-1, g.detectors))).flatten(1)
        else:
            x = images_for(turns, x.unflatten(1, (g.height, g.width))).flatten(1)
        out = (self.on(transpose, x.dtype, x.device) @ x.t().contiguous()).t()
        if transpose:
            out = image_from(turns, out.unflatten(1, (g.height, g.width))).flatten(1)
        else:
            out = of_views(turns, out.unflatten(1, (-1, g.detectors))).flatten(1)
        return out.contiguous()

    def rows(self, views: Sequence[int]) -> scipy.sparse.csr_matrix:
        """(views·detectors, height·width) the rows of these views, whether stored or not."""
        g = self.geometry
        places = [self.turns.place(view) for view in views]
        start = np.asarray([base for base, _ in places]) * g.detectors
        rows = self._forward[(start[:, None] + np.arange(g.detectors)).ravel()]
        for quarters in {quarters for _, quarters in places} - {0}:
            pixels = turned_pixels(g.height, g.width, quarters)
            for place, (_, turned) in enumerate(places):
                if turned == quarters:
                    first, last = rows.indptr[[place * g.detectors, (place + 1) * g.detectors]]
                    rows.indices[first:last] = pixels[rows.indices[first:last]]
        rows.has_sorted_indices = False
        return rows

    def views(self, index: Sequence[int]) -> SystemMatrix:
        """The matrix of the views ``index`` alone, which is rows of this one.

        Raises:
            IndexError: there is no such view.
        """
        count = len(self.geometry.angles)
        beyond = [i for i in index if not -count <= i < count]
        if beyond:
            raise IndexError(f"view {beyond[0]} is not there: views are 0 to {count - 1}")
        chosen = [int(i) % count for i in index]
        geometry = replace(self.geometry, angles=tuple(self.geometry.angles[i] for i in chosen))

        def make() -> SystemMatrix:
            base = turns_of(geometry).base
            return SystemMatrix(geometry, self.rows([chosen[i] for i in base]))

        return _remembered(geometry, make)


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
            return matrix.multiplied(x.to(dtype), transpose).to(x.dtype)

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


# torch looks at the signature at each call, which takes longer than a small product if it has to be
# found out anew.
_Product.forward.__signature__ = inspect.signature(_Product.forward)  # type: ignore[attr-defined]
