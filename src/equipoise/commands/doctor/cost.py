"""What a training step takes, found out in seconds."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ...config import Config
from ...data.dataset import Dataset
from ...errors import UserError
from ...imaging.tomography import Tomography
from ...learning.log import Report
from ...learning.trainer import Trainer
from ...machine import largest_memory
from .finding import Finding, judged

#: Seconds that two training steps may take here; what takes longer is reckoned from a part of it.
PATIENCE = 15.0
#: A decomposition of so many rows is timed, to know what a larger one takes.
TIMED_ROWS = 384
#: Seconds that eigenvectors may take to be found, which a run finds once.
PATIENCE_WITH_EIGENVECTORS = 6.0


class _TooLong(Exception):
    """The step has run for as long as there is patience."""


class _Evaluations:
    """Counts evaluations of f and of its derivative, and ends them when the time is up."""

    def __init__(self, seconds: float):
        self.start = time.monotonic()
        self.end = self.start + seconds
        self.forward = 0

    def before(self, *_: Any) -> None:
        self.forward += 1
        self.check()

    def check(self, *_: Any) -> None:
        if time.monotonic() > self.end:
            raise _TooLong

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.start

    @contextmanager
    def of(self, step: torch.nn.Module) -> Iterator[None]:
        denoiser: Any = step.denoiser
        hooks = [
            step.register_forward_pre_hook(self.before),
            denoiser.register_full_backward_pre_hook(self.check),
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


def training_step(config: Config, dataset: Dataset, losses: dict[str, Any]) -> Iterator[Finding]:
    """Takes two steps, if they are quick: the first also prepares what all others use, the second
    is timed. Of slow ones, as much as there is patience for."""
    scan = dataset.scan
    model = config.model.make(scan.image_shape[0], scan.noise, config.seed)
    settings = config.learning.model_copy(update={"workers": 0})
    first = dataset.batch(torch.arange(1))
    try:
        inner = model.explain(first.y, first.physics)
    except UserError as error:
        yield Finding("wrong", str(error))
        return
    if inner:
        yield Finding("ok", f"inner problem: {inner}")
    uses_eigenvectors = inner.startswith("eigenvectors")
    preparing = _eigenvector_seconds(scan.physics) if uses_eigenvectors else 0.0
    if preparing > PATIENCE_WITH_EIGENVECTORS:
        yield _with_eigenvectors(config, model, dataset, preparing)
        return
    try:
        trainer = Trainer(model, dataset, losses, settings, config.seed)
    except UserError as error:
        yield Finding("wrong", str(error))
        return
    evaluations = _Evaluations(PATIENCE)
    report = None
    try:
        with evaluations.of(trainer.model.step):
            report = trainer.advance()
            start = time.perf_counter()
            trainer.advance()
    except _TooLong:
        if report is not None:
            yield _solves(report)
        yield _slow(config, evaluations)
        return
    seconds = time.perf_counter() - start
    yield _solves(report)
    yield Finding("ok", _cost(config, f"{seconds:.1f} s", seconds))


def _slow(config: Config, evaluations: _Evaluations) -> Finding:
    """From what was evaluated until there was no patience left."""
    seconds = evaluations.seconds
    each = seconds / max(evaluations.forward, 1)
    steps, most = config.learning.steps, each * (2 * config.model.max_steps + 30)
    hours = seconds * steps / 3600
    most_hours = max(hours, most * steps / 3600)
    return Finding(
        "note",
        f"cost: a step takes more than {seconds:.0f} s on this {_device()} ({each:.1f} s an "
        f"evaluation of f; {evaluations.forward} were made): at least {hours:.1f} h for {steps} "
        f"steps, {most_hours:.1f} h if every solve takes model.max_steps={config.model.max_steps}; "
        f"{_peak_gigabytes():.1f} GB",
        "a smaller learning.batch, data.size or network costs less; a GPU is faster",
    )


def _cost(config: Config, a_step: str, seconds: float) -> str:
    hours = seconds * config.learning.steps / 3600
    return (
        f"cost: {a_step} a step on this {_device()}: {hours:.1f} h for {config.learning.steps} "
        f"steps; {_peak_gigabytes():.1f} GB"
    )


def _device() -> str:
    return "GPU" if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"


def _eigenvector_seconds(physics: Any) -> float:
    """What the eigenvectors of a tomographic operator will take, if it uses them: they go with the
    third power of their number."""
    if not isinstance(physics, Tomography) or not physics.has_closed_prox:
        return 0.0
    rows = physics.matrix.smaller_side
    if rows <= 2 * TIMED_ROWS:
        return 0.0
    rng = torch.Generator().manual_seed(0)
    part: Tensor = torch.randn(TIMED_ROWS, TIMED_ROWS, generator=rng, dtype=torch.float64)
    gram = part @ part.T
    start = time.perf_counter()
    torch.linalg.eigh(gram)
    return (time.perf_counter() - start) * (rows / TIMED_ROWS) ** 3


#: Evaluations of f that a step needs: forward and backward, each about twice for two solves.
USUAL_EVALUATIONS = 60


def _with_eigenvectors(config: Config, model: Any, dataset: Dataset, preparing: float) -> Finding:
    """From the two parts of an evaluation: the denoiser, and products with the eigenvectors."""
    batch = min(config.learning.batch, len(dataset))
    rows = dataset.scan.physics.matrix.smaller_side
    x = torch.zeros(batch, *dataset.scan.image_shape)
    vectors = torch.ones(rows, rows)
    with torch.no_grad():
        model.step.denoise(x)
        start = time.perf_counter()
        model.step.denoise(x)
        for _ in range(2):
            torch.ones(batch, rows) @ vectors
        each = time.perf_counter() - start
    seconds = USUAL_EVALUATIONS * each
    about = f"about {seconds:.1f} s (60 evaluations of f, {each:.2f} s each)"
    return Finding(
        "ok",
        f"{_cost(config, about, seconds)}; a run finds the operator's eigenvectors first, once, "
        f"for about {preparing:.0f} s",
    )


def _solves(report: Report) -> Finding:
    if report.skipped:
        return Finding(
            "wrong",
            f"step: the first one would be skipped: {report.skipped}",
            "raise model.sigma a little or lower model.step.strength; raise objective.contraction",
        )
    return judged(
        report.unsolved < 0.5,
        f"step: {report.forward:.0f} evaluations forward, {report.adjoint:.0f} backward, "
        f"{report.unsolved:.0%} of the solves unfinished",
        "raise model.max_steps, or model.sigma a little",
        otherwise="note",
    )


def _peak_gigabytes() -> float:
    """The largest resident size so far."""
    return largest_memory(resource.getrusage(resource.RUSAGE_SELF)) / 1e9
