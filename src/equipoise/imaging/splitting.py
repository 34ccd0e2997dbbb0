"""Parts of a measurement: what some views or lines of it measure, as an operator of their own."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from deepinv.physics import MRI, Inpainting, MultiCoilMRI, NonCartesianMRI
from torch import Tensor

from .framed import Framed
from .linear import has_other_products, variant
from .selection import select


class Split(NamedTuple):
    """Measurements in two: most of them, and the part that is left out."""

    physics: Any  #: the operator without the part
    y: Tensor  #: what it measured
    left_physics: Any  #: the operator of the part alone
    left_y: Tensor  #: what it measured


def split(physics: Any, y: Tensor, parts: int, k: int) -> Split:
    """Splits measurements into ``parts`` interleaved parts, and leaves part ``k`` out.

    Views, where the physics has ``views``; otherwise the sampled lines of its ``mask`` (a fully
    sampled centre among sparser ones is never left out), or its sampled points, if they are not
    lines. Where there are fewer lines than parts, each is a part.

    Raises:
        TypeError: the physics has neither views nor a mask.
        ValueError: there are too few views, or nothing is sampled.
    """
    if isinstance(physics, Framed):
        return _split_each_size(physics, y, parts, k)
    if has_other_products(physics):
        raise TypeError(
            f"this {type(physics).__name__} cannot be split: its A or A_adjoint was replaced, so "
            "its views or mask do not say what it measures"
        )
    if hasattr(physics, "views"):
        return _split_views(physics, y, parts, k)
    masked = isinstance(physics, (MRI, MultiCoilMRI, Inpainting))
    if not masked or isinstance(physics, NonCartesianMRI):
        raise TypeError(
            f"{type(physics).__name__} cannot be split: it has neither views nor a mask of what it "
            "measures"
        )
    return _split_mask(physics, y, parts, k)


def _split_each_size(physics: Framed, y: Tensor, parts: int, k: int) -> Split:
    """Of samples of different sizes, each size by itself."""
    index = torch.arange(len(y))
    own = [k for k, shape in enumerate(physics.measurement_shapes) if shape == y.shape[1:]]
    if tuple(y.shape[1:]) != physics.measurement_frame and own:  # out of their frames
        members = torch.nonzero(physics.part == own[0])[: len(y), 0]
        return split(physics.own(members, select)[1], y, parts, k)
    if len(y) < len(physics):  # of the first of them
        physics = physics.restricted(index, select)
    groups = physics.by_size(index)
    found: dict[int, Split] = {}
    for group in groups:
        size = int(physics.part[group[0]])
        members = group[physics.place[group].argsort()]
        inside = physics.measurement_out(y[members], size)
        found[size] = split(physics.parts[size], inside, parts, k)

    def framed(most: bool) -> tuple[Framed, Tensor]:
        operators, shapes = list(physics.parts), list(physics.measurement_shapes)
        for size, each in found.items():
            operators[size] = each.physics if most else each.left_physics
            shapes[size] = tuple((each.y if most else each.left_y).shape[1:])
        out = physics.with_parts(operators, shapes)
        values = y.new_zeros(len(y), *out.measurement_frame)
        for size, each in found.items():
            members = torch.nonzero(physics.part == size)[:, 0]
            members = members[physics.place[members].argsort()]
            values[members] = out.measurement_in(each.y if most else each.left_y)
        return out, values

    return Split(*framed(True), *framed(False))


def _split_views(physics: Any, y: Tensor, parts: int, k: int) -> Split:
    views = range(y.shape[-2])
    if parts > len(views):
        raise ValueError(f"cannot split {len(views)} views into {parts} parts; lower parts")
    most = [i for i in views if i % parts != k]
    left = [i for i in views if i % parts == k]
    return Split(physics.views(most), y[:, :, most], physics.views(left), y[:, :, left])


def _split_mask(physics: Any, y: Tensor, parts: int, k: int) -> Split:
    mask = physics.mask
    h, w = mask.shape[-2:]
    each = mask if mask.ndim >= 4 else mask[None]  # samples may have masks of their own
    frames = each.ndim == 5  # of a sequence, each with a mask of its own
    chosen = []
    for m in each:
        planes = m[0] if frames else m.reshape(-1, h, w)[:1]
        chosen.append(torch.stack([_left_out(p, parts, k).expand(h, w) for p in planes]))
    left = torch.stack(chosen)  # (1 or B, 1 or frames, h, w)

    def fit(selection: Tensor, ndim: int) -> Tensor:
        if frames:
            return selection[:, None]
        return selection.reshape(len(left), *[1] * (ndim - 3), h, w)

    def part(selection: Tensor) -> tuple[Any, Tensor]:
        operator = variant(physics, mask=mask * fit(selection, mask.ndim))
        return operator, y * fit(selection, y.ndim)

    return Split(*part(1 - left), *part(left))


def _left_out(mask: Tensor, parts: int, k: int) -> Tensor:
    """1 where a sample of ``mask`` (H, W) belongs to part ``k``, 0 elsewhere."""
    plane = mask != 0
    for dim in (0, 1):
        lines = plane.any(dim)
        if bool((plane.all(dim) == lines).all()):
            chosen = _every(lines, parts, k).to(mask)
            return chosen if dim == 0 else chosen[:, None]
    flat = torch.zeros(plane.numel(), device=mask.device, dtype=mask.dtype)
    flat[plane.flatten().nonzero()[:, 0][k::parts]] = 1
    return flat.reshape(plane.shape)


def _every(lines: Tensor, parts: int, k: int) -> Tensor:
    """Every ``parts``-th sampled line from the ``k``-th, outside the fully sampled centre."""
    middle = len(lines) // 2
    low = middle
    while low > 0 and bool(lines[low - 1]):
        low -= 1
    high = middle
    while high < len(lines) and bool(lines[high]):
        high += 1
    sampled = lines.nonzero()[:, 0].tolist()
    centre = range(low, high) if high - low > 2 else range(0)
    free = [i for i in sampled if i not in centre]
    if not free:  # nothing is sampled outside: no centre to spare
        free = sampled
    if not free:
        raise ValueError(f"cannot split {len(lines)} lines of which none is sampled")
    parts = min(parts, len(free))
    chosen = torch.zeros_like(lines)
    chosen[free[k % parts :: parts]] = True
    return chosen
