"""What is unusual in data, and said before anything is made of them: what single measurements have
that the others have not, and no object makes (nothing at all, views that were lost, rays far above
all around them, another scale), images far from [0, 1], and pixels that are not square."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..imaging.tomography import Tomography
from .formats.base import listed
from .item import Item
from .scan import Scan

#: A ray is a spike if it is so many times as large as nearly all rays of its sinogram, and as all
#: that are near it in the views before and after.
SPIKE = 3.0
#: Which share of a sinogram's rays is "nearly all".
NEARLY_ALL = 0.99
#: How many detectors to either side are near at least.
NEAR = 8
#: So many times as large as the others, a measurement is on another scale.
OTHER_SCALE = 20.0
#: At most this share of the measurements may be: else it is the others that are empty.
FEW = 0.25
#: Root mean squares of images between these may lie in [0, 1].
SMALLEST, LARGEST = 1e-3, 10.0
#: Pixels are square up to this ratio of their sides.
SQUARE = 1.05


class Unusual(NamedTuple):
    """Something that is wrong with some of the measurements."""

    what: str
    remedy: str


def unusual(y: Tensor, scan: Scan, names: Sequence[str]) -> list[Unusual]:
    """What is wrong with some of the measurements, in the order in which it should be mended.

    Args:
        y: (B, …); sinograms (B, 1, views, detectors) are looked at more closely.
        scan: that measured them.
        names: of the measurements, one each.
    """
    is_empty = ~y.flatten(1).any(1)
    found = _empty_ones(is_empty, names)
    if isinstance(scan.physics, Tomography):
        kept = torch.nonzero(~is_empty).flatten().tolist()
        sinograms, of = [y[i, 0] for i in kept], [names[i] for i in kept]
        largest = [_exceeded_by_few(sinogram) for sinogram in sinograms]
        found += _lost_views(sinograms, of)
        found += _spikes(sinograms, largest, of, scan.physics.geometry.angles)
        found += _other_scales(largest, of)
    return found


def far_from_one(y: Tensor, scan: Scan) -> list[str]:
    """A line, if measurements are of images that cannot lie in [0, 1], or hardly.

    ‖A‖ is 1, so images are no smaller than their measurements, and, being smooth, not many times
    larger.

    Args:
        y: (B, …), in the units of the model.
        scan: that measured them.
    """
    sizes = y.flatten(1).double().norm(dim=1)
    sizes = sizes[sizes > 0] / math.prod(scan.image_shape) ** 0.5
    if not len(sizes):
        return []
    size = float(sizes.median())
    if SMALLEST <= size <= LARGEST:
        return []
    return [
        f"the images of these measurements have values of about {size:.0e} (root mean square), "
        "where 1 is the largest that is expected, so that no denoiser knows them: set data.peak to "
        "the largest value of an image (equipoise doctor finds it)"
    ]


def oblong(images: Sequence[Item]) -> list[str]:
    """A line, if pixels of images are longer one way than the other."""
    for image in images:
        if image.spacing is None or min(image.spacing) <= 0:
            continue
        rows, columns = image.spacing
        if max(image.spacing) > SQUARE * min(image.spacing):
            return [
                f"{image.name}: pixels of {rows:.3g} × {columns:.3g} mm (from row to row, from "
                "column to column) are taken for square ones, so that what is reconstructed is a "
                "stretched object, of which turned images are no others; resample to square pixels"
            ]
    return []


def _empty_ones(is_empty: Tensor, names: Sequence[str]) -> list[Unusual]:
    empty = [name for name, none in zip(names, is_empty.tolist(), strict=True) if none]
    if not empty:
        return []
    what = f"{len(empty)} of {len(names)} measurements are zero everywhere: {listed(empty)}"
    return [Unusual(what, "nothing was measured there; leave them out")]


def _exceeded_by_few(sinogram: Tensor) -> float:
    """What nearly all rays are smaller than."""
    sizes = sinogram.abs().flatten()
    return float(sizes.kthvalue(1 + int(NEARLY_ALL * (len(sizes) - 1))).values)


def _lost_views(sinograms: Sequence[Tensor], names: Sequence[str]) -> list[Unusual]:
    """Frames that were dropped: views of nothing beside views of something."""
    if not sinograms:
        return []
    is_lost = torch.stack([~sinogram.any(-1) for sinogram in sinograms])  # (B, views)
    remedy = "leave them out (numpy.delete of the views, and of physics.angles)"
    in_all = is_lost.all(0)
    found = []
    if bool(in_all.any()):
        lost = torch.nonzero(in_all).flatten().tolist()
        what = (
            f"{len(lost)} of {len(in_all)} views measured nothing: number {listed(lost)} (counted "
            "from 0)"
        )
        found.append(Unusual(what, remedy))
    for name, row in zip(names, is_lost & ~in_all, strict=True):
        lost = torch.nonzero(row).flatten().tolist()
        if lost:
            what = (
                f"{name}: {len(lost)} of its {len(row)} views measured nothing, number "
                f"{listed(lost)} (counted from 0), as they did elsewhere"
            )
            found.append(Unusual(what, f"leave this measurement out, or in all of them {remedy}"))
    return found


def _spikes(
    sinograms: Sequence[Tensor],
    largest: Sequence[float],
    names: Sequence[str],
    angles: Sequence[float],
) -> list[Unusual]:
    """Rays of one view that nothing beside them and nothing in the next views explains: the next
    by their angles, in which a point is seen as far aside as it can have moved between them."""
    turned = torch.tensor(angles, dtype=torch.float64).remainder(360)
    order = turned.argsort()
    step = float(turned[order].diff().max()) if len(turned) > 1 else 0.0
    found = []
    for name, sinogram, usual in zip(names, sinograms, largest, strict=True):
        size = sinogram.abs()
        if min(size.shape) < 3 or float(size.max()) <= SPIKE * usual:
            continue
        reach = min(max(NEAR, math.ceil(math.radians(step) * size.shape[1] / 2)), size.shape[1])
        pooled = _largest_within(size[order], reach)
        before = torch.cat([pooled[1:2], pooled[:-1]])
        after = torch.cat([pooled[1:], pooled[-2:-1]])
        near = torch.empty_like(size)
        near[order] = torch.maximum(before, after)
        is_spike = size > SPIKE * near.clamp_min(usual)
        places = torch.nonzero(is_spike).tolist()
        if places:
            view, detector = max(places, key=lambda place: float(size[place[0], place[1]]))
            times = float(size[view, detector]) / max(usual, 1e-30)
            what = (
                f"{name}: {len(places)} ray(s) far above all around them, such as that of view "
                f"{view} at detector {detector} (counted from 0, of those that are used), "
                f"{times:.3g} times as large as nearly all others"
            )
            found.append(Unusual(what, "put the mean of the rays beside it there"))
    return found


def _largest_within(rows: Tensor, reach: int) -> Tensor:
    """Of each number of each row, the largest that lies within ``reach`` of it."""
    padded = torch.nn.functional.pad(rows, (reach, reach))
    return torch.nn.functional.max_pool1d(padded[:, None], 2 * reach + 1, 1)[:, 0]


def _other_scales(largest: Sequence[float], names: Sequence[str]) -> list[Unusual]:
    if len(largest) < 3:
        return []
    usual = max(statistics.median_low(largest), 1e-30)
    far = [name for name, each in zip(names, largest, strict=True) if each > OTHER_SCALE * usual]
    if not far or len(far) > FEW * len(names):
        return []
    what = (
        f"{len(far)} of {len(names)} measurements are up to {max(largest) / usual:.3g} times as "
        f"large as most: {listed(far)}"
    )
    return [Unusual(what, "bring all to one unit, or leave them out")]
