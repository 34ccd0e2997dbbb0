"""Random slices of chests and bellies, in the grey values of computed tomography: a value of 0 is
air, 0.5 water, 1 dense bone. They have what makes such images hard to denoise: vessels that branch
down to less than a pixel, thin shells of bone, planes of fat, and tissues that hardly differ."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from .grain import between, filtered_noise, finished, frequencies

Rng = np.random.Generator
#: Grey values: (lowest, highest).
FAT = (0.435, 0.47)
MUSCLE = (0.515, 0.545)
ORGAN = (0.5, 0.58)
VESSEL = (0.5, 0.66)
LUNG = (0.05, 0.16)
MARROW = (0.54, 0.66)
BONE = (0.66, 1.0)


def torsos(count: int, size: int = 256, seed: int = 0) -> Tensor:
    """(count, 1, size, size) in [0, 1]."""
    images = []
    for i in range(count):
        rng = np.random.default_rng([seed, 7, i])
        torso = _Torso(size, rng)
        torso.draw()
        images.append(finished(torso.image, rng, blur=(0.2, 0.7), grain_strength=(0.001, 0.012)))
    return torch.from_numpy(np.stack(images)).float()[:, None]


class _Torso:
    """A slice that is being drawn. Lengths are in half sides of the image, x to the right and y to
    the back."""

    def __init__(self, size: int, rng: Rng):
        self.size = size
        self.rng = rng
        self.pixel = 2.0 / size
        line = (np.arange(size) - (size - 1) / 2) * self.pixel
        self.x, self.y = np.meshgrid(line, line)
        self.image = np.zeros((size, size))
        self.a = rng.uniform(0.66, 0.98)
        self.b = self.a * rng.uniform(0.55, 0.82)
        self.soft = self.pixel * rng.uniform(0.35, 0.8)

    # ------------------------------------------------------------------------------- the parts

    def draw(self) -> None:
        rng = self.rng
        if rng.uniform() < 0.7:
            self._table()
        body = self._body()
        has_lungs = rng.uniform() < 0.7
        if has_lungs:
            self._lungs(body)
        else:
            self._bowels(body)
        self._vessels_across(body, int(rng.integers(2, 10)))
        self._spine()
        self._ribs()
        if rng.uniform() < 0.25:
            self._arms()

    def _body(self) -> np.ndarray:
        """Skin, fat, muscles and what lies between them; where it is, from 0 to 1."""
        rng = self.rng
        power = rng.uniform(2.0, 2.8)
        bent = 1 + 0.04 * self.field(3.5)
        r = (np.abs(self.x / self.a) ** power + np.abs(self.y / self.b) ** power) ** (1 / power)
        depth = (1 - r * bent) * self.b
        body = self.step(depth)
        self.put(body, self.value(FAT) + 0.004 * self.field(2.0))
        skin = body * self.step(2 * self.pixel - depth)
        self.put(skin, self.value(MUSCLE))
        thickness = between(0.015, 0.16, rng) * (1 + 0.5 * self.field(3.5))
        inner = self.step(depth - np.maximum(thickness, 3 * self.pixel))
        self.put(inner, self.value(MUSCLE) + 0.006 * self.field(1.5))
        for _ in range(int(rng.integers(1, 4))):  # planes of fat, and organs
            field = self.field(rng.uniform(2.2, 3.5))
            part = self.step((field - rng.uniform(0.2, 1.4)) * rng.uniform(0.03, 0.1))
            self.put(part * inner, self.value(FAT if rng.uniform() < 0.5 else ORGAN))
        for _ in range(int(rng.integers(2, 7))):
            organ = self.oval(
                rng.uniform(-0.6, 0.6) * self.a,
                rng.uniform(-0.6, 0.6) * self.b,
                between(0.05, 0.4, rng),
                rng.uniform(0.5, 1),
                wobble=0.12,
            )
            self.put(organ * inner, self.value(ORGAN) + 0.004 * self.field(1.5))
        return inner

    def _lungs(self, body: np.ndarray) -> None:
        rng = self.rng
        for side in (-1, 1):
            if rng.uniform() < 0.08:
                continue
            cx = side * self.a * rng.uniform(0.42, 0.52)
            cy = self.b * rng.uniform(-0.2, 0.1)
            height = self.b * rng.uniform(0.5, 0.88)
            lung = self.oval(cx, cy, height, rng.uniform(0.6, 0.9), 0.0, 0.12)
            lung = lung * body
            air = self.value(LUNG) + rng.uniform(0, 0.05) * self.y / self.b
            self.put(lung, air + between(0.002, 0.02, rng) * self.field(rng.uniform(0.6, 1.6)))
            value = self.value(VESSEL)
            hilum = (side * self.a * rng.uniform(0.12, 0.25), cy + rng.uniform(-0.1, 0.15))
            for _ in range(int(rng.integers(2, 7))):
                angle = rng.uniform(-1.4, 1.4) + (math.pi if side < 0 else 0)
                self._tree(hilum, angle, between(0.6, 3.0, rng), lung, value)
            for _ in range(int(rng.integers(20, 160))):
                self._spot(cx, cy, height, lung, value)
        heart = self.oval(
            rng.uniform(-0.05, 0.2), self.b * rng.uniform(-0.35, 0.1), between(0.12, 0.34, rng)
        )
        self.put(heart * body, self.value(ORGAN))
        for _ in range(int(rng.integers(1, 4))):  # windpipe and bronchi
            x, y = rng.uniform(-0.15, 0.15), self.b * rng.uniform(-0.2, 0.2)
            radius = between(0.01, 0.05, rng)
            self.put(self.oval(x, y, radius + 2 * self.pixel) * body, self.value(MUSCLE))
            self.put(self.oval(x, y, radius) * body, rng.uniform(0, 0.03))

    def _tree(
        self,
        start: tuple[float, float],
        angle: float,
        radius: float,
        inside: np.ndarray,
        value: float,
    ) -> None:
        """A vessel that becomes thinner and branches; ``radius`` in pixels."""
        rng = self.rng
        x, y = start
        while radius > 0.25:
            length = self.pixel * rng.uniform(4, 12)
            angle += rng.normal(0, 0.25)
            end = (x + length * math.cos(angle), y + length * math.sin(angle))
            self._segment((x, y), end, radius, inside, value)
            x, y = end
            radius *= rng.uniform(0.8, 0.95)
            if rng.uniform() < 0.3:
                turn = rng.choice((-1, 1)) * rng.uniform(0.4, 1.1)
                self._tree(end, angle + turn, radius * rng.uniform(0.5, 0.85), inside, value)

    def _segment(
        self,
        start: tuple[float, float],
        end: tuple[float, float],
        radius: float,
        inside: np.ndarray,
        value: float,
    ) -> None:
        """A piece of a vessel; what is thinner than a pixel is fainter."""
        window = self.window(start, end, radius + 3)
        if window is None:
            return
        dx, dy = end[0] - start[0], end[1] - start[1]
        px, py = self.x[window] - start[0], self.y[window] - start[1]
        along = np.clip((px * dx + py * dy) / (dx * dx + dy * dy), 0, 1)
        distance = np.hypot(px - along * dx, py - along * dy) / self.pixel
        mask = min(1.0, 1.5 * radius) / (1 + np.exp(np.clip(4 * (distance - radius), -40, 40)))
        part = self.image[window]
        part += mask * inside[window] * np.maximum(value - part, 0)

    def _spot(self, cx: float, cy: float, height: float, inside: np.ndarray, value: float) -> None:
        """A vessel that is cut across."""
        rng = self.rng
        x, y = cx + height * rng.uniform(-0.7, 0.7), cy + height * rng.uniform(-1, 1)
        length = self.pixel * between(0.05, 3, rng)
        angle = rng.uniform(0, math.pi)
        end = (x + length * math.cos(angle), y + length * math.sin(angle))
        self._segment((x, y), end, between(0.35, 2.2, rng), inside, value)

    def _bowels(self, body: np.ndarray) -> None:
        rng = self.rng
        for _ in range(int(rng.integers(3, 16))):
            x, y = rng.uniform(-0.6, 0.6) * self.a, rng.uniform(-0.7, 0.3) * self.b
            radius = between(0.03, 0.16, rng)
            squeezed, angle = rng.uniform(0.4, 1), rng.uniform(0, math.pi)
            wall = self.oval(x, y, radius, squeezed, angle, 0.15)
            self.put(wall * body, self.value(MUSCLE))
            filled = self.oval(x, y, 0.8 * radius, squeezed, angle, 0.15)
            content = rng.uniform(0, 0.05) if rng.uniform() < 0.4 else self.value(ORGAN)
            self.put(filled * body, content)

    def _vessels_across(self, body: np.ndarray, count: int) -> None:
        rng = self.rng
        for _ in range(count):
            x, y = rng.uniform(-0.3, 0.3), rng.uniform(-0.3, 0.8) * self.b
            vessel = self.oval(x, y, between(0.008, 0.09, rng), rng.uniform(0.6, 1))
            self.put(vessel * body, self.value(VESSEL))

    def _spine(self) -> None:
        rng = self.rng
        y = self.b * rng.uniform(0.45, 0.65)
        radius = rng.uniform(0.09, 0.15)
        self._bone(0.02 * rng.normal(), y, radius, rng.uniform(0.7, 0.95), 0.0)
        canal = y + radius * rng.uniform(1.0, 1.2)
        for side in (-1, 1):
            for _ in range(int(rng.integers(1, 4))):
                x = side * rng.uniform(0.04, 0.16)
                self._bone(x, canal + rng.uniform(-0.04, 0.06), between(0.02, 0.08, rng))
        self._bone(0.0, canal + rng.uniform(0.08, 0.13), rng.uniform(0.03, 0.09), 0.3, math.pi / 2)
        self.put(self.oval(0.0, canal, rng.uniform(0.035, 0.055)), self.value(MUSCLE))

    def _ribs(self) -> None:
        rng = self.rng
        inset = rng.uniform(0.06, 0.16)
        for _ in range(int(rng.integers(6, 20))):
            turn = rng.uniform(0, 2 * math.pi)
            x, y = (self.a - inset) * math.cos(turn), (self.b - inset) * math.sin(turn)
            tangent = math.atan2(self.b * math.cos(turn), -self.a * math.sin(turn))
            self._bone(x, y, between(0.025, 0.16, rng), rng.uniform(0.12, 0.4), tangent)

    def _arms(self) -> None:
        rng = self.rng
        for side in (-1, 1):
            x, y = side * rng.uniform(0.85, 0.97), rng.uniform(-0.2, 0.4)
            radius = rng.uniform(0.1, 0.18)
            self.put(self.oval(x, y, radius, 0.9), self.value(FAT))
            self.put(self.oval(x, y, 0.8 * radius, 0.9, wobble=0.1), self.value(MUSCLE))
            self._bone(x, y, 0.3 * radius, 0.9)

    def _bone(
        self, x: float, y: float, radius: float, squeezed: float = 0.7, angle: float | None = None
    ) -> None:
        """A shell, and marrow in it where there is room."""
        rng = self.rng
        angle = rng.uniform(0, math.pi) if angle is None else angle
        shell = self.oval(x, y, radius, squeezed, angle, 0.05)
        self.put(shell, self.value(BONE))
        thickness = self.pixel * rng.uniform(0.8, 2.2)
        if radius * squeezed > 2 * thickness:
            share = 1 - thickness / (radius * squeezed)
            marrow = self.value(MARROW) + between(0.003, 0.05, rng) * self.field(1.0)
            self.put(self.oval(x, y, share * radius, squeezed, angle, 0.05), marrow)

    def _table(self) -> None:
        rng = self.rng
        top = self.b + rng.uniform(0.0, 0.06) - rng.uniform(0, 0.5) * self.x**2
        below = rng.uniform(0.08, 0.25)
        filling = rng.uniform(0, 0.06)
        self.put(self.step(self.y - top) * self.step(top + below - self.y), filling)
        for line in (top, top + below):
            width = self.pixel * rng.uniform(0.5, 1.5)
            self.put(self.step(width - np.abs(self.y - line)), rng.uniform(0.05, 0.4))

    # ------------------------------------------------------------------------------- the tools

    def value(self, bounds: tuple[float, float]) -> float:
        return self.rng.uniform(*bounds)

    def field(self, exponent: float) -> np.ndarray:
        """Gaussian noise with the spectrum |k|^−2·exponent, of standard deviation 1."""
        k = np.maximum(frequencies(self.size) * self.size, 1)
        return filtered_noise(self.size, k**-exponent, self.rng)

    def step(self, depth: np.ndarray) -> np.ndarray:
        """1 where ``depth`` is positive, 0 where it is negative."""
        out: np.ndarray = 1 / (1 + np.exp(np.clip(-2 * depth / self.soft, -40, 40)))
        return out

    def oval(
        self,
        x: float,
        y: float,
        length: float,
        squeezed: float = 1.0,
        angle: float = 0.0,
        wobble: float = 0.0,
    ) -> np.ndarray:
        """An ellipse, with an outline that may be bent."""
        dx, dy = self.x - x, self.y - y
        c, s = math.cos(angle), math.sin(angle)
        across, along = c * dx + s * dy, c * dy - s * dx
        if angle == 0.0 and squeezed < 1.0:  # lungs and vertebrae are higher than wide
            across, along = along, across
        r = np.hypot(across / length, along / (length * squeezed))
        if wobble:
            turn = np.arctan2(along, across)
            for k in (2, 3, 4, 5):
                phase = self.rng.uniform(0, 2 * math.pi)
                r = r * (1 + wobble / k * self.rng.normal() * np.cos(k * turn + phase))
        return self.step((1 - r) * length * squeezed)

    def put(self, mask: np.ndarray, value: float | np.ndarray) -> None:
        self.image += mask * (value - self.image)

    def window(
        self, start: tuple[float, float], end: tuple[float, float], margin: float
    ) -> tuple[slice, slice] | None:
        """Rows and columns about two points, ``margin`` pixels around."""
        bounds = []
        for k in (1, 0):
            low, high = min(start[k], end[k]), max(start[k], end[k])
            first = int(low / self.pixel + self.size / 2 - margin)
            last = int(high / self.pixel + self.size / 2 + margin) + 1
            bounds.append(slice(max(0, first), min(self.size, last)))
        if any(bound.start >= bound.stop for bound in bounds):
            return None
        return bounds[0], bounds[1]
