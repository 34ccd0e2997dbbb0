"""How well any image explains what a coarse scan measured: what all faults are judged by."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import scipy.fft
import scipy.sparse

from .geometry import Geometry

#: How much a rough image costs, beside what it leaves unexplained, where noise is ``CLEAN`` of the
#: measurements; it grows with the variance of the noise, up to ``MOST``.
LEAST, CLEAN, MOST = 1e-6, 0.003, 1e-4
#: Degrees that the image is turned by: rays along its rows would meet either its pixels or the gaps
#: between them, and the place of the axis would matter for that reason.
TURNED = 17.3
#: Of conjugate gradients; more of them change little.
ITERATIONS = 40


def noise_share(values: np.ndarray) -> float:
    """The noise of sinograms (B, views, detectors), as a share of their norm: from their second
    differences along the detector, which smooth objects hardly have."""
    differences = values[..., 2:] - 2 * values[..., 1:-1] + values[..., :-2]
    noise = (
        float(np.median(np.abs(differences))) / (0.6745 * math.sqrt(6)) if differences.size else 0
    )
    size = math.sqrt(float(np.square(values, dtype=np.float64).mean()))
    return noise / max(size, 1e-300)


def suitable_roughness(noise: float) -> float:
    """How much a rough image may cost beside measurements with this share of noise."""
    return float(np.clip(LEAST * (noise / CLEAN) ** 2, LEAST, MOST))


def inconsistency(
    geometry: Geometry, values: np.ndarray, noise: float = 0.0, iterations: int = ITERATIONS
) -> float:
    """sqrt(min_u ‖A C u − y‖² + λ‖u‖²) / ‖y‖, with C a filter that lets smooth images cost less.

    An image that fits a wrong geometry is either no fit or full of streaks, and both are counted.

    Args:
        values: (B, views, detectors) of a coarse scan.
        noise: its share of the measurements.
        iterations: of conjugate gradients.
    """
    roughness = suitable_roughness(noise)
    geometry = replace(geometry, angles=tuple(angle + TURNED for angle in geometry.angles))
    matrix = _matrix(geometry)
    transpose = matrix.T
    count, side = len(values), geometry.height
    smooth = _Smoothing(side)
    y = values.reshape(count, -1).astype(np.float32)

    def forward(u: np.ndarray) -> np.ndarray:
        return (matrix @ smooth(u).reshape(count, -1).T).T

    def back(v: np.ndarray) -> np.ndarray:
        return smooth((transpose @ v.T).T.reshape(count, side, side))

    r = back(y)
    p, rr = r.copy(), _dot(r, r)
    size = float(np.square(y, dtype=np.float64).sum())
    left = size
    strength = 0.0
    for step in range(iterations):
        measured = forward(p)
        if step == 0:
            strength = roughness * float((_dot(measured, measured) / np.maximum(rr, 1e-30)).max())
        Mp = back(measured) + np.float32(strength) * p
        curvature = _dot(p, Mp)
        if not curvature.all():
            break
        alpha = rr / curvature
        r -= _each(alpha, r) * Mp
        left -= float((alpha * rr).sum())  # what a step of conjugate gradients gains
        new = _dot(r, r)
        p = r + _each(new / np.maximum(rr, 1e-30), p) * p
        rr = new
    return math.sqrt(max(left, 0.0) / max(size, 1e-300))


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(B,) inner products."""
    flat_a, flat_b = a.reshape(len(a), -1), b.reshape(len(b), -1)
    products: np.ndarray = np.einsum("ij,ij->i", flat_a, flat_b, dtype=np.float64)
    return products


def _each(values: np.ndarray, like: np.ndarray) -> np.ndarray:
    shaped: np.ndarray = values.astype(np.float32).reshape(-1, *[1] * (like.ndim - 1))
    return shaped


class _Smoothing:
    """C: a symmetric filter that falls like 1/√|k|, beyond the borders of the image too."""

    def __init__(self, side: int):
        self.side = side
        self.padded = scipy.fft.next_fast_len(2 * side, real=True)
        rows = np.fft.fftfreq(self.padded)[:, None] * side
        columns = np.fft.rfftfreq(self.padded)[None] * side
        self.response = (1 / np.sqrt(1 + np.hypot(rows, columns))).astype(np.float32)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        shape = (self.padded, self.padded)
        filtered = scipy.fft.irfft2(scipy.fft.rfft2(x, shape) * self.response, shape)
        inside: np.ndarray = filtered[:, : self.side, : self.side]
        return inside


def _matrix(geometry: Geometry) -> scipy.sparse.csr_matrix:
    """Joseph's matrix of a square image, (rays, pixels), with the zeros of what no ray meets kept:
    made in a tenth of the time that ``projector.joseph_matrix`` takes."""
    views = [geometry.rays(view) for view in range(len(geometry.angles))]
    point = np.concatenate([view[0] for view in views])
    direction = np.concatenate([view[1] for view in views])
    side = geometry.height
    crosses_rows = np.abs(direction[:, 1]) >= np.abs(direction[:, 0])
    along = np.where(crosses_rows, 1, 0)
    ray = np.arange(len(point))
    slope = direction[ray, 1 - along] / direction[ray, along]
    middle = (side - 1) / 2
    start = point[ray, 1 - along] - slope * (point[ray, along] + middle) + middle
    line = np.arange(side, dtype=np.float32)
    crossing = start[:, None].astype(np.float32) + slope[:, None].astype(np.float32) * line
    low = np.floor(crossing)
    above = crossing - low
    length = np.hypot(1, slope)[:, None].astype(np.float32)
    is_low = (low >= 0) & (low < side)
    is_high = (low >= -1) & (low < side - 1)
    values = np.stack([(1 - above) * length * is_low, above * length * is_high], -1)
    place = np.stack([low, low + 1], -1).clip(0, side - 1).astype(np.int32)
    step_along = np.where(crosses_rows, side, 1).astype(np.int32)[:, None, None]
    step_aside = np.where(crosses_rows, 1, side).astype(np.int32)[:, None, None]
    lines = np.arange(side, dtype=np.int32)[None, :, None]
    pixels = step_along * lines + step_aside * place
    ends = np.arange(0, len(point) * 2 * side + 1, 2 * side, dtype=np.int32)
    shape = (len(point), side * side)
    return scipy.sparse.csr_matrix((values.ravel(), pixels.ravel(), ends), shape)
