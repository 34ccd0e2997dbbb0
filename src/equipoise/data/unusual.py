"""What is unusual in data, and said before anything is made of them: what single measurements have
that the others have not, and no object makes (nothing at all, views that were lost, rays far above
all around them, another scale), and pixels that are not square."""

from __future__ import annotations

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
#: How many detectors to either side are near, since what is seen moves from view to view.
NEAR = 8
#: So many times as large as the others, a measurement is on another scale.
OTHER_SCALE = 20.0
#: At most this share of the measurements may be: else it is the others that are empty.
FEW = 0.25


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
        kept = [i for i in range(len(y)) if not is_empty[i]]
        sinograms, of = y[kept][:, 0], [names[i] for i in kept]
        found += _lost_views(sinograms, of)
        found += _spikes(sinograms, of)
        found += _other_scales(sinograms, of)
    return found


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


def _lost_views(sinograms: Tensor, names: Sequence[str]) -> list[Unusual]:
    """Frames that were dropped: views of nothing beside views of something."""
    is_lost = ~sinograms.any(-1)  # (B, views)
    if not bool(is_lost.any()):
        return []
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


def _spikes(sinograms: Tensor, names: Sequence[str]) -> list[Unusual]:
    """Rays of one view that nothing beside them and nothing in the next views explains."""
    found = []
    for name, sinogram in zip(names, sinograms, strict=True):
        views, detectors = sinogram.shape
        if views < 3 or detectors < 3:
            continue
        size = sinogram.abs()
        around = torch.nn.functional.max_pool1d(size[:, None], 2 * NEAR + 1, 1, NEAR)[:, 0]
        before = torch.cat([around[1:2], around[:-1]])
        after = torch.cat([around[1:], around[-2:-1]])
        usual = size.flatten().sort().values[int(NEARLY_ALL * (size.numel() - 1))]
        is_spike = size > SPIKE * torch.maximum(usual, torch.maximum(before, after))
        places = torch.nonzero(is_spike).tolist()
        if places:
            view, detector = max(places, key=lambda place: float(size[place[0], place[1]]))
            times = float(size[view, detector] / usual.clamp_min(1e-30))
            what = (
                f"{name}: {len(places)} ray(s) far above all around them, such as that of view "
                f"{view} at detector {detector} (counted from 0, of those that are used), "
                f"{times:.3g} times as large as nearly all others"
            )
            found.append(Unusual(what, "put the mean of the rays beside it there"))
    return found


def _other_scales(sinograms: Tensor, names: Sequence[str]) -> list[Unusual]:
    if len(sinograms) < 3:
        return []
    rows = sinograms.abs().flatten(1).sort(1).values
    level = rows[:, int(NEARLY_ALL * (rows.shape[1] - 1))]
    times = level / level.median().clamp_min(1e-30)
    far = [name for name, t in zip(names, times.tolist(), strict=True) if t > OTHER_SCALE]
    if not far or len(far) > FEW * len(names):
        return []
    what = (
        f"{len(far)} of {len(names)} measurements are up to {float(times.max()):.3g} times as "
        f"large as most: {listed(far)}"
    )
    return [Unusual(what, "bring all to one unit, or leave them out")]
