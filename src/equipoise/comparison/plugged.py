"""The denoiser as it comes, plugged into a step: nothing is trained, λ and σ are tuned."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ..config import Config, changed
from ..data.dataset import Dataset
from ..data.scan import Scan
from ..equilibrium import Equilibrium, Stop
from ..learning.choice import SIGMAS as ALL_SIGMAS
from ..learning.choice import STOP as TUNING_STOP
from ..learning.search import Ladder, Setting, decades
from ..learning.validation import solve_dataset
from ..reconstruction.model import EquilibriumReconstructor
from .method import Fitted, Method, Problem
from .tuning import in_words

#: λ as a multiple of what the noise asks for; also of steps that are unrolled.
STRENGTHS = Ladder(decades((1, 3), -2, 3), first=(0.3, 1.0, 3.0, 10.0), default=1.0)
SIGMAS = Ladder(ALL_SIGMAS, first=(0.01, 0.02, 0.04, 0.08), default=0.02)


def strength_of(config: Config, noise: float, sigma: float, times: float) -> float:
    """λ, as a multiple of the step's own default for this noise."""
    step: Any = config.model.step
    return times * float(step.default_strength(noise, sigma))


def untrained(config: Config, scan: Scan) -> EquilibriumReconstructor:
    """The model as it is before training, for measurements of this scan."""
    model = config.model.make(scan.image_shape[0], scan.noise, config.seed)
    model.stop = config.model.test_stop()
    return model.eval()


def reconstructed_in_tuning(config: Config, dataset: Dataset) -> Tensor:
    """(N, C, …, H, W) of the untrained model."""
    model = untrained(config, dataset.scan)
    model.stop = TUNING_STOP
    return solve_dataset(model, dataset).value


def count_parameters(model: EquilibriumReconstructor) -> int:
    """How many numbers training would choose."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def ready(model: EquilibriumReconstructor, setting: str, **costs: float) -> Fitted:
    """A model that solves for what it is given."""

    def reconstruct(dataset: Dataset) -> Equilibrium:
        return solve_dataset(model, dataset)

    return Fitted(reconstruct, setting, {**costs, "parameters": count_parameters(model)})


@dataclass(frozen=True)
class PlugAndPlay(Method):
    """Half-quadratic splitting: the proximal step with the denoiser as it comes."""

    name: str
    label: str
    changes: dict[str, Any] = field(default_factory=dict)  #: of the configuration

    def setting(self, problem: Problem) -> Setting:
        """The best λ and σ."""
        base = self.configuration(problem.config)

        def meaning(dataset: Dataset, values: Setting) -> Setting:
            sigma, times = float(values["sigma"]), float(values["times"])
            strength = strength_of(base, dataset.scan.noise, sigma, times)
            return {"sigma": sigma, "strength": strength}

        def reconstruct(dataset: Dataset, setting: Setting) -> Tensor:
            return reconstructed_in_tuning(_with(base, setting), dataset)

        ladders = {"sigma": SIGMAS, "times": STRENGTHS}
        return problem.tuner.best(self.name, ladders, reconstruct, meaning)

    def configuration(self, config: Config) -> Config:
        """The configuration's denoiser in a proximal step."""
        plain = {"model.step": {"kind": "proximal"}, "model.gradient": {"kind": "implicit"}}
        return changed(config, {**plain, **self.changes})

    def fit(self, problem: Problem) -> Fitted:
        """The untrained model with the best λ and σ."""
        setting = self.setting(problem)
        config = _with(self.configuration(problem.config), setting)
        return ready(untrained(config, problem.scan), in_words(setting))


@dataclass(frozen=True)
class RegularisationByDenoising(Method):
    """RED's steps. They have the equilibria of plug-and-play with the same λ and σ,
    Aᵀ(A x − y) + λ (x − D(x)) = 0, so they take its setting."""

    plugged: PlugAndPlay
    name: str = "red"
    label: str = "RED"

    def fit(self, problem: Problem) -> Fitted:
        """RED with plug-and-play's λ and σ, solved to plug-and-play's equilibrium.

        Where A does not see, its steps are λ / (1 + λ) of plug-and-play's. So is what a residual
        means, and so many more steps it needs.
        """
        setting = self.plugged.setting(problem)
        strength = float(setting["strength"])
        step = {"kind": "red", "strength": strength}
        base = self.plugged.configuration(problem.config)
        config = changed(base, {"model.step": step, "model.sigma": setting["sigma"]})
        usual = config.model.test_stop()
        model = untrained(config, problem.scan)
        model.stop = Stop(usual.rtol * strength / (1 + strength), 10 * usual.max_steps)
        return ready(model, in_words(setting))


def _with(config: Config, setting: Setting) -> Config:
    changes = {"model.sigma": setting["sigma"], "model.step.strength": setting["strength"]}
    return changed(config, changes)
