"""Whether the operator explains the data, as far as their noise lets it; and if not, why."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from ...config import Config
from ...data.dataset import Dataset
from ...imaging.tomography import Tomography
from .causes import Cause, likely_cause
from .finding import Finding, judged
from .kspace import is_kspace
from .mend import changes_of
from .noise import measured_noise

#: The misfit of least squares that cannot be right, and what is worth no word. (What is measured as
#: noise may be anything but smooth.)
WRONG_MISFIT, LITTLE_MISFIT = 0.2, 0.02
#: Models are never exact: this many times the noise is still a fit.
OVER_NOISE = 4.0
#: What a mended cause leaves is more than coarse pixels and noise from here on.
MUCH_OVER_NOISE = 3.0


def fit(config: Config, sample: Dataset, x: Tensor, say: Callable[[str], None]) -> Finding:
    """Where a scanner made the data, the usual mistakes are tried, and the one that mends the fit
    is named, with how inconsistent the measurements are before and after.

    Args:
        x: the least-squares images of the sample.
    """
    physics, y = sample.scan.physics, sample.measurements()
    size = float(y.norm().clamp_min(1e-30))
    misfit = float((physics.A(x) - y).norm()) / size
    is_scanned = sample.truth is None and isinstance(physics, Tomography)
    assumed = sample.scan.noise * int((y != 0).sum()) ** 0.5 / size  # what is not measured has none
    noise, how = assumed, "about"
    if is_scanned and (found := measured_noise(y)) is not None:
        noise, how = found * y.numel() ** 0.5 / size, "measured"
    what = f"fit: least squares leaves {misfit:.1%} of the measurements unexplained (noise: {how} "
    what += f"{noise:.1%})"
    if is_scanned and isinstance(physics, Tomography):
        cause = likely_cause(physics, y, lambda name: say(f"trying: {name}"))
        if cause is not None:
            return _named(config, sample, what, cause, noise)
    remedy = f"the operator is not what measured these data: check {_what_to_check(physics)}"
    if misfit > max(WRONG_MISFIT, OVER_NOISE * assumed):
        return Finding("wrong", what, remedy)
    if is_scanned:
        remedy = (
            "none of the usual mistakes mends it; scatter, beam hardening, motion or coarse pixels "
            "count as noise: raise physics.noise"
        )
    is_fine = misfit <= max(LITTLE_MISFIT, OVER_NOISE * max(noise, assumed))
    return judged(is_fine, what, remedy, otherwise="note")


def _what_to_check(physics: Any) -> str:
    if isinstance(physics, Tomography):
        return "views, detectors, pixel, offset, orientation"
    if is_kspace(physics):
        return (
            "where the zero frequency lies, the order of the axes, the coil maps, and k-space for "
            "samples far above all around them"
        )
    return "A, its settings, and the order of the axes of y"


def _named(config: Config, sample: Dataset, what: str, cause: Cause, noise: float) -> Finding:
    changes, by_hand = changes_of(config, sample, cause)
    also = f"; or {'; or '.join(cause.others[:2])}" if cause.others else ""
    if cause.misfit > max(LITTLE_MISFIT, MUCH_OVER_NOISE * noise):
        also += (
            f". That is {cause.misfit / max(noise, 1e-30):.0f} times the noise: something else is "
            "wrong besides, or instead (a sample that moved, views of another order, light that "
            "drifted)"
        )
    return Finding(
        "wrong",
        f"{what}: {cause.what}; the views contradict each other by {cause.before:.2%} of what they "
        f"measured, and so by {cause.misfit:.2%}{also}",
        f"{cause.remedy}{by_hand}",
        changes,
    )
