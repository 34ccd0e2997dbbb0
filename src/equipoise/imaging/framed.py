"""Samples of different sizes, side by side in frames of one size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from deepinv.physics import LinearPhysics
from torch import Tensor

from .linear import variant

#: (operator, which of its samples, how many it has) → the operator of these.
Restrict = Callable[[Any, Tensor, int], Any]


class Framed(LinearPhysics):
    """The operators of samples whose images and measurements differ in size.

    Images are held in the middle of frames (N, C, …, H, W), measurements in the first corner of
    frames (N, …); what lies around them is zero, is not measured, and stays zero. So all samples
    can be held, measured and shown together. To train and to solve, take those of one size out of
    their frames: :meth:`own`.

    Args:
        parts: one operator for each size.
        image_shapes: of each, (C, …, h, w).
        measurement_shapes: of each.
        part: (N,) which operator a sample is measured by.
        place: (N,) the sample's place among those of its operator, which may have masks or coil
            maps for each.
    """

    def __init__(
        self,
        parts: Sequence[Any],
        image_shapes: Sequence[tuple[int, ...]],
        measurement_shapes: Sequence[tuple[int, ...]],
        part: Tensor,
        place: Tensor,
    ):
        super().__init__(img_size=_largest(image_shapes))
        self.parts = torch.nn.ModuleList(parts)
        self.image_shapes = [tuple(shape) for shape in image_shapes]
        self.measurement_shapes = [tuple(shape) for shape in measurement_shapes]
        self.image_frame = _largest(image_shapes)
        self.measurement_frame = _largest(measurement_shapes)
        # No buffers: indices stay on the CPU, wherever the operators are.
        self.part, self.place = part.cpu(), place.cpu()

    def __len__(self) -> int:
        return len(self.part)

    # -------------------------------------------------------------------------- as an operator

    def A(self, x: Tensor, **kwargs: Any) -> Tensor:
        """x (N, C, …, H, W) → (N, …)."""
        y = x.new_zeros(len(x), *self.measurement_frame)
        for k, members in self._members():
            inside = self.image_out(x[members], k)
            measured = self._operator(k).A(inside, **kwargs)
            y = y.index_put((members,), self.measurement_in(measured))
        return y

    def A_adjoint(self, y: Tensor, **kwargs: Any) -> Tensor:
        """y (N, …) → (N, C, …, H, W)."""
        x = y.new_zeros(len(y), *self.image_frame)
        for k, members in self._members():
            inside = self.measurement_out(y[members], k)
            back = self._operator(k).A_adjoint(inside, **kwargs)
            x = x.index_put((members,), self.image_in(back))
        return x

    def noise(self, x: Tensor, **kwargs: Any) -> Tensor:
        """Adds the noise of each sample, where it is measured."""
        y = torch.zeros_like(x)
        for k, members in self._members():
            noisy = self._operator(k).noise(self.measurement_out(x[members], k), **kwargs)
            y[members] = self.measurement_in(noisy)
        return y

    def _operator(self, k: int) -> Any:
        return self.parts[k]

    def _members(self) -> list[tuple[int, Tensor]]:
        """Which samples each operator has here, in the order in which it has them."""
        found = []
        for k in range(len(self.parts)):
            members = torch.nonzero(self.part == k)[:, 0]
            if len(members):
                found.append((k, members[self.place[members].argsort()]))
        return found

    # ------------------------------------------------------------------------------- frames

    def image_in(self, x: Tensor) -> Tensor:
        """Images (B, C, …, h, w) in the middle of frames."""
        rows, columns = self.image_frame[-2:]
        top = rows // 2 - x.shape[-2] // 2
        left = columns // 2 - x.shape[-1] // 2
        around = (left, columns - left - x.shape[-1], top, rows - top - x.shape[-2])
        return torch.nn.functional.pad(x, around)

    def image_out(self, x: Tensor, k: int) -> Tensor:
        """Images of the k-th size, out of their frames (B, C, …, H, W)."""
        rows, columns = self.image_shapes[k][-2:]
        top = x.shape[-2] // 2 - rows // 2
        left = x.shape[-1] // 2 - columns // 2
        return x[..., top : top + rows, left : left + columns]

    def measurement_in(self, y: Tensor) -> Tensor:
        """Measurements (B, …) in the first corner of frames."""
        around: list[int] = []
        for wanted, there in zip(self.measurement_frame[::-1], y.shape[:0:-1], strict=True):
            around += [0, wanted - there]
        return torch.nn.functional.pad(y, around)

    def measurement_out(self, y: Tensor, k: int) -> Tensor:
        """Measurements of the k-th size, out of their frames (B, …)."""
        corner = tuple(slice(0, side) for side in self.measurement_shapes[k])
        return y[(slice(None), *corner)]

    # -------------------------------------------------------------------------------- parts

    def by_size(self, index: Tensor) -> list[Tensor]:
        """The samples ``index``, in groups of one size each."""
        index = index.cpu()
        return [index[self.part[index] == k] for k in self.part[index].unique().tolist()]

    def own(self, index: Tensor, restrict: Restrict) -> tuple[int, Any]:
        """The size (its number) of some samples that share one, and their operator at that size.

        Raises:
            ValueError: they are of different sizes.
        """
        index = index.cpu()
        sizes = self.part[index].unique().tolist()
        if len(sizes) != 1:
            raise ValueError("these samples are of different sizes; take those of one size")
        k = int(sizes[0])
        count = int(self._counts()[k])
        return k, restrict(self.parts[k], self.place[index], count)

    def restricted(self, index: Tensor, restrict: Restrict) -> Framed:
        """The operator of the samples ``index``, in the same frames."""
        index = index.cpu()
        out: Framed = variant(self)
        parts, place = list(self.parts), torch.zeros_like(index)
        counts = self._counts()
        for k in self.part[index].unique().tolist():
            here = self.part[index] == k
            parts[k] = restrict(parts[k], self.place[index[here]], int(counts[k]))
            place[here] = torch.arange(int(here.sum()))
        out.parts = torch.nn.ModuleList(parts)
        out.part, out.place = self.part[index], place
        return out

    def _counts(self) -> Tensor:
        return torch.bincount(self.part, minlength=len(self.parts))

    def with_parts(
        self, parts: Sequence[Any], measurement_shapes: Sequence[tuple[int, ...]]
    ) -> Framed:
        """The same samples with other operators for their sizes."""
        return Framed(parts, self.image_shapes, measurement_shapes, self.part, self.place)


def _largest(shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """The frame that all of these fit into."""
    return tuple(max(sides) for sides in zip(*shapes, strict=True))
