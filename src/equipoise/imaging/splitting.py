"""Parts of a measurement: what some views or lines of it measure, as an operator of their own."""

from __future__ import annotations

from typing import Any

import torch
from deepinv.physics import MRI, Inpainting, MultiCoilMRI, NonCartesianMRI
from torch import Tensor

from .linear import variant


def split(physics: Any, y: Tensor, parts: int, k: int) -> tuple[Any, Tensor, Any, Tensor]:
    """Splits measurements into ``parts`` interleaved parts: (operator, y) without part ``k``, and of part ``k`` alone.

    Views, where the physics has ``views``; otherwise the sampled lines of its ``mask`` (a fully sampled centre among
    sparser ones is never left out), or its sampled points, if they are not lines. Where there are fewer lines than
    parts, each is a part.

    Raises:
        TypeError: the physics has neither views nor a mask.
        ValueError: there are too few views, or nothing is sampled.
    """
    if hasattr(physics, "views"):
        n = y.shape[-2]
        if parts > n:
            raise ValueError(f"cannot split {n} views into {parts} parts; lower parts")
        inside = [i for i in range(n) if i % parts != k]
        outside = [i for i in range(n) if i % parts == k]
        return physics.views(inside), y[:, :, inside], physics.views(outside), y[:, :, outside]
    if not isinstance(physics, (MRI, MultiCoilMRI, Inpainting)) or isinstance(physics, NonCartesianMRI):
        raise TypeError(f"{type(physics).__name__} cannot be split: it has neither views nor a mask of what it measures")
    h, w = physics.mask.shape[-2:]
    each = physics.mask if physics.mask.ndim >= 4 else physics.mask[None]  # samples may have masks of their own
    frames = each.ndim == 5  # of a sequence, each with a mask of its own
    planes = [m[0] if frames else m.reshape(-1, h, w)[:1] for m in each]
    left = torch.stack([torch.stack([_left_out(p, parts, k).expand(h, w) for p in m]) for m in planes])

    def fit(chosen: Tensor, ndim: int) -> Tensor:
        return chosen[:, None] if frames else chosen.reshape(len(left), *[1] * (ndim - 3), h, w)

    out = []
    for chosen in (1 - left, left):
        out += [variant(physics, mask=physics.mask * fit(chosen, physics.mask.ndim)), y * fit(chosen, y.ndim)]
    return tuple(out)


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
    """Every ``parts``-th sampled line, from the ``k``-th, outside the fully sampled run around the middle."""
    middle = len(lines) // 2
    low = high = middle
    while low > 0 and bool(lines[low - 1]):
        low -= 1
    while high < len(lines) and bool(lines[high]):
        high += 1
    free = [i for i in lines.nonzero()[:, 0].tolist() if not (low <= i < high and high - low > 2)]
    free = free or lines.nonzero()[:, 0].tolist()  # nothing is sampled outside: no centre to spare
    if not free:
        raise ValueError(f"cannot split {len(lines)} lines of which none is sampled")
    parts = min(parts, len(free))
    chosen = torch.zeros_like(lines)
    chosen[free[k % parts :: parts]] = True
    return chosen
