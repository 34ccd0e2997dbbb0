"""Random images that teach a denoiser what images are like: edges, strokes, ramps and textures at
all scales and contrasts, and the grain that scanners leave; made from a seed.

Opaque shapes with radii distributed as r⁻³ have the edges and the scale invariance of natural
images (Lee, Mumford and Huang, IJCV 2001).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .grain import between, finished, grain
from .phantoms import phantom

Rng = np.random.Generator


def scenes(count: int, size: int = 128, seed: int = 0) -> Tensor:
    """Shapes in front of each other, (count, 1, size, size) in [0, 1]."""
    images = [_scene(size, np.random.default_rng([seed, 5, i])) for i in range(count)]
    return torch.from_numpy(np.stack(images)).float()[:, None]


def heads(count: int, size: int = 256, seed: int = 0) -> Tensor:
    """Heads as computed tomography and as T1 show them, with small things in them and grain,
    (count, 1, size, size) in [0, 1]."""
    images = []
    for i in range(count):
        rng = np.random.default_rng([seed, 6, i])
        image = phantom(("brain", "head")[i % 2], size, rng)
        _add_small_things(image, rng)
        images.append(finished(image, rng))
    return torch.from_numpy(np.stack(images)).float()[:, None]


# -------------------------------------------------------------------------------------- shapes


@dataclass(frozen=True)
class _Shape:
    """An ellipse, a polygon or a stroke."""

    x: float
    y: float
    angle: float
    length: float  #: half of it, in pixels
    width: float
    corners: tuple[tuple[float, float], ...] = ()  #: of a polygon, (direction, distance) of sides
    bends: float = 0.0  #: how far the outline of an ellipse is from one, and how often
    waves: int = 2

    def window(self, size: int, margin: float) -> tuple[slice, slice] | None:
        """Rows and columns that it touches."""
        reach = 1.5 * self.length + margin
        top, bottom = max(0, int(self.y - reach)), min(size, int(self.y + reach) + 2)
        left, right = max(0, int(self.x - reach)), min(size, int(self.x + reach) + 2)
        if top >= bottom or left >= right:
            return None
        return slice(top, bottom), slice(left, right)

    def axes(self, window: tuple[slice, slice]) -> tuple[np.ndarray, np.ndarray]:
        """Pixels along and across it, of each pixel of a window."""
        y, x = np.mgrid[window].astype(float)
        x -= self.x
        y -= self.y
        c, s = math.cos(self.angle), math.sin(self.angle)
        return c * x + s * y, c * y - s * x

    def distance(self, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        """To its outline, in pixels; negative inside."""
        if self.corners:
            sides = [u * math.cos(t) + v * math.sin(t) - d for t, d in self.corners]
            outermost: np.ndarray = np.max(sides, axis=0)
            return outermost
        q = np.hypot(u / self.length, v / self.width)
        if self.bends:
            q = q / (1 + self.bends * np.cos(self.waves * np.arctan2(v, u)))
        slope = np.hypot(u / self.length**2, v / self.width**2)
        out: np.ndarray = q * (q - 1) / np.maximum(slope, 1e-6)
        return out


def _random_shape(size: int, radius: float, rng: Rng) -> _Shape:
    x, y = rng.uniform(-0.05 * size, 1.05 * size, 2)
    angle = rng.uniform(0, np.pi)
    kind = rng.uniform()
    if kind < 0.2:
        count = int(rng.integers(3, 7))
        first = rng.uniform(0, 2 * np.pi)
        turns = [first + 2 * np.pi * (k + rng.uniform(-0.2, 0.2)) / count for k in range(count)]
        sides = tuple((turn, radius * rng.uniform(0.5, 1)) for turn in turns)
        return _Shape(x, y, angle, radius, radius, sides)
    if kind < 0.38:
        length = min(radius * rng.uniform(3, 12), 0.7 * size)
        return _Shape(x, y, angle, length, rng.uniform(0.5, 2.5))
    width = max(0.7, radius * rng.uniform(0.35, 1))
    bends = rng.uniform(0, 0.15) if rng.uniform() < 0.3 else 0.0
    return _Shape(x, y, angle, radius, width, (), bends, int(rng.integers(2, 6)))


def _scene(size: int, rng: Rng) -> np.ndarray:
    is_contrasty = rng.uniform() < 0.4
    base = 0.0 if rng.uniform() < 0.25 else rng.uniform()
    spread = 1.0 if is_contrasty else between(0.04, 1, rng)
    image = np.full((size, size), base)
    smallest, largest = rng.uniform(1, 3), size * rng.uniform(0.25, 0.6)
    count = int(between(60, 700, rng))
    softness = rng.uniform(0.35, 1.6)
    textures = [grain(size, rng) for _ in range(2)]
    radii = rng.uniform(largest**-2, smallest**-2, count) ** -0.5
    if rng.uniform() < 0.5:
        radii = np.sort(radii)[::-1]  # small ones in front
    for radius in radii:
        shape = _random_shape(size, radius, rng)
        soft = softness * rng.uniform(0.6, 1.6)
        value = rng.uniform() if is_contrasty else base + spread * rng.uniform(-1, 1)
        if rng.uniform() < 0.08:
            value = 0.0 if rng.uniform() < 0.6 else 1.0
        ramp = spread * rng.uniform(-0.5, 0.5) if rng.uniform() < 0.25 else 0.0
        rough = between(0.004, 0.06, rng) if rng.uniform() < 0.15 else 0.0
        texture = textures[int(rng.integers(2))]
        opacity = rng.uniform(0.3, 1) if rng.uniform() < 0.2 else 1.0
        window = shape.window(size, 4 * soft + 1)
        if window is None:
            continue
        u, v = shape.axes(window)
        fill = value + ramp * u / radius + rough * texture[window]
        _paint(image, window, opacity * _inside(shape.distance(u, v), soft), fill)
    return finished(image, rng)


def _inside(distance: np.ndarray, softness: float) -> np.ndarray:
    """1 inside, 0 outside, over about ``softness`` pixels."""
    out: np.ndarray = 1 / (1 + np.exp(np.clip(3 * distance / softness, -40, 40)))
    return out


def _paint(
    image: np.ndarray,
    window: tuple[slice, slice],
    mask: np.ndarray,
    value: float | np.ndarray,
) -> None:
    image[window] += mask * (value - image[window])


def _add_small_things(image: np.ndarray, rng: Rng) -> None:
    """Spots, vessels and gaps, a little brighter or darker than what they stand in."""
    size = len(image)
    for _ in range(int(rng.integers(0, 120))):
        radius = between(0.7, 5, rng)
        x, y = rng.uniform(0.1 * size, 0.9 * size, 2)
        shape = _Shape(x, y, rng.uniform(0, np.pi), radius * rng.uniform(1, 3), radius)
        step = 0.12 * rng.normal()
        here = image[int(y), int(x)]
        window = shape.window(size, 4)
        if here < 0.03 or window is None:  # air
            continue
        u, v = shape.axes(window)
        _paint(image, window, _inside(shape.distance(u, v), 1.5), float(np.clip(here + step, 0, 1)))
