"""Filtered back-projection for parallel and fan beams, lengths in pixels.

Notation as in Kak and Slaney, *Principles of Computerized Tomographic Imaging* (1988), chapter 3:
θ and β are the angles of a view, γ that of a ray within the fan, D the source's distance.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from .geometry import FanGeometry, ParallelGeometry
from .projector import SystemMatrix

WINDOWS = ("ramp", "shepp-logan", "cosine", "hamming", "hann")


def parallel_fbp(
    geometry: ParallelGeometry, matrix: SystemMatrix, y: Tensor, window: str
) -> Tensor:
    """y (B, 1, views, detectors), in units of x times pixels → x (B, 1, H, W)."""
    filtered = filter_rows(y, window)
    image = matrix.product(filtered.flatten(1), True)
    image = image.reshape(-1, 1, geometry.height, geometry.width)
    return image * (math.pi / len(geometry.angles))


def fan_fbp(g: FanGeometry, y: Tensor, window: str) -> Tensor:
    """y (B, 1, views, detectors), in units of x times pixels → x (B, 1, H, W).

    Each view is weighted by the cosine of its rays' angles, filtered, and smeared back along the
    fan with the inverse square of the distance to the source (Kak and Slaney, section 3.4).

    Raises:
        ValueError: the views are not evenly spread, or cover less than half a turn and the fan.
    """
    weights, between = redundancy(g)
    D = g.source_distance
    fan = torch.from_numpy(g.fan_angles()).to(y)
    weighted = y * torch.from_numpy(weights).to(y) * torch.cos(fan)
    if g.curved:
        pitch = g.detector_pitch / g.source_to_detector  # the angle between rays
        n = torch.arange(g.detectors, dtype=torch.float64) * pitch
        factor = torch.where(n == 0, 1.0, n / torch.sin(n).clamp_min(1e-9)) ** 2
        filtered = filter_rows(weighted * D, window, pitch, factor)
    else:
        pitch = g.detector_pitch * D / g.source_to_detector  # as seen at the centre of rotation
        filtered = filter_rows(weighted, window, pitch)
    out = y.new_zeros(len(y), 1, g.height, g.width)
    for view in range(len(g.angles)):
        out[:, 0] += _smear(g, filtered[:, 0, view], view, pitch)
    return out * between


def _smear(g: FanGeometry, row: Tensor, view: int, pitch: float) -> Tensor:
    """One filtered view (B, detectors) back along its rays → (B, H, W)."""
    D, theta = g.source_distance, math.radians(g.angles[view])
    c, s = math.cos(theta), math.sin(theta)
    rows = torch.arange(g.height, device=row.device, dtype=row.dtype) - (g.height - 1) / 2
    columns = torch.arange(g.width, device=row.device, dtype=row.dtype) - (g.width - 1) / 2
    across = columns[None, :] * c - rows[:, None] * s
    depth = D + columns[None, :] * s + rows[:, None] * c
    if g.curved:
        at = torch.atan2(across, depth) / pitch
        square = across.square() + depth.square()
    else:
        at = D * across / depth / pitch
        square = (depth / D).square()
    at = (at + (g.detectors - 1) / 2 - g.offset).clamp(0, g.detectors - 1)
    low = at.floor().long().clamp_max(max(g.detectors - 2, 0))
    high = (low + 1).clamp_max(g.detectors - 1)
    value = torch.lerp(row[:, low], row[:, high], (at - low)[None])
    return value / square


def redundancy(g: FanGeometry) -> tuple[np.ndarray, float]:
    """Weights (views, detectors) that count every line of a scan once, and the angle between views
    in radians.

    Source angle β and fan angle γ measure the same line as β + 180° + 2γ and −γ do. Each gets its
    share c(β) / Σ c over the angles that measure it, c falling to zero over 10° at both ends of a
    short scan (Noo, Defrise, Clackdoyle and Kudo, Phys. Med. Biol. 2002).
    """
    fan = g.fan_angles()
    angles = np.radians(np.sort(np.asarray(g.angles)))
    n, turn = len(angles), 2 * math.pi
    between = (angles[-1] - angles[0]) / max(n - 1, 1)
    least = 180 + 2 * math.degrees(np.abs(fan).max())
    remedy = f"fbp needs views spread evenly over 360°, or at least {least:.0f}° of it"
    uneven = n < 2 or np.abs(np.diff(angles) - between).max() > 1e-4
    if uneven or n * between > turn * (1 + 1e-4):
        raise ValueError(f"{remedy}; the {n} views here are not; use A_dagger for other scans")
    sides = -fan.min(), fan.max()
    needed = math.asin(min(g.height, g.width) / 2 / g.source_distance)
    if min(sides) < min(needed, 0.95 * max(sides)):
        raise ValueError(
            f"the detector's offset={g.offset:g} leaves one side of the image unseen; "
            "use A_dagger instead of fbp"
        )
    if abs(n * between - turn) < 1e-4:
        return np.full((n, g.detectors), 0.5), between
    if n * between < math.pi + 2 * np.abs(fan).max() - between:
        covered = math.degrees(n * between)
        raise ValueError(
            f"{remedy}; these {n} views cover {covered:.0f}°; use A_dagger for other scans"
        )
    start, end = angles[0] - between / 2, angles[-1] + between / 2

    def c(beta: np.ndarray) -> np.ndarray:
        edge = np.clip(np.minimum(beta - start, end - beta) / math.radians(10), 0, 1)
        return np.sin(math.pi / 2 * edge) ** 2

    beta = np.radians(np.asarray(g.angles))[:, None]
    opposite = start + np.remainder(beta + math.pi + 2 * fan - start, turn)
    total = c(beta) + c(opposite)
    return c(beta) / np.maximum(total, 1e-12), between


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
