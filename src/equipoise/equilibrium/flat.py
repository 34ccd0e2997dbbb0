"""A map on states of any shape, as a map on real matrices of one row a sample."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from .precision import autocast_dtype
from .result import State

#: z ↦ f(z). A map may offer ``restrict(index)``: the same map for some samples (``index``: (A,)
#: int64) alone.
Map = Callable[[Any], Any]


def as_tuple(state: State) -> tuple[Tensor, ...]:
    """The tensors of a state."""
    return state if isinstance(state, tuple) else (state,)


class FlatMap:
    """f on states packed into one real matrix (B, N), a row for each sample.

    The tensors of a tuple stand side by side, complex numbers are pairs, and half precision is
    float32, so that solvers need to know of none of these.

    Args:
        f: takes and returns a state like ``example``.
        example: (B, …) floating-point or complex, or a tuple of such that share B.

    Raises:
        TypeError, ValueError: ``example`` is no state.
    """

    def __init__(self, f: Map, example: State):
        parts = as_tuple(example)
        _check_state(parts)
        self.f = f
        self.single = not isinstance(example, tuple)
        self.shapes = [part.shape[1:] for part in parts]
        self.dtypes = [part.dtype for part in parts]
        self.dtype = reduce(torch.promote_types, self.dtypes, torch.float32).to_real()
        #: The rounding of a state, in its least precise tensor.
        self.eps = max(torch.finfo(dtype).eps for dtype in self.dtypes)
        self.rounds = any(dtype.to_real() != self.dtype for dtype in self.dtypes)
        self.device = parts[0].device
        #: The autocast that f is meant to run under, wherever it is called from.
        self.autocast_dtype = autocast_dtype(self.device)

    def with_map(self, f: Map) -> FlatMap:
        """Another map on states of the same kind."""
        other = copy.copy(self)
        other.f = f
        return other

    def pack(self, z: State) -> Tensor:
        """State → (B, N)."""
        rows = [self._rows(part) for part in as_tuple(z)]
        return rows[0] if self.single else torch.cat(rows, 1)

    def _rows(self, part: Tensor) -> Tensor:
        if part.is_complex():
            part = torch.view_as_real(part.resolve_conj())
        return part.reshape(len(part), part.shape[1:].numel()).to(self.dtype)

    def unpack(self, z: Tensor) -> State:
        """(B, N) → state, in the shapes and dtypes of the example."""
        parts = []
        start = 0
        for shape, dtype in zip(self.shapes, self.dtypes):
            width = shape.numel() * (2 if dtype.is_complex else 1)
            rows = z if self.single else z[:, start : start + width]
            start += width
            if dtype.is_complex:
                pairs = rows.to(dtype.to_real()).reshape(len(z), *shape, 2)
                rows = torch.view_as_complex(pairs.contiguous())
            parts.append(rows.reshape(len(z), *shape).to(dtype))
        return parts[0] if self.single else tuple(parts)

    def representable(self, z: Tensor) -> Tensor:
        """z (B, N), rounded to what a state can hold."""
        return self.pack(self.unpack(z)) if self.rounds else z

    def __call__(self, z: Tensor) -> Tensor:
        # Copies, since f may work in place, on its argument or on a buffer that it returns.
        state = self.unpack(z.clone())
        if self.autocast_dtype is None:
            out = self.f(state)
        else:
            # Without autocast's cache: it keeps the weights that it converted on an earlier call,
            # without their graph if that call had none.
            with torch.autocast(self.device.type, self.autocast_dtype, cache_enabled=False):
                out = self.f(state)
        self._check(out, len(z))
        return self.pack(out).clone()

    def _check(self, out: Any, batch: int) -> None:
        parts = as_tuple(out)
        is_alike = isinstance(out, tuple) != self.single and len(parts) == len(self.shapes)
        if not is_alike or not all(isinstance(part, Tensor) for part in parts):
            wanted = "one tensor" if self.single else f"a tuple of {len(self.shapes)} tensors"
            got = ", ".join(type(part).__name__ for part in parts)
            got = f"a tuple of {len(parts)} ({got})" if isinstance(out, tuple) else got
            raise TypeError(f"f must return {wanted}, like z0; got {got}")
        for part, shape, dtype in zip(parts, self.shapes, self.dtypes):
            if part.shape != (batch, *shape):
                raise ValueError(
                    f"f must keep the shape of z: got {tuple(part.shape)} for {(batch, *shape)}"
                )
            if part.dtype != dtype and self.autocast_dtype is None:
                raise TypeError(
                    f"f must keep the dtype of z: got {part.dtype} for {dtype}; convert z0 or "
                    "f's output"
                )

    def restrict(self, index: Tensor, values: Tensor) -> FlatMap | FilledIn:
        """The map on the samples ``index`` (A,) alone.

        If f cannot leave the others out, ``values`` (B, N) fills them in.
        """
        restricted = getattr(self.f, "restrict", None)
        if restricted is not None:
            return self.with_map(restricted(index))
        return FilledIn(self, index, values)


class FilledIn:
    """A map on some samples of a batch, where f can only be applied to the whole batch."""

    def __init__(self, F: FlatMap, index: Tensor, values: Tensor):
        self.F = F
        self.index = index
        self.whole_z = values.clone()  #: (B, N) where f was evaluated last
        self.whole_fz = self.whole_z  #: (B, N) what it gave

    def __call__(self, z: Tensor) -> Tensor:
        self.whole_z = self.whole_z.index_copy(0, self.index, z)
        self.whole_fz = self.F(self.whole_z)
        return self.whole_fz[self.index]


def _check_state(parts: tuple[Any, ...]) -> None:
    for part in parts:
        if not isinstance(part, Tensor):
            raise TypeError(f"z0 must be a tensor or a tuple of tensors, got {type(part).__name__}")
        if not (part.is_floating_point() or part.is_complex()):
            raise TypeError(
                f"z0 must be of a floating-point or complex dtype, got {part.dtype}; use z0.float()"
            )
        if part.ndim < 1:
            raise ValueError("z0 must have a batch dimension first, got a scalar; use z0[None]")
    if not parts:
        raise ValueError("z0 is an empty tuple; a state needs at least one tensor")
    sizes = [len(part) for part in parts]
    if len(set(sizes)) > 1:
        raise ValueError(f"all tensors of a state must share the batch size, got {sizes}")
