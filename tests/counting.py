"""Counts of photons behind a disc, as tests need them."""

from __future__ import annotations

import numpy as np

DARK = 100.0


def disc(views: int = 30, detectors: int = 60) -> np.ndarray:
    """Line integrals through a disc that does not reach the ends: a hump, up to 2."""
    place = np.linspace(-1, 1, detectors)
    hump = 2 * np.sqrt(np.clip(1 - (place / 0.7) ** 2, 0, None))
    return np.tile(hump, (views, 1))


def beam(detectors: int = 60) -> np.ndarray:
    """An open beam that is brighter in the middle."""
    return 20_000 + 5_000 * np.cos(np.linspace(-1, 1, detectors))


def counts_of(integrals: np.ndarray, white: np.ndarray, dark: float = DARK) -> np.ndarray:
    return (white - dark) * np.exp(-integrals) + dark
