"""Random images to learn and to demonstrate on, made from a seed: anatomy and dead leaves."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from .sizes import image_size

Rng = np.random.Generator
KINDS = ("thorax", "abdomen", "head", "brain")


def _grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    line = (np.arange(size) - (size - 1) / 2) / (size / 2)
    return np.meshgrid(line, line)  # x to the right, y down, both in (−1, 1)


def _ellipse(
    grid: tuple[np.ndarray, np.ndarray],
    x: float,
    y: float,
    a: float,
    b: float,
    angle: float,
    edge: float,
    rng: Rng,
    wobble: float = 0.0,
) -> np.ndarray:
    """1 inside, 0 outside, with a soft edge about ``edge`` wide; ``wobble`` bends the outline."""
    dx = grid[0] - x
    dy = grid[1] - y
    c = math.cos(angle)
    s = math.sin(angle)
    u = (c * dx + s * dy) / a
    v = (c * dy - s * dx) / b
    r = np.hypot(u, v)
    if wobble:
        phi = np.arctan2(v, u)
        bend: float | np.ndarray = 0.0
        for k in (2, 3, 4, 5):
            bend = bend + wobble / k * rng.normal() * np.cos(k * phi + rng.uniform(0, 2 * np.pi))
        r = r / (1 + bend)
    return 1 / (1 + np.exp(np.clip((r - 1) * min(a, b) / edge * 4, -40, 40)))


def _texture(size: int, rng: Rng, exponent: float) -> np.ndarray:
    """Gaussian noise with a power spectrum |k|^−exponent, mean 0 and standard deviation 1."""
    k = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None]) * size
    spectrum = np.fft.rfft2(rng.normal(size=(size, size))) / np.maximum(k, 1) ** (exponent / 2)
    spectrum[0, 0] = 0
    field = np.fft.irfft2(spectrum, (size, size))
    return field / field.std()


def _put(image: np.ndarray, mask: np.ndarray, value: float | np.ndarray) -> np.ndarray:
    return image + mask * (value - image)


class _Drawing:
    """An image that is being drawn, from one stream of random numbers.

    The order of the draws is what a seed means: it must not change.
    """

    def __init__(self, size: int, rng: Rng):
        self.size = size
        self.rng = rng
        self.grid = _grid(size)
        self.image = np.zeros((size, size))

    def uniform(self, low: float, high: float) -> float:
        return self.rng.uniform(low, high)

    def normal(self) -> float:
        return self.rng.normal()

    def texture(self, exponent: float) -> np.ndarray:
        return _texture(self.size, self.rng, exponent)

    def oval(
        self,
        x: float,
        y: float,
        a: float,
        b: float,
        angle: float = 0,
        wobble: float = 0,
        softness: float = 1,
    ) -> np.ndarray:
        """1 inside, 0 outside, with an edge ``softness`` pixels wide."""
        edge = softness * (2.0 / self.size)
        return _ellipse(self.grid, x, y, a, b, angle, edge, self.rng, wobble)

    def put(self, mask: np.ndarray, value: float | np.ndarray) -> None:
        self.image = _put(self.image, mask, value)


def phantom(kind: str, size: int, rng: Rng) -> np.ndarray:
    """One anatomical phantom (size, size) in [0, 1], of a look of :data:`KINDS`."""
    drawing = _Drawing(size, rng)
    normal = drawing.normal
    tissue = 0.5 + 0.02 * normal() + 0.012 * drawing.texture(drawing.uniform(1.5, 3.0))
    tilt = 0.1 * normal()
    if kind in ("thorax", "abdomen"):
        _draw_torso(drawing, kind, tissue, tilt)
    else:
        _draw_head(drawing, kind, tilt)
    return np.clip(drawing.image, 0, 1)


def _draw_torso(d: _Drawing, kind: str, tissue: np.ndarray, tilt: float) -> None:
    u = d.uniform
    n = d.normal
    a = u(0.72, 0.92)
    b = u(0.5, 0.7)
    d.put(d.oval(0.03 * n(), 0.03 * n(), a, b, tilt, 0.03), 0.45 + 0.01 * d.texture(2.0))  # fat
    d.put(d.oval(0, 0, a - u(0.04, 0.1), b - u(0.04, 0.1), tilt, 0.03), tissue)
    if kind == "thorax":
        _draw_chest(d)
    else:
        _draw_belly(d)
    spine_y = b - u(0.2, 0.28)
    spine = d.oval(0.02 * n(), spine_y, u(0.09, 0.13), u(0.08, 0.12), wobble=0.08)
    d.put(spine, u(0.62, 0.8) + 0.04 * d.texture(1.5))
    d.put(d.oval(0, spine_y + 0.14, 0.035, 0.04), 0.52)
    for _ in range(int(d.rng.integers(6, 14))):  # ribs
        t = u(0, 2 * np.pi)
        x = (a - 0.09) * math.cos(t)
        y = (b - 0.09) * math.sin(t)
        rib = d.oval(x, y, u(0.03, 0.11), u(0.012, 0.028), t + np.pi / 2, 0.05)
        d.put(rib, u(0.65, 0.9))


def _draw_chest(d: _Drawing) -> None:
    u = d.uniform
    n = d.normal
    for side in (-1, 1):
        lung = d.oval(
            side * u(0.32, 0.42), u(-0.1, 0.05), u(0.2, 0.28), u(0.32, 0.42), 0.2 * n(), 0.08
        )
        air = u(0.06, 0.14)
        d.put(lung, air + 0.03 * np.maximum(d.texture(1.5), -1))
        for _ in range(int(d.rng.integers(12, 40))):  # vessels
            r = u(0.008, 0.035)
            spot = d.oval(side * u(0.12, 0.6), u(-0.4, 0.35), r, r * u(1, 3), u(0, np.pi))
            d.put(spot * lung, u(0.3, 0.55))
    heart = d.oval(u(-0.05, 0.18), u(-0.1, 0.1), u(0.15, 0.26), u(0.14, 0.24), u(-1, 1), 0.05)
    d.put(heart, u(0.5, 0.6))
    d.put(d.oval(0.02 * n(), u(-0.2, 0.0), u(0.02, 0.04), u(0.03, 0.05)), 0.02)  # trachea


def _draw_belly(d: _Drawing) -> None:
    u = d.uniform
    for _ in range(int(d.rng.integers(4, 9))):
        organ = d.oval(u(-0.5, 0.5), u(-0.3, 0.3), u(0.08, 0.3), u(0.06, 0.22), u(0, np.pi), 0.1)
        d.put(organ, u(0.47, 0.6) + 0.01 * d.texture(1.5))
    for _ in range(int(d.rng.integers(0, 5))):
        gas = d.oval(u(-0.4, 0.4), u(-0.35, 0.2), u(0.02, 0.1), u(0.02, 0.07), u(0, np.pi), 0.1)
        d.put(gas, u(0, 0.1))


def _draw_head(d: _Drawing, kind: str, tilt: float) -> None:
    u = d.uniform
    a = u(0.58, 0.72)
    b = u(0.72, 0.88)
    if kind == "head":
        bone = u(0.75, 0.98)
        skin = 0.48
    else:
        bone = u(0.05, 0.15)
        skin = u(0.6, 0.95)
    d.put(d.oval(0, 0, a, b, tilt, 0.03), skin)
    d.put(d.oval(0, 0, a - 0.05, b - 0.05, tilt, 0.02), bone)
    thick = u(0.1, 0.14)
    brain = d.oval(0, 0, a - thick, b - thick, tilt, 0.02)
    if kind == "head":
        grey = 0.52
        white = 0.5
    else:
        grey = u(0.35, 0.5)
        white = u(0.55, 0.75)
    d.put(brain, grey + 0.015 * d.texture(2.0))
    fold = 1 / (1 + np.exp(-6 * d.texture(3.0)))
    inner = d.oval(0, 0, a - thick - 0.07, b - thick - 0.07, tilt, 0.1, softness=3)
    d.put(inner * fold, white + 0.01 * d.texture(2.0))
    for side in (-1, 1):
        ventricle = d.oval(
            side * u(0.06, 0.12),
            u(-0.15, 0.1),
            u(0.03, 0.07),
            u(0.12, 0.25),
            side * u(0, 0.4),
            0.1,
        )
        d.put(ventricle, grey * u(0.3, 0.8))
    for _ in range(int(d.rng.integers(3, 9))):
        nucleus = d.oval(u(-0.4, 0.4), u(-0.5, 0.5), u(0.02, 0.12), u(0.02, 0.12), u(0, np.pi), 0.1)
        d.put(brain * nucleus, grey * u(0.7, 1.5))


def phantoms(
    count: int,
    size: int = 64,
    seed: int = 0,
    kinds: tuple[str, ...] = ("thorax", "abdomen", "head"),
) -> Tensor:
    """Anatomical phantoms (count, 1, size, size) in [0, 1]: soft ellipses, textures, bones.

    Image i has look i mod len(kinds). CT looks: "thorax", "abdomen", "head" (attenuation, 0.5 is
    water); T1 MRI look: "brain".

    Raises:
        ValueError: there is no such look, the count is below 1, or the images are not square.
    """
    rows, columns = image_size(size)
    if rows != columns:
        raise ValueError(f"size must be one number, since phantoms are square, got {size}")
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    unknown = set(kinds) - set(KINDS)
    if unknown or not kinds:
        raise ValueError(f"kinds must be some of {', '.join(KINDS)}, got {kinds}")
    images = []
    for i in range(count):
        rng = np.random.default_rng([seed, i])
        images.append(phantom(kinds[i % len(kinds)], rows, rng))
    return torch.from_numpy(np.stack(images)).float()[:, None]


def smooth_phase(
    count: int, size: int | tuple[int, int], seed: int = 0, strength: float = 1.0
) -> Tensor:
    """Smooth random phases (count, rows, columns) in radians, for complex MRI images.

    What is not square is the middle of a square one.
    """
    rows, columns = image_size(size)
    side = max(rows, columns)
    fields = []
    for i in range(count):
        fields.append(_texture(side, np.random.default_rng([seed, 2, i]), 5.0))
    top, left = (side - rows) // 2, (side - columns) // 2
    square = strength * torch.from_numpy(np.stack(fields)).float()
    return square[:, top : top + rows, left : left + columns].contiguous()
