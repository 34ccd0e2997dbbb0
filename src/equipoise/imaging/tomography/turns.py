"""Views that are other views turned by quarter or half turns, which need no rows of their own.

A ray at the angle θ + 90° is the ray at θ, turned with the image about its middle. So where the
grid of pixels is square, the line integrals of an image f at θ + 90° are those of the turned f at
θ: A_{θ+90°} f = A_θ (f turned back). A full turn of evenly spread views is four times as many views
as need a matrix.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from .geometry import Geometry

#: Angles that differ by less are one, in degrees: at 1,000 pixels from the middle, 2e-7 pixels.
SAME = 1e-8
#: Empty slots cost time and save none: at least this share must be filled.
FILLED = 0.75


@dataclass(frozen=True)
class Turns:
    """The views of a scan as turned copies of some of them.

    The copies make ``len(quarters) · len(base)`` slots, of which a scan may leave some empty, or
    fill one twice: slot ``t · len(base) + b`` is view ``base[b]`` turned by ``quarters[t]`` quarter
    turns.
    """

    base: tuple[int, ...]
    quarters: tuple[int, ...]
    slots: tuple[int, ...]  #: of each view

    @property
    def count(self) -> int:
        """Of the slots."""
        return len(self.quarters) * len(self.base)

    @property
    def is_natural(self) -> bool:
        """Every view is in the slot of its number, and none is empty."""
        return self.slots == tuple(range(self.count))

    def place(self, view: int) -> tuple[int, int]:
        """Which view of the base it is (its number there), and the quarter turns from there."""
        turn, base = divmod(self.slots[view], len(self.base))
        return base, self.quarters[turn]


def turns_of(geometry: Geometry) -> Turns:
    """The most turned copies that a scan has; none if it has none."""
    views = tuple(range(len(geometry.angles)))
    if geometry.axis == (0.0, 0.0):
        ways = [(1, 4), (1, 2), (2, 2)] if geometry.height == geometry.width else [(2, 2)]
        for step, copies in ways:
            found = _copies(geometry.angles, step, copies)
            if found is not None:
                return found
    return Turns(views, (0,), views)


def _copies(angles: Sequence[float], step: int, copies: int) -> Turns | None:
    """``copies`` of some views, each turned by ``step`` quarters from the one before; none if too
    many slots would be empty."""
    span, around = 90.0 * step, 4 // step
    turned = np.mod(np.asarray(angles, dtype=np.float64) + SAME, 360.0)
    number = np.floor(turned / span).astype(int) % around
    base, slots = [], np.empty(len(angles), int)
    for alike in _alike(turned % span):
        starts = [k for k in number[alike] if (np.mod(number[alike] - k, around) < copies).all()]
        if not starts:
            return None
        first = alike[int(np.flatnonzero(number[alike] == starts[0])[0])]
        slots[alike] = np.mod(number[alike] - starts[0], around)  # the turn, until all are known
        base.append((int(first), alike))
    if len(angles) < FILLED * copies * len(base):
        return None
    base.sort(key=lambda pair: pair[0])
    for b, (_, alike) in enumerate(base):
        slots[alike] = slots[alike] * len(base) + b
    quarters = tuple(step * turn for turn in range(copies))
    return Turns(tuple(first for first, _ in base), quarters, tuple(slots.tolist()))


def _alike(angles: np.ndarray) -> list[np.ndarray]:
    """The numbers of the angles that are one and the same, in groups."""
    order = np.argsort(angles, kind="stable")
    borders = np.flatnonzero(np.diff(angles[order]) > 2 * SAME) + 1
    return [np.sort(group) for group in np.split(order, borders)]


def turned_pixels(height: int, width: int, quarters: int) -> np.ndarray:
    """(H·W,) int32: for each pixel of a view of the base, the pixel of the image that it is for
    that view turned by ``quarters``."""
    pixels = np.arange(height * width, dtype=np.int32).reshape(height, width)
    return np.ascontiguousarray(np.rot90(pixels, -quarters)).ravel()


def images_for(turns: Turns, x: Tensor) -> Tensor:
    """(B, H, W) → (T·B, H, W): the image that each copy sees, copy by copy."""
    if turns.quarters == (0,):
        return x
    return torch.cat([torch.rot90(x, -q, (-2, -1)) for q in turns.quarters])


def image_from(turns: Turns, x: Tensor) -> Tensor:
    """The transpose of :func:`images_for`: (T·B, H, W) → (B, H, W)."""
    if turns.quarters == (0,):
        return x
    parts = x.chunk(len(turns.quarters))
    total = torch.rot90(parts[0], turns.quarters[0], (-2, -1))
    for part, q in zip(parts[1:], turns.quarters[1:]):
        total = total + torch.rot90(part, q, (-2, -1))
    return total


def of_views(turns: Turns, y: Tensor) -> Tensor:
    """(T·B, base, detectors) → (B, views, detectors), in the order of the scan."""
    if turns.quarters == (0,):
        return y
    together = y.unflatten(0, (len(turns.quarters), -1)).transpose(0, 1).flatten(1, 2)
    if turns.is_natural:
        return together
    return together.index_select(1, _on(turns.slots, y.device))


@lru_cache(1024)
def _on(slots: tuple[int, ...], device: torch.device) -> Tensor:
    """Kept there: what is copied to a GPU for each product makes it wait."""
    with torch.inference_mode(False):  # whoever asks first, training may ask next
        return torch.tensor(slots, device=device)


def by_copies(turns: Turns, y: Tensor) -> Tensor:
    """The transpose of :func:`of_views`: (B, views, detectors) → (T·B, base, detectors)."""
    if turns.quarters == (0,):
        return y
    if not turns.is_natural:
        slots = _on(turns.slots, y.device)
        y = y.new_zeros(len(y), turns.count, y.shape[-1]).index_add(1, slots, y)
    return y.unflatten(1, (len(turns.quarters), -1)).transpose(0, 1).flatten(0, 1)
