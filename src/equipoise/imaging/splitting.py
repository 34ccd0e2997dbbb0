"""Parts of a measurement: what some views or lines of it measure, as an operator of their own."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from deepinv.physics import (
    MRI,
    ComposedLinearPhysics,
    Inpainting,
    LinearPhysics,
    MultiCoilMRI,
    NonCartesianMRI,
)
from torch import Tensor

from .draws import per_sample, shared
from .framed import Framed
from .kept import Kept, factors, kept
from .linear import has_other_products, variant
from .scaled import Scaled, unscaled
from .selection import select

#: How many sets of views are left out at random.
DRAWS = 20
NUMBERS = "measured numbers"
#: So many of the numbers that are left out are looked at. What each sees best of the image, the
#: others must see to this share: 16 % in super-resolution, where to leave numbers out costs 2.3 dB
#: in training and 1.1 in the choice of σ; 83 % behind a blur of 1.5 pixels, where both gain
#: (docs/choosing.md).
PROBED, SEEN_BY_OTHERS = 16, 0.5


class Split(NamedTuple):
    """Measurements in two: most of them, and the part that is left out."""

    physics: Any  #: the operator without the part
    y: Tensor  #: what it measured
    left_physics: Any  #: the operator of the part alone
    left_y: Tensor  #: what it measured


def split(physics: Any, y: Tensor, parts: int, k: int | None) -> Split:
    """Splits measurements into ``parts`` interleaved parts, and leaves part ``k`` out.

    Views, where the physics has ``views``; otherwise the sampled lines of its ``mask`` (a fully
    sampled centre among sparser ones is never left out), or its sampled points, if they are not
    lines; or the shots of non-Cartesian MRI. Where there are fewer lines than parts, each is a
    part. What is composed is split as its last factor is. Of any other operator the numbers that
    it measures are dealt out at random, always alike, the channels of (B, C, …) together.

    With ``k`` None as many are left out, drawn at random (SSDU; Yaman et al., MRM 2020): of each
    sample by itself, but views of all samples together, one of ``DRAWS`` sets of them that are
    always the same, since each takes operators of its own.

    Raises:
        TypeError: the physics is not linear, or measures a list of arrays.
        ValueError: there are fewer views, shots or numbers than parts, nothing is sampled, or
            without some numbers there are holes in the image.
    """
    if isinstance(physics, Framed):
        return _split_each_size(physics, y, parts, k)
    if has_other_products(physics):  # its views or mask do not say what it measures
        return _split_units(physics, y, parts, k)
    if isinstance(physics, Scaled):
        return _split_scaled(physics, y, parts, k)
    if hasattr(physics, "views"):
        return _split_views(physics, y, parts, k)
    if type(physics) is ComposedLinearPhysics and type(factors(physics)[-1]) is not Kept:
        return _split_composed(physics, y, parts, k)
    masked = isinstance(physics, (MRI, MultiCoilMRI, Inpainting))
    if masked and not isinstance(physics, NonCartesianMRI):
        return _split_mask(physics, y, parts, k)
    return _split_units(physics, y, parts, k)


def _split_each_size(physics: Framed, y: Tensor, parts: int, k: int | None) -> Split:
    """Of samples of different sizes, each size by itself."""
    index = torch.arange(len(y))
    shapes = physics.measurement_shapes
    own = [size for size, shape in enumerate(shapes) if shape == y.shape[1:]]
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


def _split_scaled(physics: Scaled, y: Tensor, parts: int, k: int | None) -> Split:
    inner = split(physics.physics, y, parts, k)

    def scaled(part: Any) -> Any:
        operator = variant(physics)
        operator.physics = part
        return operator

    return Split(scaled(inner.physics), inner.y, scaled(inner.left_physics), inner.left_y)


def _split_composed(physics: ComposedLinearPhysics, y: Tensor, parts: int, k: int | None) -> Split:
    """As its last factor is, the one that measures."""
    *first, last = factors(physics)
    inner = split(last, y, parts, k)

    def composed(part: Any) -> Any:
        return ComposedLinearPhysics(*first, part)

    return Split(composed(inner.physics), inner.y, composed(inner.left_physics), inner.left_y)


def _split_views(physics: Any, y: Tensor, parts: int, k: int | None) -> Split:
    views = range(y.shape[-2])
    if parts > len(views):
        raise ValueError(f"cannot split {len(views)} views into {parts} parts; lower parts")
    scores = None
    if k is None:
        draw = int(shared(lambda: torch.randint(DRAWS, ())))
        scores = torch.rand(len(views), generator=torch.Generator().manual_seed(draw))
    left = _places(len(views), parts, k, scores)
    most = [i for i in views if i not in left]
    return Split(physics.views(most), y[:, :, most], physics.views(left), y[:, :, left])


def _places(count: int, parts: int, k: int | None, scores: Tensor | None) -> list[int]:
    """Which of ``count`` are left out, in their order: every ``parts``-th from the ``k``-th, or as
    many of those with the lowest ``scores`` (at least ``count`` of them)."""
    if scores is None:
        assert k is not None
        return list(range(count))[k % parts :: parts]
    few = max(1, round(count / parts))
    return sorted(scores[:count].argsort()[:few].tolist())


def _split_mask(physics: Any, y: Tensor, parts: int, k: int | None) -> Split:
    mask = physics.mask
    h, w = mask.shape[-2:]
    each = mask if mask.ndim >= 4 else mask[None]  # samples may have masks of their own
    frames = each.ndim == 5  # of a sequence, each with a mask of its own
    if k is None and len(each) == 1:
        mask = each = each.expand(len(y), *each.shape[1:])
    planes_of = [m[0] if frames else m.reshape(-1, h, w)[:1] for m in each]
    scores: Tensor | None = None
    if k is None:
        size = (len(planes_of[0]), h * w)
        scores = per_sample(lambda rows: torch.rand(len(rows), *size), len(each))
    chosen = []
    for sample, planes in enumerate(planes_of):
        own = [None] * len(planes) if scores is None else scores[sample]
        left_out = [_left_out(p, parts, k, o).expand(h, w) for p, o in zip(planes, own)]
        chosen.append(torch.stack(left_out))
    left = torch.stack(chosen)  # (1 or B, 1 or frames, h, w)

    def fit(selection: Tensor, ndim: int) -> Tensor:
        if frames:
            return selection[:, None]
        return selection.reshape(len(left), *[1] * (ndim - 3), h, w)

    def part(selection: Tensor) -> tuple[Any, Tensor]:
        operator = variant(physics, mask=mask * fit(selection, mask.ndim))
        return operator, y * fit(selection, y.ndim)

    return Split(*part(1 - left), *part(left))


def _split_units(physics: Any, y: Any, parts: int, k: int | None) -> Split:
    """By the units that are measured together, whatever they are; of those that an earlier split
    has kept."""
    if not isinstance(y, Tensor) or not isinstance(physics, LinearPhysics):
        raise TypeError(
            f"{type(physics).__name__} cannot be split: it must be linear, and measure one array"
        )
    made_of = factors(physics)
    masks: list[Tensor | None] = [None]
    if type(made_of[-1]) is Kept:
        masks = list(made_of.pop().mask)
    name, unit = _units(made_of[-1], y)
    unit = unit.expand(y.shape[1:]).to(y.device)
    scores: list[Tensor | None] = [None]
    if k is None:
        size = int(unit.max()) + 1
        scores = list(per_sample(lambda rows: torch.rand(len(rows), size), len(y)))
    rows = max(len(masks), len(scores))
    left = []
    for row in range(rows):
        mask, own = masks[row % len(masks)], scores[row % len(scores)]
        measured = (unit if mask is None else unit[mask != 0]).unique()
        if parts > len(measured):
            raise ValueError(f"cannot split {len(measured)} {name} into {parts} parts; lower parts")
        own = None if own is None else own.to(measured.device)[measured]
        left.append(torch.isin(unit, measured[_places(len(measured), parts, k, own)]))
    chosen = torch.stack(left)
    if name == NUMBERS:
        _check_holes(physics, y, chosen, parts)

    def part(selection: Tensor) -> tuple[Any, Tensor]:
        mask = selection.to(y.real.dtype)
        return kept(physics, mask), y * mask

    return Split(*part(~chosen), *part(chosen))


def _units(physics: Any, y: Tensor) -> tuple[str, Tensor]:
    """What the units are called, and to which one each number of a measurement belongs: int64, of a
    shape that broadcasts to y[0].

    The shots of non-Cartesian MRI (2, coils, shots · samples); elsewhere each number is one, of the
    channels of (C, …) together, in an order that is random and always the same.
    """
    if isinstance(physics, NonCartesianMRI):
        shots = len(physics.samples)
        return "shots", torch.arange(shots).repeat_interleave(y.shape[-1] // shots)
    shape = y.shape[2:] if y.ndim >= 4 else y.shape[1:]
    order = torch.randperm(shape.numel(), generator=torch.Generator().manual_seed(0))
    return NUMBERS, order.reshape(shape)


def _check_holes(physics: Any, y: Tensor, chosen: Tensor, parts: int) -> None:
    """
    Raises:
        ValueError: what a number saw of the image, hardly any other sees: without the number there
            is a hole, as in an image of fewer pixels, and to fill holes is another task than to
            reconstruct.
    """
    numbers = chosen.expand(y.shape).flatten(1)
    rng = torch.Generator().manual_seed(0)
    seen: list[Tensor] = []
    with torch.no_grad():
        for _ in range(math.ceil(PROBED / len(y))):
            places = [_any_of(row, rng) for row in numbers]
            rows = physics.A_adjoint(_one_hot(torch.stack(places), y))
            best, pixels = rows.abs().flatten(1).max(1)
            columns = physics.A(_one_hot(pixels, rows)).flatten(1).square()
            others = (columns * ~numbers).sum(1) / columns.sum(1)
            seen.append(others[best > 0])  # some numbers may never measure anything
    share = float(torch.cat(seen).median()) / (1 - 1 / parts)  # NaN of none
    if share < SEEN_BY_OTHERS:
        raise ValueError(
            f"{type(physics).__name__} cannot be split: what one of its numbers sees of the image, "
            f"the others see to {share:.0%} (at least {SEEN_BY_OTHERS:.0%} is needed)"
        )


def _any_of(row: Tensor, rng: torch.Generator) -> Tensor:
    places = row.nonzero()[:, 0]
    return places[int(torch.randint(len(places), (), generator=rng))]


def _one_hot(places: Tensor, like: Tensor) -> Tensor:
    """(B, …) like another one, with a one at one place of each."""
    out = torch.zeros_like(like).flatten(1)
    out[torch.arange(len(out), device=out.device), places] = 1
    return out.reshape(like.shape)


def may_be_left_out(physics: Any) -> Tensor:
    """Of the mask (N, …, H, W) of MRI, what a split may leave out: 1 there, 0 elsewhere."""
    mask: Tensor = unscaled(physics).mask
    planes = mask[:, 0].flatten(0, -3)  # of each sample, and of each frame of a sequence
    free = torch.stack([_left_out(plane, 1, 0, None).expand(plane.shape) for plane in planes])
    return free.reshape(mask[:, 0].shape)[:, None].expand_as(mask)


def _left_out(mask: Tensor, parts: int, k: int | None, scores: Tensor | None) -> Tensor:
    """1 where a sample of ``mask`` (H, W) is left out, 0 elsewhere."""
    plane = mask != 0
    for dim in (0, 1):
        lines = plane.any(dim)
        if bool((plane.all(dim) == lines).all()):
            free = _free(lines)
            chosen = torch.zeros_like(lines)
            chosen[[free[i] for i in _places(len(free), min(parts, len(free)), k, scores)]] = True
            line = chosen.to(mask)
            return line if dim == 0 else line[:, None]
    flat = torch.zeros(plane.numel(), device=mask.device, dtype=mask.dtype)
    points = plane.flatten().nonzero()[:, 0]
    flat[points[_places(len(points), parts, k, scores)]] = 1
    return flat.reshape(plane.shape)


def _free(lines: Tensor) -> list[int]:
    """The sampled lines outside the fully sampled centre; all of them, where there are no others.

    Raises:
        ValueError: there are none.
    """
    middle = len(lines) // 2
    low = middle
    while low > 0 and bool(lines[low - 1]):
        low -= 1
    high = middle
    while high < len(lines) and bool(lines[high]):
        high += 1
    sampled: list[int] = lines.nonzero()[:, 0].tolist()
    centre = range(low, high) if high - low > 2 else range(0)
    free = [i for i in sampled if i not in centre] or sampled
    if not free:
        raise ValueError(f"cannot split {len(lines)} lines of which none is sampled")
    return free
