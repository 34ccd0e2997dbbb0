"""Every method on the same measurements, seed by seed: trained, tuned and scored.

compare/NAME/
  config.yaml           what was compared
  data.json             by which its data are known again
  METHOD-SEED/          the run of each trained method; its .yaml and .log beside it
  scores/*.json         of each method and seed: per image, with costs; on other problems
  results.json          all of them, with means, deviations and intervals
  table.md, report.html for reading
"""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..assessment.metrics import psnr, ssim
from ..assessment.solves import unfinished
from ..assessment.table import reason_of
from ..config import Config, changed, dump
from ..data.dataset import Dataset
from ..data.fingerprint import changes, fingerprint
from ..data.scan import Scan
from ..equilibrium import Equilibrium
from ..errors import UserError
from ..machine import is_empty, write_whole
from ..run import described, differences, load_training_data, read_configs, unseen
from .method import Failed, Fitted, Interrupted, Method, Problem, Unavailable
from .methods import methods_for
from .scores import Score, check_finite, read_score, write_score
from .trained import Configured, Trained
from .tuning import Tuner

#: Images of the training data that settings are tuned on.
TUNED_ON = 8
#: Images in the page's grid, which are kept for it.
SHOWN = 3

Say = Callable[[str], None]


@dataclass
class Comparison:
    """What is compared, and where it is kept.

    Args:
        config: of the problem, and of the reference method.
        methods: in the order of the table.
        out: folder; what is there already is not repeated.
        seeds: how many, from the configuration's on. A seed changes noise, masks, batches and draws
            (and phantoms), but not which images of a file are held out.
        only: names of what is trained, tuned and scored now; the rest is taken in where it has been
            already. None: all.
        configs: those that are compared with each other, if there are several.
    """

    config: Config
    methods: list[Method]
    out: Path
    seeds: int
    only: list[str] | None = None
    configs: list[Config] = field(default_factory=list)

    def asked(self) -> list[Method]:
        """What is asked for now."""
        return [m for m in self.methods if self.only is None or m.name in self.only]

    def compared(self) -> list[Config]:
        """What the folder is known by: the configuration, or those that are compared."""
        return self.configs or [self.config]

    def text(self) -> str:
        """That, as YAML."""
        return "---\n".join(dump(config) for config in self.compared())

    def every_seed(self) -> range:
        return range(self.config.seed, self.config.seed + self.seeds)

    def score_file(self, method: Method, seed: int) -> Path:
        return self.out / "scores" / f"{method.name}-{seed}.json"

    @property
    def data_file(self) -> Path:
        return self.out / "data.json"

    def image_file(self, method: Method) -> Path:
        return self.out / "scores" / f"{method.name}.npy"

    # ---------------------------------------------------------------------------- the problem

    def scan(self, seed: int) -> Scan:
        config = self.config
        return Scan.planned(config.physics, config.data.size, seed)

    def unseen(self, seed: int) -> tuple[Dataset, str]:
        """The measurements to score on, with their true images, and their name.

        Raises:
            UserError: there are none, or no true images.
        """
        config = self.config.model_copy(update={"seed": seed})
        dataset, what = unseen(config, self.scan(seed))
        dataset.require_truth()
        return dataset, what

    def tuning(self) -> Dataset:
        """Measurements to tune on: a few of those that are trained on, as in the first seed. None
        of them is scored on.

        Raises:
            UserError: there are no true images.
        """
        config = changed(self.config, {"data.stream": False})
        training, _ = load_training_data(config, self.scan(config.seed))
        training.require_truth()
        return training.spread(TUNED_ON)

    def problem(self, seed: int, threads: int, tuner: Tuner) -> Problem:
        """What the methods are fitted to."""
        config = self.config.model_copy(update={"seed": seed})
        return Problem(config, self.scan(seed), tuner, self.out, threads)


@dataclass(eq=False)
class Job:
    """One method with one seed."""

    method: Method
    problem: Problem


class Sweep:
    """The work of a comparison: what is missing is trained, then scored.

    Args:
        comparison: what is compared.
        jobs: trainings at once, each with its share of the threads.
        say: takes a line for the user.
    """

    def __init__(self, comparison: Comparison, jobs: int = 1, say: Say = print):
        self.comparison = comparison
        self.jobs = jobs
        self.say = say
        threads = max(1, torch.get_num_threads() // jobs)
        tuner = Tuner(comparison.tuning, comparison.out / "scores", self.say)
        self.problems = {
            seed: comparison.problem(seed, threads, tuner) for seed in comparison.every_seed()
        }
        self.missing = [
            Job(method, self.problems[seed])
            for seed in comparison.every_seed()
            for method in comparison.asked()
            if not self._is_known(method, seed)
        ]

    def run(self) -> None:
        """Trains and scores what is missing. What fails says so in its score.

        Raises:
            Interrupted: a training was stopped.
        """
        self._train([job for job in self.missing if isinstance(job.method, Trained)])
        for seed in self.comparison.every_seed():
            jobs = [job for job in self.missing if job.problem.seed == seed]
            if jobs:
                dataset, _ = self.comparison.unseen(seed)
                for job in jobs:
                    self._score(job, dataset)

    def _is_known(self, method: Method, seed: int) -> bool:
        score = read_score(self.comparison.score_file(method, seed))
        return score is not None and not score.again

    # --------------------------------------------------------------------------------- training

    def _train(self, jobs: list[Job]) -> None:
        """Each training is a process of its own; what is tuned before is tuned one by one."""
        ready = [job for job in jobs if self._attempt(job, self._settle)]
        pool = ThreadPoolExecutor(self.jobs)
        try:
            list(pool.map(lambda job: self._attempt(job, self._train_one), ready))
        finally:
            pool.shutdown(cancel_futures=True)

    def _settle(self, job: Job) -> None:
        assert isinstance(job.method, Trained)
        job.method.settled(job.problem)

    def _train_one(self, job: Job) -> None:
        assert isinstance(job.method, Trained)
        known = (job.method.folder(job.problem) / "cost.json").exists()
        cost = job.method.train(job.problem)
        if not known:
            minutes = cost["train_seconds"] / 60
            self.say(f"trained {job.method.name}, seed {job.problem.seed}: {minutes:.1f} min")

    def _attempt(self, job: Job, work: Callable[[Job], None]) -> bool:
        """Does the work; if it fails, the job's score says why, and it is missing no more.

        Raises:
            Interrupted: somebody wanted to stop.
        """
        try:
            work(job)
        except Interrupted:
            raise
        except Unavailable as error:
            self._without(job, Score(missing=str(error)))
        except Failed as error:
            self._without(job, Score(missing=str(error), failed=True))
        except Exception as error:  # a method may come to any; its row says which
            if not isinstance(error, UserError):
                self._log(job)
            self._without(job, Score(missing=reason_of(error), failed=True, again=True))
        else:
            return True
        return False

    def _without(self, job: Job, score: Score) -> None:
        write_score(self.comparison.score_file(job.method, job.problem.seed), score)
        self.missing.remove(job)
        self.say(f"no scores: {job.method.name}, seed {job.problem.seed}: {score.missing}")

    def _log(self, job: Job) -> None:
        file = self.comparison.out / f"{job.method.name}-{job.problem.seed}.log"
        with file.open("a") as log:
            log.write(traceback.format_exc())

    # ---------------------------------------------------------------------------------- scoring

    def _score(self, job: Job, dataset: Dataset) -> None:
        def work(job: Job) -> None:
            fitted = job.method.fit(job.problem)
            score, images = scored(fitted, dataset)
            if job.problem.seed == self.comparison.config.seed:
                file = self.comparison.image_file(job.method)
                file.parent.mkdir(parents=True, exist_ok=True)
                np.save(file, images[:SHOWN].numpy())
            write_score(self.comparison.score_file(job.method, job.problem.seed), score)
            seed = job.problem.seed
            self.say(f"scored {job.method.name}, seed {seed}: {score.mean_psnr:.2f} dB")

        self._attempt(job, work)


def scored(fitted: Fitted, dataset: Dataset) -> tuple[Score, Tensor]:
    """The scores of a method on measurements whose images are known, and its images.

    Raises:
        Failed: some image is not finite.
    """
    truth = dataset.require_truth()
    fitted.reconstruct(dataset.some(torch.arange(1)))  # what a geometry needs once is not counted
    started = time.perf_counter()
    found = fitted.reconstruct(dataset)
    costs = {**fitted.costs, "seconds": (time.perf_counter() - started) / len(dataset)}
    if isinstance(found, Equilibrium):
        costs["evaluations"] = float(found.steps.double().mean())
        costs["converged"] = 1 - unfinished(found)
    images: Tensor = found.value if isinstance(found, Equilibrium) else found
    decibels = psnr(images, truth).tolist()
    reason = check_finite(decibels)
    if reason:
        raise Failed(reason)
    similarity = ssim(images, truth).tolist()
    score = Score(decibels, similarity, dataset.names, dataset.patients, fitted.setting, costs)
    return score, images


# ---------------------------------------------------------------------------------------- plans


def plan(
    configs: list[Config],
    out: Path | None = None,
    seeds: int = 3,
    only: list[str] | None = None,
) -> Comparison:
    """One configuration: all methods. Several, on the same data: those, the first being what the
    others are compared with.

    Raises:
        UserError: their data or operators differ; two share a name; a method is not known, or has
            no place beside the others.
    """
    configs = [described(config) for config in configs]
    config = configs[0]
    out = Path("compare") / config.name if out is None else out
    excluded: dict[str, str] = {}
    if len(configs) > 1:
        methods = _of_configurations(configs)
        several = configs
    else:
        methods, excluded = methods_for(config)
        several = []
    names = [method.name for method in methods]
    for name in only or ():
        if name in excluded:
            raise UserError(f"{name} has no place in this comparison: {excluded[name]}")
    unknown = [name for name in only or () if name not in names]
    if unknown:
        raise UserError(
            f"no method is called {', '.join(unknown)} here; there are {', '.join(names)}"
        )
    return Comparison(config, methods, out, seeds, only, several)


def _of_configurations(configs: list[Config]) -> list[Method]:
    first = configs[0]
    for other in configs[1:]:
        same = (other.data, other.physics, other.seed) == (first.data, first.physics, first.seed)
        if not same:
            raise UserError(
                f"{other.name} and {first.name} differ in data, physics or seed, so their scores "
                "cannot be compared"
            )
    if len({config.name for config in configs}) < len(configs):
        raise UserError("two configurations share a name; give each its own with name: …")
    return [Configured(config.name, config.name, config=config) for config in configs]


def check_folder(comparison: Comparison) -> None:
    """
    Raises:
        UserError: the folder holds something else than this comparison.
    """
    out, file = comparison.out, comparison.out / "config.yaml"
    changes = _changes(comparison.compared(), read_configs(file)) if file.exists() else []
    if changes:
        raise UserError(
            f"{out}: holds the comparison of another configuration ({'; '.join(changes)}); nothing "
            "was changed. Name another folder with --out"
        )
    if out.exists() and not file.exists() and not is_empty(out):
        raise UserError(
            f"{out}: is not empty and no comparison; nothing was written. Name another folder "
            "with --out"
        )


def check_data(comparison: Comparison, scored_on: Dataset) -> None:
    """Keeps by what the data are known, if the comparison begins now.

    Args:
        scored_on: from :meth:`Comparison.unseen`, in the first seed.

    Raises:
        UserError: it began with others.
    """
    file, config = comparison.data_file, comparison.config
    training, _ = load_training_data(config, comparison.scan(config.seed))
    parts = {"training": training, "scored on": scored_on}
    now = {what: fingerprint(dataset.items) for what, dataset in parts.items()}
    try:
        then = json.loads(file.read_text())
    except (FileNotFoundError, ValueError):  # of an earlier release, or damaged
        then = {}
    for what, dataset in parts.items():
        other = changes(then.get(what), now[what], dataset.names)
        if other:
            raise UserError(
                f"{comparison.out}: holds a comparison on other data ({what}: {other}); nothing "
                "was changed. Name another folder with --out, or put those data back"
            )
    write_whole(file, json.dumps(now))


def _changes(now: list[Config], then: list[Config]) -> list[str]:
    """What differs, by dotted name. What an earlier release did not know has its default."""
    if len(now) != len(then):
        return [f"{len(then)} configuration(s) then, {len(now)} now"]
    found: list[str] = []
    for new, old in zip(now, then):
        trees = new.model_dump(mode="json"), old.model_dump(mode="json")
        found += differences(*trees, key="" if len(now) == 1 else new.name)
    return found


def load_images(comparison: Comparison) -> dict[str, Tensor]:
    """Label → the first few images of every method that is asked for, of the first seed."""
    files = {m.label: comparison.image_file(m) for m in comparison.asked()}
    return {
        label: torch.from_numpy(np.load(file)) for label, file in files.items() if file.exists()
    }


def with_earlier_seeds(comparison: Comparison, say: Say) -> Comparison:
    """The comparison with all seeds that its folder has scores of, which is said: none is lost by
    asking for fewer."""
    first, seeds = comparison.config.seed, comparison.seeds

    def is_scored(seed: int) -> bool:
        files = (comparison.score_file(method, seed) for method in comparison.methods)
        return any(read_score(file) is not None for file in files)

    while is_scored(first + seeds):
        seeds += 1
    if seeds > comparison.seeds:
        say(f"{comparison.out}: the table holds all {seeds} seeds that are scored there")
    return replace(comparison, seeds=seeds)


def collect(comparison: Comparison) -> dict[str, list[Score | None]]:
    """Name → what became of a method, seed by seed, now or before; None: it was not tried yet.
    Methods that never were are left out."""
    found: dict[str, list[Score | None]] = {}
    for method in comparison.methods:
        seeds = [read_score(comparison.score_file(method, s)) for s in comparison.every_seed()]
        if any(score is not None for score in seeds):
            found[method.name] = seeds
    return found
