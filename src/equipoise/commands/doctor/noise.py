"""The noise of measurements, as it was found and as it is assumed."""

from __future__ import annotations

from torch import Tensor

from ...config import Config
from ...data.dataset import Dataset
from .finding import Finding, judged
from .kspace import is_kspace


def measured_noise(y: Tensor) -> float | None:
    """The standard deviation of what is in the finest detail of measurements, from second
    differences along the last axis, which smooth signals hardly have: an upper bound. None, where
    there is too little of it."""
    differences = y[..., 2:] - 2 * y[..., 1:-1] + y[..., :-2]
    differences = differences[differences != 0]
    if len(differences) < 100:
        return None
    return float(differences.abs().median()) / (0.6745 * 6**0.5)


def noise(config: Config, sample: Dataset) -> Finding:
    """Whether the noise that is assumed is that of the data."""
    y, assumed = sample.measurements(), sample.scan.noise
    estimate = measured_noise(y)
    if is_kspace(sample.scan.physics) or estimate is None:
        what = f"noise: standard deviation {assumed:.2e}, found in the data or as configured"
        return Finding("ok", what)
    what = f"noise: at most {estimate:.2e} in the data's finest detail, {assumed:.2e} assumed"
    if config.physics.photons is not None:
        return Finding("ok", what)
    value = float(f"{config.physics.noise * estimate / max(assumed, 1e-30):.1g}")
    if assumed > 3 * estimate:
        remedy = f"set physics.noise to {value:.1g} or less"
        return Finding("wrong", what, remedy, {"physics.noise": value})
    remedy = "if the data are that noisy, raise physics.noise"
    return judged(assumed > estimate / 30, what, remedy, otherwise="note")
