"""What nobody has to tune: σ and λ of the first model, chosen by measurements that it does not see.

A part of every measurement is left out (every fifth view, or sampled line outside the centre), the
rest is reconstructed, and what A makes of the image is compared with the part that was left out:
cross-validation, over the parts that SSDU trains on (``learning/losses/splitting.py``). The σ and λ
that predict it best are taken. There is no image anywhere in it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from ..assessment.metrics import is_measured, misfit
from ..data.dataset import Dataset
from ..equilibrium import Stop
from ..reconstruction.model import EquilibriumReconstructor
from ..reconstruction.settings import ModelSettings, RandomSettings
from .search import Ladder, Setting, decades, search
from .validation import solve_dataset

#: Into how many parts a measurement is split.
PARTS = 5
#: As many measurements are looked at as have so many pixels together, but no more than
#: ``MOST_IMAGES``. Little is left out of small ones: of four heads of 64² at 4× the noise of eight
#: lines chose, and of 16 the images do (ten times the noise: 0.8 dB, results/ssibench.md).
PIXELS, MOST_IMAGES = 4 * 128**2, 16
#: So many settings are tried at most; usually 6 to 11 are. No clock ends the search: a busy machine
#: would choose otherwise than an idle one.
MOST_TRIED = 16
#: A setting's rank does not depend on the last digits.
STOP = Stop(1e-3, 60)
#: A relative residual above this is no solution, and its misfit no score.
LOST = 0.03
#: Of the misfit's logarithm: what is better by less is not worth more work.
MARGIN = 1e-3
#: Each twice, or about three times, the one before.
SIGMAS = tuple(0.0025 * 2**k for k in range(9))
#: The search begins at this many times the usual σ too. Where whole rows are lost, σ between 0.02
#: and 0.08 fills none, each a little worse than the one before, and 0.16 fills them all.
FAR = 8.0
STRENGTHS = decades((1, 3), -6, 2)


@dataclass(frozen=True)
class HeldOut:
    """Measurements in two: what a model is given, and what it must predict."""

    given: Dataset
    left_out: Dataset

    def score(self, model: EquilibriumReconstructor) -> float:
        """The mean of log ‖A x̂ − y‖/‖y‖ over what was left out; NaN where a solve came to nothing.

        The logarithm, so that every measurement counts alike.
        """
        solved = solve_dataset(model, self.given, batch=len(self.given))
        if bool((~(solved.residual <= LOST)).any()):
            return math.nan
        y, physics, _ = self.left_out.batch(torch.arange(len(self.left_out)))
        misfits = misfit(solved.value.to(y), y, physics).double()
        return float(misfits[is_measured(y)].log().mean())


def held_out_part(dataset: Dataset, kept_out: Dataset | None = None) -> HeldOut | None:
    """Some of the measurements, each without a part; None where they have no parts.

    Args:
        dataset: what is trained on.
        kept_out: the part of it that ``data.keep_out`` keeps from training, if it does.
    """
    pixels = math.prod(dataset.scan.image_shape[1:])
    count = min(len(dataset), MOST_IMAGES, max(1, PIXELS // pixels))
    if kept_out is not None:
        return HeldOut(dataset.spread(count), kept_out.spread(count))
    try:
        return HeldOut(*dataset.spread(count).split(PARTS, 0))
    except (TypeError, ValueError):
        return None


@dataclass(frozen=True)
class Choice:
    """σ and λ, by their keys in the configuration, and how they were found."""

    settings: dict[str, float] = field(default_factory=dict)
    words: str = ""  #: what was done, in a sentence


def choose(
    settings: ModelSettings,
    held_out: HeldOut | None,
    noise: float,
    seed: int = 0,
    say: Callable[[str], None] = lambda text: None,
) -> Choice:
    """The values of what is ``auto`` in the section ``model``.

    A denoiser that nobody has trained predicts nothing, and neither do measurements without parts:
    then σ is 0.02 and λ what the noise asks for, and the words say so.

    Args:
        settings: of the model.
        held_out: what it is judged by.
        noise: the standard deviation of the noise in y.
        seed: of the denoiser's weights, where they are random.
        say: is told when a search begins.
    """
    ladders = _ladders(settings, noise)
    if not ladders:
        return Choice()
    if isinstance(settings.denoiser, RandomSettings):
        return _as_the_noise_asks(settings, noise, "the denoiser is not trained yet")
    if held_out is None:
        return _as_the_noise_asks(settings, noise, "the measurements cannot be split")
    say(
        f"choosing {' and '.join(ladders)} by what is left out of {len(held_out.given)} "
        "measurements; give them to save this time"
    )
    trial = _Trial(settings, held_out, noise, seed)
    found = search(trial.score, ladders, MARGIN)
    if not math.isfinite(trial.score(found)):
        return _as_the_noise_asks(settings, noise, "no setting that was tried has an equilibrium")
    count, tried = len(held_out.given), len(trial.scores)
    words = (
        f"{_listed(found)}: chosen by what was left out of {count} measurements ({tried} settings "
        f"tried, {trial.seconds:.0f} s); it is predicted to {math.exp(-trial.score(found)):.2%}"
    )
    if trial.is_over:
        words += f"; the search was ended after {MOST_TRIED} settings"
    return Choice({key: float(value) for key, value in found.items()}, words)


class _Trial:
    """Scores settings, each once, up to so many."""

    def __init__(self, settings: ModelSettings, held_out: HeldOut, noise: float, seed: int):
        self.settings, self.held_out = settings, held_out
        self.noise, self.seed = noise, seed
        self.scores: dict[tuple[Any, ...], float] = {}
        self.started = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    @property
    def is_over(self) -> bool:
        return len(self.scores) >= MOST_TRIED

    def score(self, setting: Setting) -> float:
        """Higher is better."""
        key = tuple(setting.values())
        if key not in self.scores:
            if self.is_over:
                return math.nan
            model = with_values(self.settings, setting).make(
                self.held_out.given.scan.image_shape[0], self.noise, self.seed
            )
            model.stop = STOP
            self.scores[key] = -self.held_out.score(model.eval())
        return self.scores[key]


def with_values(settings: ModelSettings, values: dict[str, Any]) -> ModelSettings:
    """The section with other values at keys such as ``model.step.strength``."""
    tree = settings.model_dump()
    for key, value in values.items():
        section, names = tree, key.removeprefix("model.").split(".")
        for name in names[:-1]:
            section = section[name]
        section[names[-1]] = value
    return ModelSettings.model_validate(tree)


def _ladders(settings: ModelSettings, noise: float) -> dict[str, Ladder]:
    """Of what is to be chosen; the search begins at what would be taken otherwise."""
    ladders: dict[str, Ladder] = {}
    if settings.sigma == "auto":
        ladders["model.sigma"] = _from(SIGMAS, settings.sigma_value, 1, FAR)
    if getattr(settings.step, "strength", None) == "auto":
        step: Any = settings.step
        asked = step.default_strength(noise, settings.sigma_value)
        ladders["model.step.strength"] = _from(STRENGTHS, asked, 1)
    return ladders


def _from(values: tuple[float, ...], start: float, *times: float) -> Ladder:
    """The search begins at those of the ``values`` that are next to so many ``times`` the start."""

    def nearest(wanted: float) -> float:
        return min(values, key=lambda value: abs(math.log(value / wanted)))

    first = dict.fromkeys(nearest(many * start) for many in times)
    return Ladder(values, first=tuple(first), default=nearest(start))


def _as_the_noise_asks(settings: ModelSettings, noise: float, why: str) -> Choice:
    values: dict[str, float] = {}
    sigma = settings.sigma_value
    if settings.sigma == "auto":
        values["model.sigma"] = sigma
    if getattr(settings.step, "strength", None) == "auto":
        step: Any = settings.step
        values["model.step.strength"] = step.default_strength(noise, sigma)
    return Choice(values, f"{_listed(values)}: as usual for this noise, since {why}")


def _listed(values: dict[str, Any]) -> str:
    return ", ".join(f"{key}={value:.3g}" for key, value in values.items())
