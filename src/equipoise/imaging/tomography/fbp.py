"""Filtered back-projection for parallel and fan beams, lengths in pixels.

Notation as in Kak and Slaney, *Principles of Computerized Tomographic Imaging* (1988), chapter 3:
θ and β are the angles of a view, γ that of a ray within the fan, D the source's distance.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from .geometry import (
    FanGeometry,
    Geometry,
    ParallelGeometry,
    go_all_around,
    view_gaps,
    view_shares,
)
from .projector import SystemMatrix

WINDOWS = ("ramp", "shepp-logan", "cosine", "hamming", "hann")


class NotMeasured(ValueError):
    """Some lines through the image are not measured, which filtered back-projection needs."""


def parallel_fbp(
    geometry: ParallelGeometry, matrix: SystemMatrix | None, y: Tensor, window: str
) -> Tensor:
    """y (B, 1, views, detectors), in units of x times pixels → x (B, 1, H, W).

    Every view counts by its own share of the half turn, so that views need not be evenly spread.
    Where views go all around and the detector reaches farther on one side of the axis, a line that
    is measured from both sides counts by half.
    """
    pitch = abs(geometry.pitch)
    given = geometry
    geometry, y = _completed(geometry, y)
    if geometry is not given:
        matrix = None
    shares = torch.from_numpy(view_shares(geometry.angles, 180.0)).to(y)
    filtered = _filtered(y, geometry, window, pitch) * shares[:, None]
    if matrix is not None and pitch <= geometry.per_detector:  # there is a ray for every pixel
        image = pitch * matrix.product(filtered.flatten(1), True)
        return image.reshape(-1, 1, geometry.height, geometry.width)
    out = y.new_zeros(len(y), 1, geometry.height, geometry.width)
    for view, theta in enumerate(geometry.angles):
        across, _ = _coordinates(geometry, theta, y)
        out[:, 0] += _interpolated(geometry, filtered[:, 0, view], across / geometry.pitch)
    return out


def _completed(geometry: ParallelGeometry, y: Tensor) -> tuple[ParallelGeometry, Tensor]:
    """A detector that sees the image on both sides of the axis, and what it measured, where it is
    moved aside and the views go all around; else what is given.

    What the near side does not see counts as nothing there, and twice in the opposite view. In
    between, where both views of a line measured it, weights rise smoothly from 0 to 2.
    """
    left, right = _unseen_sides(geometry)
    overlap = geometry.detectors / 2 - abs(geometry.offset)
    is_aside = abs(geometry.offset) > 1 and left != right and overlap > 0
    if not (is_aside and go_all_around(geometry.angles)):
        return geometry, y
    place = np.arange(geometry.detectors) - (geometry.detectors - 1) / 2 + geometry.offset
    far = place if geometry.offset > 0 else -place
    weights = 1 + np.sin(np.pi / 2 * np.clip(far / overlap, -1, 1))
    near = (left, 0) if geometry.offset > 0 else (0, right)
    wider = replace(
        geometry,
        detectors=geometry.detectors + sum(near),
        offset=geometry.offset + (near[1] - near[0]) / 2,
    )
    return wider, torch.nn.functional.pad(y * torch.from_numpy(weights).to(y), near)


def fan_fbp(g: FanGeometry, y: Tensor, window: str) -> Tensor:
    """y (B, 1, views, detectors), in units of x times pixels → x (B, 1, H, W).

    Each view is weighted by its share of the turn and by the cosine of its rays' angles, filtered,
    and smeared back along the fan with the inverse square of the distance to the source (Kak and
    Slaney, section 3.4).

    Raises:
        ValueError: some line through the image is not measured.
    """
    weights = fan_weights(g)
    _warn_of_a_near_source(g)
    D = g.source_distance
    fan = torch.from_numpy(g.fan_angles()).to(y)
    weighted = y * torch.from_numpy(weights).to(y) * torch.cos(fan)
    if g.curved:
        pitch = g.detector_pitch / g.source_to_detector  # the angle between rays
        filtered = _filtered(weighted * D, g, window, abs(pitch))
    else:
        pitch = g.detector_pitch * D / g.source_to_detector  # as seen at the centre of rotation
        filtered = _filtered(weighted, g, window, abs(pitch))
    out = y.new_zeros(len(y), 1, g.height, g.width)
    for view in range(len(g.angles)):
        out[:, 0] += _smear(g, filtered[:, 0, view], view, pitch)
    return out


def _warn_of_a_near_source(g: FanGeometry) -> None:
    """Warns where the source comes so near a corner that the inverse square is not resolved.

    Measured on smooth images: there the error is about the arc between two views, or a pixel,
    as a fraction of the source's distance from the corner.
    """
    nearest = g.source_distance - math.hypot(g.height, g.width) / 2
    arc = float(np.median(view_shares(g.angles, 360.0))) * g.source_distance
    error = max(arc, 1.0) / nearest
    if error > 0.1 and nearest < g.source_distance / 4:
        warnings.warn(
            f"the source passes the image's corners at {nearest:.1f} pixels, where fbp is off by "
            f"{min(error, 1):.0%} or so; use A_dagger, or a smaller image",
            stacklevel=4,
        )


def _filtered(y: Tensor, g: Geometry, window: str, pitch: float) -> Tensor:
    """The rows of y after the ramp; ``pitch`` as for :func:`filter_rows`.

    A detector that does not see the whole object cuts projections off, and the ramp would take
    their ends for edges: they go on instead, as those of a disc that fills the image would (Hsieh
    et al., Med. Phys. 2004, fit one for each view).
    """
    left, right = _unseen_sides(g)
    n = left + g.detectors + right
    longer = y.new_zeros(*y.shape[:-1], n)
    seen = slice(left, left + g.detectors)
    longer[..., seen] = y
    chord = _chords_of_a_disc(g, left, right).to(y)
    longer[..., :left] = y[..., :1] * (chord[:left] / chord[left])
    longer[..., n - right :] = y[..., -1:] * (chord[n - right :] / chord[n - right - 1])
    factor = None
    if isinstance(g, FanGeometry) and g.curved:
        angle = torch.arange(n, dtype=torch.float64) * pitch
        sine = torch.sin(angle.clamp_max(math.pi / 2)).clamp_min(1e-9)
        factor = torch.where(angle == 0, 1.0, angle / sine) ** 2
    return filter_rows(longer, window, pitch, factor)[..., seen]


def _unseen_sides(g: Geometry) -> tuple[int, int]:
    """How many detectors are missing on both sides to see a disc that fills the image; at most as
    many as there are."""
    radius = max(g.height, g.width) / 2
    if isinstance(g, ParallelGeometry):
        extent = radius / abs(g.pitch)
    else:
        half = math.asin(min(radius / g.source_distance, 1.0))
        reach = half if g.curved else math.tan(min(half, 1.5))
        extent = g.source_to_detector * reach / abs(g.detector_pitch)
    middle = g.detectors / 2
    sides = extent - middle + g.offset, extent - middle - g.offset
    left, right = (min(max(0, math.floor(side)), g.detectors) for side in sides)
    return left, right


def _chords_of_a_disc(g: Geometry, left: int, right: int) -> Tensor:
    """(left + detectors + right,) the length of each ray inside a disc that fills the image, or
    nearly nothing."""
    index = torch.arange(-left, g.detectors + right, dtype=torch.float64)
    index = index - (g.detectors - 1) / 2 + g.offset
    if isinstance(g, ParallelGeometry):
        distance = index * g.pitch
    else:
        place = index * g.detector_pitch / g.source_to_detector
        distance = g.source_distance * torch.sin(place if g.curved else torch.atan(place))
    radius = max(g.height, g.width) / 2
    return (radius**2 - distance.square()).clamp_min(1e-3).sqrt()


def _smear(g: FanGeometry, row: Tensor, view: int, pitch: float) -> Tensor:
    """One filtered view (B, detectors) back along its rays → (B, H, W)."""
    D = g.source_distance
    across, along = _coordinates(g, g.angles[view], row)
    depth = D + along
    if g.curved:
        at = torch.atan2(across, depth) / pitch
        square = across.square() + depth.square()
    else:
        at = D * across / depth / pitch
        square = (depth / D).square()
    return _interpolated(g, row, at) / square


def _coordinates(g: Geometry, theta: float, like: Tensor) -> tuple[Tensor, Tensor]:
    """Of every pixel, (H, W) each, from the axis of rotation: along the detector, and along the
    central ray."""
    c, s = math.cos(math.radians(theta)), math.sin(math.radians(theta))
    rows = torch.arange(g.height, device=like.device, dtype=like.dtype) - (g.height - 1) / 2
    columns = torch.arange(g.width, device=like.device, dtype=like.dtype) - (g.width - 1) / 2
    columns, rows = (columns - g.axis[0])[None, :], (rows - g.axis[1])[:, None]
    return columns * c - rows * s, columns * s + rows * c


def _interpolated(g: Geometry, row: Tensor, at: Tensor) -> Tensor:
    """A filtered view (B, detectors) at the places ``at`` (H, W), in detectors from the shadow of
    the axis: (B, H, W)."""
    at = (at + (g.detectors - 1) / 2 - g.offset).clamp(0, g.detectors - 1)
    low = at.floor().long().clamp_max(max(g.detectors - 2, 0))
    high = (low + 1).clamp_max(g.detectors - 1)
    return torch.lerp(row[:, low], row[:, high], (at - low)[None])


def fan_weights(g: FanGeometry) -> np.ndarray:
    """(views, detectors): each view's share of the turn, in radians, times a weight that counts
    every line of the scan once.

    Source angle β and fan angle γ measure the same line as β + 180° + 2γ and −γ do. Each gets its
    share c(β) / Σ c over the angles that measure it; c is 1, and falls to zero over 10° beside what
    is missing of the turn (Noo, Defrise, Clackdoyle and Kudo, Phys. Med. Biol. 2002).

    Raises:
        ValueError: some line through the image is not measured.
    """
    fan = g.fan_angles()
    sides = -fan.min(), fan.max()
    needed = math.asin(min(g.height, g.width) / 2 / g.source_distance)
    if min(sides) < min(needed, 0.95 * max(sides)):
        raise NotMeasured(
            f"the detector's offset={g.offset:g} leaves one side of the image unseen; "
            "use A_dagger instead of fbp"
        )
    shares, missing = _shares_and_missing(g.angles)
    _check_coverage(g, shares, missing)
    beta = np.radians(np.asarray(g.angles))[:, None]
    opposite = beta + math.pi + 2 * fan
    here = _confidence(beta, missing)
    total = here + _confidence(opposite, missing)
    return shares[:, None] * here / np.maximum(total, 1e-12)


#: A gap this many times as wide as the ones that the views usually leave is missing from the scan.
MISSING = 3.0


def _shares_and_missing(angles: Sequence[float]) -> tuple[np.ndarray, list[tuple[float, float]]]:
    """The share of every view, and what the views leave out of the turn as (start, length); all in
    radians.

    Missing are the widest gap, or the widest two or three, if all the others are far narrower. The
    views beside it get as much on that side as they have on the other.
    """
    gaps, order = view_gaps(angles, 360.0)
    widest = np.sort(gaps)[::-1]
    edge = math.inf
    for count in range(1, min(3, len(gaps) - 1) + 1):
        if widest[count - 1] > MISSING * widest[count]:
            edge = widest[count - 1]
            break
    if len(gaps) == 1:
        edge = gaps[0]
    is_missing = gaps >= edge
    bridged = np.where(is_missing, 0.0, gaps)
    before, after = np.roll(bridged, 1), bridged  # of each view, on this side and on that
    before = np.where(np.roll(is_missing, 1), after, before)
    after = np.where(is_missing, before, after)
    shares = np.empty(len(gaps))
    shares[order] = np.radians(before + after) / 2
    missing = []
    for i in np.flatnonzero(is_missing):
        following = (i + 1) % len(gaps)
        start = angles[order[i]] + after[i] / 2
        length = gaps[i] - after[i] / 2 - before[following] / 2
        missing.append((math.radians(start), math.radians(length)))
    return shares, missing


def _confidence(beta: np.ndarray, missing: list[tuple[float, float]]) -> np.ndarray:
    """c(β): 0 in what is missing of the turn, 1 from 10° on beside it."""
    c = np.ones_like(beta)
    for start, length in missing:
        past = np.remainder(beta - start, 2 * math.pi)
        distance = np.where(past < length, 0, np.minimum(past - length, 2 * math.pi - past))
        edge = np.clip(distance / math.radians(10), 0, 1)
        c = np.minimum(c, np.sin(math.pi / 2 * edge) ** 2)
    return c


def _check_coverage(g: FanGeometry, shares: np.ndarray, missing: list[tuple[float, float]]) -> None:
    """Raises a ValueError where a line through the image is measured from neither side, give or
    take the angle between two views."""
    widest = min(
        float(np.abs(g.fan_angles()).max()),
        math.asin(math.hypot(g.height, g.width) / 2 / g.source_distance),
    )
    usual = float(np.median(shares))
    slack = [(start, max(length - usual, 0)) for start, length in missing if length > 0]
    beta = np.linspace(0, 2 * math.pi, 721)[:, None]
    gamma = np.linspace(-widest, widest, 41)
    measured = _confidence(beta, slack) + _confidence(beta + math.pi + 2 * gamma, slack)
    if measured.min() > 0:
        return
    covered = 360 - math.degrees(sum(length for _, length in missing))
    least = 180 + 2 * math.degrees(widest)
    raise NotMeasured(
        "fbp needs every line through the image, from one side at least: views over 360°, or over "
        f"at least {least:.0f}° of it in one piece; these {len(g.angles)} views cover "
        f"{covered:.0f}°; use A_dagger for other scans"
    )


def filter_rows(
    y: Tensor, window: str = "ramp", pitch: float = 1.0, factor: Tensor | None = None
) -> Tensor:
    """Convolves every detector row of y (…, detectors) with the band-limited ramp, times a window
    in frequency.

    The ramp is the Fourier transform of its band-limited kernel, so that the mean is right (Kak and
    Slaney, section 3.3). ``factor`` (detectors,) multiplies the kernel at distance 0, 1, …: the
    equiangular fan's (γ / sin γ)².
    """
    if window not in WINDOWS:
        raise ValueError(f"window must be one of {', '.join(WINDOWS)}, got {window!r}")
    n = y.shape[-1]
    size = max(64, 2 ** math.ceil(math.log2(2 * n)))
    k = torch.cat([torch.arange(0, size // 2 + 1), torch.arange(-(size // 2) + 1, 0)]).double()
    odd = -1 / (math.pi * k).square().clamp_min(1)
    kernel = torch.where(k.remainder(2) == 1, odd, torch.zeros_like(k))
    kernel[0] = 0.25
    if factor is not None:
        distance = k.abs().long()
        reached = kernel * factor[distance.clamp_max(n - 1)]
        kernel = torch.where(distance < n, reached, torch.zeros_like(kernel))
    response = torch.fft.rfft(kernel).real
    response = response * _window(window, len(response))
    filtered = torch.fft.irfft(torch.fft.rfft(y, size) * response.to(y), size)
    return filtered[..., :n] / pitch


def _window(name: str, count: int) -> Tensor:
    """(count,) the window at frequencies from 0 to Nyquist's, which are 0 and 1 here."""
    f = torch.linspace(0, 1, count, dtype=torch.float64)
    if name == "shepp-logan":
        return torch.sinc(f / 2)
    if name == "cosine":
        return torch.cos(math.pi / 2 * f)
    if name == "hamming":
        return 0.54 + 0.46 * torch.cos(math.pi * f)
    if name == "hann":
        return 0.5 + 0.5 * torch.cos(math.pi * f)
    return torch.ones_like(f)
