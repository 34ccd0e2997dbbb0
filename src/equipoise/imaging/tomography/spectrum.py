"""The eigenvectors of AᵀA or AAᵀ, in halves where turning the image by 180° maps the rays onto
themselves."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

#: How far a Gram matrix may be from its mirror image, relative to its largest entry: rounding.
ROUNDING = 1e-12


class Mirror(NamedTuple):
    """A way to exchange places in pairs, which leaves a Gram matrix as it is.

    The first place of each pair, the second, and the places that stay.
    """

    first: Tensor
    second: Tensor
    fixed: Tensor

    def split(self, b: Tensor) -> tuple[Tensor, Tensor]:
        """(…, n) → what keeps its sign when places are exchanged, and what changes it: in
        orthonormal coordinates, so that they can be put together again by :meth:`join`."""
        a, c = b[..., self.first], b[..., self.second]
        root = math.sqrt(0.5)
        return torch.cat([(a + c) * root, b[..., self.fixed]], -1), (a - c) * root

    def join(self, even: Tensor, odd: Tensor) -> Tensor:
        """The inverse of :meth:`split`."""
        pairs = len(self.first)
        root = math.sqrt(0.5)
        out = even.new_empty(*even.shape[:-1], even.shape[-1] + pairs)
        out[..., self.first] = (even[..., :pairs] + odd) * root
        out[..., self.second] = (even[..., :pairs] - odd) * root
        out[..., self.fixed] = even[..., pairs:]
        return out

    def to(self, device: torch.device) -> Mirror:
        return Mirror(*(places.to(device) for places in self))


class Spectrum:
    """A symmetric matrix G (n, n) ≥ 0 by its eigenvectors: (G + w)⁻¹ b is two dense products.

    Where G has a mirror, it falls into two blocks of half the size, which takes a quarter of the
    time to find and half of it to use.

    Args:
        mirror: of G, if it has one.
        blocks: the eigenvectors Q (m, m) and values s (m,) of G, or of what it does to the even and
            to the odd part of a vector.
    """

    def __init__(self, mirror: Mirror | None, blocks: list[tuple[Tensor, Tensor]]):
        self.mirror, self.blocks = mirror, blocks

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for block in self.blocks for part in block)

    def to(self, dtype: torch.dtype, device: torch.device) -> Spectrum:
        blocks = [(Q.to(device, dtype), s.to(device, dtype)) for Q, s in self.blocks]
        return Spectrum(self.mirror.to(device) if self.mirror else None, blocks)

    def solve(self, b: Tensor, factor: float, strength: Tensor | float) -> Tensor:
        """(factor · G + strength)⁻¹ b for b (B, n) and a strength that is one number or (B, 1)."""

        def inner(part: Tensor, Q: Tensor, s: Tensor) -> Tensor:
            return (part @ Q / (factor * s + strength)) @ Q.t()

        if self.mirror is None:
            return inner(b, *self.blocks[0])
        even, odd = self.mirror.split(b)
        return self.mirror.join(inner(even, *self.blocks[0]), inner(odd, *self.blocks[1]))


def spectrum_of(G: Tensor, exchanges: Iterable[np.ndarray]) -> Spectrum:
    """The spectrum of a dense Gram matrix (n, n), in its precision.

    Args:
        exchanges: permutations (n,), each its own inverse, that may leave the matrix as it is; the
            first that does is used.
    """
    for exchange in exchanges:
        exchange = np.ascontiguousarray(exchange)
        if _is_unchanged(G, torch.from_numpy(exchange)):
            mirror = _mirror(exchange)
            halves = mirror.split(G)  # of the columns; then each of the rows
            blocks = [mirror.split(half.t())[k] for k, half in enumerate(halves)]
            return Spectrum(mirror, [_eigen(block) for block in blocks])
    return Spectrum(None, [_eigen(G)])


def _is_unchanged(G: Tensor, exchange: Tensor) -> bool:
    difference = G[exchange][:, exchange].sub_(G).abs_().max()
    return bool(difference <= ROUNDING * G.abs().max())


def _mirror(exchange: np.ndarray) -> Mirror:
    place = np.arange(len(exchange))
    first = np.flatnonzero(place < exchange)
    parts = first, exchange[first], np.flatnonzero(place == exchange)
    return Mirror(*(torch.from_numpy(part) for part in parts))


def _eigen(block: Tensor) -> tuple[Tensor, Tensor]:
    s, Q = torch.linalg.eigh(block)
    return Q, s.clamp_min(0)
