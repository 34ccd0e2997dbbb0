"""What scanners leave in images: blur, shading and noise of some band; drawn at random."""

from __future__ import annotations

import math

import numpy as np

Rng = np.random.Generator


def between(low: float, high: float, rng: Rng) -> float:
    """Log-uniform."""
    return math.exp(rng.uniform(math.log(low), math.log(high)))


def frequencies(size: int) -> np.ndarray:
    """|k| in cycles a pixel, as rfft2 has them."""
    out: np.ndarray = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None])
    return out


def filtered_noise(size: int, response: np.ndarray, rng: Rng) -> np.ndarray:
    """Gaussian noise, mean 0 and standard deviation 1."""
    spectrum = np.fft.rfft2(rng.normal(size=(size, size))) * response
    spectrum[0, 0] = 0
    field = np.fft.irfft2(spectrum, (size, size))
    out: np.ndarray = field / field.std()
    return out


def grain(size: int, rng: Rng) -> np.ndarray:
    """Noise of a random band: of a filtered back-projection, of tissue, or white."""
    k = frequencies(size)
    kind = rng.uniform()
    if kind < 0.6:
        ramp = k ** rng.uniform(0.3, 1.2)
        response = ramp * np.exp(-((k / rng.uniform(0.12, 0.45)) ** 2))
    elif kind < 0.85:
        response = 1 / np.maximum(k * size, 1) ** rng.uniform(0.3, 1.6)
    else:
        response = np.ones_like(k)
    return filtered_noise(size, response, rng)


def finished(
    image: np.ndarray,
    rng: Rng,
    blur: tuple[float, float] = (0.3, 1.0),
    grain_strength: tuple[float, float] = (0.0015, 0.025),
) -> np.ndarray:
    """An image (size, size) blurred, shaded and grainy, each with some probability; in [0, 1].

    Args:
        image: to finish.
        rng: of all that is random.
        blur: bounds of its standard deviation, in pixels.
        grain_strength: bounds of the grain's standard deviation.
    """
    size = len(image)
    k = frequencies(size)
    if rng.uniform() < 0.3:
        response = np.exp(-2 * (np.pi * rng.uniform(*blur) * k) ** 2)
        image = np.fft.irfft2(np.fft.rfft2(image) * response, image.shape)
    if rng.uniform() < 0.3:
        smooth = filtered_noise(size, 1 / np.maximum(k * size, 1) ** 2.5, rng)
        image = image * (1 + rng.uniform(0, 0.15) * smooth)
    if rng.uniform() < 0.75:
        strength = between(*grain_strength, rng)
        image = image + strength * _unevenness(size, rng) * grain(size, rng)
    out: np.ndarray = np.clip(image, 0, 1)
    return out


def _unevenness(size: int, rng: Rng) -> float | np.ndarray:
    """How much stronger grain is in the middle of something."""
    if rng.uniform() > 0.3:
        return 1.0
    y, x = np.mgrid[:size, :size] / size - rng.uniform(0, 1, (2, 1, 1))
    out: np.ndarray = 0.5 + np.exp(-(x**2 + y**2) * rng.uniform(0.5, 4))
    return out
