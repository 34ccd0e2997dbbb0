"""Random images to learn and to demonstrate on, made from a seed: anatomical phantoms and dead leaves."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

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
    dx, dy = grid[0] - x, grid[1] - y
    c, s = math.cos(angle), math.sin(angle)
    u, v = (c * dx + s * dy) / a, (c * dy - s * dx) / b
    r = np.hypot(u, v)
    if wobble:
        phi = np.arctan2(v, u)
        r = r / (1 + sum(wobble / k * rng.normal() * np.cos(k * phi + rng.uniform(0, 2 * np.pi)) for k in (2, 3, 4, 5)))
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


def _anatomy(kind: str, size: int, rng: Rng) -> np.ndarray:
    g, edge, u, n = _grid(size), 2.0 / size, rng.uniform, rng.normal
    tissue = 0.5 + 0.02 * n() + 0.012 * _texture(size, rng, u(1.5, 3.0))
    image = np.zeros((size, size))
    tilt = 0.1 * n()

    def oval(x: float, y: float, a: float, b: float, angle: float = 0, wobble: float = 0, soft: float = edge) -> np.ndarray:
        return _ellipse(g, x, y, a, b, angle, soft, rng, wobble)

    def texture(exponent: float) -> np.ndarray:
        return _texture(size, rng, exponent)

    if kind in ("thorax", "abdomen"):
        a, b = u(0.72, 0.92), u(0.5, 0.7)
        body = oval(0.03 * n(), 0.03 * n(), a, b, tilt, 0.03)
        image = _put(image, body, 0.45 + 0.01 * texture(2.0))  # fat
        image = _put(image, oval(0, 0, a - u(0.04, 0.1), b - u(0.04, 0.1), tilt, 0.03), tissue)
        if kind == "thorax":
            for side in (-1, 1):
                lung = oval(side * u(0.32, 0.42), u(-0.1, 0.05), u(0.2, 0.28), u(0.32, 0.42), 0.2 * n(), 0.08)
                air = u(0.06, 0.14)
                image = _put(image, lung, air + 0.03 * np.maximum(texture(1.5), -1))
                for _ in range(int(rng.integers(12, 40))):  # vessels
                    r = u(0.008, 0.035)
                    spot = oval(side * u(0.12, 0.6), u(-0.4, 0.35), r, r * u(1, 3), u(0, np.pi))
                    image = _put(image, spot * lung, u(0.3, 0.55))
            heart = oval(u(-0.05, 0.18), u(-0.1, 0.1), u(0.15, 0.26), u(0.14, 0.24), u(-1, 1), 0.05)
            image = _put(image, heart, u(0.5, 0.6))
            image = _put(image, oval(0.02 * n(), u(-0.2, 0.0), u(0.02, 0.04), u(0.03, 0.05)), 0.02)  # trachea
        else:
            for _ in range(int(rng.integers(4, 9))):
                organ = oval(u(-0.5, 0.5), u(-0.3, 0.3), u(0.08, 0.3), u(0.06, 0.22), u(0, np.pi), 0.1)
                image = _put(image, organ, u(0.47, 0.6) + 0.01 * texture(1.5))
            for _ in range(int(rng.integers(0, 5))):
                gas = oval(u(-0.4, 0.4), u(-0.35, 0.2), u(0.02, 0.1), u(0.02, 0.07), u(0, np.pi), 0.1)
                image = _put(image, gas, u(0, 0.1))
        spine_y = b - u(0.2, 0.28)
        spine = oval(0.02 * n(), spine_y, u(0.09, 0.13), u(0.08, 0.12), wobble=0.08)
        image = _put(image, spine, u(0.62, 0.8) + 0.04 * texture(1.5))
        image = _put(image, oval(0, spine_y + 0.14, 0.035, 0.04), 0.52)
        for _ in range(int(rng.integers(6, 14))):  # ribs
            t = u(0, 2 * np.pi)
            x, y = (a - 0.09) * math.cos(t), (b - 0.09) * math.sin(t)
            image = _put(image, oval(x, y, u(0.03, 0.11), u(0.012, 0.028), t + np.pi / 2, 0.05), u(0.65, 0.9))
    else:
        a, b = u(0.58, 0.72), u(0.72, 0.88)
        bone, skin = (u(0.75, 0.98), 0.48) if kind == "head" else (u(0.05, 0.15), u(0.6, 0.95))
        image = _put(image, oval(0, 0, a, b, tilt, 0.03), skin)
        image = _put(image, oval(0, 0, a - 0.05, b - 0.05, tilt, 0.02), bone)
        thick = u(0.1, 0.14)
        brain = oval(0, 0, a - thick, b - thick, tilt, 0.02)
        grey, white = (0.52, 0.5) if kind == "head" else (u(0.35, 0.5), u(0.55, 0.75))
        image = _put(image, brain, grey + 0.015 * texture(2.0))
        fold = 1 / (1 + np.exp(-6 * texture(3.0)))
        inner = oval(0, 0, a - thick - 0.07, b - thick - 0.07, tilt, 0.1, soft=3 * edge)
        image = _put(image, inner * fold, white + 0.01 * texture(2.0))
        for side in (-1, 1):
            ventricle = oval(side * u(0.06, 0.12), u(-0.15, 0.1), u(0.03, 0.07), u(0.12, 0.25), side * u(0, 0.4), 0.1)
            image = _put(image, ventricle, grey * u(0.3, 0.8))
        for _ in range(int(rng.integers(3, 9))):
            nucleus = oval(u(-0.4, 0.4), u(-0.5, 0.5), u(0.02, 0.12), u(0.02, 0.12), u(0, np.pi), 0.1)
            image = _put(image, brain * nucleus, grey * u(0.7, 1.5))
    return np.clip(image, 0, 1)


def phantoms(count: int, size: int = 64, seed: int = 0, kinds: tuple[str, ...] = ("thorax", "abdomen", "head")) -> Tensor:
    """Anatomical phantoms (count, 1, size, size) in [0, 1]: soft ellipses, textures, bones; image i has look i mod len(kinds).

    CT looks: "thorax", "abdomen", "head" (attenuation, 0.5 is water); T1 MRI look: "brain".
    """
    unknown = set(kinds) - set(KINDS)
    if unknown or not kinds:
        raise ValueError(f"kinds must be some of {', '.join(KINDS)}, got {kinds}")
    images = [_anatomy(kinds[i % len(kinds)], size, np.random.default_rng([seed, i])) for i in range(count)]
    return torch.from_numpy(np.stack(images)).float()[:, None]


def dead_leaves(count: int, size: int = 64, seed: int = 0, leaves: int = 100) -> Tensor:
    """Dead leaves (count, 1, size, size) in [0, 1]: opaque ellipses with radii distributed as r⁻³, which gives the
    edges and the scale invariance of natural images (Lee, Mumford and Huang, IJCV 2001). Some leaves are textured."""
    out = np.empty((count, 1, size, size), dtype=np.float32)
    g = _grid(size)
    for i in range(count):
        rng = np.random.default_rng([seed, 1, i])
        image = np.full((size, size), rng.uniform())
        for r in rng.uniform(0.6**-2, 0.05**-2, size=leaves) ** -0.5:
            x, y, angle, flat = rng.uniform(-1.1, 1.1), rng.uniform(-1.1, 1.1), rng.uniform(0, np.pi), rng.uniform(0.4, 1)
            value = rng.uniform() + (0.06 * _texture(size, rng, rng.uniform(1, 3)) if rng.uniform() < 0.1 else 0)
            image = _put(image, _ellipse(g, x, y, r, r * flat, angle, 1.5 / size, rng), value)
        out[i, 0] = np.clip(image, 0, 1)
    return torch.from_numpy(out)


def smooth_phase(count: int, size: int, seed: int = 0, strength: float = 1.0) -> Tensor:
    """Smooth random phases (count, size, size) in radians, for complex MRI images."""
    fields = [_texture(size, np.random.default_rng([seed, 2, i]), 5.0) for i in range(count)]
    return strength * torch.from_numpy(np.stack(fields)).float()
